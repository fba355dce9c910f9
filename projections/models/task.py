"""Tasks: the `task` table, the view of one task, and the projector that keeps the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import PrimaryKeyConstraint

from eventstore.events.event import Event
from eventstore.events.tasks import (
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskEvent,
    TaskReopened,
    TaskUpdated,
)
from eventstore.log.envelope import EventEnvelope
from eventstore.log.tables import SCHEMA
from projections.changes import POSITION, RECORDED_AT, Insert, RowChange, Update
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["Task", "TaskView", "project_task"]


class Task(ReadModel, table=True):
    """
    One task of a user.

    A deleted task keeps its row with `deleted_at`, so that lists of earlier moments can be given.
    `position` is the position of the event that created the task, and so the order of the list.
    Timestamps are UTC.
    """

    __tablename__ = "task"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="task_pkey"),
        {"schema": SCHEMA},
    )

    user_id: str = text()
    id: UUID = uuid()
    title: str = text()
    description: str | None = text(nullable=True)
    completed: bool = False
    created_at: datetime = timestamp()
    updated_at: datetime = timestamp()
    completed_at: datetime | None = timestamp(nullable=True)
    position: int = bigint()
    last_position: int = bigint()
    deleted_at: datetime | None = timestamp(nullable=True)
    deleted_position: int | None = bigint(nullable=True)


@dataclass(frozen=True, slots=True)
class TaskView(View):
    """
    One task at some moment.

    :ivar position: the position of the event that created the task.
    """

    id: UUID
    title: str
    description: str | None
    completed: bool
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    position: int


@projector(Task, events=TaskEvent, trusted=True)
def project_task(event: EventEnvelope) -> Iterator[RowChange]:
    """
    Keep one row per task; a deleted one keeps its row.

    :param event: of any class of `TaskEvent`.
    """
    match event.data:
        case TaskCreated(title=title, description=description):
            yield Insert(
                Task,
                {
                    "id": event.stream_id,
                    "title": title,
                    "description": description,
                    "completed": False,
                    "created_at": RECORDED_AT,
                    "updated_at": RECORDED_AT,
                    "position": POSITION,
                    "last_position": POSITION,
                },
            )
        case TaskEvent() as data:
            changes = {"updated_at": RECORDED_AT, "last_position": POSITION}
            yield Update(Task, {"id": event.stream_id}, {**_changes(data), **changes})


def _changes(event: Event) -> dict[str, Any]:
    """Return what an event changes of its task, beside the time and place of the change."""
    match event:
        case TaskUpdated():
            # Fields that are not set stay as they are; a None that is set removes the description.
            # A set has no fixed order, and each order would be an SQL text of its own.
            return {name: getattr(event, name) for name in sorted(event.model_fields_set)}
        case TaskCompleted():
            return {"completed": True, "completed_at": RECORDED_AT}
        case TaskReopened():
            return {"completed": False, "completed_at": None}
        case TaskDeleted():
            return {"deleted_at": RECORDED_AT, "deleted_position": POSITION}
        case _:
            return {}
