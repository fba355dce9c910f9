"""Tool calls: the `tool_call` table, the view of one call, and the projector of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Column, Index, Integer, PrimaryKeyConstraint
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import JSON
from sqlmodel import Field

from eventstore.events.conversations import (
    REWOUND,
    ConversationRestarted,
    ConversationRewound,
)
from eventstore.events.event import Event
from eventstore.events.items import CallAnswer
from eventstore.events.messages import MessagePosted
from eventstore.events.tool_calls import (
    ToolCallAbandoned,
    ToolCallClaimed,
    ToolCallEvent,
    ToolCallFailed,
    ToolCallPlaced,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.envelope import EventEnvelope
from eventstore.log.tables import SCHEMA
from eventstore.value_objects import value_object
from projections.changes import (
    OCCURRED_AT,
    POSITION,
    RECORDED_AT,
    Insert,
    RowChange,
    Update,
    UpdateAfter,
    UpdateFirst,
)
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["CALL_EVENTS", "ToolCall", "ToolCallStatus", "ToolCallView", "project_tool_call"]

type ToolCallStatus = Literal["pending", "succeeded", "failed", "abandoned"]


class ToolCall(ReadModel, table=True):
    """
    One tool call that a model asked for.

    `id` is the id of the event that requested it, `call_id` the model's name for it, which models
    repeat. `arguments` is a JSON string: the text that the model wrote. A call ends once: the first
    outcome counts.
    """

    __tablename__ = "tool_call"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="tool_call_pkey"),
        # A call that was requested by itself has no message, and stands in no history.
        Index(
            "tool_call_message",
            "user_id",
            "message_id",
            postgresql_where=sql_text("message_id is not null"),
        ),
        Index("tool_call_call_id", "user_id", "conversation_id", "call_id", "position"),
        Index(
            "tool_call_pending",
            "user_id",
            "position",
            postgresql_where=sql_text("status = 'pending'"),
        ),
        # Only counted, for the status of the store.
        Index("tool_call_abandoned", "user_id", postgresql_where=sql_text("status = 'abandoned'")),
        # An answer names its call as the model does; a rewind, the conversation.
        {
            "schema": SCHEMA,
            "info": {
                "found_by": ("conversation_id", "call_id"),
                "grouped_by": ("conversation_id",),
            },
        },
    )

    user_id: str = text()
    id: UUID = uuid()
    conversation_id: UUID = uuid()
    message_id: UUID | None = uuid(nullable=True)
    index: int = Field(sa_column=Column(Integer, nullable=False))
    call_id: str = text()
    name: str = text()
    # JSON holds NUL and lone surrogates, which models do write and a text column refuses.
    arguments: str = Field(sa_column=Column(JSON, nullable=False))
    status: ToolCallStatus = text()
    output: Any = Field(default=None, sa_column=Column(JSON, nullable=True))
    error: Any = Field(default=None, sa_column=Column(JSON, nullable=True))
    requested_at: datetime = timestamp()
    finished_at: datetime | None = timestamp(nullable=True)
    position: int = bigint()
    finished_position: int | None = bigint(nullable=True)
    claimed_at: datetime | None = timestamp(nullable=True)
    claim_seconds: int | None = Field(default=None, sa_column=Column(Integer, nullable=True))
    correlation_id: UUID | None = uuid(nullable=True)


@value_object(frozen=True, slots=True)
class ToolCallView(View):
    """
    One tool call at some moment.

    :ivar id: of the event that requested the call; later events name it as their cause.
    :ivar message_id: the message that asked for it, and `index` its place among that one's calls.
    :ivar call_id: the model's name for it.
    :ivar arguments: the text that the model wrote, verbatim.
    :ivar output: what the tool returned, if it succeeded.
    :ivar error: what the tool reported if it failed, or why the call was abandoned.
    :ivar claimed_at: when a worker took it last, and `claim_seconds` for how long.
    :ivar correlation_id: of what belongs together; in a turn, the turn's id.
    :ivar first: False if `request` found that an earlier one had recorded the call.
    """

    id: UUID
    conversation_id: UUID
    message_id: UUID | None
    index: int
    call_id: str
    name: str
    arguments: str
    status: ToolCallStatus
    output: Any
    error: Any
    requested_at: datetime
    finished_at: datetime | None
    position: int
    finished_position: int | None
    claimed_at: datetime | None
    claim_seconds: int | None
    correlation_id: UUID | None
    first: bool = field(default=True, compare=False)

    @property
    def event_id(self) -> UUID:
        """The id of the request's event, so that a call can be named as a cause."""
        return self.id

    @property
    def claimed_until(self) -> datetime | None:
        """When the newest claim is over, in UTC; None if nobody ever claimed the call."""
        if self.claimed_at is None or self.claim_seconds is None:
            return None
        return self.claimed_at + timedelta(seconds=self.claim_seconds)

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from the request to the outcome, or None while the call is pending."""
        if self.finished_at is None:
            return None
        return (self.finished_at - self.requested_at).total_seconds() * 1000

    def as_of(self, position: int | None) -> ToolCallView:
        """
        Return the call as it was at a moment, without claims: pending, if it ended later.

        :param position: of the moment, not before the request; None for now.
        """
        if position is None:
            return self
        # The row has the newest claim only, so what was claimed at that moment is not known.
        unclaimed = replace(self, claimed_at=None, claim_seconds=None)
        if self.finished_position is None or self.finished_position <= position:
            return unclaimed
        return replace(
            unclaimed,
            status="pending",
            output=None,
            error=None,
            finished_at=None,
            finished_position=None,
        )


CALL_EVENTS: tuple[type[Event], ...] = (
    ToolCallEvent,
    MessagePosted,
    ConversationRewound,
    ConversationRestarted,
)
"""The events that request, claim or end calls."""


@projector(ToolCall, events=CALL_EVENTS, trusted=True, stream_column="conversation_id")
def project_tool_call(event: EventEnvelope) -> Iterator[RowChange]:  # noqa: C901 - one case for each event
    """
    Keep one row per tool call; what comes after its first outcome changes nothing.

    :param event: of any class of `CALL_EVENTS`.
    """
    match event.data:
        # First, because it is what most events are.
        case MessagePosted(item=item):
            for answer in item.answers:
                yield _answer(event, answer)
        case ToolCallRequested() as call:
            yield Insert(
                ToolCall,
                {
                    "id": event.event_id,
                    "conversation_id": event.stream_id,
                    "message_id": call.message_id,
                    "index": call.index,
                    "call_id": call.call_id,
                    "name": call.name,
                    "arguments": call.arguments,
                    "status": "pending",
                    "requested_at": OCCURRED_AT,
                    "position": POSITION,
                    "correlation_id": event.correlation_id,
                },
            )
        case ToolCallClaimed(request_event_id=call_event_id, seconds=seconds):
            claim = {"claimed_at": RECORDED_AT, "claim_seconds": seconds}
            yield Update(ToolCall, {"id": call_event_id}, claim, only_where=_pending(event))
        case ToolCallPlaced(request_event_id=call_event_id) as placed:
            place = {"message_id": placed.message_id, "index": placed.index}
            nowhere = {"message_id": None, "conversation_id": event.stream_id}
            yield Update(ToolCall, {"id": call_event_id}, place, only_where=nowhere)
        case ToolCallSucceeded(request_event_id=call_event_id) as outcome:
            yield _end(event, call_event_id, {"status": "succeeded", "output": outcome.result})
        case ToolCallFailed(request_event_id=call_event_id, error=error):
            yield _end(event, call_event_id, {"status": "failed", "error": error})
        case ToolCallAbandoned(request_event_id=call_event_id, error=error):
            yield _end(event, call_event_id, {"status": "abandoned", "error": error})
        case ConversationRewound(position=position, message_id=message_id):
            yield _abandon_after(event, position, message_id)
        case ConversationRestarted():
            yield _abandon_after(event, 0)


def _abandon_after(
    event: EventEnvelope, position: int, message_id: UUID | None = None
) -> UpdateAfter:
    # Nobody waits any more for what was asked in a part of the conversation that is gone. A call
    # that has ended keeps its outcome: the tool did run.
    abandoned = {
        "status": "abandoned",
        "error": REWOUND,
        "finished_at": OCCURRED_AT,
        "finished_position": POSITION,
    }
    group = {"conversation_id": event.stream_id}
    # The calls of the last message that stays were requested after it.
    unless = {} if message_id is None else {"message_id": message_id}
    pending = {"status": "pending"}
    return UpdateAfter(ToolCall, group, position, abandoned, only_where=pending, unless=unless)


def _end(event: EventEnvelope, call_event_id: UUID, outcome: dict[str, Any]) -> Update:
    # The guard holds live and in a replay, whoever appends a second outcome, and keeps an outcome
    # in another conversation from ending this call (docs/decisions/0011).
    return Update(
        ToolCall,
        {"id": call_event_id},
        {**outcome, "finished_at": OCCURRED_AT, "finished_position": POSITION},
        only_where=_pending(event),
    )


def _pending(event: EventEnvelope) -> dict[str, Any]:
    return {"status": "pending", "conversation_id": event.stream_id}


def _answer(event: EventEnvelope, answer: CallAnswer) -> UpdateFirst:
    # Models repeat call ids, so an answer ends the oldest call of its id that still waits.
    column, status = ("error", "failed") if answer.failed else ("output", "succeeded")
    return UpdateFirst(
        ToolCall,
        {"conversation_id": event.stream_id, "call_id": answer.call_id},
        {
            "status": status,
            column: answer.output,
            "finished_at": OCCURRED_AT,
            "finished_position": POSITION,
        },
        only_where={"status": "pending"},
    )
