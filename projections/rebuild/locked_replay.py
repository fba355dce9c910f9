"""
Replay a user's whole log, then lock the user's row: the first half of a rebuild and of an erasure.

The log is replayed without a lock up to the head seen then, and compared with the tables. Then the
user's row is locked, the few events since are replayed, and only some rows are compared again:
those that differed, and those that the later or the skipped events are about. So writers wait for
the wrong rows to be repaired, and not for all rows to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from eventstore.database.pages import page_of
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope
from eventstore.events.registry import EventRegistry
from eventstore.log.ids import erasure_stream
from eventstore.log.read import select_log_page
from eventstore.log.stored_event import REPLAY_COLUMNS, StoredEvent, recorded_event
from projections.apply.replay import Replay
from projections.projector import Projections
from projections.rebuild.compare import Difference, compare, compare_again
from projections.rebuild.repair import repair

__all__ = ["LockedReplay", "repair_locked", "replay_then_lock", "replay_to_end"]

type Skip = Callable[[StoredEvent], bool]
"""Tells of an event that a replay must leave it out."""


@dataclass(frozen=True, slots=True)
class LockedReplay:
    """
    The replay of a whole log whose user's row is locked.

    :ivar events: how many events were replayed.
    :ivar suspects: the rows that differed before the lock; None if that is not known.
    """

    replay: Replay
    events: int
    suspects: list[Difference] | None


_FEW = 2_000
"""Rows that are compared one by one under the lock; for more, whole tables are compared."""

_HEAD = "select position from eventstore.user_log where user_id = $1"
_LOCK = f"{_HEAD} for update"

_ERASED = """
select 1 from eventstore.event where user_id = $1 and stream_id = $2 and position > $3 limit 1
"""


def replay_then_lock(
    scope: Scope,
    projections: Projections,
    registry: EventRegistry,
    *,
    skip: Skip | None = None,
) -> Plan[LockedReplay]:
    """
    Replay the whole log and compare the rows with it, then lock the user's row.

    From then on writers wait; the events that they appended meanwhile are replayed before this
    returns. An event that was erased since the first page was read may have been replayed. Then
    everything begins anew, because a repair would bring its rows back.

    :param skip: events to leave out. The tables may not have their rows yet, because another
        rebuild may write them before the lock is held, so the rows they are about are noted.
    """
    replay = Replay(projections)
    count, head = yield from replay_to_end(scope, replay, registry, skip=skip)
    suspects: list[Difference] | None = yield from compare(scope, projections, replay)
    replay.watch()
    user_id = scope.user_id
    _, erased = yield Batch(
        scope,
        (
            Statement(_LOCK, (user_id,)),
            Statement(_ERASED, (user_id, erasure_stream(user_id), head)),
        ),
        hold=True,
    )
    if erased:
        replay, count, suspects = Replay(projections), 0, None
    since, _ = yield from replay_to_end(scope, replay, registry, skip=skip)
    return LockedReplay(replay, count + since, suspects)


def repair_locked(scope: Scope, locked: LockedReplay, projections: Projections) -> Plan[int]:
    """Make the user's rows those of the replay; return how many were not."""
    suspects, touched = locked.suspects, locked.replay.touched
    if suspects is None or touched is None or len(suspects) + len(touched) > _FEW:
        differences = yield from compare(scope, projections, locked.replay)
    else:
        differences = yield from compare_again(scope, projections, locked.replay, suspects, touched)
    if differences:
        yield from repair(scope, differences)
    return len(differences)


def replay_to_end(
    scope: Scope,
    replay: Replay,
    registry: EventRegistry,
    *,
    snapshot: bool = False,
    skip: Skip | None = None,
) -> Plan[tuple[int, int]]:
    """
    Replay the events of the log after the replay's position.

    :param skip: events to leave out.
    :return: how many events there were, and the position of the log's head before they were read.
    """
    count, head = 0, 0
    first: tuple[Statement, ...] = (Statement(_HEAD, (scope.user_id,)),)
    while True:
        statement = select_log_page(REPLAY_COLUMNS, scope.user_id, replay.position)
        *heads, page = yield Batch(scope, (*first, statement), hold=True, snapshot=snapshot)
        if first:
            ((head,),) = heads[0] or [(0,)]
            first = ()
        rows, more = page_of(page)
        for row in rows:
            event = StoredEvent._make((*row, *_NO_EVIDENCE))
            if skip is None or not skip(event):
                replay.apply([recorded_event(scope.user_id, event, registry)])
            else:
                _touch(replay, scope.user_id, event, registry)
            replay.position = event.position
        count += len(rows)
        if not more:
            return count, head


_NO_EVIDENCE = (None,) * (len(StoredEvent._fields) - len(REPLAY_COLUMNS))


def _touch(replay: Replay, user_id: str, event: StoredEvent, registry: EventRegistry) -> None:
    """Note the rows that a skipped event is about: its append, or a rebuild, wrote them."""
    try:
        replay.touch(recorded_event(user_id, event, registry))
    except Exception:  # noqa: BLE001 - it cannot be read: whole tables are compared instead
        replay.touched = None
