"""How many tasks and conversations a user has; each is one statement over the user's own rows."""

from __future__ import annotations

from dataclasses import dataclass

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from projections.queries.task_filters import DueWindow

__all__ = ["ConversationCounts", "TaskCounts", "count_conversations", "count_tasks"]


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """
    How many tasks a user has, deleted ones aside.

    :ivar overdue: of the open ones, those that were due before now.
    :ivar due_today: of the open ones, those that are due at any time of today, overdue or not.
    :ivar due_this_week: of the open ones, those that are due from Monday to Sunday of this week.
    """

    open: int
    completed: int
    overdue: int
    due_today: int
    due_this_week: int


@dataclass(frozen=True, slots=True)
class ConversationCounts:
    """How many conversations a user has, deleted ones aside."""

    active: int
    archived: int


def _due(first: int) -> str:
    day, next_day, start, end = (f"${first + number}" for number in range(4))
    return f"""count(*) filter (where not completed and (
        (due_on >= {day}::date and due_on < {next_day}::date)
        or (due_at >= {start}::timestamptz and due_at < {end}::timestamptz)))"""


# Index: the user's part of task_pkey.
_TASKS = f"""
select
    count(*) filter (where not completed),
    count(*) filter (where completed),
    {_due(4)},
    {_due(8)},
    {_due(12)}
from eventstore.task
where user_id = $1
  and deleted_position is null
  and ($2::text is null or $2 = any(tags))
  and priority = coalesce($3, priority)
"""
# Index: the user's part of conversation_pkey.
_CONVERSATIONS = """
select count(*) filter (where status = 'active'), count(*) filter (where status = 'archived')
from eventstore.conversation
where user_id = $1
"""


def count_tasks(
    user_id: str,
    *,
    tag: str | None,
    priority: str | None,
    windows: tuple[DueWindow, DueWindow, DueWindow],
) -> Plan[TaskCounts]:
    """
    Return how many tasks there are; one round trip.

    :param tag: only tasks with this tag; None for all, and `priority` likewise.
    :param windows: when a task is overdue, due today, and due this week.
    """
    bounds = [bound for window in windows for bound in window.parameters]
    statement = Statement(_TASKS, (user_id, tag, priority, *bounds))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    return TaskCounts(*rows[0])


def count_conversations(user_id: str) -> Plan[ConversationCounts]:
    """Return how many conversations there are; one round trip."""
    (rows,) = yield Batch(user_scope(user_id), (Statement(_CONVERSATIONS, (user_id,)),))
    return ConversationCounts(*rows[0])
