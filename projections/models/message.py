"""Messages: the `message` table, the view of one message, and the projector of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Column, Integer, PrimaryKeyConstraint, UniqueConstraint
from sqlalchemy.dialects.postgresql import JSON
from sqlmodel import Field

from eventstore.events.conversations import (
    ConversationEvent,
    ConversationRestarted,
    ConversationRewound,
)
from eventstore.events.fields import plain_text
from eventstore.events.items import ItemParts, read_item
from eventstore.events.messages import MessageEdited, MessagePosted, MessageRetracted
from eventstore.events.tool_calls import ToolCallOutcome
from eventstore.log.envelope import EventEnvelope, RecordedEvent
from eventstore.log.tables import SCHEMA
from eventstore.value_objects import value_object
from projections.changes import OCCURRED_AT, POSITION, Insert, RowChange, Update, UpdateAfter
from projections.models.read_model import ReadModel, Shown, bigint, text, timestamp, uuid
from projections.models.tool_call import ToolCallView
from projections.projector import projector

__all__ = [
    "Message",
    "MessageView",
    "edited_view",
    "full_body",
    "posted_view",
    "posts_message",
    "project_message",
    "with_calls",
]


class Message(ReadModel, table=True):
    """
    One message of a conversation.

    `content` is for reading and searching: PostgreSQL text cannot hold NUL or lone surrogates, so
    they appear as U+FFFD there. `body` is the item as it came, so that `full_body` gives
    it exactly: where its content is the text in `content`, null stands in its place, it is null as
    a whole where it has nothing but role and content, and it is a list of one where a null in it
    is its own. `tool_call_count` says how many
    calls the message asks for; they are rows of `tool_call`. A message that was retracted, or is
    behind a rewind, keeps its row, with `retracted_at`, for histories of earlier moments. One that
    was edited has its newest body here; the earlier ones are in the log (docs/decisions/0027).
    """

    __tablename__ = "message"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="message_pkey"),
        UniqueConstraint(
            "user_id", "conversation_id", "position", name="message_conversation_position_key"
        ),
        {"schema": SCHEMA, "info": {"grouped_by": ("conversation_id",)}},
    )

    user_id: str = text()
    id: UUID = uuid()
    conversation_id: UUID = uuid()
    position: int = bigint()
    sender: str = text()
    content: str | None = text(nullable=True)
    body: Any = Field(default=None, sa_column=Column(JSON, nullable=True))
    tool_call_count: int = Field(sa_column=Column(Integer, nullable=False))
    created_at: datetime = timestamp()
    correlation_id: UUID | None = uuid(nullable=True)
    edited_at: datetime | None = timestamp(nullable=True)
    edited_position: int | None = bigint(nullable=True)
    retracted_at: datetime | None = timestamp(nullable=True)
    retracted_position: int | None = bigint(nullable=True)


@value_object(frozen=True, slots=True)
class MessageView(Shown):
    """
    One message at some moment.

    :ivar content: exactly what was said: text, null, or a list of parts.
    :ivar body: the whole item as it came.
    :ivar tool_calls: the calls that this message asked for, in their order.
    :ivar correlation_id: of what belongs together; in a turn, the turn's id.
    :ivar edited_at: when it was edited last; None if it says what was posted.
    """

    id: UUID
    conversation_id: UUID
    position: int
    sender: str
    content: Any
    body: dict[str, Any]
    tool_calls: tuple[ToolCallView, ...]
    created_at: datetime
    correlation_id: UUID | None
    edited_at: datetime | None = None

    @property
    def text(self) -> str:
        """What a person reads of it: the text of its content or parts, empty if it has none."""
        return read_item(self.body).text or ""

    @property
    def event_id(self) -> UUID:
        """The id of the event that posted it, so that a message can be named as a cause."""
        return self.id


def posts_message(event: RecordedEvent) -> bool:
    """Return whether an event is a message, and so has a `posted_view`."""
    match event.data:
        case MessagePosted() | ToolCallOutcome(reply=dict()):
            return True
        case _:
            return False


def posted_view(event: RecordedEvent, tool_calls: Sequence[ToolCallView] = ()) -> MessageView:
    """
    Return the view of the message that an event posts.

    :param event: of `MessagePosted`, or the outcome of a tool call.
    :param tool_calls: those that name it as their message; shown if its body asks for calls.
    :raises TypeError: the event posts no message.
    """
    match event.data:
        case MessagePosted(sender=sender, body=body):
            pass
        case ToolCallOutcome(reply=dict() as body):
            sender = "tool"
        case other:
            raise TypeError(f"a {type(other).__name__} posts no message")
    return MessageView(
        event.event_id,
        event.stream_id,
        event.position,
        sender,
        body.get("content"),
        body,
        _requested(body, tool_calls) if tool_calls else (),
        event.occurred_at,
        event.correlation_id,
    )


def edited_view(message: MessageView, edit: MessageEdited, edited_at: datetime) -> MessageView:
    """Return the view of a message that says something else since."""
    return replace(
        message,
        sender=edit.sender,
        content=edit.body.get("content"),
        body=edit.body,
        edited_at=edited_at,
    )


def with_calls(message: MessageView, tool_calls: Sequence[ToolCallView]) -> MessageView:
    """
    Return the view of a message with its calls.

    :param tool_calls: those that name it as their message; shown if its body asks for calls.
    """
    return replace(message, tool_calls=_requested(message.body, tool_calls))


def _requested(
    body: Mapping[str, Any], tool_calls: Sequence[ToolCallView]
) -> tuple[ToolCallView, ...]:
    # An edit may have taken the calls away, and a raw append may name any message.
    return tuple(tool_calls) if read_item(body).calls else ()


@projector(Message, events=ConversationEvent, trusted=True, stream_column="conversation_id")
def project_message(event: EventEnvelope) -> Sequence[RowChange]:
    """
    Keep one row per message; the outcome of a tool call is the tool's message as well.

    :param event: of any class of `ConversationEvent`; most change no message.
    """
    match event.data:
        case MessagePosted(sender=sender, body=body, item=item):
            return (_posted(event, sender, body, item),)
        case ToolCallOutcome(reply=dict() as reply):
            return (_posted(event, "tool", reply, read_item(reply)),)
        case MessageEdited(message_id=message_id, sender=sender, body=body):
            edited = {
                **_said(sender, body, read_item(body)),
                "edited_at": OCCURRED_AT,
                "edited_position": POSITION,
            }
            return (Update(Message, {"id": message_id}, edited, only_where=_shown_in(event)),)
        case MessageRetracted(message_id=message_id):
            retracted = {"retracted_at": OCCURRED_AT, "retracted_position": POSITION}
            return (Update(Message, {"id": message_id}, retracted, only_where=_shown_in(event)),)
        case ConversationRewound(position=position):
            return (_retract_after(event, position),)
        case ConversationRestarted():
            return (_retract_after(event, 0),)
        case _:
            return ()


def _shown_in(event: EventEnvelope) -> dict[str, Any]:
    # A raw append may name a message of another conversation, or one that was retracted before; the
    # first retraction in its own conversation counts.
    return {"conversation_id": event.stream_id, "retracted_at": None}


def _retract_after(event: EventEnvelope, position: int) -> UpdateAfter:
    retracted = {"retracted_at": OCCURRED_AT, "retracted_position": POSITION}
    group = {"conversation_id": event.stream_id}
    return UpdateAfter(Message, group, position, retracted, only_where={"retracted_at": None})


def _posted(event: EventEnvelope, sender: str, body: dict[str, Any], item: ItemParts) -> Insert:
    return Insert(
        Message,
        {
            "id": event.event_id,
            "conversation_id": event.stream_id,
            "position": POSITION,
            **_said(sender, body, item),
            "created_at": OCCURRED_AT,
            "correlation_id": event.correlation_id,
        },
    )


def _said(sender: str, body: dict[str, Any], item: ItemParts) -> dict[str, Any]:
    """Return the columns that come from who says what."""
    shown = None if item.text is None else plain_text(item.text)
    return {
        "sender": sender,
        "content": shown,
        "body": _stored_body(body, sender, shown),
        "tool_call_count": len(item.calls),
    }


type _StoredBody = dict[str, Any] | list[dict[str, Any]] | None


def _stored_body(body: dict[str, Any], sender: str, content: str | None) -> _StoredBody:
    """Return what is stored of a body beside its content; `full_body` is the inverse."""
    # Content differs from the column if it is a list of parts or holds what text cannot.
    if content is None or body.get("content") != content:
        # A null that came with the item, whose text stands elsewhere in it, is not to be taken for
        # one that stands for the column.
        return [body] if content is not None and body.get("content", "") is None else body
    # The order of keys comes back too: `full_body` makes role and content in this order.
    if len(body) == 2 and body.get("role") == sender and next(iter(body)) == "role":  # noqa: PLR2004 - role and content
        return None
    return {**body, "content": None}


def full_body(stored: _StoredBody, sender: str, content: str | None) -> dict[str, Any]:
    """
    Return the item as it came, from the columns of its row.

    :param stored: the column `body` as parsed JSON.
    :param sender: the column `sender`, which is the role where `stored` is None.
    :param content: the column `content`.
    """
    if stored is None:
        return {"role": sender, "content": content}
    if isinstance(stored, list):
        return stored[0]
    # A body without the key `content` is complete, and so is one whose content is parts.
    if content is not None and stored.get("content", content) is None:
        return {**stored, "content": content}
    return stored
