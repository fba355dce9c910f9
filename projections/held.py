"""
A user's whole log as rows, while that user's row is held: what rebuild and erase begin with.

Replay without a lock up to the head seen, and compare with the tables; then lock the user's row,
replay the few events since, and look again at the rows that differed, or that those events or the
ones left out are about. So writers wait for what is wrong, and not for all rows to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eventstore.database.pages import page_of
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope
from eventstore.events.registry import EventRegistry
from eventstore.log.identity import erasure_stream
from eventstore.log.read import COLUMNS, decode, select_log_page
from projections.comparison import Difference, compare, compare_again
from projections.mending import mend
from projections.projector import Projections
from projections.replay import Replay

__all__ = ["Held", "mend_held", "replay_held", "replay_to_end"]

type Skip = Callable[[tuple[Any, ...]], bool]
"""Tells of an event, as a row of `COLUMNS`, that it is to be left out of a replay."""


@dataclass(frozen=True, slots=True)
class Held:
    """
    A whole log as rows, while its user's row is held.

    :ivar events: how many were replayed.
    :ivar suspects: rows that were otherwise before the user's row was held; None if that is not
        known.
    """

    replay: Replay
    events: int
    suspects: list[Difference] | None


_FEW = 2_000
"""Rows that are compared one by one; of more, the whole tables are."""

_HEAD = "select position from eventstore.user_log where user_id = $1"
_LOCK = f"{_HEAD} for update"

_ERASED = """
select 1 from eventstore.event where user_id = $1 and stream_id = $2 and position > $3 limit 1
"""


def replay_held(
    scope: Scope,
    projections: Projections,
    registry: EventRegistry,
    *,
    skip: Skip | None = None,
) -> Plan[Held]:
    """
    Replay the whole log and compare the rows with it, then hold the user's row.

    From then on writers wait; what they had done meanwhile is replayed before this returns. What
    was erased since the first page was read may have been replayed; then all begins anew, or
    mending would bring it back.

    :param skip: rows to leave out. The tables need not have had theirs yet: a rebuild that is
        first to hold the row may write them, so they are noted.
    """
    replay = Replay(projections)
    count, began = yield from replay_to_end(scope, replay, registry, skip=skip)
    suspects: list[Difference] | None = yield from compare(scope, projections, replay)
    replay.watch()
    user_id = scope.user_id
    _, erased = yield Batch(
        scope,
        (
            Statement(_LOCK, (user_id,)),
            Statement(_ERASED, (user_id, erasure_stream(user_id), began)),
        ),
        hold=True,
    )
    if erased:
        replay, count, suspects = Replay(projections), 0, None
    since, _ = yield from replay_to_end(scope, replay, registry, skip=skip)
    return Held(replay, count + since, suspects)


def mend_held(scope: Scope, held: Held, projections: Projections) -> Plan[int]:
    """Make the rows of the scope's user those of the replay; return how many were not."""
    suspects, touched = held.suspects, held.replay.touched
    if suspects is None or touched is None or len(suspects) + len(touched) > _FEW:
        found = yield from compare(scope, projections, held.replay)
    else:
        found = yield from compare_again(scope, projections, held.replay, suspects, touched)
    if found:
        yield from mend(scope, found)
    return len(found)


def replay_to_end(
    scope: Scope,
    replay: Replay,
    registry: EventRegistry,
    *,
    snapshot: bool = False,
    skip: Skip | None = None,
) -> Plan[tuple[int, int]]:
    """
    Replay what is in the log after the replay's position.

    :param skip: rows to leave out.
    :return: how many events that were, and the position of the log's head before they were read.
    """
    count, began = 0, 0
    ahead: tuple[Statement, ...] = (Statement(_HEAD, (scope.user_id,)),)
    while True:
        statement = select_log_page(COLUMNS, scope.user_id, replay.position)
        *heads, page = yield Batch(scope, (*ahead, statement), hold=True, snapshot=snapshot)
        if ahead:
            ((began,),) = heads[0] or [(0,)]
            ahead = ()
        rows, more = page_of(page)
        for row in rows:
            if skip is None or not skip(row):
                replay.see([decode(scope.user_id, row, registry)])
            else:
                _touch(replay, scope.user_id, row, registry)
            replay.position = row[0]
        count += len(rows)
        if not more:
            return count, began


def _touch(replay: Replay, user_id: str, row: tuple[Any, ...], registry: EventRegistry) -> None:
    """Note what an event that is left out was about: its append, or a rebuild, wrote those rows."""
    try:
        replay.touch(decode(user_id, row, registry))
    except Exception:  # noqa: BLE001 - left out unread: the whole tables are compared instead
        replay.touched = None
