"""
A forger with every right on the database, who recomputes the hash chain of a changed log.

The hashes follow docs/how-it-works.md and use only the standard library. They do not call the
library's own functions, so that tests can compare the two.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

import psycopg

__all__ = ["COLUMNS", "digest_of", "event_hash", "fingerprint", "forge", "netstring"]

COLUMNS = (
    "position", "stream_id", "version", "event_id", "type", "schema_version", "payload",
    "metadata", "correlation_id", "causation_id", "idempotency_key", "microseconds", "salt",
    "payload_digest", "hash", "fingerprint",
)  # fmt: skip
_EVENTS = """
select position, stream_id, version, event_id, type, schema_version, payload::text, metadata::text,
       correlation_id, causation_id, idempotency_key,
       (extract(epoch from recorded_at) * 1000000)::bigint, salt, payload_digest, hash,
       fingerprint
from eventstore.event where user_id = %s order by position
"""


def netstring(value: object) -> bytes:
    if value is None:
        return b"-,"
    text = str(value).encode()
    return f"{len(text)}:".encode() + text + b","


def digest_of(salt: bytes, payload: str, metadata: str) -> bytes:
    return sha256(salt + netstring(payload) + netstring(metadata)).digest()


def event_hash(previous: bytes, user_id: str, event: dict[str, Any]) -> bytes:
    """Return the hash of an event from its columns, with `payload_digest` in hex."""
    canonical = [
        "1", user_id, event["position"], event["stream_id"], event["version"], event["event_id"],
        event["type"], event["schema_version"], event["payload_digest"], event["correlation_id"],
        event["causation_id"], event["idempotency_key"], event["microseconds"],
    ]  # fmt: skip
    return sha256(previous + b"".join(map(netstring, canonical))).digest()


def fingerprint(events: Iterable[dict[str, Any]]) -> bytes:
    """Return the fingerprint of an append of these events."""
    names = ("stream_id", "type", "schema_version", "payload")
    return sha256(b"".join(netstring(one[name]) for one in events for name in names)).digest()


def forge(admin: psycopg.Connection, user_id: str) -> None:
    """Recompute digests, fingerprints, hashes, streams and the head from the events as stored."""
    events = [dict(zip(COLUMNS, row, strict=True)) for row in admin.execute(_EVENTS, (user_id,))]
    previous, appends = bytes(32), list[list[dict[str, Any]]]()
    for event in events:
        if event["payload"] is not None:
            event["payload_digest"] = digest_of(event["salt"], event["payload"], event["metadata"])
        hashed = event | {"payload_digest": event["payload_digest"].hex()}
        event["hash"] = previous = event_hash(previous, user_id, hashed)
        if event["idempotency_key"] is not None:
            appends.append([])
        appends[-1].append(event)
    for append in appends:
        erased = any(event["payload"] is None for event in append)
        append[0]["fingerprint"] = None if erased else fingerprint(append)
    with admin.cursor() as cursor:
        cursor.executemany(
            "update eventstore.event set payload_digest = %(payload_digest)s, hash = %(hash)s,"
            " fingerprint = %(fingerprint)s"
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
