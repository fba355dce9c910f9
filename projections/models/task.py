"""Tasks: the `task` table, the view of one task, and the projector that keeps the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import ARRAY, Column, Date, PrimaryKeyConstraint, Text
from sqlmodel import Field

from eventstore.events.event import Event
from eventstore.events.task_fields import DUE_FIELDS
from eventstore.events.tasks import (
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskMoved,
    TaskReopened,
    TaskRestored,
    TaskUpdated,
)
from eventstore.log.envelope import EventEnvelope
from eventstore.log.tables import SCHEMA
from eventstore.value_objects import value_object
from projections.changes import OCCURRED_AT, POSITION, VERSION, Insert, RowChange, Update
from projections.models.read_model import ReadModel, View, bigint, text, timestamp, uuid
from projections.projector import projector

__all__ = ["Task", "TaskView", "project_task"]


class Task(ReadModel, table=True):
    """
    One task of a user.

    A deleted task keeps its row with `deleted_at`, so that lists of earlier moments can be given.
    `position` is the position of the event that created the task, and so the order of the list.
    `rank` is its place in the user's own order if it was moved; else that is its position's.
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
    due_on: date | None = Field(default=None, sa_column=Column(Date, nullable=True))
    due_at: datetime | None = timestamp(nullable=True)
    due_zone: str | None = text(nullable=True)
    priority: str = text()
    tags: list[str] = Field(default_factory=list, sa_column=Column(ARRAY(Text), nullable=False))
    completed: bool = False
    created_at: datetime = timestamp()
    updated_at: datetime = timestamp()
    completed_at: datetime | None = timestamp(nullable=True)
    event_id: UUID = uuid()
    position: int = bigint()
    rank: str | None = text(nullable=True)
    version: int = bigint()
    last_position: int = bigint()
    deleted_at: datetime | None = timestamp(nullable=True)
    deleted_position: int | None = bigint(nullable=True)


@value_object(frozen=True, slots=True)
class TaskView(View):
    """
    One task at some moment.

    :ivar due_on: the day it is due, or `due_at`, in UTC, with the zone in which its user thinks.
    :ivar priority: `low`, `normal`, `high` or `urgent`.
    :ivar event_id: of the event that created the task, so that it can be named as a cause.
    :ivar position: the position of that event.
    :ivar rank: its place in the user's own order; None if it was never moved.
    :ivar version: of its stream; see `expected_version` of `tasks.update`.
    """

    id: UUID
    title: str
    description: str | None
    due_on: date | None
    due_at: datetime | None
    due_zone: str | None
    priority: str
    tags: tuple[str, ...]
    completed: bool
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None
    event_id: UUID
    position: int
    rank: str | None
    version: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Return the view of a row, its timestamps in UTC and its tags frozen."""
        frozen = {**row, "tags": tuple(row["tags"])}
        return super(TaskView, cls).from_row(frozen)  # noqa: UP008 - `slots` replaces the class


# Not only of `TaskEvent`: an event of a service's own also is the newest one of the task's stream.
@projector(Task, stream_kind="task", trusted=True, stream_column="id")
def project_task(event: EventEnvelope) -> Iterator[RowChange]:
    """
    Keep one row per task; a deleted one keeps its row.

    :param event: of any class whose stream is a task's.
    """
    match event.data:
        case TaskCreated() as data:
            yield Insert(
                Task,
                {
                    "id": event.stream_id,
                    "title": data.title,
                    "description": data.description,
                    "due_on": data.due_on,
                    "due_at": data.due_at,
                    "due_zone": data.due_zone,
                    "priority": data.priority,
                    "tags": data.tags,
                    "completed": False,
                    "created_at": OCCURRED_AT,
                    "updated_at": OCCURRED_AT,
                    "event_id": event.event_id,
                    "position": POSITION,
                    "version": VERSION,
                    "last_position": POSITION,
                },
            )
        case data:
            changes = {
                "updated_at": OCCURRED_AT,
                "version": VERSION,
                "last_position": POSITION,
            }
            yield Update(Task, {"id": event.stream_id}, {**_changes(data), **changes})


def _changes(event: Event) -> dict[str, Any]:
    """Return what an event changes of its task, beside the time and place of the change."""
    match event:
        case TaskUpdated():
            # Fields that are not set stay as they are; a None that is set removes the description.
            # A set has no fixed order, and each order would be an SQL text of its own.
            given = event.model_fields_set
            if not given.isdisjoint(DUE_FIELDS):
                given = given.union(DUE_FIELDS)  # a task that is due on a day is not due at a time
            return {name: getattr(event, name) for name in sorted(given)}
        case TaskMoved(rank=rank):
            return {"rank": rank}
        case TaskCompleted():
            return {"completed": True, "completed_at": OCCURRED_AT}
        case TaskReopened():
            return {"completed": False, "completed_at": None}
        case TaskDeleted():
            return {"deleted_at": OCCURRED_AT, "deleted_position": POSITION}
        case TaskRestored():
            return {"deleted_at": None, "deleted_position": None}
        case _:
            return {}
