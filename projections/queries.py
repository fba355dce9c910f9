"""
Look at tasks and conversations: one, or a page of them; now, or as of an earlier moment.

Now is read from the tables, one round trip. An earlier moment is replayed from the log: the
tables hold only what stands now. A user's rows are few enough to be ordered without an index.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events import tasks
from eventstore.events.limits import check_number
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import NOW, Cut
from eventstore.log.read import Selection, every_page
from projections.projector import Projections
from projections.replay import Replay, Row
from projections.tables import Conversation, Task
from projections.views import ConversationView, TaskView, conversation_view, task_view

__all__ = [
    "CONVERSATION_COLUMNS",
    "MESSAGE_COLUMNS",
    "TASK_COLUMNS",
    "TaskOrder",
    "get_conversation",
    "get_task",
    "list_conversations",
    "list_tasks",
    "select_conversation",
    "select_message",
    "select_task",
]

type TaskOrder = Literal["created", "updated", "title"]

TASK_COLUMNS = (
    "id", "title", "description", "completed", "created_at", "updated_at", "completed_at",
    "position",
)  # fmt: skip
CONVERSATION_COLUMNS = (
    "id", "key", "title", "status", "created_at", "updated_at", "position", "last_position",
    "message_count",
)  # fmt: skip

MESSAGE_COLUMNS = ("id", "conversation_id", "retracted_at")

_TASK = f"select {', '.join(TASK_COLUMNS)} from eventstore.task where user_id = $1"
_CONVERSATION = (
    f"select {', '.join(CONVERSATION_COLUMNS)} from eventstore.conversation where user_id = $1"
)

# Collation "C" orders by code point, as Python does, so that both sources agree.
_TASK_ORDERS: dict[str, str] = {
    "created": "position",
    "updated": "updated_at, position",
    "title": 'title collate "C", position',
}


def select_task(user_id: str, task_id: UUID) -> Statement:
    """Return the statement for one task's `TASK_COLUMNS`. Index: the primary key."""
    return Statement(f"{_TASK} and id = $2", (user_id, task_id))


def select_conversation(user_id: str, conversation_id: UUID) -> Statement:
    """Return the statement for one conversation that is not deleted."""
    return Statement(
        f"{_CONVERSATION} and id = $2 and status <> 'deleted'", (user_id, conversation_id)
    )


def select_message(user_id: str, message_id: UUID) -> Statement:
    """Return the statement for what a decision about one message needs: `MESSAGE_COLUMNS`."""
    return Statement(
        f"select {', '.join(MESSAGE_COLUMNS)} from eventstore.message"
        " where user_id = $1 and id = $2",
        (user_id, message_id),
    )


def get_task(
    user_id: str, task_id: UUID, cut: Cut, projections: Projections, registry: EventRegistry
) -> Plan[TaskView]:
    """Return one task. :raises NotFound: absent, deleted or another user's, as of `cut`."""
    rows: list[Row]
    if cut == NOW:
        (found,) = yield Batch(user_scope(user_id), (select_task(user_id, task_id),))
        rows = [dict(zip(TASK_COLUMNS, row, strict=True)) for row in found]
    else:
        replay = yield from _replayed(
            user_id, Selection(stream_id=task_id, cut=cut), projections.of(Task), registry
        )
        rows = list(replay.rows(Task).values())
    if not rows:
        raise NotFound("task", task_id)
    return task_view(rows[0])


def list_tasks(
    user_id: str,
    *,
    completed: bool | None,
    order: TaskOrder,
    newest_first: bool,
    limit: int,
    offset: int,
    cut: Cut,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[TaskView]]:
    """Return a page of tasks; `completed=None` for all."""
    check_number(limit, "limit")
    check_number(offset, "offset")
    if not isinstance(completed, bool | None):
        raise InvalidInput("completed", f"a {type(completed).__name__}; give True, False or None")
    if not isinstance(order, str) or order not in _TASK_ORDERS:
        raise InvalidInput("order", f"{order!r}; give one of {', '.join(_TASK_ORDERS)}")
    if cut == NOW:
        direction = " desc" if newest_first else ""
        by = ", ".join(part + direction for part in _TASK_ORDERS[order].split(", "))
        sql = f"{_TASK} and completed = coalesce($2, completed) order by {by} limit $3 offset $4"
        (found,) = yield Batch(
            user_scope(user_id), (Statement(sql, (user_id, completed, limit, offset)),)
        )
        return [task_view(dict(zip(TASK_COLUMNS, row, strict=True))) for row in found]
    types = [kind.type for kind in vars(tasks).values() if _is_task_event(kind)]
    replay = yield from _replayed(
        user_id, Selection(types=types, cut=cut), projections.of(Task), registry
    )
    every = [task_view(row) for row in replay.rows(Task).values()]
    wanted = [task for task in every if completed is None or task.completed == completed]
    wanted.sort(key=_SORT_KEYS[order], reverse=newest_first)
    return wanted[offset : offset + limit]


_SORT_KEYS: dict[str, Callable[[TaskView], Any]] = {
    "created": attrgetter("position"),
    "updated": attrgetter("updated_at", "position"),
    "title": attrgetter("title", "position"),
}


def get_conversation(
    user_id: str,
    conversation_id: UUID,
    cut: Cut,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[ConversationView]:
    """Return one conversation. :raises NotFound: absent, deleted or another user's."""
    rows: list[Row]
    if cut == NOW:
        (found,) = yield Batch(
            user_scope(user_id), (select_conversation(user_id, conversation_id),)
        )
        rows = [dict(zip(CONVERSATION_COLUMNS, row, strict=True)) for row in found]
    else:
        replay = yield from _replayed(
            user_id,
            Selection(stream_id=conversation_id, cut=cut),
            projections.of(Conversation),
            registry,
        )
        rows = [row for row in replay.rows(Conversation).values() if row["status"] != "deleted"]
    if not rows:
        raise NotFound("conversation", conversation_id)
    return conversation_view(rows[0])


def list_conversations(
    user_id: str,
    *,
    archived: bool | None,
    limit: int,
    before: int | None,
    cut: Cut,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[ConversationView]]:
    """
    Return a page of conversations, newest activity first; deleted ones are never among them.

    :param archived: False for active ones, True for archived ones, None for both.
    :param before: the `last_position` of the page before.
    """
    check_number(limit, "limit")
    if before is not None:
        check_number(before, "before")
    wanted = ["active", "archived"] if archived is None else ["archived" if archived else "active"]
    if cut == NOW:
        sql = (
            f"{_CONVERSATION} and status = any($2)"
            " and last_position < coalesce($3, 9223372036854775807)"
            " order by last_position desc limit $4"
        )
        (found,) = yield Batch(
            user_scope(user_id), (Statement(sql, (user_id, wanted, before, limit)),)
        )
        return [
            conversation_view(dict(zip(CONVERSATION_COLUMNS, row, strict=True))) for row in found
        ]
    replay = yield from _replayed(
        user_id, Selection(cut=cut), projections.of(Conversation), registry
    )
    every = [
        conversation_view(row)
        for row in replay.rows(Conversation).values()
        if row["status"] in wanted and (before is None or row["last_position"] < before)
    ]
    return sorted(every, key=attrgetter("last_position"), reverse=True)[:limit]


def _replayed(
    user_id: str, wanted: Selection, projections: Projections, registry: EventRegistry
) -> Plan[Replay]:
    replay = Replay(projections)
    replay.see((yield from every_page(user_id, wanted, registry)))
    return replay


def _is_task_event(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, tasks.TaskEvent) and bool(kind.type)
