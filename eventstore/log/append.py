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

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from eventstore.database.errors import AlreadyAppended
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import BatchTooLarge, Erased, IdempotencyConflict, InvalidInput
from eventstore.events.jsontext import check_json, dumps, loads
from eventstore.events.limits import (
    MAX_BATCH,
    MAX_KEY,
    MAX_PAYLOAD_BYTES,
    check_label,
    check_number,
)
from eventstore.log.chain import payload_digest, request_digest
from eventstore.log.envelope import Expected, Fact, NewEvent, RecordedEvent

__all__ = [
    "Append",
    "append",
    "append_together",
    "fact_of",
    "first_result",
    "prepare_append",
    "recorded",
]

_APPEND = """
select first_position, recorded_at, versions
from eventstore.append_events($1, $2::jsonb, $3::jsonb, $4::json, $5::json, $6, $7)
"""

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

_SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class Append:
    """An append, checked and written out as parameters of `append_events`."""

    user_id: str
    facts: list[Fact]
    idempotency_key: str
    request_digest: bytes
    statement: Statement


def prepare_append(
    user_id: str, events: Sequence[NewEvent], idempotency_key: str | None = None
) -> Append:
    """
    Check `events` and turn them into one call of `append_events`.

    :param events: 1 to 1,000, in the order they happened.
    :raises BatchTooLarge: more than 1,000.
    :raises InvalidInput: an empty append, or a value that cannot be stored; it is named.
    """
    if not events:
        raise InvalidInput("events", "an append needs at least one event")
    if len(events) > MAX_BATCH:
        raise BatchTooLarge(len(events), MAX_BATCH)
    if idempotency_key is not None:
        check_label(idempotency_key, "idempotency_key", MAX_KEY)
    key = idempotency_key or str(events[0].event_id)
    texts = [_texts(event, number) for number, event in enumerate(events)]
    fingerprint = request_digest(
        [
            (event.stream_id, event.data.type, event.data.schema_version, payload)
            for event, (payload, _) in zip(events, texts, strict=True)
        ]
    )
    parameters = (user_id, *_arguments(events, texts), key, fingerprint)
    facts = [
        replace(fact_of(user_id, event), metadata=loads(metadata))
        for event, (_, metadata) in zip(events, texts, strict=True)
    ]
    return Append(user_id, facts, key, fingerprint, Statement(_APPEND, parameters))


def append(
    request: Append, row_changes: Sequence[Statement] = (), *, alongside: Sequence[Statement] = ()
) -> Plan[list[RecordedEvent]]:
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
        rows = yield Batch(scope, (request.statement, *row_changes, *alongside))
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


def _stream_row(event: NewEvent, number: int) -> dict[str, Any]:
    expected = event.expected
    if not isinstance(expected, Expected):
        check_number(expected, f"events[{number}].expected")
    return {"stream_id": event.stream_id, "kind": event.data.stream_kind, "expected": str(expected)}


def _texts(event: NewEvent, number: int) -> tuple[str, str]:
    payload = dumps(event.data.to_payload())
    metadata = dumps(check_json(dict(event.metadata), f"events[{number}].metadata"))
    size = len(payload) + len(metadata)
    if size > MAX_PAYLOAD_BYTES:
        raise InvalidInput(
            f"events[{number}]",
            f"{event.data.type} is {size} characters of JSON, the limit is {MAX_PAYLOAD_BYTES}; "
            "store a reference to the content instead",
        )
    return payload, metadata


def _arguments(
    events: Sequence[NewEvent], texts: Sequence[tuple[str, str]]
) -> tuple[str, str, str, str]:
    """Return streams, events, payloads and metadata as `append_events` takes them."""
    streams: dict[UUID, dict[str, Any]] = {}
    for number, event in enumerate(events):
        stream = streams.setdefault(event.stream_id, _stream_row(event, number))
        if stream["kind"] != event.data.stream_kind:
            raise InvalidInput(
                f"events[{number}].stream_id",
                f"stream {event.stream_id} is a {stream['kind']} in this append and cannot take "
                f"{event.data.type}; give the other thing an id of its own",
            )
    numbers = {stream_id: number for number, stream_id in enumerate(streams)}
    salts = os.urandom(_SALT_BYTES * len(events))  # one call to the kernel, not one an event
    rows = [
        _event_row(event, numbers[event.stream_id], salts[at : at + _SALT_BYTES], *text)
        for event, text, at in zip(events, texts, range(0, len(salts), _SALT_BYTES), strict=True)
    ]
    return (
        orjson.dumps(list(streams.values())).decode(),
        orjson.dumps(rows).decode(),
        f"[{','.join(payload for payload, _ in texts)}]",
        f"[{','.join(metadata for _, metadata in texts)}]",
    )


def _event_row(
    event: NewEvent, stream: int, salt: bytes, payload: str, metadata: str
) -> dict[str, Any]:
    return {
        "stream": stream,
        "event_id": event.event_id,
        "type": event.data.type,
        "schema_version": event.data.schema_version,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "closes": event.data.closes,
        "salt": salt.hex(),
        "digest": payload_digest(salt, payload, metadata).hex(),
    }


def fact_of(user_id: str, event: NewEvent) -> Fact:
    """Return what is known of `event` before it is recorded."""
    return Fact(
        user_id,
        event.stream_id,
        event.event_id,
        event.data,
        event.metadata,
        event.correlation_id,
        event.causation_id,
    )
