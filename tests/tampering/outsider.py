"""
A forger with every right on the database, who recomputes the hash chain of a changed log.

The hashes follow docs/how-it-works.md and use only the standard library. They do not call the
library's own functions, so that tests can compare the two.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg

__all__ = ["COLUMNS", "digest_of", "event_hash", "forge"]

COLUMNS = (
    "position", "stream_id", "version", "event_id", "type", "schema_version", "payload",
    "metadata", "correlation_id", "causation_id", "occurred", "idempotency_key", "append_size",
    "microseconds", "salt", "payload_digest", "hash",
)  # fmt: skip
_EVENTS = """
select position, stream_id, version, event_id, type, schema_version, payload::text, metadata::text,
       correlation_id, causation_id,
       (extract(epoch from occurred_at - timestamptz '2000-01-01 00:00:00Z') * 1000000)::bigint,
       idempotency_key, append_size,
       (extract(epoch from recorded_at - timestamptz '2000-01-01 00:00:00Z') * 1000000)::bigint,
       salt, payload_digest, hash
from eventstore.event where user_id = %s order by position
"""


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big", signed=True)


def with_length(data: bytes | None) -> bytes:
    return number(-1, 4) if data is None else number(len(data), 4) + data


def encoded(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def optional_id(value: UUID | str | None) -> bytes | None:
    return None if value is None else UUID(str(value)).bytes


def digest_of(salt: bytes, payload: str, metadata: str) -> bytes:
    return sha256(salt + with_length(payload.encode()) + metadata.encode()).digest()


def event_hash(previous: bytes, user_id: str, event: dict[str, Any]) -> bytes:
    """
    Return the hash of an event from its columns, with ids as text or UUID.

    Its times `microseconds` (of recording) and `occurred` are microseconds since 2000.
    """
    size, occurred = event["append_size"], event["occurred"]
    digest = sha256(
        UUID(str(event["stream_id"])).bytes
        + UUID(str(event["event_id"])).bytes
        + event["payload_digest"]
        + with_length(optional_id(event["correlation_id"]))
        + with_length(optional_id(event["causation_id"]))
        + with_length(None if occurred is None else number(occurred, 8))
        + number(event["schema_version"], 4)
        + number(-1 if size is None else size, 4)
        + with_length(user_id.encode())
        + with_length(event["type"].encode())
        + with_length(encoded(event["idempotency_key"]))
    ).digest()
    place = (event["position"], event["version"], event["microseconds"])
    return sha256(previous + b"".join(number(one, 8) for one in place) + digest).digest()


def forge(admin: psycopg.Connection, user_id: str) -> None:
    """Recompute digests, hashes, streams and the head from the events as stored."""
    events = [dict(zip(COLUMNS, row, strict=True)) for row in admin.execute(_EVENTS, (user_id,))]
    previous = bytes(32)
    for event in events:
        if event["payload"] is not None:
            event["payload_digest"] = digest_of(event["salt"], event["payload"], event["metadata"])
        event["hash"] = previous = event_hash(previous, user_id, event)
    with admin.cursor() as cursor:
        cursor.executemany(
            "update eventstore.event set payload_digest = %(payload_digest)s, hash = %(hash)s"
            " where user_id = %(user_id)s and position = %(position)s",
            [event | {"user_id": user_id} for event in events],
        )

    _move_heads(admin, user_id)


def _move_heads(admin: psycopg.Connection, user_id: str) -> None:
    admin.execute(
        "delete from eventstore.stream as s where user_id = %s and not exists"
        " (select from eventstore.event as e"
        " where e.user_id = s.user_id and e.stream_id = s.stream_id)",
        (user_id,),
    )
    admin.execute(
        "update eventstore.stream as s set version = e.version from"
        " (select stream_id, max(version) as version from eventstore.event"
        " where user_id = %(user)s group by 1) as e"
        " where s.user_id = %(user)s and s.stream_id = e.stream_id",
        {"user": user_id},
    )
    admin.execute(
        "update eventstore.user_log as l set position = e.position, hash = e.hash,"
        " recorded_at = e.recorded_at from eventstore.event as e"
        " where l.user_id = %(user)s and e.user_id = l.user_id and e.position ="
        " (select max(position) from eventstore.event where user_id = %(user)s)",
        {"user": user_id},
    )
