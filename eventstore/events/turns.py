"""
The events of a turn: one request of a user, and all that is done for it until its answer.

Stored names and fields are the stored format (see `event`). The id of a turn is the id of the event
that started it, and stands as `correlation_id` on everything that is recorded in the turn.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from eventstore.events.conversations import ConversationEvent
from eventstore.events.fields import JsonField, JsonObject, Key, Name

__all__ = [
    "MAX_LEASE_SECONDS",
    "TurnContinued",
    "TurnEnded",
    "TurnEvent",
    "TurnOutcome",
    "TurnRenewed",
    "TurnStarted",
    "TurnUsed",
]

MAX_LEASE_SECONDS = 24 * 3600
"""A day: a lease is for a process that runs, and can be renewed."""

type TurnOutcome = Literal["completed", "failed", "abandoned"]


class TurnEvent(ConversationEvent):
    """The base of all events of a turn."""


class TurnStarted(TurnEvent, type="TurnStarted"):
    """
    A turn began, and has its conversation to itself until it ends or the lease is over.

    Without a lease it keeps nobody out: a framework runs it, and the store only records it.

    :ivar key: the caller's name for the request, unique in the conversation.
    :ivar request: a digest of what the user sent, by which a retry is told from another request.
    :ivar holder: a number that the process drew, by which it knows its own turn again.
    """

    key: Key
    request: Name
    holder: UUID
    lease_seconds: int = Field(ge=0, le=MAX_LEASE_SECONDS)


class TurnContinued(TurnEvent, type="TurnContinued"):
    """
    A process took the turn over.

    :ivar attempt: which process this is, from 2.
    """

    turn_id: UUID
    holder: UUID
    attempt: int = Field(ge=2)
    lease_seconds: int = Field(ge=1, le=MAX_LEASE_SECONDS)


class TurnRenewed(TurnEvent, type="TurnRenewed"):
    """The process that has the turn began its lease anew."""

    turn_id: UUID
    holder: UUID
    lease_seconds: int = Field(ge=1, le=MAX_LEASE_SECONDS)


class TurnUsed(TurnEvent, type="TurnUsed"):
    """
    What a turn has cost so far, so that one whose end nobody records has it too.

    :ivar usage: as of `TurnEnded`, which has the last word if it has one.
    """

    turn_id: UUID
    model: Name | None = None
    usage: JsonObject | None = None
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)


class TurnEnded(TurnEvent, type="TurnEnded"):
    """
    The turn is over. One that failed, or was abandoned for another one, can be continued.

    :ivar usage: what the model's API reported, a JSON object.
    :ivar input_tokens: the numbers in it that are summed.
    :ivar error: of a failed turn.
    """

    turn_id: UUID
    outcome: TurnOutcome
    model: Name | None = None
    usage: JsonObject | None = None
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    error: JsonField = None
