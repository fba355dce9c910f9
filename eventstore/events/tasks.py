"""
What can happen to a task, and when it may.

The names and fields are the stored format (see `event`). The decisions below them are pure: from
what a task is now and what is asked, to the event to append; None where nothing would change.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.errors import InvalidInput
from eventstore.events.event import Event, checked
from eventstore.events.limits import Description, Title

__all__ = [
    "TaskCompleted",
    "TaskCreated",
    "TaskDeleted",
    "TaskEvent",
    "TaskReopened",
    "TaskState",
    "TaskUpdated",
    "complete",
    "delete",
    "reopen",
    "update",
]


class TaskEvent(Event, stream_kind="task"):
    """An event of one task's stream."""


class TaskCreated(TaskEvent, type="TaskCreated"):
    """A task was put on the list."""

    title: Title
    description: Description | None = None


class TaskUpdated(TaskEvent, type="TaskUpdated"):
    """Title or description changed; a field that was not set did not. A title cannot be None."""

    title: Title = ""
    description: Description | None = None


class TaskCompleted(TaskEvent, type="TaskCompleted"):
    """The task was done."""


class TaskReopened(TaskEvent, type="TaskReopened"):
    """The task turned out not to be done."""


class TaskDeleted(TaskEvent, type="TaskDeleted", closes=True):
    """The task was taken off the list for good."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """What a decision needs to know of a task."""

    title: str
    description: str | None
    completed: bool


def update(task: TaskState, **changes: object) -> Event | None:
    """Decide a change of `title` and `description`: only what differs is recorded."""
    if changes.get("title", "") is None:
        raise InvalidInput("title", "a title can be changed, not removed; leave it out to keep it")
    differing = {name: value for name, value in changes.items() if getattr(task, name) != value}
    return checked(TaskUpdated, **differing) if differing else None


def complete(task: TaskState) -> Event | None:
    """Decide to complete; a completed task stays as it is."""
    return None if task.completed else TaskCompleted()


def reopen(task: TaskState) -> Event | None:
    """Decide to reopen; an open task stays as it is."""
    return TaskReopened() if task.completed else None


def delete(_: TaskState) -> Event | None:
    """Decide to delete."""
    return TaskDeleted()
