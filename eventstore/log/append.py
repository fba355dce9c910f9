"""
Append events to one user's log.

Everything here is a plan (see `database.plan`): it asks for SQL, decides on rows, and never touches
a connection. An append is one transaction and one round trip. It writes every event, with
consecutive positions and versions, and the row changes that belong to them, or it writes nothing.

Every append has an idempotency key: the caller's, or the id of its first event. A retry after a
lost reply finds the key and writes nothing, and so does a first attempt that arrives after its own
retry.

Assumes READ COMMITTED and the lock on the user's row that `append_events` takes
(migrations/sql/append_events.sql).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from eventstore.database.errors import AlreadyAppended
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import Erased, IdempotencyConflict
from eventstore.events.json_codec import loads
from eventstore.log.append_request import AppendRequest
from eventstore.log.envelope import EventEnvelope, RecordedEvent

__all__ = ["append", "append_together", "first_result", "recorded_events"]

# Index: event_idempotency_key, then event_pkey.
_FIRST_RESULT = """
select first.position, first.fingerprint, e.version, e.recorded_at,
       e.event_id, e.metadata::text, e.correlation_id, e.causation_id
from eventstore.event as first
join eventstore.event as e
  on e.user_id = first.user_id
 and e.position >= first.position
 and e.position < first.position + $3
where first.user_id = $1
  and first.idempotency_key = $2
order by e.position
"""


def append(
    request: AppendRequest, row_changes: Sequence[Statement] = ()
) -> Plan[list[RecordedEvent]]:
    """
    Write an append and its row changes, or find that it was written before.

    :param row_changes: the statements of the projectors, run in the same transaction.
    :return: the recorded events in order; their positions follow the head without a gap.
    :raises WrongVersion: a stream is not as expected; nothing was written.
    :raises StreamClosed: a task or conversation was deleted; nothing was written.
    :raises IdempotencyConflict: the key was used for other content; nothing was written.
    :raises Erased: the key was used for content that has been erased since.

    Locks the user's row until commit.
    """
    scope = user_scope(request.user_id)
    try:
        rows = yield Batch(scope, (request.statement, *row_changes))
    except AlreadyAppended:
        return (yield from first_result(request))
    first_position, recorded_at, versions = rows[0][0]
    return recorded_events(request.envelopes, first_position, recorded_at, versions)


def append_together(requests: Sequence[tuple[AppendRequest, Sequence[Statement]]]) -> Plan[bool]:
    """
    Write several appends of one user in one transaction; one round trip each.

    :param requests: each append with its row changes.
    :return: False if all of them were written before, with this content.
    :raises IdempotencyConflict: a key was used for other content; nothing was written.
    """
    last = len(requests) - 1
    try:
        for number, (request, row_changes) in enumerate(requests):
            yield Batch(
                user_scope(request.user_id),
                (request.statement, *row_changes),
                hold=number < last,
            )
    except AlreadyAppended:
        for request, _ in requests:
            yield from first_result(request)
        return False
    return True


def recorded_events(
    envelopes: Sequence[EventEnvelope],
    first_position: int,
    recorded_at: datetime,
    versions: Sequence[int],
) -> list[RecordedEvent]:
    """Return the events of one append with what the database gave them."""
    timestamp = recorded_at.astimezone(UTC)
    return [
        RecordedEvent(
            envelope.user_id,
            envelope.stream_id,
            envelope.event_id,
            envelope.data,
            envelope.metadata,
            envelope.correlation_id,
            envelope.causation_id,
            position,
            version,
            timestamp,
        )
        for position, (envelope, version) in enumerate(
            zip(envelopes, versions, strict=True), first_position
        )
    ]


def first_result(request: AppendRequest) -> Plan[list[RecordedEvent]]:
    """
    Load what the first append with this idempotency key recorded; one round trip.

    :raises IdempotencyConflict: it had other content.
    :raises Erased: its content has been erased.
    """
    parameters = (request.user_id, request.idempotency_key, len(request.envelopes))
    (rows,) = yield Batch(user_scope(request.user_id), (Statement(_FIRST_RESULT, parameters),))
    if not rows:
        raise IdempotencyConflict(request.idempotency_key, 0)
    first_position, fingerprint = rows[0][0], rows[0][1]
    if fingerprint is None:  # it is removed with the first payload of the append that is erased
        raise Erased(request.idempotency_key, first_position)
    if fingerprint != request.fingerprint or len(rows) != len(request.envelopes):
        raise IdempotencyConflict(request.idempotency_key, first_position)
    envelopes = [
        replace(
            envelope,
            event_id=event_id,
            metadata=loads(metadata),
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        for envelope, (*_, event_id, metadata, correlation_id, causation_id) in zip(
            request.envelopes, rows, strict=True
        )
    ]
    return recorded_events(envelopes, first_position, rows[0][3], [row[2] for row in rows])
