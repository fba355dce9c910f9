"""Conversations: the `conversation` table, its view, and the projector that keeps the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    ConversationStarted,
    ConversationStatus,
)
from eventstore.events.event import Event
from eventstore.events.messages import MessagePosted, MessageRetracted
from eventstore.events.tool_calls import ToolCallOutcome
from eventstore.log.envelope import EventEnvelope
from eventstore.log.tables import SCHEMA
from projections.changes import POSITION, RECORDED_AT, Increment, Insert, RowChange, Update
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["Conversation", "ConversationView", "project_conversation"]


class Conversation(ReadModel, table=True):
    """
    One conversation of a user.

    A deleted conversation keeps its row with the status `deleted`, so that its history can still
    be given as of an earlier moment. `last_position` orders a list by newest activity.
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
    position: int = bigint()
    last_position: int = bigint()
    message_count: int = bigint()
    deleted_at: datetime | None = timestamp(nullable=True)
    deleted_position: int | None = bigint(nullable=True)


@dataclass(frozen=True, slots=True)
class ConversationView(View):
    """
    One conversation at some moment.

    :ivar position: the position of the event that started the conversation.
    :ivar last_position: the position of its newest event.
    """

    id: UUID
    key: str | None
    title: str | None
    status: ConversationStatus
    created_at: datetime
    updated_at: datetime
    position: int
    last_position: int
    message_count: int


@projector(Conversation, events=ConversationEvent, trusted=True)
def project_conversation(event: EventEnvelope) -> Sequence[RowChange]:
    """
    Keep one row per conversation; every event of its stream counts as activity.

    :param event: of any class of `ConversationEvent`, a service's own among them.
    """
    match event.data:
        case ConversationStarted(key=key, title=title):
            row = {
                "id": event.stream_id,
                "key": key,
                "title": title,
                "status": "active",
                "created_at": RECORDED_AT,
                "updated_at": RECORDED_AT,
                "position": POSITION,
                "last_position": POSITION,
                "message_count": 0,
            }
            return (Insert(Conversation, row),)
        case data:
            # An event that changes nothing else still moves its conversation to the front.
            changes = {**_changes(data), "updated_at": RECORDED_AT, "last_position": POSITION}
            return (Update(Conversation, {"id": event.stream_id}, changes),)


_ONE_MORE, _ONE_LESS = Increment(1), Increment(-1)


def _changes(event: Event) -> dict[str, Any]:
    """Return what an event changes of its conversation, activity aside."""
    match event:
        case ConversationRenamed(title=title):
            return {"title": title}
        case ConversationArchived():
            return {"status": "archived"}
        case ConversationReopened():
            return {"status": "active"}
        case ConversationDeleted():
            return {
                "status": "deleted",
                "deleted_at": RECORDED_AT,
                "deleted_position": POSITION,
            }
        # An outcome is the tool's message as well (docs/decisions/0003).
        case MessagePosted() | ToolCallOutcome(reply=dict()):
            return {"message_count": _ONE_MORE}
        case MessageRetracted():
            return {"message_count": _ONE_LESS}
        case _:
            return {}
