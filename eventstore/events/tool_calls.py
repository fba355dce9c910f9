"""
What can happen to a tool call: it is requested, then it succeeds or fails.

The names and fields are the stored format (see `event`). The request is recorded before the tool
runs, so a call that never finished can be found. Ids come from models, which do repeat them even
within one conversation: a call is known by its message and its index there, `call_id` is its name.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from eventstore.events.conversations import ConversationEvent
from eventstore.events.limits import JsonField, JsonObject, RawText

__all__ = ["ToolCallEvent", "ToolCallFailed", "ToolCallRequested", "ToolCallSucceeded"]


class ToolCallEvent(ConversationEvent):
    """
    An event of one tool call.

    :ivar message_id: the message that carries the call.
    :ivar index: the call's place among that message's calls, from 0.
    """

    call_id: RawText
    message_id: UUID
    index: int = Field(default=0, ge=0, lt=1000)


class ToolCallRequested(ToolCallEvent, type="ToolCallRequested"):
    """The model asked for a tool; `arguments` is its text, verbatim, valid JSON or not."""

    name: RawText
    arguments: RawText


class ToolCallOutcome(ToolCallEvent):
    """
    How a call ended, and the tool's message that says so.

    :ivar reply_id: the tool's message.
    :ivar reply: that message's body; its `content` is the output unless `output` is set.
    """

    reply_id: UUID
    reply: JsonObject


class ToolCallSucceeded(ToolCallOutcome, type="ToolCallSucceeded"):
    """The tool returned. `output` is set only where it is not the reply's content itself."""

    output: JsonField = None

    @property
    def result(self) -> Any:
        """The output, wherever it is stored."""
        return self.output if "output" in self.model_fields_set else self.reply.get("content")


class ToolCallFailed(ToolCallOutcome, type="ToolCallFailed"):
    """The tool raised, timed out or was refused."""

    error: JsonField
