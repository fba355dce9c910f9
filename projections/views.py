"""
Views: one task, conversation, message or tool call as it stood at a moment.

Values, not table rows: a row is what stands now, a view may be of last week. They are made from
rows, whether those come from a table or from a replay, so both sources give the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from eventstore.events.conversations import ConversationStatus
from eventstore.log.envelope import Cut

__all__ = [
    "ConversationView",
    "MessageView",
    "TaskView",
    "ToolCallStatus",
    "ToolCallView",
    "conversation_view",
    "message_view",
    "task_view",
]

type ToolCallStatus = Literal["pending", "succeeded", "failed"]


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task. `position` is that of its creation."""

    id: UUID
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    position: int


@dataclass(frozen=True, slots=True)
class ConversationView:
    """One conversation. `last_position` is that of its newest event."""

    id: UUID
    key: str | None
    title: str | None
    status: ConversationStatus
    created_at: datetime
    updated_at: datetime
    position: int
    last_position: int
    message_count: int


@dataclass(frozen=True, slots=True)
class ToolCallView:
    """
    One tool call.

    :ivar id: the model's name for it; models repeat them, so `message_id` and `index` identify.
    :ivar arguments: the text the model wrote, verbatim.
    :ivar output: what the tool returned, if it succeeded; `error` what it said, if it failed.
    :ivar event_id: of the request: what later events name as their cause.
    """

    conversation_id: UUID
    message_id: UUID
    index: int
    id: str
    name: str
    arguments: str
    status: ToolCallStatus
    output: Any
    error: Any
    requested_at: datetime
    finished_at: datetime | None
    position: int
    event_id: UUID

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from request to outcome, or None while it is pending."""
        if self.finished_at is None:
            return None
        return (self.finished_at - self.requested_at).total_seconds() * 1000


@dataclass(frozen=True, slots=True)
class MessageView:
    """
    One message.

    :ivar content: exactly what was said: text, null, or a list of parts.
    :ivar body: the whole chat message as it came.
    :ivar tool_calls: the calls this message asked for.
    """

    id: UUID
    conversation_id: UUID
    position: int
    sender: str
    content: Any
    body: dict[str, Any]
    tool_calls: tuple[ToolCallView, ...]
    created_at: datetime


def task_view(row: Mapping[str, Any]) -> TaskView:
    """Return the view of a `task` row."""
    return TaskView(
        row["id"],
        row["title"],
        row["description"],
        row["completed"],
        _utc(row["created_at"]),
        _utc(row["updated_at"]),
        row["completed_at"] and _utc(row["completed_at"]),
        row["position"],
    )


def conversation_view(row: Mapping[str, Any]) -> ConversationView:
    """Return the view of a `conversation` row."""
    return ConversationView(
        row["id"],
        row["key"],
        row["title"],
        row["status"],
        _utc(row["created_at"]),
        _utc(row["updated_at"]),
        row["position"],
        row["last_position"],
        row["message_count"],
    )


def message_view(
    conversation_id: UUID,
    message_id: UUID,
    position: int,
    sender: str,
    body: dict[str, Any],
    tool_calls: Iterable[Mapping[str, Any]] | None,
    created_at: datetime,
    cut: Cut,
) -> MessageView:
    """Return the view of a `message` row as of `cut`: what came later is not in it."""
    calls: tuple[ToolCallView, ...] = ()
    if tool_calls:
        every = (
            _tool_call(conversation_id, message_id, index, item, cut)
            for index, item in enumerate(tool_calls)
        )
        calls = tuple(call for call in every if cut.includes(call.position, call.requested_at))
    return MessageView(
        message_id,
        conversation_id,
        position,
        sender,
        body.get("content"),
        body,
        calls,
        _utc(created_at),
    )


def _tool_call(
    conversation_id: UUID, message_id: UUID, index: int, item: Mapping[str, Any], cut: Cut
) -> ToolCallView:
    status: ToolCallStatus = item.get("status", "pending")
    finished_at = None
    if status != "pending":
        finished_at = datetime.fromisoformat(item["finished_at"])
        if not cut.includes(item["finished_position"], finished_at):
            status, finished_at = "pending", None
    return ToolCallView(
        conversation_id,
        message_id,
        index,
        item["id"],
        item["name"],
        item["arguments"],
        status,
        item.get("output") if status == "succeeded" else None,
        item.get("error") if status == "failed" else None,
        datetime.fromisoformat(item["requested_at"]),
        finished_at,
        item["requested_position"],
        UUID(item["event_id"]),
    )


def _utc(instant: datetime) -> datetime:
    return instant if instant.tzinfo is UTC else instant.astimezone(UTC)
