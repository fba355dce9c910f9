"""
Erase a user's content for good, or that of one conversation, and keep the evidence.

In one transaction, with the user's row locked: the role that erases takes payload, metadata, salt
and fingerprint out of the events; the application role records that, as an event of the same log,
and closes the streams; then the read models are replayed and mended, so that whatever any projector
made of the erased events is gone too. Positions, types, times, digests and hashes stay, and with
them the chain: without its salt a digest gives nothing away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.database.catalog import other_protected_tables
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.roles import Role
from eventstore.database.scope import Scope, user_scope
from eventstore.errors import AccessDenied, ConfigurationError, NotFound
from eventstore.events.erasure import ContentErased
from eventstore.events.event import checked
from eventstore.events.registry import EventRegistry
from eventstore.log.append import recorded
from eventstore.log.envelope import NewEvent, RecordedEvent
from eventstore.log.identity import erasure_stream
from eventstore.log.prepare import prepare_append
from eventstore.log.read import COLUMNS, decode
from projections.held import mend_held, replay_held, replay_to_end
from projections.projector import Projections

__all__ = ["Erasure", "ErasureOrder", "erase"]

_KNOWN = "select 1 from eventstore.user_log where user_id = $1"
_IS_CONVERSATION = """
select 1 from eventstore.stream
where user_id = $1 and stream_id = $2 and kind = 'conversation'
"""
_DONE = f"""
select {COLUMNS} from eventstore.event
where user_id = $1 and stream_id = $2 and event_id = $3
"""
_TO_ERASE = """
select count(*), array_agg(position) filter (where salt is null)
from eventstore.event
where user_id = $1
  and ($2::uuid is null or stream_id = $2)
  and type <> 'ContentErased'
  and (salt is not null or payload is not null or metadata is not null)
"""

# The eraser knows an event that is not erased by its salt: it may not read payloads. $3 is where
# somebody took the salt alone.
_ERASE = """
with gone as (
    update eventstore.event
    set payload = null, metadata = null, salt = null, request_digest = null
    where user_id = $1
      and ($2::uuid is null or stream_id = $2)
      and type <> 'ContentErased'
      and (salt is not null or position = any($3))
    returning position
)
select count(*), max(position) from gone
"""

# A fingerprint covers the whole append: one that holds an erased event would give its text away.
_ERASE_FINGERPRINTS = """
with appended as (
    select salt is null as erased,
           max(position) filter (where idempotency_key is not null)
               over (order by position) as first
    from eventstore.event
    where user_id = $1
)
update eventstore.event
set request_digest = null
where user_id = $1
  and salt is not null
  and position in (select first from appended where erased)
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
    What was erased, and where that is on record.

    :ivar conversation_id: the one conversation; None for all content of the user.
    :ivar events: payloads removed; 0 if there was nothing left to remove, and nothing is recorded.
    :ivar position: of the record in the user's log; `recorded_at` is its instant.
    :ivar unreached: tables protected like the read models that no projector of this store keeps:
        rows of the user in them are left, to be erased by whoever keeps them.
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
    What is to be erased, and what is put on record of it.

    :ivar record_id: the event's id: the same order sent again is found by it.
    :ivar leave: tables of the service's own whose rows may stay; see `Erasure.unreached`.
    """

    user_id: str
    conversation_id: UUID | None
    record_id: UUID
    ordered_by: str
    reason: str | None = None
    leave: Sequence[str] = ()

    def concerns(self, row: tuple[Any, ...]) -> bool:
        """Tell whether an event, as a row of `COLUMNS`, is to be erased."""
        stream_id, type_name = row[1], row[4]
        return type_name != ContentErased.type and self.conversation_id in {None, stream_id}


def erase(order: ErasureOrder, projections: Projections, registry: EventRegistry) -> Plan[Erasure]:
    """
    Erase, or find that this order was carried out before.

    The log is replayed without what is to go before the user's row is locked: only that user's
    writers wait, for the erasing itself.

    :raises NotFound: no such user, or no such conversation of theirs.
    :raises ConfigurationError: a table holds rows of the user that nothing here can erase.
    :raises AccessDenied: the login may not enter the role that erases, or that reaches nothing.
    """
    user_id, conversation_id = order.user_id, order.conversation_id
    scope = user_scope(user_id, patient=True)
    known, streams, others = yield Batch(
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
    unreached = tuple(name for (name,) in others)
    _require_reached(order, unreached)
    held = yield from replay_held(scope, projections, registry, skip=order.concerns)
    done, to_erase = yield Batch(
        scope,
        (
            Statement(_DONE, (user_id, erasure_stream(user_id), order.record_id)),
            Statement(_TO_ERASE, (user_id, conversation_id)),
        ),
        hold=True,
    )
    if done:
        return _erasure(decode(user_id, done[0], registry), unreached)
    count, through = yield from _emptied(order, *to_erase[0])
    if not count:
        yield Batch(scope, ())
        return Erasure(user_id, conversation_id, 0, unreached=unreached)
    event = yield from _record(scope, order, through, count)
    yield from replay_to_end(scope, held.replay, registry)
    yield from mend_held(scope, held, projections)
    yield Batch(scope, ())
    return _erasure(event, unreached)


def _require_reached(order: ErasureOrder, unreached: Sequence[str]) -> None:
    if left := [name for name in unreached if name not in order.leave]:
        raise ConfigurationError(
            f"{', '.join(left)} may hold rows of this user that no projector of this store keeps; "
            "register their projectors (--extensions), or name what may stay in `leave` (--leave)"
        )


def _emptied(
    order: ErasureOrder, expected: int, unsalted: list[int] | None
) -> Plan[tuple[int, int]]:
    """Take the payloads out, as the role that may; return how many, and the last position."""
    gone, _ = yield Batch(
        Scope(Role.ERASER, order.user_id, patient=True),
        (
            Statement(_ERASE, (order.user_id, order.conversation_id, unsalted or [])),
            Statement(_ERASE_FINGERPRINTS, (order.user_id,)),
        ),
        hold=True,
    )
    count, through = gone[0]
    if count != expected:
        raise AccessDenied(
            f"of {expected} events the role that erases reached {count}; nothing was erased, "
            "run `eventstore doctor`"
        )
    return count, through


def _record(scope: Scope, order: ErasureOrder, through: int, count: int) -> Plan[RecordedEvent]:
    said = {"conversation_id": order.conversation_id, "reason": order.reason}
    data = checked(
        ContentErased,
        through=through,
        events=count,
        ordered_by=order.ordered_by,
        **{name: value for name, value in said.items() if value is not None},
    )
    event = NewEvent(stream_id=erasure_stream(scope.user_id), data=data, event_id=order.record_id)
    request = prepare_append(scope.user_id, [event])
    rows, _ = yield Batch(
        scope,
        (request.statement, Statement(_CLOSE, (scope.user_id, order.conversation_id))),
        hold=True,
    )
    return recorded(request.facts, *rows[0])[0]


def _erasure(event: RecordedEvent, unreached: tuple[str, ...]) -> Erasure:
    data = event.data
    assert isinstance(data, ContentErased)  # noqa: S101 - nothing else is in that stream
    return Erasure(
        event.user_id,
        data.conversation_id,
        data.events,
        event.position,
        event.recorded_at,
        data.ordered_by,
        unreached,
    )
