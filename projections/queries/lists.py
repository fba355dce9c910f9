"""
Read tasks and conversations: one of them or a page of a list, now or as of an earlier moment.

The present is read from the tables in one round trip; see `past` for an earlier moment.
"""

from __future__ import annotations

from operator import attrgetter
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import NotFound
from eventstore.events.conversations import ConversationRestarted, ConversationStarted
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import NOW, PointInTime
from eventstore.log.paging import Cursors, Page, fetched
from eventstore.log.read import Selection, for_each_event
from projections.apply.replay import Replay
from projections.models.conversation import ACTIVITY, ConversationView
from projections.models.read_model import View
from projections.models.task import Task, TaskView
from projections.projector import Projections
from projections.queries.conversation_rows import CONVERSATION_COLUMNS
from projections.queries.past import past_conversations, past_tasks
from projections.queries.task_filters import TaskFilter, TaskOrdering, filter_sql

__all__ = [
    "DECISION_COLUMNS",
    "get_conversation",
    "get_task",
    "list_conversations",
    "list_tasks",
    "select_conversation",
    "select_conversation_to_decide_on",
    "select_task",
    "select_task_to_decide_on",
]

_TASK = (
    f"select {', '.join(TaskView.columns())} from eventstore.task"
    " where user_id = $1 and deleted_position is null"
)
# Index: conversation_pkey.
_CONVERSATION = f"""
select {CONVERSATION_COLUMNS}
from eventstore.conversation as c
where c.user_id = $1 and c.id = $2 and c.status <> 'deleted'
"""
# Only the messages of the page are counted, and so the page is found first.
#
# $3 is the newest activity when the first page was read, and $4 the place of the last conversation
# on the page before; both are null for the first page. What happened since has moved conversations
# to the front, which the caller has seen already, so each keeps the place that it had then.
# Indexes: conversation_pkey, event_stream.
_CONVERSATIONS = f"""
select {CONVERSATION_COLUMNS}, c.place
from (
    select * from (
        select *, case when activity_position <= coalesce($3, 9223372036854775807)
            then activity_position
            else (
                select e.position from eventstore.event as e
                where e.user_id = listed.user_id and e.stream_id = listed.id
                  and e.position <= $3 and e.type = any($5)
                order by e.stream_id desc, e.position desc limit 1
            ) end as place
        from eventstore.conversation as listed
        where user_id = $1 and status = any($2)
    ) as placed
    where place < coalesce($4, 9223372036854775807)
    order by place desc
    limit $6
) as c
order by c.place desc
"""
# The last message of the history. Indexes: conversation_pkey, message_conversation_position_key.
_CONVERSATION_TO_DECIDE_ON = f"""
select {CONVERSATION_COLUMNS}, c.deleted_position, (
    select m.id from eventstore.message as m
    where m.user_id = c.user_id and m.conversation_id = c.id and m.retracted_at is null
    order by m.position desc limit 1
)
from eventstore.conversation as c
where c.user_id = $1 and c.id = $2
"""

# A deleted task too, because a decision may be to restore it.
DECISION_COLUMNS = (*TaskView.columns(), "deleted_position")
_TASK_TO_DECIDE_ON = f"""
select {", ".join(DECISION_COLUMNS)} from eventstore.task
where user_id = $1 and id = $2
"""


def select_task(user_id: str, task_id: UUID) -> Statement:
    """
    Return the statement that selects one task that is not deleted.

    It selects `TaskView.columns()`. Index: `task_pkey`.
    """
    return Statement(f"{_TASK} and id = $2", (user_id, task_id))


def select_task_to_decide_on(user_id: str, task_id: UUID) -> Statement:
    """
    Return the statement that selects one task, deleted or not.

    It selects `DECISION_COLUMNS`. Index: `task_pkey`.
    """
    return Statement(_TASK_TO_DECIDE_ON, (user_id, task_id))


def select_conversation(user_id: str, conversation_id: UUID) -> Statement:
    """
    Return the statement that selects one conversation that is not deleted.

    It selects `ConversationView.columns()`. Index: `conversation_pkey`.
    """
    return Statement(_CONVERSATION, (user_id, conversation_id))


def select_conversation_to_decide_on(user_id: str, conversation_id: UUID) -> Statement:
    """
    Return the statement that selects one conversation, deleted or not.

    It selects `CONVERSATION_DECISION_COLUMNS`. Indexes: `conversation_pkey`,
    `message_conversation_position_key`.
    """
    return Statement(_CONVERSATION_TO_DECIDE_ON, (user_id, conversation_id))


def get_task(
    user_id: str,
    task_id: UUID,
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[TaskView]:
    """
    Return one task as of `moment`; one round trip unless its stream has thousands of events.

    :raises NotFound: absent, deleted or another user's.
    :raises CorruptLog: of an earlier moment: an event of the task cannot be read.
    """
    if moment == NOW:
        tasks = yield from _query(user_id, select_task(user_id, task_id), TaskView)
    else:
        wanted = Selection(stream_id=task_id, moment=moment)
        replay = Replay(projections.of(Task))
        yield from for_each_event(user_id, wanted, registry, replay.apply)
        rows = replay.rows(Task).values()
        tasks = [TaskView.from_row(row) for row in rows if row["deleted_position"] is None]
    if not tasks:
        raise NotFound("task", task_id)
    return tasks[0]


def list_tasks(
    user_id: str,
    *,
    wanted: TaskFilter,
    ordering: TaskOrdering,
    newest_first: bool,
    limit: int,
    after: str | None,
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[Page[TaskView]]:
    """
    Return a page of tasks as of `moment`.

    :param wanted: which tasks, from `task_filter`.
    :param ordering: from `task_ordering`; ties go by position.
    :param limit: tasks on the page.
    :param after: the cursor of the page; None for the first one.
    :raises InvalidInput: a parameter has a wrong type or is out of range, or the cursor is none of
        this list.
    :raises CorruptLog: of an earlier moment: an event of a task cannot be read.
    """
    most = fetched(limit)
    cursors = Cursors(
        user_id,
        ("tasks", *wanted.chosen, ordering.expression, ordering.zone, newest_first, *moment.bounds),
        (ordering.kind, int),
    )
    end = cursors.read(after)
    if moment == NOW:
        follows, by = ordering.sql(11, reverse=newest_first)
        sql = f"{_TASK} and {filter_sql(2)} and {follows} order by {by} limit $10"
        parameters = (user_id, *wanted.parameters, most, *ordering.parameters(end))
        tasks = yield from _query(user_id, Statement(sql, parameters), TaskView)
    else:
        tasks = yield from past_tasks(
            user_id,
            moment,
            wanted=wanted,
            ordering=ordering,
            reverse=newest_first,
            after=end,
            limit=most,
            projections=projections,
            registry=registry,
        )
    return cursors.page(tasks, limit, after, ordering.values, lambda task: task)


def get_conversation(
    user_id: str,
    conversation_id: UUID,
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[ConversationView]:
    """
    Return one conversation as of `moment`.

    :raises NotFound: absent, deleted or another user's.
    :raises CorruptLog: of an earlier moment: an event of the conversation cannot be read.
    """
    if moment == NOW:
        statement = select_conversation(user_id, conversation_id)
        found = yield from _query(user_id, statement, ConversationView)
    else:
        # Replaying the stream would read every message; this reads its messages as a count.
        found = yield from past_conversations(
            user_id,
            moment,
            statuses=list(_STATUS_OF.values()),
            before=None,
            limit=1,
            conversation_id=conversation_id,
            projections=projections,
            registry=registry,
        )
    if not found:
        raise NotFound("conversation", conversation_id)
    return found[0]


def list_conversations(
    user_id: str,
    *,
    archived: bool | None,
    limit: int,
    after: str | None,
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[Page[ConversationView]]:
    """
    Return a page of conversations as of `moment`, newest activity first, never deleted ones.

    :param archived: False for active ones, True for archived ones, None for both.
    :param after: the cursor of the page; None for the first one.
    :raises InvalidInput: `limit` has a wrong type or is out of range, or the cursor is none of this
        list.
    :raises CorruptLog: of an earlier moment: an event of a conversation cannot be read.
    """
    most = fetched(limit)
    statuses = ["active", "archived"] if archived is None else [_STATUS_OF[bool(archived)]]
    cursors = Cursors(user_id, ("conversations", *statuses, *moment.bounds), (int, int))
    newest, place = cursors.read(after) or (None, None)
    if moment == NOW:
        types = registry.types(*ACTIVITY, ConversationStarted, ConversationRestarted)
        parameters = (user_id, statuses, newest, place, types, most)
        (rows,) = yield Batch(user_scope(user_id), (Statement(_CONVERSATIONS, parameters),))
        found = [(ConversationView(*row[:-1]), row[-1]) for row in rows]
    else:
        past = yield from past_conversations(
            user_id,
            moment,
            statuses=statuses,
            before=place,
            limit=most,
            projections=projections,
            registry=registry,
        )
        past.sort(key=attrgetter("activity_position"), reverse=True)
        found = [(one, one.activity_position) for one in past]
    # A list is one statement, so its first page has all activity up to that of its first row.
    newest = newest or (found[0][1] if found else None)
    return cursors.page(found, limit, after, lambda one: (newest, one[1]), lambda one: one[0])


_STATUS_OF = {False: "active", True: "archived"}


def _query[V: View](user_id: str, statement: Statement, view: type[V]) -> Plan[list[V]]:
    """Run one statement that selects the columns of `view`."""
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    return [view.from_row(dict(zip(view.columns(), row, strict=True))) for row in rows]
