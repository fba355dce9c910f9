"""A user's tasks: create, update, complete, reopen, delete; get one, list a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from eventstore.database.plan import Plan
from eventstore.errors import InvalidInput
from eventstore.events import tasks
from eventstore.events.event import Event
from eventstore.events.fields import check_number
from eventstore.events.task_fields import Priority
from eventstore.events.tasks import TaskDeleted, TaskState
from eventstore.log.envelope import Expected, ExpectedVersion
from eventstore.log.paging import Page
from eventstore.store.context import AsOf, Queries, parse_id, point_in_time
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_command,
    async_method,
    sync_command,
    sync_method,
)
from eventstore.store.units.commands import Commands
from eventstore.store.units.decisions import Cause, state_of
from eventstore.store.units.moves import Beside
from eventstore.store.units.outcome import Handle
from projections import Task
from projections.models.task import TaskView
from projections.queries.counts import TaskCounts, count_tasks
from projections.queries.lists import get_task, list_tasks
from projections.queries.task_filters import (
    Due,
    TaskOrder,
    check_kind,
    due_windows,
    task_filter,
    task_ordering,
)

__all__ = ["UNCHANGED", "AsyncTasks", "TaskCommands", "TaskQueries", "Tasks", "Unchanged"]


class Unchanged:
    """The type of `UNCHANGED`."""


UNCHANGED = Unchanged()
"""The default of an update's fields: leave the field as it is. None would clear it."""


class TaskCommands(Commands):
    """The commands on tasks."""

    def create(
        self,
        title: str,
        *,
        description: str | None = None,
        due_on: date | str | None = None,
        due_at: datetime | str | None = None,
        due_zone: str | None = None,
        priority: Priority | None = None,
        tags: Sequence[str] | None = None,
        caused_by: Cause = None,
    ) -> Handle[TaskView]:
        """
        Create a task at the end of the user's own order; one round trip.

        :param title: 1 to 500 characters.
        :param description: up to 20,000 characters.
        :param due_on: the day it is due, wherever the user is; a date or `2026-11-30`.
        :param due_at: the moment it is due, instead: a datetime, or `2026-11-30T09:00+01:00`.
            Without a time zone it is the time of day in `due_zone`.
        :param due_zone: the name of the time zone in which the user thinks of `due_at`, such as
            `Europe/Berlin`; of a datetime in a `ZoneInfo` it is known.
        :param priority: `low`, `normal`, `high` or `urgent`; `normal` if left out.
        :param tags: up to 50 labels of 1 to 100 characters; their order is kept, doubles are not.
        :param caused_by: the event, or the tool call, that led to it.
        :raises InvalidInput: a field does not fit; nothing was written.
        """
        fields = {"title": title, "description": description, "priority": priority, "tags": tags}
        data = tasks.create(due_on, due_at, due_zone, **fields)
        task_id = self._work.new_id()
        # NEW also tells the unit of work that later decisions on this task need no row.
        event = self._work.record(task_id, data, expected=Expected.NEW, caused_by=caused_by)
        return Handle(task_id, event.event_id, _view_of(task_id))

    def update(
        self,
        task: UUID | str,
        *,
        title: str | Unchanged = UNCHANGED,
        description: str | Unchanged | None = UNCHANGED,
        due_on: date | str | Unchanged | None = UNCHANGED,
        due_at: datetime | str | Unchanged | None = UNCHANGED,
        due_zone: str | Unchanged | None = UNCHANGED,
        priority: Priority | Unchanged = UNCHANGED,
        tags: Sequence[str] | Unchanged = UNCHANGED,
        expected_version: int | None = None,
        caused_by: Cause = None,
    ) -> Handle[TaskView]:
        """
        Change the fields that are given; one round trip.

        Nothing is read first, so no other writer gets in the way: of two updates of one field the
        later one counts, and updates of different fields both do. An event is recorded even if
        every field has its value already. An update of no field records nothing.

        :param task: its id; text is taken too, as tool arguments have it.
        :param title: as in `create`, like the other fields; leave a field out to keep it.
        :param description: None removes it.
        :param due_on: takes the place of `due_at`, and `due_at` of `due_on`; None in either removes
            both, with `due_zone`.
        :param due_zone: only with `due_at`; a new `due_at` without it has no time zone's name.
        :param tags: all that the task is to have.
        :param expected_version: the `version` of the task that the change was made for.
        :return: the task as it is now.
        :raises NotFound: absent, deleted or another user's.
        :raises WrongVersion: the task is not at `expected_version`; nothing was written.
        :raises InvalidInput: a field does not fit; nothing was written.
        """
        task_id = parse_id(task, "task")
        given = {
            "title": title,
            "description": description,
            "due_on": due_on,
            "due_at": due_at,
            "due_zone": due_zone,
            "priority": priority,
            "tags": tags,
        }
        changes = {name: value for name, value in given.items() if value is not UNCHANGED}
        expected: ExpectedVersion = Expected.EXISTS
        if expected_version is not None:
            expected = check_number(expected_version, "expected_version", least=1)
        if not changes:
            return self._decide(task_id, lambda _: None, caused_by)
        return self._record(task_id, tasks.changes_of(**changes), caused_by, expected)

    def move(
        self,
        task: UUID | str,
        *,
        before: UUID | str | None = None,
        after: UUID | str | None = None,
        caused_by: Cause = None,
    ) -> Handle[TaskView]:
        """
        Give a task another place in the user's own order; two round trips.

        One event and one row, whatever the length of the list, and recorded even if the task stands
        there already. See `order="manual"` of `list`.

        :param before: the task that it is to stand directly before; or give `after`.
        :param after: the task that it is to stand directly after.
        :return: the task as it is now.
        :raises NotFound: one of the two is absent, deleted or another user's, or the other one is
            created in this transaction.
        :raises InvalidInput: not exactly one of `before` and `after` is given, it is the task
            itself, or some thousand tasks were moved to this very place.
        """
        task_id = parse_id(task, "task")
        if (before is None) == (after is None):
            raise InvalidInput("before", "give one of `before` and `after`")
        anchor = parse_id(before if after is None else after, "task")  # type: ignore[arg-type]  # one is given
        if anchor == task_id:
            path = "before" if after is None else "after"
            raise InvalidInput(path, "is the task itself; give another one")
        self._work.about_task(task_id)
        decision = self._work.decide(
            Task,
            task_id,
            lambda _: None,
            beside=Beside(anchor, after=after is not None),
            caused_by=caused_by,
        )
        return Handle(task_id, decision.event_id, _view_of(task_id), reads=task_id)

    def complete(self, task: UUID | str, *, caused_by: Cause = None) -> Handle[TaskView]:
        """
        Complete a task; two round trips.

        :return: the task as it is now; for a completed task nothing is recorded.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._decide(task, tasks.complete, caused_by)

    def reopen(self, task: UUID | str, *, caused_by: Cause = None) -> Handle[TaskView]:
        """
        Reopen a completed task; two round trips.

        :return: the task as it is now; for an open task nothing is recorded.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._decide(task, tasks.reopen, caused_by)

    def delete(self, task: UUID | str, *, caused_by: Cause = None) -> Handle[None]:
        """
        Delete a task; one round trip. Its events stay in the log, and `restore` brings it back.

        :raises NotFound: absent, deleted already or another user's.
        """
        task_id = parse_id(task, "task")
        self._work.about_task(task_id)
        event = self._work.record(task_id, TaskDeleted(), caused_by=caused_by)
        return Handle(task_id, event.event_id, lambda _: None)

    def restore(self, task: UUID | str, *, caused_by: Cause = None) -> Handle[TaskView]:
        """
        Bring a deleted task back as it was, with its place in the order; two round trips.

        :return: the task as it is now; for a task that is not deleted nothing is recorded.
        :raises NotFound: absent, erased or another user's.
        """
        return self._decide(task, tasks.restore, caused_by, of_deleted=True)

    def _record(
        self, task_id: UUID, data: Event, caused_by: Cause, expected: ExpectedVersion
    ) -> Handle[TaskView]:
        """Record an event that depends on nothing but that the task exists."""
        self._work.about_task(task_id)
        event = self._work.record(task_id, data, expected=expected, caused_by=caused_by)
        return Handle(task_id, event.event_id, _view_of(task_id), reads=task_id)

    def _decide(
        self,
        task: UUID | str,
        decide: Callable[[TaskState], Event | None],
        caused_by: Cause,
        *,
        of_deleted: bool = False,
    ) -> Handle[TaskView]:
        task_id = parse_id(task, "task")
        decision = self._work.decide(
            Task,
            task_id,
            lambda row: decide(state_of(TaskState, row)),
            of_deleted=of_deleted,
            caused_by=caused_by,
        )
        return Handle(task_id, decision.event_id, _view_of(task_id))


def _view_of(task_id: UUID) -> Callable[[Any], TaskView]:
    return lambda outcome: TaskView.from_row(outcome.row(Task, task_id))


class TaskQueries(Queries):
    """The queries on a user's tasks, as plans."""

    def get(self, task: UUID | str, *, as_of: AsOf = None) -> Plan[TaskView]:
        """
        Return one task; one round trip. Index: `task_pkey`.

        :param task: its id; text is taken too.
        :param as_of: a position or a timestamp: the task as it was then, replayed from its stream.
        :raises NotFound: absent, deleted or another user's.
        """
        context = self.context
        task_id, moment = parse_id(task, "task"), point_in_time(as_of)
        return context.retrying(
            lambda: get_task(
                context.user_id, task_id, moment, context.projections, context.registry
            )
        )

    def list(
        self,
        *,
        completed: bool | None = None,
        tag: str | None = None,
        priority: Priority | None = None,
        due: Due | None = None,
        zone: ZoneInfo | str | None = None,
        now: datetime | None = None,
        search: str | None = None,
        order: TaskOrder = "created",
        newest_first: bool = False,
        limit: int = 100,
        after: str | None = None,
        as_of: AsOf = None,
    ) -> Plan[Page[TaskView]]:
        """
        Return a page of tasks; one round trip.

        A page begins behind the last task of the page before, by what the list is ordered by. So
        each task that is listed all the while comes once, whatever comes and goes between two
        pages. Only a task whose own place changes, because its title, due time, rank or (for
        `updated`) anything of it does, is where it is now: it may come again, or not at all. A list
        as of a moment that is over does not change.

        :param completed: True or False returns only such tasks, None returns all.
        :param tag: only tasks that have this tag, exactly so written.
        :param priority: only tasks of this priority.
        :param due: `overdue`: only tasks that were due before now and are open; `today`: due at any
            time of today; `week`: due from Monday to Sunday of this week.
        :param zone: the user's time zone, which decides what today is; needed for `due`.
        :param now: the moment that `due` goes by; left out it is that of `as_of` if that is a
            timestamp, else the present.
        :param search: only tasks whose title or description has each of these words, at the
            beginning of a word and in either case; in scripts without spaces anywhere.
        :param order: `created`, `updated`, `title` (by code point), `manual` (the user's own order,
            which `move` changes), or `due` (a day counts as its end in `zone`, or in UTC; tasks
            that are never due come last).
        :param limit: tasks on a page.
        :param after: `next` of the page before, with the same filters and order; `now` and `limit`
            may differ.
        :param as_of: a position or a timestamp: the list as it was then; one more round trip for
            each thousand tasks that changed since.
        :raises InvalidInput: a parameter has a wrong type or is out of range, or `after` is no
            cursor of this list.
        """
        context = self.context
        # Outside of the attempts: a wrong argument is refused before a connection is asked for.
        moment = point_in_time(as_of)
        if now is None and isinstance(as_of, datetime):
            now = as_of
        wanted = task_filter(completed, tag, priority, due, zone, now, search)
        ordering = task_ordering(order, zone)
        return context.retrying(
            lambda: list_tasks(
                context.user_id,
                wanted=wanted,
                ordering=ordering,
                newest_first=newest_first,
                limit=limit,
                after=after,
                moment=moment,
                projections=context.projections,
                registry=context.registry,
            )
        )

    def counts(
        self,
        *,
        tag: str | None = None,
        priority: Priority | None = None,
        zone: ZoneInfo | str = "UTC",
        now: datetime | None = None,
    ) -> Plan[TaskCounts]:
        """
        Return how many tasks are open, completed, overdue, due today and due this week.

        One round trip, which reads the user's tasks.

        :param tag: only tasks that have this tag, exactly so written.
        :param priority: only tasks of this priority.
        :param zone: the user's time zone, which decides what today is.
        :param now: the moment that this goes by; None is the present.
        :raises InvalidInput: a parameter has a wrong type or is out of range.
        """
        context = self.context
        check_kind(tag, priority)
        windows = due_windows(zone, now)
        return context.retrying(
            lambda: count_tasks(context.user_id, tag=tag, priority=priority, windows=windows)
        )


class Tasks(SyncFacade[TaskQueries]):
    """A user's tasks."""

    _commands = TaskCommands

    create = sync_command(TaskCommands.create)
    update = sync_command(TaskCommands.update)
    move = sync_command(TaskCommands.move)
    complete = sync_command(TaskCommands.complete)
    reopen = sync_command(TaskCommands.reopen)
    delete = sync_command(TaskCommands.delete)
    restore = sync_command(TaskCommands.restore)
    get = sync_method(TaskQueries.get)
    list = sync_method(TaskQueries.list)
    counts = sync_method(TaskQueries.counts)


class AsyncTasks(AsyncFacade[TaskQueries]):
    """A user's tasks."""

    _commands = TaskCommands

    create = async_command(TaskCommands.create)
    update = async_command(TaskCommands.update)
    move = async_command(TaskCommands.move)
    complete = async_command(TaskCommands.complete)
    reopen = async_command(TaskCommands.reopen)
    delete = async_command(TaskCommands.delete)
    restore = async_command(TaskCommands.restore)
    get = async_method(TaskQueries.get)
    list = async_method(TaskQueries.list)
    counts = async_method(TaskQueries.counts)
