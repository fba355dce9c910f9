"""
Append events to one user's log.

Everything here is a plan (see `database.plan`): it asks for SQL and decides on rows, and never
touches a connection. An append is one transaction and one round trip: it writes every event, with
consecutive positions and versions, and the row changes that go with them, or nothing.

Every append has an idempotency key: the caller's, or the id of its first event. So a retry after a
lost reply, and a first try that arrives after its own retry, both find the key and write nothing.

Assumes READ COMMITTED and the lock on the user's row that `append_events` takes.
SQL: `migrations/sql/0001_append_events.sql`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from eventstore.database.errors import AlreadyAppended
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import Erased, IdempotencyConflict
from eventstore.events.jsontext import loads
from eventstore.log.envelope import Fact, RecordedEvent
from eventstore.log.prepare import Append

__all__ = ["append", "append_together", "first_result", "recorded"]

_FIRST_RESULT = """
select keyed.position, keyed.request_digest, e.version, e.recorded_at,
       e.event_id, e.metadata::text, e.correlation_id, e.causation_id
from eventstore.event as keyed
join eventstore.event as e
  on e.user_id = keyed.user_id
 and e.position >= keyed.position
 and e.position < keyed.position + $3
where keyed.user_id = $1
  and keyed.idempotency_key = $2
order by e.position
"""


def append(request: Append, row_changes: Sequence[Statement] = ()) -> Plan[list[RecordedEvent]]:
    """
    Write a prepared append and its row changes, or find that it was written before.

    :param row_changes: what the projectors want, in the same transaction.
    :return: the recorded events in order; positions follow the head without a gap.
    :raises WrongVersion: a stream is not as expected; nothing was written.
    :raises StreamClosed: a task or conversation was deleted; nothing was written.
    :raises IdempotencyConflict: the key stands for other content; nothing was written.

    Locks the user's row until commit.
    """
    scope = user_scope(request.user_id)
    try:
        rows = yield Batch(scope, (request.statement, *row_changes))
    except AlreadyAppended:
        return (yield from first_result(request))
    first_position, recorded_at, versions = rows[0][0]
    return recorded(request.facts, first_position, recorded_at, versions)


def append_together(requests: Sequence[tuple[Append, Sequence[Statement]]]) -> Plan[bool]:
    """
    Write several prepared appends of one user in one transaction; one round trip each.

    :return: False if they were written before, with this content.
    :raises IdempotencyConflict: a key stands for other content; nothing was written.
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


def recorded(
    facts: Sequence[Fact], first_position: int, recorded_at: datetime, versions: Sequence[int]
) -> list[RecordedEvent]:
    """Return facts with what the database gave them."""
    instant = recorded_at.astimezone(UTC)
    return [
        RecordedEvent(
            fact.user_id,
            fact.stream_id,
            fact.event_id,
            fact.data,
            fact.metadata,
            fact.correlation_id,
            fact.causation_id,
            position,
            version,
            instant,
        )
        for position, (fact, version) in enumerate(
            zip(facts, versions, strict=True), first_position
        )
    ]


def first_result(request: Append) -> Plan[list[RecordedEvent]]:
    """
    Load what the append with this idempotency key recorded the first time.

    :raises IdempotencyConflict: that was other content.
    :raises Erased: it is gone.
    """
    (rows,) = yield Batch(
        user_scope(request.user_id),
        (Statement(_FIRST_RESULT, (request.user_id, request.idempotency_key, len(request.facts))),),
    )
    if not rows:
        raise IdempotencyConflict(request.idempotency_key, 0)
    first_position, first_digest = rows[0][0], rows[0][1]
    if first_digest is None:  # it goes with the first payload of the append that is erased
        raise Erased(request.idempotency_key, first_position)
    if first_digest != request.request_digest or len(rows) != len(request.facts):
        raise IdempotencyConflict(request.idempotency_key, first_position)
    facts = [
        replace(
            fact,
            event_id=event_id,
            metadata=loads(metadata),
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        for fact, (*_, event_id, metadata, correlation_id, causation_id) in zip(
            request.facts, rows, strict=True
        )
    ]
    return recorded(facts, first_position, rows[0][3], [row[2] for row in rows])
