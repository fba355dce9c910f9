"""
What can happen to a task, and when it may.

The names and fields are the stored format (see `event`). The decisions below them are pure: from
what a task is now and what is asked, to the events to append; none where nothing would change.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    """Title or description changed; a field that was not set did not."""

    title: Title | None = None
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


def update(task: TaskState, **changes: object) -> list[Event]:
    """Decide a change of `title` and `description`: only what differs is recorded."""
    differing = {name: value for name, value in changes.items() if getattr(task, name) != value}
    if differing.get("title", "") is None:
        del differing["title"]  # a title can be changed, not removed
    return [checked(TaskUpdated, **differing)] if differing else []


def complete(task: TaskState) -> list[Event]:
    """Decide to complete; a completed task stays as it is."""
    return [] if task.completed else [TaskCompleted()]


def reopen(task: TaskState) -> list[Event]:
    """Decide to reopen; an open task stays as it is."""
    return [TaskReopened()] if task.completed else []


def delete(_: TaskState) -> list[Event]:
    """Decide to delete."""
    return [TaskDeleted()]
