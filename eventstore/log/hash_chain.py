"""
The hash chain: each event's hash covers the hash before it, and so the whole log up to it.

Hashed are fixed-width binary fields, and texts with their length before them, in network byte
order. Nothing is hashed that another program could not write in the same way:

- `payload_digest` is the SHA-256 of the salt, the length of the payload, payload and metadata.
  After an erasure it stays, and without the salt nobody can guess what was digested.
- The event digest is the SHA-256 of everything that the client knows of an event. It is not stored.
- The hash is the SHA-256 of the hash before it, position, version, time and event digest. The SQL
  function `append_events` computes it (migrations/sql), because all but the digest is known only
  under the lock on the user's row. This module computes it once more from outside.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from struct import Struct
from uuid import UUID

from eventstore.database.timestamps import microseconds
from eventstore.log.stored_event import StoredEvent

__all__ = ["ZERO_HASH", "chain_hash", "event_digest", "payload_digest"]

ZERO_HASH = bytes(32)
"""The hash before the first event."""

# Network byte order is what `int4send`, `int8send` and `timestamptz_send` of PostgreSQL give.
_LENGTH = Struct("!i")
_NUMBERS = Struct("!ii")
_PLACE = Struct("!qqq")
# A length of -1 stands for null, which keeps it apart from an empty text.
_ABSENT, _ID = _LENGTH.pack(-1), _LENGTH.pack(16)
_TIMESTAMP = Struct("!iq")


def payload_digest(salt: bytes, payload: str, metadata: str) -> bytes:
    """
    Return the digest of an event's content, 32 bytes.

    :param salt: the event's own random bytes, 16 of them.
    :param payload: the stored JSON text, as PostgreSQL gives it with `::text`.
    :param metadata: likewise.
    """
    data = payload.encode()
    # The length keeps a character from moving between the two texts under the same digest.
    return sha256(b"".join((salt, _LENGTH.pack(len(data)), data, metadata.encode()))).digest()


def event_digest(
    user_id: str,
    stream_id: UUID,
    event_id: UUID,
    type_name: str,
    schema_version: int,
    content_digest: bytes,
    correlation_id: UUID | None,
    causation_id: UUID | None,
    occurred_at: datetime | None,
    idempotency_key: str | None,
    append_size: int | None,
) -> bytes:
    """
    Return the digest of an event's columns, but for those that the database gives it; 32 bytes.

    :param content_digest: what `payload_digest` returned.
    :param occurred_at: None if it is not told.
    :param idempotency_key: on the first event of an append that has one, None on all others.
    :param append_size: the number of events under that key, and None without one.
    """
    user, name = user_id.encode(), type_name.encode()
    key = None if idempotency_key is None else idempotency_key.encode()
    parts = (
        stream_id.int.to_bytes(16),
        event_id.int.to_bytes(16),
        content_digest,
        _ABSENT if correlation_id is None else _ID + correlation_id.int.to_bytes(16),
        _ABSENT if causation_id is None else _ID + causation_id.int.to_bytes(16),
        _ABSENT if occurred_at is None else _TIMESTAMP.pack(8, microseconds(occurred_at)),
        _NUMBERS.pack(schema_version, -1 if append_size is None else append_size),
        _LENGTH.pack(len(user)),
        user,
        _LENGTH.pack(len(name)),
        name,
        _ABSENT if key is None else _LENGTH.pack(len(key)) + key,
    )
    return sha256(b"".join(parts)).digest()


def chain_hash(previous: bytes, user_id: str, event: StoredEvent) -> bytes:
    """
    Return the hash of an event, 32 bytes.

    :param previous: the hash of the event before it in the user's log, or `ZERO_HASH`.
    :param event: the stored row; an erased event has its payload digest still.
    """
    digest = event_digest(
        user_id,
        event.stream_id,
        event.event_id,
        event.type,
        event.schema_version,
        event.payload_digest,
        event.correlation_id,
        event.causation_id,
        event.occurred_at,
        event.idempotency_key,
        event.append_size,
    )
    place = _PLACE.pack(event.position, event.version, microseconds(event.recorded_at))
    return sha256(previous + place + digest).digest()
