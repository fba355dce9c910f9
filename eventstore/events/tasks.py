"""
The events of a task, and the decisions that lead to them.

Stored names and fields are the stored format (see `event`). Decisions are pure functions: they take
what a task is now and return the event to append, or None if nothing would change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self
from uuid import UUID

from pydantic import model_validator

from eventstore.errors import InvalidInput
from eventstore.events.event import Event, make_event
from eventstore.events.fields import Description, Title
from eventstore.events.ranks import Rank
from eventstore.events.task_fields import (
    DUE_FIELDS,
    DueAt,
    DueOn,
    DueZone,
    PriorityField,
    Tags,
    due_fields,
    require_one_due,
)

__all__ = [
    "TaskCompleted",
    "TaskCreated",
    "TaskDeleted",
    "TaskEvent",
    "TaskMoved",
    "TaskReopened",
    "TaskRestored",
    "TaskState",
    "TaskUpdated",
    "changes_of",
    "complete",
    "create",
    "delete",
    "reopen",
    "restore",
]


class TaskEvent(Event, stream_kind="task", starts=False):
    """The base of all events in a task's stream."""


class TaskCreated(TaskEvent, type="TaskCreated", starts=True):
    """A task was added to the list."""

    title: Title
    description: Description | None = None
    due_on: DueOn | None = None
    due_at: DueAt | None = None
    due_zone: DueZone | None = None
    priority: PriorityField = "normal"
    tags: Tags = []  # noqa: RUF012 - pydantic copies it

    @model_validator(mode="after")
    def _is_due_once(self) -> Self:
        require_one_due(self.__dict__)
        return self


class TaskUpdated(TaskEvent, type="TaskUpdated"):
    """
    Fields of a task changed; one that is not set stayed as it was.

    The three that say when it is due change together: if one of them is set, those that are not set
    became None.
    """

    title: Title = ""  # not None: a title can be changed and not removed
    description: Description | None = None
    due_on: DueOn | None = None
    due_at: DueAt | None = None
    due_zone: DueZone | None = None
    priority: PriorityField = "normal"
    tags: Tags = []  # noqa: RUF012 - pydantic copies it

    @model_validator(mode="after")
    def _is_due_once(self) -> Self:
        require_one_due(self.__dict__)
        return self


class TaskMoved(TaskEvent, type="TaskMoved"):
    """The task got another place in the user's own order: directly before or after another one."""

    rank: Rank
    before: UUID | None = None
    after: UUID | None = None


class TaskCompleted(TaskEvent, type="TaskCompleted"):
    """The task was done."""


class TaskReopened(TaskEvent, type="TaskReopened"):
    """A completed task became open again."""


class TaskDeleted(TaskEvent, type="TaskDeleted", closes=True):
    """The task was removed from the list; only a restoration may follow."""


class TaskRestored(TaskEvent, type="TaskRestored", reopens=True):
    """A deleted task came back as it was, with its place in the order."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """The part of a task that decisions depend on."""

    completed: bool
    deleted_position: int | None


def create(due_on: object, due_at: object, due_zone: object, **fields: object) -> TaskCreated:
    """
    Return the event of a new task; a field that is None is left out.

    :raises InvalidInput: a value does not fit its field.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    return make_event(TaskCreated, **given, **due_fields(due_on, due_at, due_zone))


def changes_of(**changes: object) -> TaskUpdated:
    """
    Return the event that sets some fields of a task; None removes what can be removed.

    :raises InvalidInput: a value does not fit its field, a title, a priority or tags are None, or
        a time zone is given alone.
    """
    for name, remedy in _NOT_REMOVED.items():
        if changes.get(name, "") is None:
            raise InvalidInput(name, f"can be changed, not removed; {remedy}")
    due = {name: changes.pop(name) for name in DUE_FIELDS if name in changes}
    if due:
        if {*due} == {"due_zone"}:
            raise InvalidInput("due_zone", "is the time zone of `due_at`; give both")
        # None stands for all three: the task is due no more.
        changes |= due_fields(*map(due.get, DUE_FIELDS)) or {"due_on": None}
    return make_event(TaskUpdated, **changes)


_NOT_REMOVED = {
    "title": "leave it out to keep it",
    "priority": "give 'normal'",
    "tags": "give an empty list",
}


def complete(task: TaskState) -> Event | None:
    """Decide to complete; for a completed task nothing changes."""
    return None if task.completed else TaskCompleted()


def reopen(task: TaskState) -> Event | None:
    """Decide to reopen; for an open task nothing changes."""
    return TaskReopened() if task.completed else None


def delete(_: TaskState) -> Event | None:
    """Decide to delete, completed or not."""
    return TaskDeleted()


def restore(task: TaskState) -> Event | None:
    """Decide to restore; for a task that is not deleted nothing changes."""
    return None if task.deleted_position is None else TaskRestored()
