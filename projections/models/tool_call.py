"""Tool calls: the `tool_call` table, the view of one call, and the projector of the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Column, Index, Integer, PrimaryKeyConstraint
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import JSON
from sqlmodel import Field

from eventstore.events.tool_calls import (
    ToolCallEvent,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.envelope import NOW, EventEnvelope, PointInTime
from eventstore.log.tables import SCHEMA
from projections.changes import POSITION, RECORDED_AT, Insert, RowChange, Update
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["ToolCall", "ToolCallStatus", "ToolCallView", "project_tool_call"]

type ToolCallStatus = Literal["pending", "succeeded", "failed"]


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
        {"schema": SCHEMA},
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


@dataclass(frozen=True, slots=True)
class ToolCallView(View):
    """
    One tool call at some moment.

    :ivar id: of the event that requested the call; later events name it as their cause.
    :ivar message_id: the message that asked for it, and `index` its place among that one's calls.
    :ivar call_id: the model's name for it.
    :ivar arguments: the text that the model wrote, verbatim.
    :ivar output: what the tool returned, if it succeeded.
    :ivar error: what the tool reported, if it failed.
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

    @property
    def event_id(self) -> UUID:
        """The id of the request's event, so that a call can be named as a cause."""
        return self.id

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from the request to the outcome, or None while the call is pending."""
        if self.finished_at is None:
            return None
        return (self.finished_at - self.requested_at).total_seconds() * 1000

    def as_of(self, moment: PointInTime) -> ToolCallView:
        """
        Return the call as it was at a moment: pending, if it ended later.

        :param moment: not before the request.
        """
        if self.finished_at is None or self.finished_position is None or moment == NOW:
            return self
        if moment.includes(self.finished_position, self.finished_at):
            return self
        return replace(
            self,
            status="pending",
            output=None,
            error=None,
            finished_at=None,
            finished_position=None,
        )


@projector(ToolCall, events=ToolCallEvent, trusted=True)
def project_tool_call(event: EventEnvelope) -> Iterator[RowChange]:
    """
    Keep one row per tool call; what comes after its first outcome changes nothing.

    :param event: of any class of `ToolCallEvent`.
    """
    match event.data:
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
                    "requested_at": RECORDED_AT,
                    "position": POSITION,
                },
            )
        case ToolCallSucceeded(request_event_id=call_event_id) as outcome:
            yield _end(event, call_event_id, {"status": "succeeded", "output": outcome.result})
        case ToolCallFailed(request_event_id=call_event_id, error=error):
            yield _end(event, call_event_id, {"status": "failed", "error": error})


def _end(event: EventEnvelope, call_event_id: UUID, outcome: dict[str, Any]) -> Update:
    # The guard holds live and in a replay, whoever appends a second outcome, and keeps an outcome
    # in another conversation from ending this call (docs/decisions/0011).
    return Update(
        ToolCall,
        {"id": call_event_id},
        {**outcome, "finished_at": RECORDED_AT, "finished_position": POSITION},
        only_where={"status": "pending", "conversation_id": event.stream_id},
    )
