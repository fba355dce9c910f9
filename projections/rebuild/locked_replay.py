"""
Replay a user's log, then lock the user's row: the first half of a rebuild and of an erasure.

The log is replayed without a lock up to the head seen then, and compared with the tables. Then the
user's row is locked, the few events since are replayed, and only some rows are compared again:
those that differed, and those that the later or the skipped events are about. So writers wait for
the wrong rows to be repaired, and not for all rows to be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eventstore.database.pages import page_of
from eventstore.database.plan import GIVE_WAY, ROWS_AT_A_TIME, Batch, Plan, Statement
from eventstore.database.scope import Scope
from eventstore.events.registry import EventRegistry
from eventstore.log.ids import erasure_stream
from eventstore.log.read import select_log_page
from eventstore.log.stored_event import REPLAY_COLUMNS, StoredEvent, recorded_event
from projections.apply.replay import Replay
from projections.projector import Projections
from projections.rebuild.compare import Difference, compare, compare_keys
from projections.rebuild.parts import WHOLE, Part
from projections.rebuild.repair import empty, repair

__all__ = ["LockedReplay", "repair_locked", "replay_then_lock", "replay_to_end"]

type Skip = Callable[[StoredEvent], bool]
"""Tells of an event that a replay must leave it out."""


@dataclass(slots=True)
class LockedReplay:
    """
    The replay of a log, or of a part of it, whose user's row is locked.

    :ivar events: how many events were replayed.
    :ivar suspects: rows that differed before the lock; None if all must be compared again.
    """

    part: Part
    replay: Replay
    events: int = 0
    suspects: list[Difference] | None = None

    def release(self) -> Plan[None]:
        """Free the rows, which take as much memory as all else; see `Replay.release`."""
        while self.suspects:
            del self.suspects[-ROWS_AT_A_TIME:]
            yield GIVE_WAY
        yield from self.replay.release()


# Of a table that shall have no rows all go at once, and the others are compared.
# Comparing 2,000 rows takes some 30 milliseconds (docs/decisions/0021), for which writers wait.
_FEW = 2_000
"""Rows that are compared again under the lock; for more, whole tables are compared."""

_HEAD = "select position from eventstore.user_log where user_id = $1"
# The same lock as in `append_events`: an append waits for it, and readers do not.
_LOCK = f"{_HEAD} for no key update"

_ERASED = """
select 1 from eventstore.event where user_id = $1 and stream_id = $2 and position > $3 limit 1
"""


def replay_then_lock(
    scope: Scope,
    projections: Projections,
    registry: EventRegistry,
    *,
    part: Part = WHOLE,
    skip: Skip | None = None,
    before_lock: Callable[[int], Plan[None]] | None = None,
) -> Plan[LockedReplay]:
    """
    Replay the log and compare the rows with it, then lock the user's row.

    From then on writers wait; the events that they appended meanwhile are replayed before this
    returns. The transaction stays open.

    :param part: the rows to replay and compare.
    :param skip: events to leave out; the rows they are about are noted as touched.
    :param before_lock: what else to do in the transaction while writers still go on; given the
        position through which the log was replayed.
    :return: the replay, and which rows have to be compared again.
    :raises CorruptLog: an event cannot be read, and is not skipped.
    :raises InvalidInput: a row of the replay has a value that cannot be stored.
    :raises TimedOut: the user's row was locked for too long.
    """
    # No snapshot here: after the lock, the transaction must see what was appended before it.
    locked = LockedReplay(part, Replay(projections, part.keeps_row), suspects=[])
    head = yield from replay_to_end(scope, locked, registry, skip=skip)
    differences = yield from compare(scope, projections, locked.replay, part)
    # Comparing by keys finds no row that is stored twice, which a lost primary key allows.
    stored_twice = any(one.kind == "extra_row" and one.row is not None for one in differences)
    if locked.suspects is not None:
        locked.suspects = None if stored_twice else differences
    locked.replay.watching = True
    if before_lock is not None:
        yield from before_lock(locked.replay.position)
    user_id = scope.user_id
    _, erased = yield Batch(
        scope,
        (
            Statement(_LOCK, (user_id,)),
            Statement(_ERASED, (user_id, erasure_stream(user_id), head)),
        ),
        hold=True,
    )
    # What was erased since the first page was read may have been replayed, and a repair would write
    # it back. So the log is replayed once more, now that nothing can be erased beside it.
    if erased:
        locked = LockedReplay(part, Replay(projections, part.keeps_row))
    yield from replay_to_end(scope, locked, registry, skip=skip)
    return locked


def repair_locked(
    scope: Scope, locked: LockedReplay, projections: Projections, *, check: bool = True
) -> Plan[int]:
    """
    Make the user's rows those of the replay, and leave the transaction open.

    :param locked: of `replay_then_lock`, in the same transaction.
    :param check: as of `repair`.
    :return: how many rows were missing, wrong or too many.
    :raises DatabaseFault: a constraint refuses the rows, or a wrong row cannot be deleted.
    :raises InvalidInput: a row of the replay has a value that cannot be stored.
    """
    suspects, replay = locked.suspects, locked.replay
    emptied = 0
    if suspects is None or len(suspects) + len(replay.touched) > _FEW:
        if locked.part.parts == 1:
            emptied = yield from empty(
                scope, [one for one in projections.shapes if not replay.rows(one.model)]
            )
        differences = yield from compare(scope, projections, replay, locked.part)
    elif suspects or replay.touched:
        differences = yield from compare_keys(
            scope, projections, replay, suspects, replay.touched, locked.part
        )
    else:
        return 0
    if emptied or differences:
        yield from repair(scope, differences, check=check)
    return emptied + len(differences)


def replay_to_end(
    scope: Scope,
    locked: LockedReplay,
    registry: EventRegistry,
    *,
    skip: Skip | None = None,
) -> Plan[int]:
    """
    Replay the events of the log after the replay's position, a page a round trip.

    Without a projector none is read.

    :param skip: events to leave out.
    :return: the position of the log's head before they were read; 0 without a log.
    :raises CorruptLog: an event cannot be read, and is not skipped.
    """
    replay, user_id, head = locked.replay, scope.user_id, 0
    first: tuple[Statement, ...] = (Statement(_HEAD, (user_id,)),)
    if not replay.projections.projectors:
        (heads,) = yield Batch(scope, first, hold=True)
        ((replay.position,),) = heads or [(0,)]
        return replay.position
    while True:
        # The head is asked for before the first page, so that an erasure between the two has a
        # position after the head and is found by `_ERASED`.
        statement = select_log_page(REPLAY_COLUMNS, user_id, replay.position, locked.part.events)
        *heads, page = yield Batch(scope, (*first, statement), hold=True)
        if first:
            ((head,),) = heads[0] or [(0,)]
            first = ()
        rows, more = page_of(page)
        for number, row in enumerate(rows, 1):
            if number % ROWS_AT_A_TIME == 0:
                yield GIVE_WAY
            if skip is not None and skip(StoredEvent._make((*row, *_NO_EVIDENCE))):
                _skip(locked, user_id, row, registry)
            else:
                replay.apply(recorded_event(user_id, row, registry))
        locked.events += len(rows)
        # A page may end with skipped events, which the replay has not counted.
        if rows:
            replay.position = rows[-1][0]
        if not more:
            # All up to the head was read, or is of other parts; it is not read under the lock.
            replay.position = max(replay.position, head)
            return head


_NO_EVIDENCE = (None,) * (len(StoredEvent._fields) - len(REPLAY_COLUMNS))


def _skip(
    locked: LockedReplay, user_id: str, row: tuple[Any, ...], registry: EventRegistry
) -> None:
    """Note the rows that a skipped event is about: its append, or a rebuild, wrote them."""
    # The comparison before the lock may have seen none of these rows, if another rebuild of this
    # user wrote them between the two.
    try:
        locked.replay.skip(recorded_event(user_id, row, registry))
    except Exception:  # noqa: BLE001 - it cannot be read: whole tables are compared instead
        locked.suspects = None
