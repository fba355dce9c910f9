"""A user's tasks: create, update, complete, reopen, delete; get one, list a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.events import tasks
from eventstore.events.event import Event, checked
from eventstore.events.tasks import TaskCreated, TaskState
from eventstore.log.envelope import Expected
from eventstore.store.colour import Awaiting, Blocking, OnAsyncDriver, OnDriver
from eventstore.store.context import AsOf, UserContext, cut_at, given_id
from eventstore.store.steps import Cause, Handle
from eventstore.store.work import Work
from projections import Task
from projections.queries import TaskOrder, get_task, list_tasks
from projections.replay import Row
from projections.views import TaskView, task_view

__all__ = ["UNCHANGED", "AsyncTasks", "TaskPlans", "TaskRecorder", "Tasks", "Unchanged"]


class Unchanged:
    """The type of `UNCHANGED`: a field that an update leaves alone; None would clear it."""


UNCHANGED = Unchanged()


class TaskRecorder:
    """Task commands inside a transaction: recorded now, written when it ends."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def create(
        self, title: str, *, description: str | None = None, caused_by: Cause = None
    ) -> Handle:
        """Create a task; its id is known at once."""
        fields = {} if description is None else {"description": description}
        task_id = self._work.new_id()
        event = self._work.record(
            task_id,
            checked(TaskCreated, title=title, **fields),
            expected=Expected.NEW,
            caused_by=caused_by,
        )
        return Handle(task_id, event.event_id)

    def update(
        self,
        task: UUID | str,
        *,
        title: str | Unchanged = UNCHANGED,
        description: str | Unchanged | None = UNCHANGED,
        caused_by: Cause = None,
    ) -> Handle:
        """Change title or description; looks first, and records only what differs."""
        given = {"title": title, "description": description}
        changes = {name: value for name, value in given.items() if value is not UNCHANGED}
        return self._decide(task, lambda state: tasks.update(state, **changes), caused_by)

    def complete(self, task: UUID | str, *, caused_by: Cause = None) -> Handle:
        """Complete a task; looks first, a completed one stays as it is."""
        return self._decide(task, tasks.complete, caused_by)

    def reopen(self, task: UUID | str, *, caused_by: Cause = None) -> Handle:
        """Reopen a task; looks first, an open one stays as it is."""
        return self._decide(task, tasks.reopen, caused_by)

    def delete(self, task: UUID | str, *, caused_by: Cause = None) -> Handle:
        """Delete a task for good; looks first."""
        return self._decide(task, tasks.delete, caused_by)

    def _decide(
        self, task: UUID | str, decide: Callable[[TaskState], Event | None], caused_by: Cause
    ) -> Handle:
        return self._work.decide(
            Task, given_id(task, "task"), lambda row: decide(_state(row)), caused_by=caused_by
        )


@dataclass(frozen=True, slots=True)
class TaskPlans:
    """What can be done with a user's tasks, as plans."""

    context: UserContext

    def create(
        self,
        title: str,
        *,
        description: str | None = None,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[TaskView]:
        """
        Create a task; one round trip.

        :param title: 1 to 500 characters.
        :param description: up to 20,000 characters.
        :param caused_by: the event, or the tool call, that led to it.
        :param idempotency_key: the same key again returns the first task.
        :raises InvalidInput: a field does not fit; nothing was written.
        :raises IdempotencyConflict: the key stands for other content.
        """
        return self._one(
            idempotency_key,
            lambda record: record.create(title, description=description, caused_by=caused_by),
        )

    def update(
        self,
        task: UUID | str,
        *,
        title: str | Unchanged = UNCHANGED,
        description: str | Unchanged | None = UNCHANGED,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[TaskView]:
        """
        Change title or description; two round trips.

        :param description: None removes it; leave it out to keep it.
        :return: the task as it is now; nothing is recorded if nothing differs.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._one(
            idempotency_key,
            lambda record: record.update(
                task, title=title, description=description, caused_by=caused_by
            ),
        )

    def complete(
        self, task: UUID | str, *, caused_by: Cause = None, idempotency_key: str | None = None
    ) -> Plan[TaskView]:
        """
        Complete a task; two round trips.

        :return: the task as it is now; a completed one stays as it is.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._one(idempotency_key, lambda record: record.complete(task, caused_by=caused_by))

    def reopen(
        self, task: UUID | str, *, caused_by: Cause = None, idempotency_key: str | None = None
    ) -> Plan[TaskView]:
        """
        Reopen a completed task; two round trips.

        :return: the task as it is now; an open one stays as it is.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._one(idempotency_key, lambda record: record.reopen(task, caused_by=caused_by))

    def delete(
        self, task: UUID | str, *, caused_by: Cause = None, idempotency_key: str | None = None
    ) -> Plan[None]:
        """
        Delete a task for good; two round trips. Its events stay in the log.

        :raises NotFound: absent, deleted already or another user's.
        """
        work = Work(self.context, idempotency_key)
        TaskRecorder(work).delete(task, caused_by=caused_by)
        yield from work.commit()

    def get(self, task: UUID | str, *, as_of: AsOf = None) -> Plan[TaskView]:
        """
        Return one task; one round trip.

        :param as_of: a position or an instant: the task as it was then, replayed from the log.
        :raises NotFound: absent, deleted or another user's.
        """
        context = self.context
        task_id, cut = given_id(task, "task"), cut_at(as_of)
        return context.retrying(
            lambda: get_task(context.user_id, task_id, cut, context.projections, context.registry)
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

        :param completed: True or False for those only, None for all.
        :param order: `created`, `updated` or `title` (by code point).
        :param as_of: a position or an instant: the list as it was then, replayed from the log.
        """
        context = self.context
        cut = cut_at(as_of)
        return context.retrying(
            lambda: list_tasks(
                context.user_id,
                completed=completed,
                order=order,
                newest_first=newest_first,
                limit=limit,
                offset=offset,
                cut=cut,
                projections=context.projections,
                registry=context.registry,
            )
        )

    def _one(self, key: str | None, record: Callable[[TaskRecorder], Handle]) -> Plan[TaskView]:
        work = Work(self.context, key)
        handle = record(TaskRecorder(work))
        outcome = yield from work.commit()
        return task_view(outcome.row(Task, handle.id))


class Tasks(OnDriver[TaskPlans]):
    """A user's tasks."""

    create = Blocking(TaskPlans.create)
    update = Blocking(TaskPlans.update)
    complete = Blocking(TaskPlans.complete)
    reopen = Blocking(TaskPlans.reopen)
    delete = Blocking(TaskPlans.delete)
    get = Blocking(TaskPlans.get)
    list = Blocking(TaskPlans.list)


class AsyncTasks(OnAsyncDriver[TaskPlans]):
    """A user's tasks."""

    create = Awaiting(TaskPlans.create)
    update = Awaiting(TaskPlans.update)
    complete = Awaiting(TaskPlans.complete)
    reopen = Awaiting(TaskPlans.reopen)
    delete = Awaiting(TaskPlans.delete)
    get = Awaiting(TaskPlans.get)
    list = Awaiting(TaskPlans.list)


def _state(row: Row) -> TaskState:
    return TaskState(row["title"], row["description"], row["completed"])
