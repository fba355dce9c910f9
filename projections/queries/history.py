"""
The history of one conversation, from the read model or from the log: the same answer.

From the read model a page is one round trip along `message_conversation_position_key`. From the
log the conversation's stream is read, which also works where the read model is not trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.fields import check_number
from eventstore.events.json_codec import loads
from eventstore.events.messages import MessagePosted, MessageRetracted
from eventstore.events.registry import EventRegistry
from eventstore.events.tool_calls import ToolCallEvent, ToolCallOutcome
from eventstore.log.envelope import PointInTime, RecordedEvent
from eventstore.log.read import Selection, read_all_events
from projections.apply.replay import Replay
from projections.models.conversation import Conversation
from projections.models.message import MessageView, full_body, posted_view
from projections.models.tool_call import ToolCall, ToolCallView
from projections.projector import Projections
from projections.queries.tool_calls import TOOL_CALL_COLUMNS, tool_call_view

__all__ = [
    "CONVERSATION",
    "MESSAGE_COLUMNS",
    "Source",
    "by_message",
    "history",
    "messages_of_page",
    "page_statements",
]

type Source = Literal["projection", "events"]

CONVERSATION = """
select position, created_at, deleted_position, deleted_at
from eventstore.conversation
where user_id = $1 and id = $2
"""

MESSAGE_COLUMNS = "id, position, sender, content, body::text, created_at, correlation_id"
"""The select list of `message`, to be read by `messages_of_page`."""

# $3 is `before`; $4 and $5 are the moment; each of them is null where it bounds nothing.
_PAGE = """
from eventstore.message
where user_id = $1
  and conversation_id = $2
  and position < coalesce($3, 9223372036854775807)
  and position <= coalesce($4, 9223372036854775807)
  and created_at <= coalesce($5, 'infinity'::timestamptz)
  and (retracted_at is null
       or retracted_position > coalesce($4, 9223372036854775807)
       or retracted_at > coalesce($5, 'infinity'::timestamptz))
order by position desc
limit $6
"""
# Index: message_conversation_position_key.
_MESSAGES = f"""
select {MESSAGE_COLUMNS}
{_PAGE}"""
# Index: tool_call_message.
_TOOL_CALLS = f"""
select {TOOL_CALL_COLUMNS}
from eventstore.tool_call as t
where t.user_id = $1
  and t.conversation_id = $2
  and t.message_id in (
    select page.id from (select id, tool_call_count {_PAGE}) as page
    where page.tool_call_count > 0)
order by t.index, t.position
"""


def history(
    user_id: str,
    conversation: UUID,
    *,
    source: Source,
    moment: PointInTime,
    before: int | None,
    limit: int | None,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[MessageView]]:
    """
    Return the newest `limit` messages before position `before`, oldest first, as of `moment`.

    From the tables one round trip, along `message_conversation_position_key`.

    :param source: `projection` reads the tables, `events` the conversation's stream.
    :param before: the position of the oldest message that the caller has; None for the newest page.
    :param limit: messages at most; None for all.
    :raises InvalidInput: `limit`, `before` or `source` has a wrong type or value.
    :raises CorruptLog: from the log: an event cannot be read.
    :raises NotFound: the conversation is absent, deleted or another user's, as of `moment`.
    """
    for value, name in ((limit, "limit"), (before, "before")):
        if value is not None:
            check_number(value, name)
    match source:
        case "projection":
            return (yield from _from_tables(user_id, conversation, moment, before, limit))
        case "events":
            messages = yield from _from_log(user_id, conversation, moment, projections, registry)
            earlier = [one for one in messages if before is None or one.position < before]
            return earlier if limit is None else earlier[max(0, len(earlier) - limit) :]
        case _:
            raise InvalidInput("source", f"{source!r}; give 'projection' or 'events'")


def _from_tables(
    user_id: str,
    conversation: UUID,
    moment: PointInTime,
    before: int | None,
    limit: int | None,
) -> Plan[list[MessageView]]:
    # Asking first whether the conversation exists would be a round trip of its own.
    statements = page_statements(user_id, conversation, moment, before, limit)
    answers = yield Batch(user_scope(user_id), statements)
    return messages_of_page(conversation, moment, answers)


def page_statements(
    user_id: str, conversation: UUID, moment: PointInTime, before: int | None, limit: int | None
) -> tuple[Statement, ...]:
    """
    Return the three statements that read a page of a history, for `messages_of_page`.

    :param before: as in `history`, and `limit` as well.
    """
    page = (user_id, conversation, before, moment.position, moment.timestamp, limit)
    return (
        Statement(CONVERSATION, (user_id, conversation)),
        Statement(_MESSAGES, page),
        Statement(_TOOL_CALLS, page),
    )


def messages_of_page(
    conversation: UUID, moment: PointInTime, answers: Sequence[Rows]
) -> list[MessageView]:
    """
    Return the messages of a page, oldest first.

    :param answers: the rows of each of the `page_statements`, or of others that select the same:
        messages, newest first, and their calls.
    :raises NotFound: the conversation is absent, deleted or another user's, as of `moment`.
    """
    found, rows, call_rows = answers
    if not found or not _existed(found[0], moment):
        raise NotFound("conversation", conversation)
    calls = by_message(map(tool_call_view, call_rows), moment)
    messages = []
    for message_id, position, sender, content, stored, created_at, correlation_id in reversed(rows):
        body = full_body(None if stored is None else loads(stored), sender, content)
        messages.append(
            MessageView(
                message_id,
                conversation,
                position,
                sender,
                body.get("content"),
                body,
                calls.get(message_id, ()) if calls else (),
                created_at,
                correlation_id,
            )
        )
    return messages


def by_message(
    calls: Iterable[ToolCallView], moment: PointInTime
) -> dict[UUID, tuple[ToolCallView, ...]]:
    """Return calls as they were at a moment, by their message, in their order."""
    found: dict[UUID, tuple[ToolCallView, ...]] = {}
    for call in calls:
        if call.message_id is not None and moment.includes(call.position, call.requested_at):
            found[call.message_id] = (*found.get(call.message_id, ()), call.as_of(moment))
    return found


def _from_log(
    user_id: str,
    conversation: UUID,
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[MessageView]]:
    """Return the messages of a conversation from its events: those posted and not retracted."""
    posted: list[RecordedEvent] = []
    retracted: set[UUID] = set()
    calls, rest = Replay(projections.of(ToolCall)), Replay(projections.of(Conversation))
    wanted = Selection(stream_id=conversation, moment=moment)
    for event in (yield from read_all_events(user_id, wanted, registry)):
        data = event.data
        if isinstance(data, MessagePosted):
            posted.append(event)
            calls.apply(event)  # it may answer a call
        elif isinstance(data, ToolCallEvent):
            calls.apply(event)
            if isinstance(data, ToolCallOutcome) and data.reply is not None:
                posted.append(event)
        elif isinstance(data, MessageRetracted):
            retracted.add(data.message_id)
        else:
            rest.apply(event)
    row = rest.rows(Conversation).get((conversation,))
    if row is None or row["deleted_position"] is not None:
        raise NotFound("conversation", conversation)
    if retracted:
        # A retraction may name a message of another conversation, and then removes nothing here.
        posted = [event for event in posted if event.event_id not in retracted]
    views = map(ToolCallView.from_row, calls.rows(ToolCall).values())
    shown = by_message(sorted(views, key=attrgetter("index", "position")), moment)
    return [posted_view(event, shown.get(event.event_id, ()) if shown else ()) for event in posted]


def _existed(row: tuple[Any, ...], moment: PointInTime) -> bool:
    position, created_at, deleted_position, deleted_at = row
    deleted = deleted_position is not None and moment.includes(deleted_position, deleted_at)
    return moment.includes(position, created_at) and not deleted
