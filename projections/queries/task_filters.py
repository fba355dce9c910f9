"""
Which tasks a list shows, and in what order: each as SQL for the table, and in Python for a replay.

Days begin and end in the zone of the user who asks, whatever the clock does at midnight there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from operator import attrgetter
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from eventstore.errors import InvalidInput
from eventstore.events.fields import check_choice, check_timestamp
from eventstore.events.ranks import KEY_SQL, key_of
from eventstore.events.task_fields import PRIORITIES, Priority, check_tag, check_zone
from projections.models.task import TaskView
from projections.queries.search import search_patterns

__all__ = [
    "Due",
    "DueWindow",
    "TaskFilter",
    "TaskOrder",
    "TaskOrdering",
    "check_kind",
    "due_windows",
    "filter_sql",
    "task_filter",
    "task_ordering",
]

type Due = Literal["overdue", "today", "week"]
"""Due before now and not completed; due at any time of today; due Monday to Sunday of this week."""

type TaskOrder = Literal["created", "updated", "title", "manual", "due"]


@dataclass(frozen=True, slots=True)
class DueWindow:
    """Days from the first to before the second, or timestamps likewise."""

    days: tuple[date, date]
    times: tuple[datetime, datetime]

    @property
    def parameters(self) -> tuple[date | datetime, ...]:
        """The days and the timestamps, as statements take them."""
        return *self.days, *self.times

    def holds(self, task: TaskView) -> bool:
        """Tell whether a task is due in it."""
        if task.due_at is not None:
            return self.times[0] <= task.due_at < self.times[1]
        return task.due_on is not None and self.days[0] <= task.due_on < self.days[1]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """
    Which tasks are wanted; None wants all.

    :ivar chosen: what the caller gave for it, by which a cursor knows its list. The time at which
        they asked is not in it: it passes from one page to the next.
    """

    completed: bool | None
    tag: str | None
    priority: str | None
    due: DueWindow | None
    patterns: list[str] | None
    chosen: tuple[object, ...]

    @property
    def parameters(self) -> tuple[object, ...]:
        """The parameters of `filter_sql`."""
        window = (None,) * 4 if self.due is None else self.due.parameters
        return (self.completed, self.tag, self.priority, *window, self.patterns)

    def accepts(self, task: TaskView) -> bool:
        """Tell whether a task is wanted, as `filter_sql` does, whatever it says."""
        return (
            self.completed in {None, task.completed}
            and (self.tag is None or self.tag in task.tags)
            and self.priority in {None, task.priority}
            and (self.due is None or self.due.holds(task))
        )


def filter_sql(first: int) -> str:
    """
    Return the condition on rows of `task`: one text whatever is wanted, so it is prepared once.

    :param first: the number of the first of its eight parameters.
    """
    completed, tag, priority, day, next_day, start, end, says = (f"${first + n}" for n in range(8))
    return f"""
  completed = coalesce({completed}, completed)
  and ({tag}::text is null or {tag} = any(tags))
  and priority = coalesce({priority}, priority)
  and ({day}::date is null
       or (due_on >= {day} and due_on < {next_day}::date)
       or (due_at >= {start}::timestamptz and due_at < {end}::timestamptz))
  and ({says}::text[] is null or concat_ws(E'\\n', title, description) ~ all({says}))
"""


def task_filter(
    completed: bool | None,
    tag: str | None,
    priority: Priority | None,
    due: Due | None,
    zone: ZoneInfo | str | None,
    now: datetime | None,
    search: str | None,
) -> TaskFilter:
    """
    Return the filter that a caller wants.

    :raises InvalidInput: a value has a wrong type or is out of range, or `due` has no zone.
    """
    if not isinstance(completed, bool | None):
        raise InvalidInput("completed", f"a {type(completed).__name__}; give True, False or None")
    check_kind(tag, priority)
    patterns = None if search is None else search_patterns(search, "search")
    if due is None:
        chosen: tuple[object, ...] = (completed, tag, priority, patterns)
        return TaskFilter(completed, tag, priority, None, patterns, chosen)
    if zone is None:
        raise InvalidInput("zone", "is needed for `due`; give the name of the user's time zone")
    if due == "overdue":
        if completed:
            raise InvalidInput("completed", "True, but a completed task is never overdue")
        completed = False
    known = check_zone(zone, "zone")
    chosen = (completed, tag, priority, patterns, due, known.key)
    return TaskFilter(completed, tag, priority, _window(due, known, now), patterns, chosen)


def due_windows(
    zone: ZoneInfo | str, now: datetime | None
) -> tuple[DueWindow, DueWindow, DueWindow]:
    """
    Return when a task is overdue, due today, and due this week.

    :raises InvalidInput: there is no such zone, or `now` has none.
    """
    known = check_zone(zone, "zone")
    now = datetime.now(UTC) if now is None else now
    return _window("overdue", known, now), _window("today", known, now), _window("week", known, now)


def check_kind(tag: str | None, priority: Priority | None) -> None:
    """
    Check by what tasks are chosen.

    :raises InvalidInput: a value has a wrong type or is out of range.
    """
    if tag is not None:
        check_tag(tag, "tag")
    if priority is not None:
        check_choice(priority, "priority", PRIORITIES)


def _window(due: Due, zone: ZoneInfo, now: datetime | None) -> DueWindow:
    check_choice(due, "due", get_args(Due.__value__))
    now = datetime.now(UTC) if now is None else check_timestamp(now, "now")
    try:
        today = now.astimezone(zone).date()
        match due:
            case "overdue":
                first = datetime.min.replace(tzinfo=UTC)
                return DueWindow((date.min, today), (first, now))
            case "today":
                return _days(today, 1, zone)
            case _:
                return _days(today - timedelta(days=today.weekday()), 7, zone)
    except OverflowError:
        raise InvalidInput("now", "is at the end of the calendar") from None


def _days(first: date, count: int, zone: ZoneInfo) -> DueWindow:
    """Return so many days of a zone; one is shorter or longer when the clock changes."""
    end = first + timedelta(days=count)
    # A midnight that the clock skips is read with the offset before, which is when the day begins.
    start, stop = (datetime.combine(day, time.min, zone).astimezone(UTC) for day in (first, end))
    return DueWindow((first, end), (start, stop))


@dataclass(frozen=True, slots=True)
class TaskOrdering:
    """
    The order of a list; ties go by position.

    :ivar expression: what SQL orders by; it is never null.
    :ivar sql_type: of the expression.
    :ivar kind: of what `value` returns, which a cursor holds.
    :ivar value: returns of a task what the expression gives, or None for infinity.
    :ivar zone: the parameter of the expression, if it has one.
    """

    expression: str
    sql_type: str
    kind: type
    value: Callable[[TaskView], Any]
    zone: str | None = None

    def sql(self, first: int, *, reverse: bool) -> tuple[str, str]:
        """
        Return the condition that a task comes after a cursor, and what stands behind `order by`.

        :param first: the number of the first of its `parameters`.
        """
        direction, after = (" desc", "<") if reverse else ("", ">")
        expression = self.expression.replace("$zone", f"${first + 2}")
        key, position = f"${first}::{self.sql_type}", f"${first + 1}::bigint"
        condition = f"({position} is null or ({expression}, position) {after} ({key}, {position}))"
        return condition, f"{expression}{direction}, position{direction}"

    def parameters(self, after: tuple[Any, ...] | None) -> tuple[object, ...]:
        """
        Return the parameters of `sql`.

        :param after: the values of a cursor; None for the beginning.
        """
        value, position = (None, None) if after is None else after
        if value is None and after is not None:
            value = "infinity"
        return (value, position) if self.zone is None else (value, position, self.zone)

    def values(self, task: TaskView) -> tuple[Any, ...]:
        """Return the values of a task that a cursor holds."""
        return self.value(task), task.position

    def sorted(
        self, tasks: Iterable[TaskView], after: tuple[Any, ...] | None, *, reverse: bool
    ) -> list[TaskView]:
        """Return those tasks that come after a cursor, in order, as the SQL does."""
        if after is not None:
            end = _comparable(after)
            tasks = (
                task
                for task in tasks
                if (place := _comparable(self.values(task))) != end and (place < end) == reverse
            )
        return sorted(tasks, key=lambda task: _comparable(self.values(task)), reverse=reverse)


def _comparable(values: tuple[Any, ...]) -> tuple[Any, ...]:
    value, position = values
    return value is None, value, position


# Collation "C" orders by code point as Python does, so that both sources give one order.
_ORDERS = {
    "created": TaskOrdering("position", "bigint", int, attrgetter("position")),
    "updated": TaskOrdering("updated_at", "timestamptz", datetime, attrgetter("updated_at")),
    "title": TaskOrdering('title collate "C"', "text", str, attrgetter("title")),
    "manual": TaskOrdering(KEY_SQL, "text", str, lambda task: key_of(task.rank, task.position)),
}

# A task that is due on a day is due at its end, which the two read alike where the clock repeats
# the last hour of a day.
_DUE = (
    "case when due_at is not null then due_at when due_on is null then 'infinity'::timestamptz"
    " else least((due_on + time '23:59:59.999999') at time zone $zone,"
    " '9999-12-31 23:59:59.999999Z'::timestamptz) end"
)
_END_OF_DAY = time.max.replace(fold=1)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)


def task_ordering(order: TaskOrder, zone: ZoneInfo | str | None) -> TaskOrdering:
    """
    Return the order that a caller wants.

    :param zone: where a day ends, for the order `due`; None is UTC.
    :raises InvalidInput: there is no such order, or no such zone.
    """
    if order == "due":
        known = check_zone("UTC" if zone is None else zone, "zone")
        return TaskOrdering(
            _DUE, "timestamptz", datetime, lambda task: _due_of(task, known), known.key
        )
    check_choice(order, "order", get_args(TaskOrder.__value__))
    return _ORDERS[order]


def _due_of(task: TaskView, zone: ZoneInfo) -> datetime | None:
    """Return when a task is due; None, which comes last as infinity does in SQL, if it never is."""
    if task.due_at is not None or task.due_on is None:
        return task.due_at
    try:
        return datetime.combine(task.due_on, _END_OF_DAY, zone).astimezone(UTC)
    except OverflowError:  # a day that ends in the year 10000
        return _END_OF_TIME
