"""
Which tasks a list shows, and in what order: each as SQL for the table, and in Python for a replay.

Days begin and end in the zone of the user who asks, whatever the clock does at midnight there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from operator import attrgetter
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from eventstore.errors import InvalidInput
from eventstore.events.fields import check_timestamp
from eventstore.events.ranks import KEY_SQL, key_of
from eventstore.events.task_fields import PRIORITIES, Priority, check_tag, check_zone
from projections.models.task import TaskView

__all__ = [
    "Due",
    "TaskFilter",
    "TaskOrder",
    "TaskOrdering",
    "filter_sql",
    "task_filter",
    "task_ordering",
]

type Due = Literal["overdue", "today", "week"]
"""Due before now and not completed; due at any time of today; due Monday to Sunday of this week."""

type TaskOrder = Literal["created", "updated", "title", "manual", "due"]


@dataclass(frozen=True, slots=True)
class _DueWindow:
    """Days from the first to before the second, or timestamps likewise."""

    days: tuple[date, date]
    times: tuple[datetime, datetime]

    def holds(self, task: TaskView) -> bool:
        """Tell whether a task is due in it."""
        if task.due_at is not None:
            return self.times[0] <= task.due_at < self.times[1]
        return task.due_on is not None and self.days[0] <= task.due_on < self.days[1]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are wanted; None wants all."""

    completed: bool | None
    tag: str | None
    priority: str | None
    due: _DueWindow | None

    @property
    def parameters(self) -> tuple[object, ...]:
        """The parameters of `filter_sql`."""
        window = (None,) * 4 if self.due is None else (*self.due.days, *self.due.times)
        return (self.completed, self.tag, self.priority, *window)

    def accepts(self, task: TaskView) -> bool:
        """Tell whether a task is wanted, as `filter_sql` does."""
        return (
            self.completed in {None, task.completed}
            and (self.tag is None or self.tag in task.tags)
            and self.priority in {None, task.priority}
            and (self.due is None or self.due.holds(task))
        )


def filter_sql(first: int) -> str:
    """
    Return the condition on rows of `task`: one text whatever is wanted, so it is prepared once.

    :param first: the number of the first of its seven parameters.
    """
    completed, tag, priority, day, next_day, start, end = (f"${first + n}" for n in range(7))
    return f"""
  completed = coalesce({completed}, completed)
  and ({tag}::text is null or {tag} = any(tags))
  and priority = coalesce({priority}, priority)
  and ({day}::date is null
       or (due_on >= {day} and due_on < {next_day}::date)
       or (due_at >= {start}::timestamptz and due_at < {end}::timestamptz))
"""


def task_filter(
    completed: bool | None,
    tag: str | None,
    priority: Priority | None,
    due: Due | None,
    zone: ZoneInfo | str | None,
    now: datetime | None,
) -> TaskFilter:
    """
    Return the filter that a caller wants.

    :raises InvalidInput: a value has a wrong type or is out of range, or `due` has no zone.
    """
    if not isinstance(completed, bool | None):
        raise InvalidInput("completed", f"a {type(completed).__name__}; give True, False or None")
    if tag is not None:
        check_tag(tag, "tag")
    if priority is not None and priority not in PRIORITIES:
        raise InvalidInput("priority", f"{priority!r:.40}; give one of {', '.join(PRIORITIES)}")
    if due is None:
        return TaskFilter(completed, tag, priority, None)
    if zone is None:
        raise InvalidInput("zone", "is needed for `due`; give the name of the user's time zone")
    if due == "overdue":
        if completed:
            raise InvalidInput("completed", "True, but a completed task is never overdue")
        completed = False
    return TaskFilter(completed, tag, priority, _window(due, check_zone(zone, "zone"), now))


def _window(due: Due, zone: ZoneInfo, now: datetime | None) -> _DueWindow:
    now = datetime.now(UTC) if now is None else check_timestamp(now, "now")
    try:
        today = now.astimezone(zone).date()
        match due:
            case "overdue":
                first = datetime.min.replace(tzinfo=UTC)
                return _DueWindow((date.min, today), (first, now))
            case "today":
                return _days(today, 1, zone)
            case "week":
                return _days(today - timedelta(days=today.weekday()), 7, zone)
    except OverflowError:
        raise InvalidInput("now", "is at the end of the calendar") from None
    names = ", ".join(get_args(Due.__value__))
    raise InvalidInput("due", f"{due!r:.40}; give one of {names}")


def _days(first: date, count: int, zone: ZoneInfo) -> _DueWindow:
    """Return so many days of a zone; one is shorter or longer when the clock changes."""
    end = first + timedelta(days=count)
    # A midnight that the clock skips is read with the offset before, which is when the day begins.
    start, stop = (datetime.combine(day, time.min, zone).astimezone(UTC) for day in (first, end))
    return _DueWindow((first, end), (start, stop))


@dataclass(frozen=True, slots=True)
class TaskOrdering:
    """
    The order of a list; ties go by position.

    :ivar parameters: of its SQL.
    """

    expression: str
    key: Callable[[TaskView], Any]
    parameters: tuple[object, ...] = ()

    def sql(self, first: int, *, reverse: bool) -> str:
        """
        Return what stands behind `order by`.

        :param first: the number of its parameter, if it has one.
        """
        direction = " desc" if reverse else ""
        expression = self.expression.replace("$zone", f"${first}")
        return f"{expression}{direction}, position{direction}"

    def sort(self, tasks: list[TaskView], *, reverse: bool) -> None:
        """Sort tasks as the SQL does."""
        tasks.sort(key=lambda task: (self.key(task), task.position), reverse=reverse)


# Collation "C" orders by code point as Python does, so that both sources give one order.
_ORDERS = {
    "created": TaskOrdering("position", attrgetter("position")),
    "updated": TaskOrdering("updated_at", attrgetter("updated_at")),
    "title": TaskOrdering('title collate "C"', attrgetter("title")),
    "manual": TaskOrdering(KEY_SQL, lambda task: key_of(task.rank, task.position)),
}

# A task that is due on a day is due at its end, which the two read alike where the clock repeats
# the last hour of a day.
_DUE = "coalesce(due_at, (due_on + time '23:59:59.999999') at time zone $zone)"
_END_OF_DAY = time.max.replace(fold=1)


def task_ordering(order: TaskOrder, zone: ZoneInfo | str | None) -> TaskOrdering:
    """
    Return the order that a caller wants.

    :param zone: where a day ends, for the order `due`; None is UTC.
    :raises InvalidInput: there is no such order, or no such zone.
    """
    if order == "due":
        known = check_zone("UTC" if zone is None else zone, "zone")
        return TaskOrdering(_DUE, lambda task: _due_key(task, known), (known.key,))
    if not isinstance(order, str) or order not in _ORDERS:
        raise InvalidInput("order", f"{order!r}; give one of {', '.join(_ORDERS)}, due")
    return _ORDERS[order]


def _due_key(task: TaskView, zone: ZoneInfo) -> tuple[bool, datetime | None]:
    """Return a key that has tasks which are never due at the end, as nulls are in SQL."""
    due = task.due_at
    if due is None and task.due_on is not None:
        due = datetime.combine(task.due_on, _END_OF_DAY, zone)
    return due is None, due
