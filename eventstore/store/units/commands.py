"""The base of the command classes, and how one command is run by itself."""

from __future__ import annotations

from collections.abc import Callable

from eventstore.database.plan import Plan
from eventstore.errors import Conflict, NotFound
from eventstore.store.context import UserContext
from eventstore.store.units.outcome import Handle
from eventstore.store.units.unit_of_work import UnitOfWork

__all__ = ["Commands", "run_command"]


class Commands:
    """
    The base of the command classes; each command adds steps to one unit of work.

    An instance is what a transaction offers (`tx.tasks`, …).
    """

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work


def run_command[V](
    context: UserContext,
    record: Callable[[UnitOfWork], Handle[V]],
    work: UnitOfWork | None = None,
) -> Plan[V]:
    """
    Commit one command in a unit of work of its own, and return its answer.

    :param record: adds the command to the unit of work.
    :param work: that unit of work, empty; None makes one.
    :raises NotFound: the command is about something that this user does not have.
    :raises Conflict: another append came first; see the tree in `errors`.
    """
    work = UnitOfWork(context) if work is None else work
    handle = record(work)
    try:
        outcome = yield from work.commit(handle.reads)
    except (Conflict, NotFound) as conflict:
        # To answer instead is right only where the command is alone: of a transaction the other
        # commands were not written either.
        if handle.on_conflict is None:
            raise
        return (yield from handle.on_conflict(conflict))
    if outcome.repeated and handle.on_repeat is not None:
        return (yield from handle.on_repeat())
    return handle.view(outcome)
