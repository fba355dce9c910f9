"""
The read models: `Task`, `Conversation` and `Message` as SQLModel tables.

Kept by the projectors in the transaction of each append; query them with SQLModel in
`user.session()`, where row-level security shows one user's rows. Never write to them: `verify`
would find it and `rebuild` would undo it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore.log.tables import SCHEMA, metadata

__all__ = ["Conversation", "Message", "ReadModel", "Task"]


class ReadModel(SQLModel, registry=registry(metadata=metadata)):
    """The base of the built-in read models, apart from a service's own `SQLModel.metadata`."""


def _text(*, nullable: bool = False) -> Any:
    return Field(default=None, sa_column=Column(Text, nullable=nullable))


def _id() -> Any:
    return Field(sa_column=Column(Uuid, nullable=False))


def _number(*, nullable: bool = False) -> Any:
    return Field(default=None, sa_column=Column(BigInteger, nullable=nullable))


def _instant(*, nullable: bool = False) -> Any:
    return Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=nullable))


class Task(ReadModel, table=True):
    """
    One task on a user's list, as it stands now; a deleted task has no row.

    `position` is that of its creation: the order of the list. Instants are UTC.
    """

    __tablename__ = "task"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="task_pkey"),
        {"schema": SCHEMA},
    )

    user_id: str = _text()
    id: UUID = _id()
    title: str = _text()
    description: str | None = _text(nullable=True)
    completed: bool = False
    created_at: datetime = _instant()
    updated_at: datetime = _instant()
    completed_at: datetime | None = _instant(nullable=True)
    position: int = _number()


class Conversation(ReadModel, table=True):
    """
    One conversation of a user.

    A deleted conversation keeps its row, with `status` `deleted`, so that a history as of an
    earlier moment can still be given. `last_position` orders by newest activity.
    """

    __tablename__ = "conversation"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="conversation_pkey"),
        {"schema": SCHEMA},
    )

    user_id: str = _text()
    id: UUID = _id()
    key: str | None = _text(nullable=True)
    title: str | None = _text(nullable=True)
    status: Literal["active", "archived", "deleted"] = _text()
    created_at: datetime = _instant()
    updated_at: datetime = _instant()
    position: int = _number()
    last_position: int = _number()
    message_count: int = _number()
    deleted_at: datetime | None = _instant(nullable=True)
    deleted_position: int | None = _number(nullable=True)


class Message(ReadModel, table=True):
    """
    One message of a conversation.

    `content` is for reading and searching: PostgreSQL text cannot hold NUL or lone surrogates,
    which show as U+FFFD there. `body` is the chat message exactly as it came. `tool_calls` holds
    one object per call the message asked for: `id`, `name`, `arguments` (verbatim text),
    `requested_at`, and once it ended `status`, `output` or `error`, `finished_at`.
    A retracted message keeps its row, with `retracted_at`, for histories of earlier moments.
    """

    __tablename__ = "message"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="message_pkey"),
        UniqueConstraint(
            "user_id", "conversation_id", "position", name="message_conversation_position_key"
        ),
        ForeignKeyConstraint(
            ["user_id", "conversation_id"],
            [f"{SCHEMA}.conversation.user_id", f"{SCHEMA}.conversation.id"],
            name="message_conversation_fkey",
            deferrable=True,
            initially="IMMEDIATE",
        ),
        {"schema": SCHEMA},
    )

    user_id: str = _text()
    id: UUID = _id()
    conversation_id: UUID = _id()
    position: int = _number()
    sender: str = _text()
    content: str | None = _text(nullable=True)
    body: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    tool_calls: list[dict[str, Any]] | None = Field(
        default=None, sa_column=Column(ARRAY(JSON), nullable=True)
    )
    created_at: datetime = _instant()
    retracted_at: datetime | None = _instant(nullable=True)
    retracted_position: int | None = _number(nullable=True)
