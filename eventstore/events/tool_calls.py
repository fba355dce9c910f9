"""
The events of a tool call: it is requested, perhaps claimed by a worker, and ends once.

Stored names and fields are the stored format (see `event`). The request is recorded before the tool
runs, so that a call which never finished can be found. Models repeat call ids even within one
conversation, so a call is identified by the id of the event that requested it.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import Field

from eventstore.events.conversations import ConversationEvent
from eventstore.events.fields import JsonField, JsonObject, Name, RawText

__all__ = [
    "MAX_CLAIM_SECONDS",
    "ToolCallAbandoned",
    "ToolCallClaimed",
    "ToolCallEvent",
    "ToolCallFailed",
    "ToolCallOutcome",
    "ToolCallPlaced",
    "ToolCallRequested",
    "ToolCallSucceeded",
]


MAX_CLAIM_SECONDS = 7 * 24 * 3600
"""A week: a claim is for a worker that runs, and whoever waits for a person asks again."""


class ToolCallEvent(ConversationEvent):
    """
    The base of all events of a tool call.

    :ivar call_id: the model's name for the call.
    """

    call_id: Name


class ToolCallRequested(ToolCallEvent, type="ToolCallRequested"):
    """
    The model asked for a tool.

    :ivar arguments: the model's text verbatim, valid JSON or not.
    :ivar message_id: the message that asked for the call, if one did.
    :ivar index: the call's index among that message's calls, from 0.
    """

    name: Name
    arguments: RawText
    # An agent that reports calls as they happen requests them without a message.
    message_id: UUID | None = None
    index: int = Field(default=0, ge=0, lt=1000)


class ToolCallClaimed(ToolCallEvent, type="ToolCallClaimed"):
    """
    A worker took the call to run its tool; nobody else may, until the time is over.

    :ivar seconds: from when the claim was recorded.
    """

    request_event_id: UUID
    seconds: int = Field(ge=1, le=MAX_CLAIM_SECONDS)


class ToolCallPlaced(ToolCallEvent, type="ToolCallPlaced"):
    """
    The message that asks for a call was posted after the call had been requested.

    Frameworks keep their items themselves and write them when the tools have run.

    :ivar message_id: that message; a call that stands in one already stays there.
    :ivar index: as of a request.
    """

    request_event_id: UUID
    message_id: UUID
    index: int = Field(default=0, ge=0, lt=1000)


class ToolCallOutcome(ToolCallEvent):
    """
    The base of the outcomes of a call; one with a `reply` is the tool's message as well.

    A call ends once: by an outcome, or by a message that answers it, whichever comes first. What
    follows stays in the log, and its message in the conversation, but changes nothing of the call.

    :ivar request_event_id: the id of the event that requested the call.
    :ivar reply: the body of the tool's message, whose id is the id of this event; None where the
        call itself is in no history.
    """

    request_event_id: UUID
    reply: JsonObject | None = None


class ToolCallSucceeded(ToolCallOutcome, type="ToolCallSucceeded"):
    """The tool returned; `output` is set only where it differs from the reply's `content`."""

    output: JsonField = None

    @property
    def result(self) -> Any:
        """The call's output: `output` if it is set, else the reply's `content`."""
        # None is an output too, so what counts is whether the field was set.
        if self.reply is None or "output" in self.model_fields_set:
            return self.output
        return self.reply.get("content")


class ToolCallFailed(ToolCallOutcome, type="ToolCallFailed"):
    """The tool raised an error, timed out or was refused."""

    error: JsonField


class ToolCallAbandoned(ToolCallOutcome, type="ToolCallAbandoned"):
    """Nobody will run the tool any more, or wait for it; `error` says why."""

    error: JsonField = None
