"""A user's tasks: create, update, complete, reopen, delete; get one, list a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.events import tasks
from eventstore.events.event import Event, make_event
from eventstore.events.tasks import TaskCreated, TaskState
from eventstore.log.envelope import Expected
from eventstore.store.context import AsOf, Queries, parse_id, point_in_time
from eventstore.store.decisions import Cause, state_of
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_command,
    async_method,
    sync_command,
    sync_method,
)
from eventstore.store.unit_of_work import Commands, Handle
from projections import Task
from projections.models.task import TaskView
from projections.queries.lists import TaskOrder, get_task, list_tasks

__all__ = ["UNCHANGED", "AsyncTasks", "TaskCommands", "TaskQueries", "Tasks", "Unchanged"]


class Unchanged:
    """The type of `UNCHANGED`."""


UNCHANGED = Unchanged()
"""The default of an update's fields: leave the field as it is. None would clear it."""


class TaskCommands(Commands):
    """The commands on tasks."""

    def create(
        self, title: str, *, description: str | None = None, caused_by: Cause = None
    ) -> Handle[TaskView]:
        """
        Create a task; one round trip.

        :param title: 1 to 500 characters.
        :param description: up to 20,000 characters.
        :param caused_by: the event, or the tool call, that led to it.
        :raises InvalidInput: a field does not fit; nothing was written.
        """
        fields = {} if description is None else {"description": description}
        data = make_event(TaskCreated, title=title, **fields)
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
        caused_by: Cause = None,
    ) -> Handle[TaskView]:
        """
        Change title or description; two round trips.

        :param task: its id; text is taken too, as tool arguments have it.
        :param title: 1 to 500 characters; leave it out to keep it.
        :param description: None removes it; leave it out to keep it.
        :return: the task as it is now; nothing is recorded if nothing differs.
        :raises NotFound: absent, deleted or another user's.
        :raises InvalidInput: a field does not fit; nothing was written.
        """
        given = {"title": title, "description": description}
        changes = {name: value for name, value in given.items() if value is not UNCHANGED}
        return self._decide(task, lambda state: tasks.update(state, **changes), caused_by)

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
        Delete a task for good; two round trips. Its events stay in the log.

        :raises NotFound: absent, deleted already or another user's.
        """
        deleted = self._decide(task, tasks.delete, caused_by)
        return Handle(deleted.id, deleted.event_id, lambda _: None)

    def _decide(
        self, task: UUID | str, decide: Callable[[TaskState], Event | None], caused_by: Cause
    ) -> Handle[TaskView]:
        task_id = parse_id(task, "task")
        decision = self._work.decide(
            Task, task_id, lambda row: decide(state_of(TaskState, row)), caused_by=caused_by
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
        order: TaskOrder = "created",
        newest_first: bool = False,
        limit: int = 100,
        offset: int = 0,
        as_of: AsOf = None,
    ) -> Plan[list[TaskView]]:
        """
        Return a page of tasks; one round trip.

        :param completed: True or False returns only such tasks, None returns all.
        :param order: `created`, `updated` or `title` (by code point).
        :param limit: tasks on a page.
        :param offset: tasks to skip.
        :param as_of: a position or a timestamp: the list as it was then; one more round trip for
            each thousand tasks that changed since.
        :raises InvalidInput: a parameter has a wrong type or is out of range.
        """
        context = self.context
        # Outside of the attempts: a wrong argument is refused before a connection is asked for.
        moment = point_in_time(as_of)
        return context.retrying(
            lambda: list_tasks(
                context.user_id,
                completed=completed,
                order=order,
                newest_first=newest_first,
                limit=limit,
                offset=offset,
                moment=moment,
                projections=context.projections,
                registry=context.registry,
            )
        )


class Tasks(SyncFacade[TaskQueries]):
    """A user's tasks."""

    _commands = TaskCommands

    create = sync_command(TaskCommands.create)
    update = sync_command(TaskCommands.update)
    complete = sync_command(TaskCommands.complete)
    reopen = sync_command(TaskCommands.reopen)
    delete = sync_command(TaskCommands.delete)
    get = sync_method(TaskQueries.get)
    list = sync_method(TaskQueries.list)


class AsyncTasks(AsyncFacade[TaskQueries]):
    """A user's tasks."""

    _commands = TaskCommands

    create = async_command(TaskCommands.create)
    update = async_command(TaskCommands.update)
    complete = async_command(TaskCommands.complete)
    reopen = async_command(TaskCommands.reopen)
    delete = async_command(TaskCommands.delete)
    get = async_method(TaskQueries.get)
    list = async_method(TaskQueries.list)
