"""
A row of the table `event`: its columns, listed once for reading, verifying, exporting and hashing.

The columns come in two parts. The first part is what a replay needs. The rest is evidence: what
tells a retry from a reuse of an idempotency key, and the hash chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import DateTime, LargeBinary, Text
from sqlalchemy.dialects.postgresql import JSON

from eventstore.database.timestamps import readable_timestamp
from eventstore.errors import EventStoreError, UnreadableEvent
from eventstore.events.erasure import ErasedEvent
from eventstore.events.event import Event
from eventstore.events.json_codec import loads
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import RecordedEvent
from eventstore.log.tables import event as event_table

__all__ = [
    "ALL_COLUMNS",
    "REPLAY_COLUMNS",
    "VARIABLE_SIZE_COLUMNS",
    "StoredEvent",
    "recorded_event",
    "select_list",
]


class StoredEvent(NamedTuple):
    """
    An event as it is stored, without the `user_id` that every query names.

    :ivar payload: JSON text; null once erased, like `metadata` and `salt`.
    :ivar occurred_at: null if it is not told; it is the time of recording then.
    :ivar idempotency_key: of its append, on the first event, if the caller gave one.
    :ivar append_size: likewise; the number of events of that append.
    """

    position: int
    stream_id: UUID
    version: int
    event_id: UUID
    type: str
    schema_version: int
    payload: str | None
    metadata: str | None
    correlation_id: UUID | None
    causation_id: UUID | None
    occurred_at: datetime | None
    recorded_at: datetime
    # The columns from here on are evidence, which a replay does not read; hence the defaults.
    idempotency_key: str | None = None
    append_size: int | None = None
    salt: bytes | None = None
    payload_digest: bytes = b""
    hash: bytes = b""


ALL_COLUMNS = StoredEvent._fields
REPLAY_COLUMNS = ALL_COLUMNS[: ALL_COLUMNS.index("idempotency_key")]
VARIABLE_SIZE_COLUMNS = tuple(
    name
    for name in ALL_COLUMNS
    if isinstance(event_table.columns[name].type, JSON | LargeBinary | Text)
)
"""Columns that may have megabytes. The store writes no other large than the payload."""


def select_list(columns: Sequence[str]) -> str:
    """
    Return the SQL that selects columns of `event` as `StoredEvent` holds them.

    :param columns: names of fields of `StoredEvent`; they are SQL, so never a caller's text.
    """
    return ", ".join(map(_selected, columns))


def _selected(name: str) -> str:
    match event_table.columns[name].type:
        # The hash chain covers the text, and psycopg would parse it and round its numbers.
        case JSON():
            return f"{name}::text"
        case DateTime():
            return readable_timestamp(name)
        case _:
            return name


def recorded_event(user_id: str, row: Sequence[Any], registry: EventRegistry) -> RecordedEvent:
    """
    Return the event of a row that begins with `REPLAY_COLUMNS`.

    :return: the event; its data is an `ErasedEvent` where the payload was erased.
    :raises UnknownEventType: no registered class reads the event.
    :raises UnreadableEvent: the payload does not fit its class, or the row was tampered with.
    """
    (
        position,
        stream_id,
        version,
        event_id,
        type_name,
        schema_version,
        payload,
        metadata,
        correlation_id,
        causation_id,
        occurred_at,
        recorded_at,
    ) = row[:_REPLAYED]
    if recorded_at is None or stream_id is None or event_id is None:
        raise UnreadableEvent(type_name, position, "it has no time, no stream or no id")
    try:
        if payload is None:
            data: Event = ErasedEvent(erased_type=type_name)
        else:
            data = registry.read(type_name, schema_version, loads(payload), position)
        return RecordedEvent(
            user_id,
            stream_id,
            event_id,
            data,
            {} if metadata == "{}" or metadata is None else loads(metadata),
            correlation_id,
            causation_id,
            occurred_at,
            position,
            version,
            recorded_at,
        )
    except EventStoreError:
        raise
    except ValueError as error:
        raise UnreadableEvent(type_name, position, str(error)) from error
    except Exception as error:  # a tampered row may hold values of any kind
        raise UnreadableEvent(type_name, position, type(error).__name__) from error


_REPLAYED = len(REPLAY_COLUMNS)
