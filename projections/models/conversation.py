"""Conversations: the `conversation` table, its view, and the projector that keeps the table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import PrimaryKeyConstraint

from eventstore.events.conversations import (
    ConversationArchived,
    ConversationDeleted,
    ConversationEvent,
    ConversationRenamed,
    ConversationReopened,
    ConversationRestarted,
    ConversationRestored,
    ConversationStarted,
    ConversationStatus,
)
from eventstore.events.event import Event
from eventstore.events.messages import MessageEdited, MessagePosted
from eventstore.events.tool_calls import ToolCallEvent
from eventstore.log.envelope import EventEnvelope
from eventstore.log.tables import SCHEMA
from eventstore.value_objects import value_object
from projections.changes import OCCURRED_AT, POSITION, Insert, RowChange, Update
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["ACTIVITY", "Conversation", "ConversationView", "project_conversation"]


class Conversation(ReadModel, table=True):
    """
    One conversation of a user.

    A deleted conversation keeps its row with the status `deleted`, so that its history can still
    be given as of an earlier moment; `restored_position` says that it was deleted once before.
    Activity is what is said, edited or done by tools: `activity_position` orders a list by it.
    Titles, archiving and the like are changes, of which `last_position` has the newest.
    """

    __tablename__ = "conversation"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="conversation_pkey"),
        {"schema": SCHEMA},
    )

    user_id: str = text()
    id: UUID = uuid()
    key: str | None = text(nullable=True)
    title: str | None = text(nullable=True)
    status: Literal["active", "archived", "deleted"] = text()
    created_at: datetime = timestamp()
    updated_at: datetime = timestamp()
    last_activity_at: datetime = timestamp()
    event_id: UUID = uuid()
    position: int = bigint()
    last_position: int = bigint()
    activity_position: int = bigint()
    deleted_at: datetime | None = timestamp(nullable=True)
    deleted_position: int | None = bigint(nullable=True)
    restored_at: datetime | None = timestamp(nullable=True)
    restored_position: int | None = bigint(nullable=True)


@value_object(frozen=True, slots=True)
class ConversationView(View):
    """
    One conversation at some moment.

    :ivar updated_at: when anything of it changed last, its title and status included.
    :ivar last_activity_at: when something was said, edited or done by a tool last.
    :ivar event_id: of the event that started the conversation, so that it can be named as a cause.
    :ivar position: the position of that event.
    :ivar last_position: the position of its newest event.
    :ivar activity_position: the position of its newest activity.
    :ivar message_count: how many messages its history has.
    """

    id: UUID
    key: str | None
    title: str | None
    status: ConversationStatus
    created_at: datetime
    updated_at: datetime
    last_activity_at: datetime
    event_id: UUID
    position: int
    last_position: int
    activity_position: int
    message_count: int = 0


ACTIVITY: tuple[type[Event], ...] = (MessagePosted, MessageEdited, ToolCallEvent)
"""The events, starts aside, that are activity in a conversation."""


@projector(Conversation, events=ConversationEvent, trusted=True, stream_column="id")
def project_conversation(event: EventEnvelope) -> Sequence[RowChange]:
    """
    Keep one row per conversation.

    :param event: of any class of `ConversationEvent`, a service's own among them.
    """
    match event.data:
        case ConversationStarted(key=key, title=title):
            return (
                Insert(Conversation, {"id": event.stream_id, "key": key, **_started(event, title)}),
            )
        case data:
            # Most events are activity, and each case that does not match takes its time.
            changes = _ACTIVE if isinstance(data, ACTIVITY) else {**_changes(event), **_NEWEST}
            return (Update(Conversation, {"id": event.stream_id}, changes),)


def _started(event: EventEnvelope, title: str | None) -> dict[str, Any]:
    """Return what a new conversation has in all columns but its key and what may be null."""
    return {
        "title": title,
        "status": "active",
        "created_at": OCCURRED_AT,
        "updated_at": OCCURRED_AT,
        "last_activity_at": OCCURRED_AT,
        "event_id": event.event_id,
        "position": POSITION,
        "last_position": POSITION,
        "activity_position": POSITION,
    }


_NEWEST: dict[str, Any] = {"updated_at": OCCURRED_AT, "last_position": POSITION}
_ACTIVE: dict[str, Any] = {
    "last_activity_at": OCCURRED_AT,
    "activity_position": POSITION,
    **_NEWEST,
}
_RESTORED: dict[str, Any] = {
    "deleted_at": None,
    "deleted_position": None,
    "restored_at": OCCURRED_AT,
    "restored_position": POSITION,
}


def _changes(event: EventEnvelope) -> dict[str, Any]:
    """Return what an event that is no activity changes, beside the newest event."""
    match event.data:
        case ConversationRenamed(title=title):
            return {"title": title}
        case ConversationArchived():
            return {"status": "archived"}
        case ConversationReopened():
            return {"status": "active"}
        case ConversationDeleted():
            return {
                "status": "deleted",
                "deleted_at": OCCURRED_AT,
                "deleted_position": POSITION,
            }
        case ConversationRestored():
            return {"status": "active", **_RESTORED}
        case ConversationRestarted(title=title):
            return {**_started(event, title), **_RESTORED}
        case _:
            return {}
