"""Tasks: the `task` table, the view of one task, and the projector that keeps the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import PrimaryKeyConstraint

from eventstore.events.tasks import (
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskReopened,
    TaskUpdated,
)
from eventstore.log.envelope import EventEnvelope
from eventstore.log.tables import SCHEMA
from projections.changes import POSITION, RECORDED_AT, Delete, Insert, RowChange, Update
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["Task", "TaskView", "project_task"]


class Task(ReadModel, table=True):
    """
    One task on a user's list, as it is now; a deleted task has no row.

    `position` is the position of the event that created it, and so the order of the list.
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


@projector(Task)
def project_task(event: EventEnvelope) -> Iterator[RowChange]:
    """Keep one row per task; deleting a task deletes its row."""
    key = {"id": event.stream_id}
    match event.data:
        case TaskCreated(title=title, description=description):
            yield Insert(
                Task,
                {
                    **key,
                    "title": title,
                    "description": description,
                    "completed": False,
                    "created_at": RECORDED_AT,
                    "updated_at": RECORDED_AT,
                    "position": POSITION,
                },
            )
        case TaskUpdated() as update:
            changes: dict[str, Any] = {
                name: getattr(update, name) for name in sorted(update.model_fields_set)
            }
            yield Update(Task, key, {**changes, "updated_at": RECORDED_AT})
        case TaskCompleted():
            yield Update(
                Task,
                key,
                {"completed": True, "completed_at": RECORDED_AT, "updated_at": RECORDED_AT},
            )
        case TaskReopened():
            yield Update(
                Task, key, {"completed": False, "completed_at": None, "updated_at": RECORDED_AT}
            )
        case TaskDeleted():
            yield Delete(Task, key)
