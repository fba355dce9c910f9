"""
The projector of the `message` table: what was said, and how each tool call went.

A tool call's data stands on the message that asked for it. Its outcome is a message too, the
tool's, so that a history can be given to a model as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from eventstore.events.messages import MessagePosted, MessageRetracted
from eventstore.events.tool_calls import (
    ToolCallFailed,
    ToolCallOutcome,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.envelope import Fact
from projections.changes import (
    POSITION,
    RECORDED_AT,
    AppendItem,
    ExtendItem,
    Insert,
    RowChange,
    Update,
)
from projections.projector import projector
from projections.tables import Message

__all__ = ["plain_text", "project_message"]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@projector(Message)
def project_message(fact: Fact) -> Iterator[RowChange]:
    """Keep one row per message, with the tool calls it asked for."""
    match fact.data:
        case MessagePosted(message_id=message_id, sender=sender, body=body):
            yield _message(fact, message_id, sender, body)
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
                "event_id": str(fact.event_id),
                "requested_at": RECORDED_AT,
                "requested_position": POSITION,
            }
            yield Update(Message, {"id": call.message_id}, {"tool_calls": AppendItem(item)})
        case ToolCallOutcome() as outcome:
            yield _message(fact, outcome.reply_id, "tool", outcome.reply)
            fields = _ended(outcome) | {
                "finished_at": RECORDED_AT,
                "finished_position": POSITION,
            }
            yield Update(
                Message,
                {"id": outcome.message_id},
                {"tool_calls": ExtendItem(outcome.index, fields)},
            )


def _message(fact: Fact, message_id: object, sender: str, body: Mapping[str, Any]) -> Insert:
    return Insert(
        Message,
        {
            "id": message_id,
            "conversation_id": fact.stream_id,
            "position": POSITION,
            "sender": sender,
            "content": _shown(body.get("content")),
            "body": body,
            "tool_calls": None,
            "created_at": RECORDED_AT,
            "retracted_at": None,
            "retracted_position": None,
        },
    )


def _ended(outcome: ToolCallOutcome) -> dict[str, Any]:
    match outcome:
        case ToolCallSucceeded():
            return {"status": "succeeded", "output": outcome.result}
        case ToolCallFailed(error=error):
            return {"status": "failed", "error": error}
        case _:
            return {"status": outcome.type}


def _shown(content: object) -> str | None:
    """Return content as one text: a list of parts gives the text of its parts."""
    if isinstance(content, str):
        return plain_text(content)
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return plain_text("\n".join(text for text in texts if isinstance(text, str)))
    return None


def plain_text(text: str) -> str:
    """Return what PostgreSQL text can hold: U+FFFD for NUL and for lone surrogates."""
    shown = text.replace("\0", "\ufffd")
    try:
        shown.encode()  # far faster than a search, and a message may have megabytes
    except UnicodeEncodeError:
        return _LONE_SURROGATE.sub("\ufffd", shown)
    return shown
