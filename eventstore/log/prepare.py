"""
Prepare an append: check what the caller sent, and write it out as parameters of `append_events`.

Nothing is sent here. What cannot be stored is refused by its place, before anything is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson

from eventstore.database.plan import Statement
from eventstore.errors import BatchTooLarge, InvalidInput
from eventstore.events.erasure import ContentErased
from eventstore.events.event import Event
from eventstore.events.jsontext import check_json, dumps, loads
from eventstore.events.limits import (
    MAX_BATCH,
    MAX_KEY,
    MAX_PAYLOAD_BYTES,
    check_label,
    check_number,
)
from eventstore.log.chain import payload_digest, request_digest
from eventstore.log.envelope import Expected, Fact, NewEvent
from eventstore.log.identity import erasure_stream

__all__ = ["Append", "fact_of", "prepare_append"]

_APPEND = """
select first_position, recorded_at, versions
from eventstore.append_events($1, $2::jsonb, $3::jsonb, $4::json, $5::json, $6, $7)
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
    reserved = erasure_stream(user_id)
    for number, event in enumerate(events):
        _check_envelope(event, f"events[{number}]")
        if event.stream_id == reserved and not isinstance(event.data, ContentErased):
            raise InvalidInput(
                f"events[{number}].stream_id", f"{reserved} is kept for erasures; give another id"
            )
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
        replace(fact_of(user_id, event), metadata={} if metadata == "{}" else loads(metadata))
        for event, (_, metadata) in zip(events, texts, strict=True)
    ]
    return Append(user_id, facts, key, fingerprint, Statement(_APPEND, parameters))


_NEEDED_IDS = ("stream_id", "event_id")
_OTHER_IDS = ("correlation_id", "causation_id")


def _check_envelope(event: NewEvent, place: str) -> None:
    """Refuse by name what is no event, or holds something that is not what its field says."""
    if not isinstance(event, NewEvent) or not isinstance(event.data, Event):
        raise InvalidInput(place, f"a {type(event).__name__}; give NewEvent(stream_id=…, data=…)")
    for name in _NEEDED_IDS:
        if not isinstance(getattr(event, name), UUID):
            given = type(getattr(event, name)).__name__
            raise InvalidInput(f"{place}.{name}", f"a {given}; give a UUID")
    for name in _OTHER_IDS:
        value = getattr(event, name)
        if value is not None and not isinstance(value, UUID):
            raise InvalidInput(f"{place}.{name}", f"a {type(value).__name__}; give a UUID")
    if type(event.metadata) is not dict and not isinstance(event.metadata, Mapping):
        raise InvalidInput(
            f"{place}.metadata", f"a {type(event.metadata).__name__}; give a JSON object"
        )


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
        orjson.dumps(list(streams.values()), _id_text).decode(),
        orjson.dumps(rows, _id_text).decode(),
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


def _id_text(value: object) -> str:
    """Write ids of other classes than the standard one, which orjson writes by itself."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError


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
