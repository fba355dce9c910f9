"""
Erase a user's content for good, or that of one conversation, and keep the evidence.

In one transaction, with the user's row locked: the role that erases takes payload, metadata, salt
and fingerprint out of the events; the application role records that, as an event of the same log,
and closes the streams; then the read models are replayed and mended, so that whatever any projector
made of the erased events is gone too. Positions, types, times, digests and hashes stay, and with
them the chain: without its salt a digest gives nothing away.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.roles import Role
from eventstore.database.scope import Scope, user_scope
from eventstore.errors import NotFound
from eventstore.events.erasure import ContentErased
from eventstore.events.event import checked
from eventstore.events.registry import EventRegistry
from eventstore.log.append import recorded
from eventstore.log.envelope import NewEvent, RecordedEvent
from eventstore.log.identity import erasure_stream
from eventstore.log.prepare import prepare_append
from eventstore.log.read import Selection, decode, select_events
from projections.projector import Projections
from projections.rebuild import rebuild_held

__all__ = ["Erasure", "erase"]

_LOCK = "select position from eventstore.user_log where user_id = $1 for update"
_IS_CONVERSATION = """
select 1 from eventstore.stream
where user_id = $1 and stream_id = $2 and kind = 'conversation'
"""

# The eraser knows an event that is not erased by its salt: it may not read payloads.
_ERASE = """
with gone as (
    update eventstore.event
    set payload = null, metadata = null, salt = null, request_digest = null
    where user_id = $1
      and ($2::uuid is null or stream_id = $2)
      and type <> 'ContentErased'
      and salt is not null
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
    """

    user_id: str
    conversation_id: UUID | None
    events: int
    position: int | None = None
    recorded_at: datetime | None = None
    ordered_by: str | None = None


def erase(
    user_id: str,
    conversation_id: UUID | None,
    *,
    record_id: UUID,
    ordered_by: str,
    reason: str | None,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[Erasure]:
    """
    Erase, or find that it was done under this `record_id` before.

    :raises NotFound: no such user, or no such conversation of theirs.
    :raises AccessDenied: the login may not enter the role that erases.
    """
    scope = user_scope(user_id, patient=True)
    head, done, streams = yield Batch(
        scope,
        (
            Statement(_LOCK, (user_id,)),
            select_events(user_id, Selection(stream_id=erasure_stream(user_id))),
            Statement(_IS_CONVERSATION, (user_id, conversation_id)),
        ),
        hold=True,
    )
    for row in done:
        if (event := decode(user_id, row, registry)).event_id == record_id:
            return _erasure(event)
    if not head:
        raise NotFound("user", user_id)
    if conversation_id is not None and not streams:
        raise NotFound("conversation", conversation_id)
    gone, _ = yield Batch(
        Scope(Role.ERASER, user_id, patient=True),
        (
            Statement(_ERASE, (user_id, conversation_id)),
            Statement(_ERASE_FINGERPRINTS, (user_id,)),
        ),
        hold=True,
    )
    count, through = gone[0]
    if not count:
        yield Batch(scope, ())
        return Erasure(user_id, conversation_id, 0)
    event = yield from _record(
        scope, conversation_id, through, count, record_id, ordered_by, reason
    )
    yield from rebuild_held(user_id, projections, registry)
    yield Batch(scope, ())
    return _erasure(event)


def _record(
    scope: Scope,
    conversation_id: UUID | None,
    through: int,
    count: int,
    record_id: UUID,
    ordered_by: str,
    reason: str | None,
) -> Plan[RecordedEvent]:
    said = {"conversation_id": conversation_id, "reason": reason}
    data = checked(
        ContentErased,
        through=through,
        events=count,
        ordered_by=ordered_by,
        **{name: value for name, value in said.items() if value is not None},
    )
    event = NewEvent(stream_id=erasure_stream(scope.user_id), data=data, event_id=record_id)
    request = prepare_append(scope.user_id, [event])
    rows, _ = yield Batch(
        scope,
        (request.statement, Statement(_CLOSE, (scope.user_id, conversation_id))),
        hold=True,
    )
    return recorded(request.facts, *rows[0])[0]


def _erasure(event: RecordedEvent) -> Erasure:
    data = event.data
    assert isinstance(data, ContentErased)  # noqa: S101 - nothing else is in that stream
    return Erasure(
        event.user_id,
        data.conversation_id,
        data.events,
        event.position,
        event.recorded_at,
        data.ordered_by,
    )
