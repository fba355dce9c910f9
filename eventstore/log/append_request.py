"""
Append requests: events that were checked and encoded as the parameters of `append_events`.

Nothing is sent here. A value that cannot be stored is refused, with its path, before anything is
written.
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
from eventstore.events.fields import (
    MAX_BATCH,
    MAX_KEY,
    MAX_PAYLOAD_BYTES,
    check_label,
    check_number,
)
from eventstore.events.json_codec import check_json, dumps, loads
from eventstore.log.envelope import EventEnvelope, Expected, NewEvent
from eventstore.log.hash_chain import append_fingerprint, payload_digest
from eventstore.log.ids import erasure_stream

__all__ = ["AppendRequest", "envelope_of", "prepare_append"]

_APPEND = """
select first_position, recorded_at, versions
from eventstore.append_events($1, $2::jsonb, $3::jsonb, $4::json, $5::json, $6, $7)
"""

_SALT_BYTES = 16


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """
    A checked append.

    :ivar envelopes: the events in order, as projectors see them.
    :ivar statement: the call of `append_events`.
    """

    user_id: str
    envelopes: list[EventEnvelope]
    idempotency_key: str
    fingerprint: bytes
    statement: Statement


def prepare_append(
    user_id: str, events: Sequence[NewEvent], idempotency_key: str | None = None
) -> AppendRequest:
    """
    Check events and encode them as one call of `append_events`.

    :param events: 1 to 1,000, in the order they happened.
    :param idempotency_key: None takes the id of the first event.
    :raises BatchTooLarge: more than 1,000 events.
    :raises InvalidInput: no events, or a value that cannot be stored; the message has its path.
    """
    if not events:
        raise InvalidInput("events", "an append needs at least one event")
    if len(events) > MAX_BATCH:
        raise BatchTooLarge(len(events), MAX_BATCH)
    reserved = erasure_stream(user_id)
    for number, event in enumerate(events):
        _check_new_event(event, f"events[{number}]")
        if event.stream_id == reserved and not isinstance(event.data, ContentErased):
            raise InvalidInput(
                f"events[{number}].stream_id",
                f"{reserved} is reserved for erasures; give another id",
            )
    if idempotency_key is not None:
        check_label(idempotency_key, "idempotency_key", MAX_KEY)
    key = idempotency_key or str(events[0].event_id)
    texts = [_json_texts(event, number) for number, event in enumerate(events)]
    fingerprint = append_fingerprint(
        (event.stream_id, event.data.type, event.data.schema_version, payload)
        for event, (payload, _) in zip(events, texts, strict=True)
    )
    parameters = (user_id, *_parameters(events, texts), key, fingerprint)
    envelopes = [
        replace(envelope_of(user_id, event), metadata={} if metadata == "{}" else loads(metadata))
        for event, (_, metadata) in zip(events, texts, strict=True)
    ]
    return AppendRequest(user_id, envelopes, key, fingerprint, Statement(_APPEND, parameters))


def envelope_of(user_id: str, event: NewEvent) -> EventEnvelope:
    """Return a new event as projectors see it."""
    return EventEnvelope(
        user_id,
        event.stream_id,
        event.event_id,
        event.data,
        event.metadata,
        event.correlation_id,
        event.causation_id,
    )


_REQUIRED_IDS = ("stream_id", "event_id")
_OPTIONAL_IDS = ("correlation_id", "causation_id")


def _check_new_event(event: NewEvent, path: str) -> None:
    """Refuse what is no `NewEvent`, and attributes of another type than theirs."""
    if not isinstance(event, NewEvent) or not isinstance(event.data, Event):
        raise InvalidInput(path, f"a {type(event).__name__}; give NewEvent(stream_id=…, data=…)")
    for name in (*_REQUIRED_IDS, *_OPTIONAL_IDS):
        value = getattr(event, name)
        if not isinstance(value, UUID) and (value is not None or name in _REQUIRED_IDS):
            raise InvalidInput(f"{path}.{name}", f"a {type(value).__name__}; give a UUID")
    if type(event.metadata) is not dict and not isinstance(event.metadata, Mapping):
        raise InvalidInput(
            f"{path}.metadata", f"a {type(event.metadata).__name__}; give a JSON object"
        )


def _json_texts(event: NewEvent, number: int) -> tuple[str, str]:
    """Return payload and metadata as they are stored."""
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


def _parameters(
    events: Sequence[NewEvent], texts: Sequence[tuple[str, str]]
) -> tuple[str, str, str, str]:
    """Return streams, events, payloads and metadata as `append_events` takes them."""
    streams: dict[UUID, dict[str, Any]] = {}
    for number, event in enumerate(events):
        stream = streams.setdefault(event.stream_id, _stream_parameter(event, number))
        if stream["kind"] != event.data.stream_kind:
            raise InvalidInput(
                f"events[{number}].stream_id",
                f"stream {event.stream_id} is a {stream['kind']} in this append and cannot take "
                f"{event.data.type}; give the other entity an id of its own",
            )
    numbers = {stream_id: number for number, stream_id in enumerate(streams)}
    salts = os.urandom(_SALT_BYTES * len(events))  # one system call for all events
    rows = [
        _event_parameter(event, numbers[event.stream_id], salts[at : at + _SALT_BYTES], *text)
        for event, text, at in zip(events, texts, range(0, len(salts), _SALT_BYTES), strict=True)
    ]
    return (
        orjson.dumps(list(streams.values()), _encode_uuid).decode(),
        orjson.dumps(rows, _encode_uuid).decode(),
        f"[{','.join(payload for payload, _ in texts)}]",
        f"[{','.join(metadata for _, metadata in texts)}]",
    )


def _stream_parameter(event: NewEvent, number: int) -> dict[str, Any]:
    expected = event.expected
    if not isinstance(expected, Expected):
        check_number(expected, f"events[{number}].expected")
    return {"stream_id": event.stream_id, "kind": event.data.stream_kind, "expected": str(expected)}


def _event_parameter(
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


def _encode_uuid(value: object) -> str:
    """Encode an id of a subclass of `uuid.UUID`, which orjson does not do by itself."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError
