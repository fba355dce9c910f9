"""
Erase a user's content, or that of one conversation, for good and keep the evidence.

It is one transaction. The eraser role removes payload, metadata and salt of the events, while the
user's writers go on. Then the user's row is locked, and the same is done with the events that they
appended meanwhile. The application role records the erasure as an event of the same log and closes
the streams. The rows that projectors made from the erased events go too: those of the built-in
tables by the id of their stream, and those of a service's own by a replay of the log without the
erased events, unless their projector names a `stream_column` too. Positions, types, times, digests
and hashes stay, and with them the chain. A digest without its salt does not give its content away.

Writers wait while rows go. So of a user with very many events some streams are erased at a time,
each time in a transaction with a record of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from uuid import UUID, uuid5

from eventstore.database.garbage import postpone_full_collections
from eventstore.database.pages import PAGE_ROWS
from eventstore.database.plan import Batch, Plan, Statement, retrying
from eventstore.database.roles import Role
from eventstore.database.scope import Scope, user_scope
from eventstore.errors import AccessDenied, ConfigurationError, InvalidInput, NotFound
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
from projections.rebuild.compare import select_count
from projections.rebuild.locked_replay import repair_locked, replay_then_lock, replay_to_end
from projections.rebuild.parts import select_references
from projections.rebuild.repair import delete_streams, empty, repair

__all__ = ["Erasure", "ErasureOrder", "erase"]

# As an array that is compared with each event, thousands of ids take as many comparisons.
_OF_STREAMS = "stream_id in (select unnest($2::uuid[]))"
_OF_ALL = "$2::uuid[] is null"

_AT_ONCE = 25_000
"""Events that are erased in one transaction, while whose rows go the user's writers wait 0.1 s."""
_MOST_STREAMS = 5_000
"""Streams that are named in one record."""

# Index: stream_pkey.
_STREAMS = """
select stream_id, coalesce(greatest(version, 0), 0)
from eventstore.stream
where user_id = $1 and stream_id > $2 and kind <> 'erasure'
order by stream_id
limit $3
"""
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
  and {of_streams}
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
      and {of_streams}
      and position > $3
      and position <= $4
      and type <> 'ContentErased'
      and (salt is not null or position = any($5))
    returning 1
)
select count(*) from erased
"""

_CLOSE = """
update eventstore.stream
set closed = true
where user_id = $1
  and {of_streams}
  and kind <> 'erasure'
  and not closed
"""


@dataclass(frozen=True, slots=True)
class Erasure:
    """
    What was erased, and where that is recorded.

    :ivar conversation_id: the one conversation; None for all content of the user.
    :ivar events: payloads removed; 0 if nothing was left to remove, and then nothing is recorded.
    :ivar position: the position of the erasure's event, of the last one if there are several;
        `recorded_at` is its time.
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

    :ivar conversation_id: the one conversation; None for all content of the user.
    :ivar record_id: the id of the erasure's event, by which a retry of the order is found.
    :ivar part: of all content, the streams that are erased together.
    :ivar leave: tables of the service's own whose rows may stay; see `Erasure.unreached`.
    """

    user_id: str
    conversation_id: UUID | None
    record_id: UUID
    ordered_by: str
    reason: str | None = None
    leave: Sequence[str] = ()
    part: list[UUID] | None = None

    @property
    def streams(self) -> list[UUID] | None:
        """Whose events are to be erased; None for those of all."""
        return self.part if self.conversation_id is None else [self.conversation_id]

    def sql(self, template: str) -> str:
        """Return SQL with the condition of the streams, which are $2."""
        return template.format(of_streams=_OF_ALL if self.streams is None else _OF_STREAMS)

    def covers(self, event: StoredEvent) -> bool:
        """Tell whether an event is to be erased; the records of erasures never are."""
        streams = self.streams
        return event.type != ContentErased.type and (streams is None or event.stream_id in streams)


def erase(
    order: ErasureOrder,
    projections: Projections,
    registry: EventRegistry,
    seen: Callable[[int], object],
) -> Plan[Erasure]:
    """
    Erase; a user's everything in parts, if it is much.

    Each part is whole and recorded. An error leaves those before it, and a new order goes on behind
    them.

    :param seen: called after each part with the number of events erased.
    :return: what all parts erased, with the last record: that of everything, unless another erasure
        has left nothing for it.
    :raises NotFound: these and the rest as in `_erase`.
    """
    done: list[Erasure] = []
    for part in (yield from retrying(partial(_parts, order, projections))):
        some = replace(order, part=part, record_id=uuid5(order.record_id, str(part[0])))
        done.append((yield from retrying(partial(_erase, some, projections, registry))))
        seen(done[-1].events)
    last = yield from retrying(partial(_erase, order, projections, registry))
    # Nothing may be left for it, where somebody erased the rest before.
    recorded = [one for one in (*done, last) if one.events] or [last]
    return replace(recorded[-1], events=sum(one.events for one in recorded))


def _parts(order: ErasureOrder, projections: Projections) -> Plan[list[list[UUID]]]:
    """
    Return streams that are erased together, a part after another.

    The last part is none of them: it goes with the erasure of everything, as do streams that begin
    meanwhile.
    """
    _, others = projections.split_by_stream()
    # Each part would replay the log again.
    if order.conversation_id is not None or others.projectors:
        return []
    scope = user_scope(order.user_id)
    (references,) = yield Batch(scope, (select_references(projections.tables),))
    if references:
        return []
    parts: list[list[UUID]] = [[]]
    events, after = 0, UUID(int=0)
    while True:
        page = Statement(_STREAMS, (order.user_id, after, PAGE_ROWS))
        (rows,) = yield Batch(scope, (page,))
        for stream_id, version in rows:
            events += version
            if parts[-1] and (events > _AT_ONCE or len(parts[-1]) == _MOST_STREAMS):
                parts.append([])
                events = version
            parts[-1].append(stream_id)
        if len(rows) < PAGE_ROWS:
            return parts[:-1]
        after = rows[-1][0]


def _erase(order: ErasureOrder, projections: Projections, registry: EventRegistry) -> Plan[Erasure]:
    """
    Erase in one transaction, or find that this order was carried out before.

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
        return _erasure(order, recorded_event(user_id, done[0], registry), unreached)
    with postpone_full_collections():
        event = yield from _carry_out(order, scope, projections, registry)
    if event is None:
        return Erasure(user_id, conversation_id, 0, unreached=unreached)
    return _erasure(order, event, unreached)


def _carry_out(
    order: ErasureOrder, scope: Scope, projections: Projections, registry: EventRegistry
) -> Plan[RecordedEvent | None]:
    """Erase, and commit; return the record, or None if there was nothing to erase."""
    count = reached = 0

    def remove_through(position: int) -> Plan[None]:
        nonlocal count, reached
        count += yield from _remove_content(order, reached, position)
        reached = position

    def before_lock(position: int) -> Plan[None]:
        """Do what need not keep writers waiting."""
        yield from remove_through(position)
        # Who first looks at rows that earlier parts deleted has to clear them away, and all of them
        # are looked at below.
        if order.streams is None:
            looks = tuple(select_count(shape, order.user_id) for shape in columns)
            yield Batch(scope, looks, hold=True)

    # What the other projectors need is a replay, which leaves out what is to go. It and most of the
    # removal come before the lock: this user's writers wait for the rows to go, and nobody else
    # waits. It comes before the removal, because an event tells of its rows only with its payload.
    columns, others = projections.split_by_stream()
    locked = yield from replay_then_lock(
        scope, others, registry, skip=order.covers, before_lock=before_lock
    )
    yield from remove_through(locked.replay.position)
    if not count:
        yield Batch(scope, ())
        return None
    event = yield from _record_erasure(scope, order, reached, count)
    # The record of the erasure is an event too, and a projector of a service may make a row of it.
    yield from replay_to_end(scope, locked, registry)
    yield from repair_locked(scope, locked, others, check=False)
    if order.streams is None:
        yield from empty(scope, columns)
    else:
        yield from delete_streams(scope, columns, order.streams)
    yield from repair(scope, ())  # there is nothing left to repair: it checks the constraints
    yield Batch(scope, ())
    yield from locked.release()
    return event


def _require_reached(order: ErasureOrder, unreached: Sequence[str]) -> None:
    if strange := [name for name in order.leave if name not in unreached]:
        left = f"leaves {', '.join(unreached)}" if unreached else "leaves no table as it is"
        raise InvalidInput(
            "leave",
            f"names {', '.join(strange)}, which is no table with users' rows (schema.table), or "
            f"has a projector; without projectors of yours the erasure {left}",
        )
    if remaining := [name for name in unreached if name not in order.leave]:
        raise ConfigurationError(
            f"{', '.join(remaining)} may hold rows of this user that no projector of this store "
            "keeps; register their projectors (connect(projectors=[…]), or --extensions), or name "
            "what may stay in `leave` (--leave)"
        )


def _remove_content(order: ErasureOrder, after: int, through: int) -> Plan[int]:
    """Remove the payloads of a part of the log as the eraser role; return how many."""
    part = (order.user_id, order.streams, after, through)
    scope, eraser = user_scope(order.user_id), Scope(Role.ERASER, order.user_id)
    (found,) = yield Batch(scope, (Statement(order.sql(_TO_ERASE), part),), hold=True)
    expected, unsalted = found[0]
    erasing = Statement(order.sql(_ERASE), (*part, unsalted or []))
    (erased,) = yield Batch(eraser, (erasing,), hold=True)
    count: int = erased[0][0]
    # A policy that was dropped hides events from the eraser, and PostgreSQL raises nothing.
    if count != expected:
        raise AccessDenied(
            f"of {expected} events the eraser role reached {count}; nothing was erased, "
            "run `eventstore doctor`"
        )
    return count


def _record_erasure(
    scope: Scope, order: ErasureOrder, through: int, count: int
) -> Plan[RecordedEvent]:
    optional = {"streams": order.streams, "reason": order.reason}
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
            Statement(order.sql(_CLOSE), (scope.user_id, order.streams)),
            erase_errors(scope.user_id),
        ),
        hold=True,
    )
    return recorded_events(request.envelopes, rows[0][0])[0]


def _erasure(order: ErasureOrder, event: RecordedEvent, unreached: tuple[str, ...]) -> Erasure:
    data = event.data
    assert isinstance(data, ContentErased)  # noqa: S101 - the stream has no other events
    return Erasure(
        order.user_id,
        order.conversation_id,
        data.events,
        event.position,
        event.recorded_at,
        data.ordered_by,
        unreached,
    )
