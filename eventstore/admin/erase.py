"""
Erase a user's content, or that of one conversation, for good and keep the evidence.

It is one transaction. The eraser role removes payload, metadata and salt of the events, while the
user's writers go on. Then the user's row is locked, and the same is done with the events that they
appended meanwhile. The application role records the erasure as an event of the same log and closes
the streams. The rows that projectors made from the erased events go too: those of the built-in
tables by the id of their stream, and those of a service's own by a replay of the log without the
erased events, unless their projector names a `stream_column` too. Positions, types, times, digests
and hashes stay, and with them the chain. A digest without its salt does not give its content away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventstore.database.garbage import postpone_full_collections
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.roles import Role
from eventstore.database.scope import Scope, user_scope
from eventstore.errors import AccessDenied, ConfigurationError, NotFound
from eventstore.events.erasure import ContentErased
from eventstore.events.event import make_event
from eventstore.events.registry import EventRegistry
from eventstore.log.append import recorded_events
from eventstore.log.append_request import prepare_append
from eventstore.log.envelope import NewEvent, RecordedEvent
from eventstore.log.feeds import erase_errors
from eventstore.log.ids import erasure_stream
from eventstore.log.stored_event import REPLAY_COLUMNS, StoredEvent, recorded_event, select_list
from eventstore.schema.catalog import other_protected_tables
from projections.projector import Projections
from projections.rebuild.locked_replay import repair_locked, replay_then_lock, replay_to_end
from projections.rebuild.repair import delete_stream, empty, repair

__all__ = ["Erasure", "ErasureOrder", "erase"]

_KNOWN = "select 1 from eventstore.user_log where user_id = $1"
_IS_CONVERSATION = """
select 1 from eventstore.stream
where user_id = $1 and stream_id = $2 and kind = 'conversation'
"""
# Erasures of one user follow each other: each removes payloads before it locks the user's row, so
# that two at once could wait for each other.
_ONE_AT_A_TIME = """
select pg_advisory_xact_lock(hashtextextended('eventstore erases ' || $1, 0))
"""
_DONE = f"""
select {select_list(REPLAY_COLUMNS)} from eventstore.event
where user_id = $1 and stream_id = $2 and event_id = $3
"""
_TO_ERASE = """
select count(*), array_agg(position) filter (where salt is null)
from eventstore.event
where user_id = $1
  and ($2::uuid is null or stream_id = $2)
  and position > $3
  and position <= $4
  and type <> 'ContentErased'
  and (salt is not null or payload is not null or metadata is not null)
"""

# The eraser may not read payloads, so it recognises an event that is not erased by its salt. $5 are
# the positions of events from which somebody removed the salt alone.
_ERASE = """
with erased as (
    update eventstore.event
    set payload = null, metadata = null, salt = null
    where user_id = $1
      and ($2::uuid is null or stream_id = $2)
      and position > $3
      and position <= $4
      and type <> 'ContentErased'
      and (salt is not null or position = any($5))
    returning position
)
select count(*), max(position) from erased
"""

_CLOSE = """
update eventstore.stream
set closed = true
where user_id = $1
  and ($2::uuid is null or stream_id = $2)
  and kind <> 'erasure'
  and not closed
"""


@dataclass(frozen=True, slots=True)
class Erasure:
    """
    What was erased, and where that is recorded.

    :ivar conversation_id: the one conversation; None for all content of the user.
    :ivar events: payloads removed; 0 if nothing was left to remove, and then nothing is recorded.
    :ivar position: the position of the erasure's event; `recorded_at` is its time.
    :ivar unreached: tables that are protected like the read models but that no projector of this
        store keeps. The user's rows in them are still there.
    """

    user_id: str
    conversation_id: UUID | None
    events: int
    position: int | None = None
    recorded_at: datetime | None = None
    ordered_by: str | None = None
    unreached: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ErasureOrder:
    """
    What to erase, and what to record about it.

    :ivar record_id: the id of the erasure's event, by which a retry of the order is found.
    :ivar leave: tables of the service's own whose rows may stay; see `Erasure.unreached`.
    """

    user_id: str
    conversation_id: UUID | None
    record_id: UUID
    ordered_by: str
    reason: str | None = None
    leave: Sequence[str] = ()

    def covers(self, event: StoredEvent) -> bool:
        """Tell whether an event is to be erased; the records of erasures never are."""
        return event.type != ContentErased.type and self.conversation_id in {None, event.stream_id}


def erase(order: ErasureOrder, projections: Projections, registry: EventRegistry) -> Plan[Erasure]:
    """
    Erase, or find that this order was carried out before.

    :return: what this order erased; 0 events if nothing was left to erase.
    :raises NotFound: no such user, or no such conversation of theirs.
    :raises ConfigurationError: a table holds rows of the user that nothing here can erase.
    :raises AccessDenied: the login may not enter the eraser role, or that role reaches no event.
    :raises CorruptLog: an event that is needed for a replay cannot be read; nothing was changed.
    """
    user_id, conversation_id = order.user_id, order.conversation_id
    scope = user_scope(user_id)
    known, streams, unkept = yield Batch(
        scope,
        (
            Statement(_KNOWN, (user_id,)),
            Statement(_IS_CONVERSATION, (user_id, conversation_id)),
            other_protected_tables(projections.tables),
        ),
        hold=True,
    )
    if not known:
        raise NotFound("user", user_id)
    if conversation_id is not None and not streams:
        raise NotFound("conversation", conversation_id)
    unreached = tuple(name for (name,) in unkept)
    _require_reached(order, unreached)
    # The record is looked for when no other erasure is at work: a first attempt may have been.
    _, done = yield Batch(
        scope,
        (
            Statement(_ONE_AT_A_TIME, (user_id,)),
            Statement(_DONE, (user_id, erasure_stream(user_id), order.record_id)),
        ),
        hold=True,
    )
    if done:
        yield Batch(scope, ())
        return _erasure(recorded_event(user_id, done[0], registry), unreached)
    with postpone_full_collections():
        event = yield from _carry_out(order, scope, projections, registry)
    if event is None:
        return Erasure(user_id, conversation_id, 0, unreached=unreached)
    return _erasure(event, unreached)


def _carry_out(
    order: ErasureOrder, scope: Scope, projections: Projections, registry: EventRegistry
) -> Plan[RecordedEvent | None]:
    """Erase, and commit; return the record, or None if there was nothing to erase."""
    count = last = reached = 0

    def remove_through(position: int) -> Plan[None]:
        nonlocal count, last, reached
        removed, newest = yield from _remove_content(order, reached, position)
        count, last, reached = count + removed, max(last, newest), position

    # What the other projectors need is a replay, which leaves out what is to go. It and most of the
    # removal come before the lock: this user's writers wait for the rows to go, and nobody else
    # waits. It comes before the removal, because an event tells of its rows only with its payload.
    columns, others = projections.split_by_stream()
    locked = yield from replay_then_lock(
        scope, others, registry, skip=order.covers, before_lock=remove_through
    )
    yield from remove_through(locked.replay.position)
    if not count:
        yield Batch(scope, ())
        return None
    event = yield from _record_erasure(scope, order, last, count)
    # The record of the erasure is an event too, and a projector of a service may make a row of it.
    yield from replay_to_end(scope, locked, registry)
    yield from repair_locked(scope, locked, others, check=False)
    if order.conversation_id is None:
        yield from empty(scope, columns)
    else:
        yield from delete_stream(scope, columns, order.conversation_id)
    yield from repair(scope, ())  # there is nothing left to repair: it checks the constraints
    yield Batch(scope, ())
    yield from locked.release()
    return event


def _require_reached(order: ErasureOrder, unreached: Sequence[str]) -> None:
    if remaining := [name for name in unreached if name not in order.leave]:
        raise ConfigurationError(
            f"{', '.join(remaining)} may hold rows of this user that no projector of this store "
            "keeps; register their projectors (--extensions), or name what may stay in `leave` "
            "(--leave)"
        )


def _remove_content(order: ErasureOrder, after: int, through: int) -> Plan[tuple[int, int]]:
    """
    Remove the payloads of a part of the log as the eraser role.

    :return: how many were removed, and the last position of one; 0 if there was none.
    """
    part = (order.user_id, order.conversation_id, after, through)
    scope, eraser = user_scope(order.user_id), Scope(Role.ERASER, order.user_id)
    (found,) = yield Batch(scope, (Statement(_TO_ERASE, part),), hold=True)
    expected, unsalted = found[0]
    (erased,) = yield Batch(eraser, (Statement(_ERASE, (*part, unsalted or [])),), hold=True)
    count, last = erased[0]
    # A policy that was dropped hides events from the eraser, and PostgreSQL raises nothing.
    if count != expected:
        raise AccessDenied(
            f"of {expected} events the eraser role reached {count}; nothing was erased, "
            "run `eventstore doctor`"
        )
    return count, last or 0


def _record_erasure(
    scope: Scope, order: ErasureOrder, through: int, count: int
) -> Plan[RecordedEvent]:
    optional = {"conversation_id": order.conversation_id, "reason": order.reason}
    data = make_event(
        ContentErased,
        through=through,
        events=count,
        ordered_by=order.ordered_by,
        **{name: value for name, value in optional.items() if value is not None},
    )
    # The id of the order takes the place of an idempotency key: a retry looks for it in the stream.
    event = NewEvent(stream_id=erasure_stream(scope.user_id), data=data, event_id=order.record_id)
    request = prepare_append(scope.user_id, [event])
    rows, *_ = yield Batch(
        scope,
        (
            request.statement(),
            Statement(_CLOSE, (scope.user_id, order.conversation_id)),
            erase_errors(scope.user_id),
        ),
        hold=True,
    )
    return recorded_events(request.envelopes, rows[0][0])[0]


def _erasure(event: RecordedEvent, unreached: tuple[str, ...]) -> Erasure:
    data = event.data
    assert isinstance(data, ContentErased)  # noqa: S101 - the stream has no other events
    return Erasure(
        event.user_id,
        data.conversation_id,
        data.events,
        event.position,
        event.recorded_at,
        data.ordered_by,
        unreached,
    )
