"""The projector of the `conversation` table: what there is to choose from, and how active it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eventstore.events.conversations import (
    ConversationArchived,
    ConversationDeleted,
    ConversationEvent,
    ConversationRenamed,
    ConversationReopened,
    ConversationStarted,
)
from eventstore.events.event import Event
from eventstore.events.messages import MessagePosted, MessageRetracted
from eventstore.events.tool_calls import ToolCallOutcome
from eventstore.log.envelope import Fact
from projections.changes import POSITION, RECORDED_AT, Increment, Insert, RowChange, Update
from projections.projector import projector
from projections.tables import Conversation

__all__ = ["project_conversation"]


@projector(Conversation)
def project_conversation(fact: Fact) -> Iterator[RowChange]:
    """Keep one row per conversation; every event of its stream is activity."""
    match fact.data:
        case ConversationStarted(key=key, title=title):
            yield Insert(
                Conversation,
                {
                    "id": fact.stream_id,
                    "key": key,
                    "title": title,
                    "status": "active",
                    "created_at": RECORDED_AT,
                    "updated_at": RECORDED_AT,
                    "position": POSITION,
                    "last_position": POSITION,
                    "message_count": 0,
                    "deleted_at": None,
                    "deleted_position": None,
                },
            )
        case ConversationEvent() as event:
            activity = {"updated_at": RECORDED_AT, "last_position": POSITION}
            yield Update(Conversation, {"id": fact.stream_id}, _changes(event) | activity)


def _changes(event: Event) -> dict[str, Any]:
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
        case MessagePosted() | ToolCallOutcome():
            return {"message_count": Increment(1)}
        case MessageRetracted():
            return {"message_count": Increment(-1)}
        case _:
            return {}
