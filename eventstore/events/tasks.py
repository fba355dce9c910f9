"""
The events of a task, and the decisions that lead to them.

Stored names and fields are the stored format (see `event`). Decisions are pure functions: they take
what a task is now and return the event to append, or None if nothing would change.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.errors import InvalidInput
from eventstore.events.event import Event, make_event
from eventstore.events.fields import Description, Title

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


class TaskEvent(Event, stream_kind="task", starts=False):
    """The base of all events in a task's stream."""


class TaskCreated(TaskEvent, type="TaskCreated", starts=True):
    """A task was added to the list."""

    title: Title
    description: Description | None = None


class TaskUpdated(TaskEvent, type="TaskUpdated"):
    """Title or description changed; a field that is not set stayed as it was."""

    title: Title = ""  # not None: a title can be changed and not removed
    description: Description | None = None


class TaskCompleted(TaskEvent, type="TaskCompleted"):
    """The task was done."""


class TaskReopened(TaskEvent, type="TaskReopened"):
    """A completed task became open again."""


class TaskDeleted(TaskEvent, type="TaskDeleted", closes=True):
    """The task was removed from the list for good."""


@dataclass(frozen=True, slots=True)
class TaskState:
    """The part of a task that decisions depend on."""

    title: str
    description: str | None
    completed: bool


def update(task: TaskState, **changes: object) -> Event | None:
    """
    Decide to change `title` or `description`; only values that differ are recorded.

    :param changes: the new values; a field that is left out stays, a description of None goes.
    :raises InvalidInput: the title is None, or a value does not fit its field.
    """
    # The field itself would only say that it expects text, and not what to do instead.
    if changes.get("title", "") is None:
        raise InvalidInput("title", "a title can be changed, not removed; leave it out to keep it")
    differing = {name: value for name, value in changes.items() if getattr(task, name) != value}
    return make_event(TaskUpdated, **differing) if differing else None


def complete(task: TaskState) -> Event | None:
    """Decide to complete; for a completed task nothing changes."""
    return None if task.completed else TaskCompleted()


def reopen(task: TaskState) -> Event | None:
    """Decide to reopen; for an open task nothing changes."""
    return TaskReopened() if task.completed else None


def delete(_: TaskState) -> Event | None:
    """Decide to delete, completed or not."""
    return TaskDeleted()
