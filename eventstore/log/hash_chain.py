"""
The hash chain of one user's log, in a form that anyone can recompute.

The hash of an event is SHA-256 over the hash of the event before it and its own canonical form::

    hash      = sha256(previous ‖ canonical)         previous is 32 zero bytes at position 1
    canonical = concatenation of netstrings, UTF-8: "<byte length>:<text>," and "-," for null, of
                "1" (the version of this form), user_id, position, stream_id, version, event_id,
                type, schema_version, payload_digest (hex), correlation_id, causation_id,
                idempotency_key, recorded_at (microseconds since 1970-01-01 UTC)
    payload_digest = sha256(salt ‖ netstring(payload text) ‖ netstring(metadata text))

The salt keeps the digest of a short text from giving the text away. An erasure removes salt and
payload together; digest and hash stay. PostgreSQL computes the same hash in `append_events`
(migrations/sql), because position and previous hash are known only under the lock. This module
recomputes it from outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from eventstore.log.stored_event import StoredEvent

__all__ = ["ZERO_HASH", "append_fingerprint", "chain_hash", "fingerprint_part", "payload_digest"]

ZERO_HASH = bytes(32)
_FORM = "1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def chain_hash(previous: bytes, user_id: str, event: StoredEvent) -> bytes:
    """Return the hash of an event, given the hash of the event before it in the user's log."""
    canonical = (
        _FORM,
        user_id,
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
    return sha256(previous + b"".join(map(_netstring, canonical))).digest()


def payload_digest(salt: bytes, payload: str, metadata: str) -> bytes:
    """Return the digest of an event's content; payload and metadata are the stored texts."""
    return sha256(salt + _netstring(payload) + _netstring(metadata)).digest()


def append_fingerprint(events: Iterable[tuple[UUID, str, int, str]]) -> bytes:
    """
    Return the fingerprint of an append, which tells a retry from another use of its key.

    :param events: stream id, type, schema version and payload text of each event, in order.
    """
    return sha256(b"".join(fingerprint_part(*event) for event in events)).digest()


def fingerprint_part(stream_id: UUID, type_name: str, schema_version: int, payload: str) -> bytes:
    """Return what one event contributes to the fingerprint of its append."""
    return b"".join(map(_netstring, (stream_id, type_name, schema_version, payload)))


def _netstring(value: object) -> bytes:
    if value is None:
        return b"-,"
    text = str(value).encode()
    return b"%d:%s," % (len(text), text)
