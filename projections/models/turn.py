"""Turns: the `turn` table, the view of one turn, and the projector of the table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Column, Index, Integer, PrimaryKeyConstraint
from sqlalchemy import text as sql_text
from sqlalchemy.dialects.postgresql import JSON
from sqlmodel import Field

from eventstore.events.turns import (
    TurnContinued,
    TurnEnded,
    TurnEvent,
    TurnRenewed,
    TurnStarted,
    TurnUsed,
)
from eventstore.log.envelope import EventEnvelope
from eventstore.log.tables import SCHEMA
from eventstore.value_objects import value_object
from projections.changes import OCCURRED_AT, POSITION, RECORDED_AT, Insert, RowChange, Update
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["Turn", "TurnStatus", "TurnView", "project_turn"]

type TurnStatus = Literal["running", "completed", "failed", "abandoned"]


class Turn(ReadModel, table=True):
    """
    One turn: a request, and all that was done for it.

    The unique index lets one turn of a conversation run at a time, whoever starts it. A lease is
    over `lease_seconds` after `leased_at`; then another process may take the turn over. Turns
    without a lease, which frameworks run, keep nobody out.
    """

    __tablename__ = "turn"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="turn_pkey"),
        Index(
            "turn_running",
            "user_id",
            "conversation_id",
            unique=True,
            postgresql_where=sql_text("status = 'running' and lease_seconds > 0"),
        ),
        Index("turn_conversation", "user_id", "conversation_id", "position"),
        {"schema": SCHEMA},
    )

    user_id: str = text()
    id: UUID = uuid()
    conversation_id: UUID = uuid()
    key: str = text()
    request: str = text()
    status: TurnStatus = text()
    holder: UUID = uuid()
    attempt: int = Field(sa_column=Column(Integer, nullable=False))
    leased_at: datetime = timestamp()
    lease_seconds: int = Field(sa_column=Column(Integer, nullable=False))
    model: str | None = text(nullable=True)
    usage: Any = Field(default=None, sa_column=Column(JSON, nullable=True))
    input_tokens: int = bigint()
    output_tokens: int = bigint()
    error: Any = Field(default=None, sa_column=Column(JSON, nullable=True))
    started_at: datetime = timestamp()
    ended_at: datetime | None = timestamp(nullable=True)
    position: int = bigint()
    ended_position: int | None = bigint(nullable=True)


@value_object(frozen=True, slots=True)
class TurnView(View):
    """
    One turn as it is now.

    :ivar id: of the event that started it, and the `correlation_id` of all that it recorded.
    :ivar key: the caller's name for the request, and `request` a digest of it.
    :ivar holder: drawn by the process that works on it, or did so last.
    :ivar attempt: how many processes have worked on it.
    :ivar usage: what the model's API reported.
    """

    id: UUID
    conversation_id: UUID
    key: str
    request: str
    status: TurnStatus
    holder: UUID
    attempt: int
    leased_at: datetime
    lease_seconds: int
    model: str | None
    usage: Any
    input_tokens: int
    output_tokens: int
    error: Any
    started_at: datetime
    ended_at: datetime | None
    position: int
    ended_position: int | None

    @property
    def event_id(self) -> UUID:
        """The id of the event that started it, so that a turn can be named as a cause."""
        return self.id

    @property
    def leased_until(self) -> datetime:
        """When the lease is over, in UTC."""
        return self.leased_at + timedelta(seconds=self.lease_seconds)


@projector(Turn, events=TurnEvent, trusted=True, stream_column="conversation_id")
def project_turn(event: EventEnvelope) -> Sequence[RowChange]:
    """
    Keep one row per turn.

    :param event: of any class of `TurnEvent`.
    """
    match event.data:
        case TurnStarted(key=key, request=request, holder=holder, lease_seconds=seconds):
            row = {
                "id": event.event_id,
                "conversation_id": event.stream_id,
                "key": key,
                "request": request,
                "status": "running",
                "holder": holder,
                "attempt": 1,
                "leased_at": RECORDED_AT,
                "lease_seconds": seconds,
                "input_tokens": 0,
                "output_tokens": 0,
                "started_at": OCCURRED_AT,
                "position": POSITION,
            }
            return (Insert(Turn, row),)
        case TurnContinued(turn_id=turn_id) as again:
            changes = {
                "status": "running",
                "holder": again.holder,
                "attempt": again.attempt,
                "leased_at": RECORDED_AT,
                "lease_seconds": again.lease_seconds,
                "error": None,
                "ended_at": None,
                "ended_position": None,
            }
            return (_update(event, turn_id, changes),)
        case TurnRenewed(turn_id=turn_id, holder=holder, lease_seconds=seconds):
            lease = {"leased_at": RECORDED_AT, "lease_seconds": seconds}
            # A process that was only slow does not take its turn back.
            return (_update(event, turn_id, lease, holder=holder, status="running"),)
        case TurnUsed(turn_id=turn_id) as used:
            return (_update(event, turn_id, _costs(used), status="running"),)
        case TurnEnded(turn_id=turn_id) as ended:
            changes = {
                "status": ended.outcome,
                # What was reported before stays, if the end says nothing of it: a failure does not.
                **({} if ended.model is None and ended.usage is None else _costs(ended)),
                "error": ended.error,
                "ended_at": OCCURRED_AT,
                "ended_position": POSITION,
            }
            # One that was abandoned for another turn stays so until it is continued.
            return (_update(event, turn_id, changes, status="running"),)
        case _:
            return ()


def _costs(event: TurnUsed | TurnEnded) -> dict[str, Any]:
    return {
        "model": event.model,
        "usage": event.usage,
        "input_tokens": event.input_tokens,
        "output_tokens": event.output_tokens,
    }


def _update(
    event: EventEnvelope, turn_id: UUID, changes: dict[str, Any], **only_where: object
) -> Update:
    # A turn of another conversation is not this stream's to change.
    there = {"conversation_id": event.stream_id, **only_where}
    return Update(Turn, {"id": turn_id}, changes, only_where=there)
