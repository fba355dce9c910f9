"""
Tasks and conversations as they were at an earlier moment.

What did not change since then is read from its table as it is. Of what did change the table gives
the ids, and the streams give the rest. Neither depends on how long the user's log is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import batched
from typing import Any
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.events.conversations import ConversationEvent, ConversationRewound
from eventstore.events.messages import MessageRetracted
from eventstore.events.registry import EventRegistry
from eventstore.events.tasks import TaskEvent
from eventstore.log.envelope import PointInTime
from eventstore.log.read import for_each_row
from eventstore.log.stored_event import REPLAY_COLUMNS, select_list
from projections.apply.replay import Replay
from projections.models.conversation import ACTIVITY, Conversation, ConversationView
from projections.models.task import Task, TaskView
from projections.projector import Projections
from projections.queries.conversation_rows import CONVERSATION_COLUMNS, PAST_MESSAGE_COUNTS
from projections.queries.moments import moment_position
from projections.queries.task_filters import TaskFilter, TaskOrdering, filter_sql

__all__ = ["past_conversations", "past_tasks"]


# Streams whose events are read in one round trip, because all their events are held at once.
_STREAMS_AT_ONCE = 1_000

# $2 and $3 are the moment; each of them is null where it bounds nothing.
_EXISTED = f"user_id = $1 and position <= {moment_position(2, 3)}"
_UNCHANGED = f"last_position <= {moment_position(2, 3)}"

_TASK_COLUMNS = TaskView.columns()
# Index: task_pkey.
_UNCHANGED_TASKS = f"""
select {", ".join(_TASK_COLUMNS)} from eventstore.task
where {_EXISTED} and {_UNCHANGED} and deleted_position is null and {filter_sql(4)}
"""
# Index: conversation_pkey.
_UNCHANGED_CONVERSATIONS = f"""
select {CONVERSATION_COLUMNS}
from (
    select * from eventstore.conversation
    where {_EXISTED} and {_UNCHANGED} and status = any($4)
      and activity_position < coalesce($5, 9223372036854775807) and id = coalesce($6, id)
    order by activity_position desc limit $7
) as c
"""

# PostgreSQL compares what tasks said then as it compares what they say now.
_SAY = """
select number from unnest($1::text[]) with ordinality as said (text, number)
where text ~ all($2::text[])
"""

# $2 and $3 are the moment, $4 the streams and $5 the types. Index: event_stream.
_OF_STREAMS = """
from eventstore.event
where user_id = $1 and stream_id = any($4) and type = any($5)
  and position <= coalesce($2, 9223372036854775807)
  and recorded_at <= coalesce($3, 'infinity'::timestamptz)
"""
_EVENTS = f"select {select_list(REPLAY_COLUMNS)} {_OF_STREAMS} order by position"
_TIMES = "array_agg(coalesce(occurred_at, recorded_at) order by position desc)"
_ACTIVITY = f"""
select stream_id, max(position), ({_TIMES})[1],
       max(position) filter (where type = any($6)), ({_TIMES} filter (where type = any($6)))[1]
{_OF_STREAMS} group by stream_id
"""


def past_tasks(
    user_id: str,
    moment: PointInTime,
    *,
    wanted: TaskFilter,
    ordering: TaskOrdering,
    reverse: bool,
    after: tuple[Any, ...] | None,
    limit: int,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[TaskView]]:
    """
    Return tasks as of `moment`, in order.

    One round trip, and one more for each thousand tasks that changed since, or two for a search.

    :param wanted: which tasks.
    :param reverse: the last ones of `ordering` first.
    :param after: only tasks behind these values of a cursor; None from the beginning.
    :param limit: of the unchanged tasks, so many of the first.
    :raises CorruptLog: an event of a task that changed since cannot be read.
    """
    # Unchanged rows are read first: a row that changes between the two statements is then in both
    # answers, and its replay wins. The other way round it would be in neither.
    at = (user_id, *moment.bounds)
    follows, by = ordering.sql(13, reverse=reverse)
    sql = f"{_UNCHANGED_TASKS} and {follows} order by {by} limit $12"
    parameters = (*at, *wanted.parameters, limit, *ordering.parameters(after))
    unchanged, changed = yield Batch(
        user_scope(user_id), (Statement(sql, parameters), _changed("task", at))
    )
    tasks = {
        row[0]: TaskView.from_row(dict(zip(_TASK_COLUMNS, row, strict=True))) for row in unchanged
    }
    types = registry.types_in(TaskEvent.stream_kind)
    for ids in batched([row[0] for row in changed], _STREAMS_AT_ONCE, strict=False):
        statement = Statement(_EVENTS, (*at, list(ids), types))
        (events,) = yield Batch(user_scope(user_id), (statement,))
        replay = Replay(projections.of(Task))
        yield from for_each_row(user_id, events, registry, replay.apply)
        rows = replay.rows(Task).values()
        views = [TaskView.from_row(row) for row in rows if row["deleted_position"] is None]
        views = list(filter(wanted.accepts, views))
        if wanted.patterns is not None and views:
            says = ["\n".join(filter(None, (one.title, one.description))) for one in views]
            statement = Statement(_SAY, (says, wanted.patterns))
            (matches,) = yield Batch(user_scope(user_id), (statement,))
            views = [views[number - 1] for (number,) in matches]
        tasks.update((view.id, view) for view in views)
    return ordering.sorted(tasks.values(), after, reverse=reverse)


def past_conversations(
    user_id: str,
    moment: PointInTime,
    *,
    statuses: Sequence[str],
    before: int | None,
    limit: int,
    projections: Projections,
    registry: EventRegistry,
    conversation_id: UUID | None = None,
) -> Plan[list[ConversationView]]:
    """
    Return conversations as of `moment`, in no order.

    One round trip, and one more for each thousand conversations that changed since.

    :param statuses: `active`, `archived` or both.
    :param before: only those whose `activity_position` was less.
    :param limit: of the unchanged conversations, so many of the newest.
    :param conversation_id: only this one.
    :raises CorruptLog: an event of a conversation that changed since cannot be read.
    """
    at = (user_id, *moment.bounds)
    wanted = (*at, list(statuses), before, conversation_id, limit)
    unchanged, changed = yield Batch(
        user_scope(user_id),
        (
            Statement(_UNCHANGED_CONVERSATIONS, wanted),
            _changed("conversation", at, conversation_id),
        ),
    )
    found = {row[0]: ConversationView(*row) for row in unchanged}
    types = registry.types(ConversationEvent)
    active = registry.types(*ACTIVITY)
    # Messages and calls are most of a stream, and only their number and place matter here, so SQL
    # finds these and their payloads are never read.
    state = sorted({*types} - {*active, MessageRetracted.type, ConversationRewound.type})
    for ids in batched([row[0] for row in changed], _STREAMS_AT_ONCE, strict=False):
        streams = (*at, list(ids))
        events, activity, counts = yield Batch(
            user_scope(user_id),
            (
                Statement(_EVENTS, (*streams, state)),
                Statement(_ACTIVITY, (*streams, types, active)),
                Statement(PAST_MESSAGE_COUNTS, streams),
            ),
        )
        message_counts = dict(counts)
        replay = Replay(projections.of(Conversation))
        yield from for_each_row(user_id, events, registry, replay.apply)
        rows = replay.rows(Conversation)
        for stream_id, last_position, updated_at, active_position, active_at in activity:
            row = rows.get((stream_id,))
            # A deleted conversation, or one that had not begun, is not there.
            if row is None or row["status"] not in statuses:
                continue
            row["last_position"], row["updated_at"] = last_position, updated_at
            # A start is activity too, and a new start comes after all that was said before.
            if active_position is not None and active_position > row["activity_position"]:
                row["activity_position"], row["last_activity_at"] = active_position, active_at
            if before is None or row["activity_position"] < before:
                row["message_count"] = message_counts.get(stream_id, 0)
                found[stream_id] = ConversationView.from_row(row)
    return list(found.values())


def _changed(table: str, at: tuple[Any, ...], row_id: UUID | None = None) -> Statement:
    """Return the statement that selects the ids of rows that existed and have changed since."""
    # A conversation that began anew may have been there before: its stream tells.
    existed = f"({_EXISTED})"
    if table == "conversation":
        existed = f"({_EXISTED} or user_id = $1 and restored_position is not null)"
    return Statement(
        f"select id from eventstore.{table}\n"
        f"where {existed} and not ({_UNCHANGED}) and id = coalesce($4, id)",
        (*at, row_id),
    )
