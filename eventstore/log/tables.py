"""
The tables of the log, as Alembic compares them with the database.

They are never written through SQLAlchemy: an append calls the SQL function `append_events`. The
log and the read models share a metadata of their own, so that the Alembic of a service that uses
SQLModel never sees, creates or drops them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON

__all__ = [
    "FEED_CHECKPOINT",
    "LOG_TABLES",
    "SCHEMA",
    "STORE_TABLES",
    "event",
    "feed_checkpoint",
    "metadata",
    "rebuild_progress",
    "stream",
    "user_log",
]

SCHEMA = "eventstore"
LOG_TABLES = (f"{SCHEMA}.user_log", f"{SCHEMA}.stream", f"{SCHEMA}.event")
"""The tables of recorded history; `rebuild_progress` only says how far a rebuild has come."""
FEED_CHECKPOINT = f"{SCHEMA}.feed_checkpoint"
STORE_TABLES = (*LOG_TABLES, FEED_CHECKPOINT)
"""The tables with rows of users that no projector keeps."""

metadata = MetaData(schema=SCHEMA)

_TIMESTAMP = DateTime(timezone=True)

user_log = Table(
    "user_log",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("recorded_at", _TIMESTAMP, nullable=False),
    # At most 100 ids of events that a retry appended: a late first attempt of them is refused.
    Column("retried", ARRAY(Uuid)),
    Column("quota", BigInteger),  # null: no limit
    PrimaryKeyConstraint("user_id", name="user_log_pkey"),
)

stream = Table(
    "stream",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("stream_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("closed", Boolean, nullable=False),
    PrimaryKeyConstraint("user_id", "stream_id", name="stream_pkey"),
)

# Checks and foreign keys took a quarter of the server's time, and `verify` finds what they refuse.
event = Table(
    "event",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("stream_id", Uuid, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    # `jsonb` would reorder keys, rewrite numbers and refuse NUL; `json` keeps the hashed text.
    Column("payload", JSON),  # an erasure sets payload, metadata and salt to null
    Column("metadata", JSON),
    Column("correlation_id", Uuid),
    Column("causation_id", Uuid),
    Column("occurred_at", _TIMESTAMP),  # null: it happened when it was recorded
    Column("idempotency_key", Text),
    Column("append_size", Integer),
    Column("recorded_at", _TIMESTAMP, nullable=False),
    Column("salt", LargeBinary),
    Column("payload_digest", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("user_id", "position", name="event_pkey"),
    Index("event_stream", "user_id", "stream_id", "position"),
    # For the audit of a conversation. How a call ended stands in the conversation itself.
    Index(
        "event_caused",
        "user_id",
        "causation_id",
        postgresql_where=text(
            "causation_id is not null and type not in ('ToolCallClaimed', 'ToolCallSucceeded',"
            " 'ToolCallFailed', 'ToolCallAbandoned')"
        ),
    ),
    # Partial, because only the first event of an append has a key, if the caller gave one.
    Index(
        "event_idempotency_key",
        "user_id",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key is not null"),
    ),
)

rebuild_progress = Table(
    "rebuild_progress",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("started_at", _TIMESTAMP, nullable=False),
    Column("finished_at", _TIMESTAMP),
    Column("fingerprint", Text, nullable=False),
    PrimaryKeyConstraint("user_id", name="rebuild_progress_pkey"),
)

feed_checkpoint = Table(
    "feed_checkpoint",
    metadata,
    Column("user_id", Text, nullable=False),
    Column("feed", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("since", _TIMESTAMP),
    Column("holder", Uuid),
    Column("free_at", _TIMESTAMP),  # null: the event behind is parked
    Column("failures", Integer, nullable=False),
    Column("failed_at", _TIMESTAMP),
    Column("error", Text),
    PrimaryKeyConstraint("user_id", "feed", name="feed_checkpoint_pkey"),
)
