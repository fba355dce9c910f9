"""
The hash chain of one user's log, as anyone can recompute it.

Each event's hash is SHA-256 over the hash before it and the event's canonical form::

    hash      = sha256(previous ‖ canonical)         previous is 32 zero bytes at position 1
    canonical = concatenation of netstrings, UTF-8: "<byte length>:<text>," and "-," for null, of
                "1" (the form's version), user_id, position, stream_id, version, event_id, type,
                schema_version, payload_digest (hex), correlation_id, causation_id,
                idempotency_key, recorded_at (microseconds since 1970-01-01 UTC)
    payload_digest = sha256(salt ‖ netstring(payload text) ‖ netstring(metadata text))

The salt lets a payload be erased without its digest giving a short text away: salt and payload go
together, digest and hash stay. PostgreSQL computes the same in `append_events`
(migrations/sql/0001_append_events.sql), because position and previous hash are known only under
the lock; this module is how it is checked from outside.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

__all__ = [
    "ZERO_HASH",
    "ChainedEvent",
    "chain_hash",
    "payload_digest",
    "request_digest",
    "request_part",
]

ZERO_HASH = bytes(32)
_FORM = "1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class ChainedEvent(NamedTuple):
    """The columns of an event that its hash covers, in canonical order."""

    user_id: str
    position: int
    stream_id: UUID
    version: int
    event_id: UUID
    type: str
    schema_version: int
    payload_digest: bytes
    correlation_id: UUID | None
    causation_id: UUID | None
    idempotency_key: str | None
    recorded_at: datetime


def chain_hash(previous: bytes, event: ChainedEvent) -> bytes:
    """Return the event's hash, given that of the event before it in the user's log."""
    fields = (
        _FORM,
        event.user_id,
        event.position,
        event.stream_id,
        event.version,
        event.event_id,
        event.type,
        event.schema_version,
        event.payload_digest.hex(),
        event.correlation_id,
        event.causation_id,
        event.idempotency_key,
        (event.recorded_at - _EPOCH) // _MICROSECOND,
    )
    return sha256(previous + b"".join(map(_netstring, fields))).digest()


def payload_digest(salt: bytes, payload: str, metadata: str) -> bytes:
    """Return the digest of what an event carries; `payload` and `metadata` as stored."""
    return sha256(salt + _netstring(payload) + _netstring(metadata)).digest()


def request_digest(events: list[tuple[UUID, str, int, str]]) -> bytes:
    """Return the fingerprint of an append: (stream_id, type, schema_version, payload) of each."""
    return sha256(b"".join(request_part(*event) for event in events)).digest()


def request_part(stream_id: UUID, type_name: str, schema_version: int, payload: str) -> bytes:
    """Return what one event adds to its append's fingerprint."""
    return b"".join(map(_netstring, (stream_id, type_name, schema_version, payload)))


def _netstring(value: object) -> bytes:
    if value is None:
        return b"-,"
    text = str(value).encode()
    return b"%d:%s," % (len(text), text)
