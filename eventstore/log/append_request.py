"""
Append requests: events that were checked and encoded as the parameters of `append_events`.

Nothing is sent here. A value that cannot be stored is refused, with its path, before anything is
written.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

from eventstore.database.plan import Statement
from eventstore.errors import BatchTooLarge, InvalidInput, StreamClosed
from eventstore.events.erasure import ContentErased
from eventstore.events.event import Event
from eventstore.events.fields import (
    MAX_APPEND,
    MAX_BATCH,
    MAX_KEY,
    MAX_PAYLOAD,
    check_label,
    check_number,
    check_occurred_at,
)
from eventstore.events.json_codec import checked_text, loads
from eventstore.log.envelope import EventEnvelope, Expected, NewEvent
from eventstore.log.hash_chain import event_digest, payload_digest
from eventstore.log.ids import erasure_stream

__all__ = ["AppendRequest", "envelope_of", "parts_of", "prepare_append"]

_ONE = "select eventstore.append_event(" + ", ".join(f"${n}" for n in range(1, 17)) + ")"
_MANY = "select eventstore.append_events(" + ", ".join(f"${n}" for n in range(1, 12)) + ")"

# As many as `append_events` cuts out. Without a salt a digest would give a short text away.
_SALT_BYTES = 16


class _Columns(NamedTuple):
    """What is stored of an event, and the digest that its hash covers."""

    event_id: UUID
    type: str
    schema_version: int
    payload: str
    metadata: str
    correlation_id: UUID | None
    causation_id: UUID | None
    salt: bytes
    payload_digest: bytes
    digest: bytes
    occurred_at: datetime | None


@dataclass(slots=True)
class _Stream:
    """
    What an append says of a stream.

    :ivar id: of the task or conversation.
    :ivar number: among the streams of the append, from 1.
    :ivar expected: its version; 0 if it must be new, -1 if any but none will do, -2 if any will.
    :ivar closes: whether its last event closes it.
    :ivar reopens: whether it may be closed, because its first event reopens it.
    """

    id: UUID
    number: int
    kind: str
    expected: int
    events: int
    closes: bool
    reopens: bool


@dataclass(slots=True)
class AppendRequest:
    """
    A checked append.

    :ivar envelopes: the events in order, as projectors see them.
    :ivar columns: what is stored of each of them.
    :ivar numbers: of each of them the number of its stream.
    """

    user_id: str
    idempotency_key: str | None
    envelopes: list[EventEnvelope]
    columns: list[_Columns]
    numbers: list[int]
    streams: list[_Stream]

    def statement(self, *, retry: bool = False) -> Statement:
        """
        Return the call of the SQL function that appends.

        :param retry: whether an earlier attempt may have been committed.
        """
        # `append_event` is faster for most appends: it looks for no key and no earlier attempt.
        if len(self.columns) == 1 and self.idempotency_key is None and not retry:
            (stream,) = self.streams
            if stream.expected and not stream.reopens:  # and it is not new
                of_stream = (stream.id, stream.kind, stream.expected, stream.closes)
                return Statement(_ONE, (self.user_id, *of_stream, *self.columns[0]))
        # Few long arrays cost client and server less than many short ones.
        streams, columns = self.streams, self.columns
        numbers = [(one.expected, one.events, one.closes + 2 * one.reopens) for one in streams]
        versions = [one.schema_version for one in columns]
        return Statement(
            _MANY,
            (
                self.user_id,
                self.idempotency_key,
                retry,
                [one.id for one in streams],
                [one.kind for one in streams],
                [*chain.from_iterable(numbers)],
                [*chain.from_iterable([(c[0], c[5], c[6]) for c in columns])],
                [*chain.from_iterable(zip(self.numbers, versions, strict=True))],
                [*chain.from_iterable([(c[1], c[3], c[4]) for c in columns])],
                b"".join(chain.from_iterable([c[7:10] for c in columns])),
                self._times(),
            ),
        )

    def _times(self) -> list[datetime | None] | None:
        times = [columns.occurred_at for columns in self.columns]
        return times if any(times) else None

    def contents(self) -> list[tuple[object, ...]]:
        """
        Return of each event what a retry must have in common with the first attempt.

        :return: stream id, type, schema version and payload text, like the last columns that the
            plan of a retry selects.
        """
        return [
            (envelope.stream_id, one.type, one.schema_version, one.payload)
            for envelope, one in zip(self.envelopes, self.columns, strict=True)
        ]


def prepare_append(
    user_id: str, events: Sequence[NewEvent], idempotency_key: str | None = None
) -> AppendRequest:
    """
    Check events and encode them as one call of `append_events`.

    :param events: 1 to 1,000, in the order they happened.
    :param idempotency_key: at most 255 characters of storable text; None for no key.
    :raises BatchTooLarge: more than 1,000 events, or 64 MiB of JSON.
    :raises InvalidInput: no events, or a value that cannot be stored; the message has its path.
    :raises StreamClosed: an event follows one that closes its stream.
    """
    count = len(events)
    if not 1 <= count <= MAX_BATCH:
        if count:
            raise BatchTooLarge(count, MAX_BATCH)
        raise InvalidInput("events", "an append needs at least one event")
    if idempotency_key is not None:
        check_label(idempotency_key, "idempotency_key", MAX_KEY)
    salts = os.urandom(_SALT_BYTES * count)  # one system call for all events
    total = 0
    key, key_size = idempotency_key, None if idempotency_key is None else count
    request = AppendRequest(user_id, idempotency_key, [], [], [], [])
    # By the number in the id, because the hash of a UUID is a function of Python.
    streams: dict[int, _Stream] = {}
    for number, event in enumerate(events):
        path = f"events[{number}]"
        _check_event(event, path, user_id)
        data = event.data
        payload = data.payload_text()
        metadata, size = "{}", _bytes_of(payload)
        if event.metadata:
            metadata = _metadata_text(event.metadata, path)
            size += _bytes_of(metadata)
        if size > MAX_PAYLOAD:
            raise InvalidInput(
                path,
                f"{data.type} is {size} bytes of JSON, the limit is {MAX_PAYLOAD}; store a "
                "reference to the content instead",
            )
        total += size
        if total > MAX_APPEND:
            raise BatchTooLarge(total, MAX_APPEND, "bytes")
        occurred_at = None
        if event.occurred_at is not None:
            occurred_at = check_occurred_at(event.occurred_at, f"{path}.occurred_at")
        request.numbers.append(_add_to_stream(streams, event, path))
        salt = salts[number * _SALT_BYTES : (number + 1) * _SALT_BYTES]
        content_digest = payload_digest(salt, payload, metadata)
        digest = event_digest(
            user_id,
            event.stream_id,
            event.event_id,
            data.type,
            data.schema_version,
            content_digest,
            event.correlation_id,
            event.causation_id,
            occurred_at,
            key,
            key_size,
        )
        key = key_size = None  # on the first event only
        request.columns.append(
            _Columns(
                event.event_id,
                data.type,
                data.schema_version,
                payload,
                metadata,
                event.correlation_id,
                event.causation_id,
                salt,
                content_digest,
                digest,
                occurred_at,
            )
        )
        # Projectors are given metadata as a replay will read it, with lists for tuples.
        stored_metadata = loads(metadata) if event.metadata else {}
        request.envelopes.append(envelope_of(user_id, event, stored_metadata, occurred_at))
    request.streams += streams.values()
    return request


def parts_of(events: Sequence[NewEvent]) -> Iterator[list[NewEvent]]:
    """
    Split events into parts that fit into one append each, in order.

    The same events make the same parts, so a retry does too.

    :raises NotStorable: an event holds a value that JSON cannot.
    """
    part: list[NewEvent] = []
    total = 0
    for number, event in enumerate(events):
        size = _bytes_of(event.data.payload_text())
        size += _bytes_of(_metadata_text(event.metadata, f"events[{number}]"))
        if part and (len(part) == MAX_BATCH or total + size > MAX_APPEND):
            yield part
            part, total = [], 0
        part.append(event)
        total += size
    if part:
        yield part


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def envelope_of(
    user_id: str, event: NewEvent, metadata: Mapping[str, Any], occurred_at: datetime | None
) -> EventEnvelope:
    """
    Return a new event as projectors see it.

    :param metadata: in place of the event's own, as it comes back from JSON.
    :param occurred_at: in place of the event's own, in UTC.
    """
    return EventEnvelope(
        user_id,
        event.stream_id,
        event.event_id,
        event.data,
        metadata,
        event.correlation_id,
        event.causation_id,
        occurred_at,
    )


def _add_to_stream(streams: dict[int, _Stream], event: NewEvent, path: str) -> int:
    """Note an event in what is said of its stream; return the number of the stream."""
    stream_id, data = event.stream_id, event.data
    stream = streams.get(stream_id.int)
    if stream is None:
        expected: object = event.expected
        if expected is Expected.EXISTS:
            version = -1
        elif expected is Expected.ANY:
            # An event that begins no stream needs an existing one, whatever its caller expects.
            version = -2 if data.starts else -1
        else:
            version = 0 if expected is Expected.NEW else check_number(expected, f"{path}.expected")
            if version == 0 and not data.starts:
                raise InvalidInput(
                    f"{path}.expected", f"{data.type} cannot be the first event of a stream"
                )
        number = len(streams) + 1
        streams[stream_id.int] = _Stream(
            stream_id, number, data.stream_kind, version, 1, data.closes, data.reopens
        )
        return number
    # The SQL function is sent one kind and one flag a stream, so mixed kinds would pass it.
    if stream.kind != data.stream_kind:
        raise InvalidInput(
            f"{path}.stream_id",
            f"stream {stream_id} is a {stream.kind} in this append and cannot take {data.type}; "
            "give the other entity an id of its own",
        )
    if stream.closes and not data.reopens:
        raise StreamClosed(stream_id)
    stream.events += 1
    stream.closes = data.closes
    return stream.number


def _check_event(event: NewEvent, path: str, user_id: str) -> None:
    """Refuse what is no `NewEvent`, attributes of a wrong type, and a reserved stream."""
    if not isinstance(event, NewEvent) or not isinstance(event.data, Event):
        raise InvalidInput(path, f"is a {type(event).__name__}; give NewEvent(stream_id=…, data=…)")
    for name, value in (("stream_id", event.stream_id), ("event_id", event.event_id)):
        if not isinstance(value, UUID):
            raise InvalidInput(f"{path}.{name}", f"is a {type(value).__name__}; give a UUID")
    for name in ("correlation_id", "causation_id"):
        value = getattr(event, name)
        if value is not None and not isinstance(value, UUID):
            raise InvalidInput(f"{path}.{name}", f"is a {type(value).__name__}; give a UUID")
    # Callers can compute this id, and a stream of another kind would refuse all later erasures.
    if event.stream_id.int == erasure_stream(user_id).int and not isinstance(
        event.data, ContentErased
    ):
        raise InvalidInput(
            f"{path}.stream_id", f"{event.stream_id} is reserved for erasures; give another id"
        )


def _metadata_text(metadata: object, path: str) -> str:
    if not isinstance(metadata, Mapping):
        raise InvalidInput(
            f"{path}.metadata", f"is a {type(metadata).__name__}; give a JSON object"
        )
    return checked_text(dict(metadata), f"{path}.metadata")
