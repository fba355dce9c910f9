"""
Messages and their tool calls: the `message` table, its views, and the projector that keeps it.

A tool call is stored on the message that asked for it. The outcome of a call is the tool's own
message as well, so that a history can be given to a model as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import (
    Column,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON
from sqlmodel import Field

from eventstore.database.timestamps import as_utc
from eventstore.events.messages import MessagePosted, MessageRetracted
from eventstore.events.tool_calls import (
    ToolCallFailed,
    ToolCallOutcome,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.envelope import EventEnvelope, PointInTime
from eventstore.log.tables import SCHEMA
from projections.changes import (
    POSITION,
    RECORDED_AT,
    AppendItem,
    ExtendItem,
    Insert,
    RowChange,
    Update,
)
from projections.models.read_model import ReadModel, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = [
    "Message",
    "MessageView",
    "ToolCallStatus",
    "ToolCallView",
    "message_view",
    "plain_text",
    "project_message",
]

type ToolCallStatus = Literal["pending", "succeeded", "failed"]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Message(ReadModel, table=True):
    """
    One message of a conversation.

    `content` is for reading and searching: PostgreSQL text cannot hold NUL or lone surrogates, so
    they appear as U+FFFD there. `body` is the chat message exactly as it came. `tool_calls` holds
    one object per call that the message asked for: `id`, `name`, `arguments` (verbatim text),
    `requested_at`, and once the call ended `status`, `output` or `error`, and `finished_at`.
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

    user_id: str = text()
    id: UUID = uuid()
    conversation_id: UUID = uuid()
    position: int = bigint()
    sender: str = text()
    content: str | None = text(nullable=True)
    body: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    tool_calls: list[dict[str, Any]] | None = Field(
        default=None, sa_column=Column(ARRAY(JSON), nullable=True)
    )
    created_at: datetime = timestamp()
    retracted_at: datetime | None = timestamp(nullable=True)
    retracted_position: int | None = bigint(nullable=True)


@dataclass(frozen=True, slots=True)
class ToolCallView:
    """
    One tool call at some moment.

    :ivar id: the model's name for it. Models repeat such ids, so `message_id` and `index` together
        identify a call.
    :ivar arguments: the text that the model wrote, verbatim.
    :ivar output: what the tool returned, if it succeeded.
    :ivar error: what the tool reported, if it failed.
    :ivar event_id: the id of the request's event, which later events name as their cause.
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
        """Milliseconds from the request to the outcome, or None while the call is pending."""
        if self.finished_at is None:
            return None
        return (self.finished_at - self.requested_at).total_seconds() * 1000


@dataclass(frozen=True, slots=True)
class MessageView:
    """
    One message at some moment.

    :ivar content: exactly what was said: text, null, or a list of parts.
    :ivar body: the whole chat message as it came.
    :ivar tool_calls: the calls that this message asked for.
    """

    id: UUID
    conversation_id: UUID
    position: int
    sender: str
    content: Any
    body: dict[str, Any]
    tool_calls: tuple[ToolCallView, ...]
    created_at: datetime


def message_view(row: Mapping[str, Any], moment: PointInTime) -> MessageView:
    """
    Return the view of a `message` row at a moment; what was recorded later is left out.

    :param row: `body` and each item of `tool_calls` as parsed JSON.
    """
    items = row["tool_calls"] or ()
    calls = (_call_view(row, index, item, moment) for index, item in enumerate(items))
    return MessageView(
        row["id"],
        row["conversation_id"],
        row["position"],
        row["sender"],
        row["body"].get("content"),
        row["body"],
        tuple(call for call in calls if moment.includes(call.position, call.requested_at)),
        as_utc(row["created_at"]),
    )


def _call_view(
    message: Mapping[str, Any], index: int, item: Mapping[str, Any], moment: PointInTime
) -> ToolCallView:
    status: ToolCallStatus = item.get("status", "pending")
    finished_at = None
    if status != "pending":
        finished_at = datetime.fromisoformat(item["finished_at"])
        if not moment.includes(item["finished_position"], finished_at):
            status, finished_at = "pending", None
    return ToolCallView(
        message["conversation_id"],
        message["id"],
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


@projector(Message)
def project_message(event: EventEnvelope) -> Iterator[RowChange]:
    """Keep one row per message, with the tool calls that the message asked for."""
    match event.data:
        case MessagePosted(message_id=message_id, sender=sender, body=body):
            yield _message(event, message_id, sender, body)
        case MessageRetracted(message_id=message_id):
            yield Update(
                Message,
                {"id": message_id},
                {"retracted_at": RECORDED_AT, "retracted_position": POSITION},
            )
        case ToolCallRequested() as call:
            item = {
                "id": call.call_id,
                "name": call.name,
                "arguments": call.arguments,
                "event_id": str(event.event_id),
                "requested_at": RECORDED_AT,
                "requested_position": POSITION,
            }
            yield Update(Message, {"id": call.message_id}, {"tool_calls": AppendItem(item)})
        case ToolCallOutcome() as outcome:
            yield _message(event, outcome.reply_id, "tool", outcome.reply)
            fields = {
                **_outcome_fields(outcome),
                "finished_at": RECORDED_AT,
                "finished_position": POSITION,
            }
            yield Update(
                Message,
                {"id": outcome.message_id},
                {"tool_calls": ExtendItem(outcome.index, fields)},
            )


def _message(
    event: EventEnvelope, message_id: object, sender: str, body: Mapping[str, Any]
) -> Insert:
    return Insert(
        Message,
        {
            "id": message_id,
            "conversation_id": event.stream_id,
            "position": POSITION,
            "sender": sender,
            "content": _shown_content(body.get("content")),
            "body": body,
            "created_at": RECORDED_AT,
        },
    )


def _outcome_fields(outcome: ToolCallOutcome) -> dict[str, Any]:
    match outcome:
        case ToolCallSucceeded():
            return {"status": "succeeded", "output": outcome.result}
        case ToolCallFailed(error=error):
            return {"status": "failed", "error": error}
        case _:
            return {"status": outcome.type}


def _shown_content(content: object) -> str | None:
    """Return a message's content as one text; of a list of parts, the parts' texts."""
    if isinstance(content, str):
        return plain_text(content)
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return plain_text("\n".join(one for one in texts if isinstance(one, str)))
    return None


def plain_text(text: str) -> str:
    """Return text that PostgreSQL can hold: NUL and lone surrogates become U+FFFD."""
    shown = text.replace("\0", "\ufffd")
    try:
        shown.encode()  # far faster than a search, and a message may have megabytes
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", shown)
    return shown
