"""
The history of one conversation, from the read model or from the log: the same answer.

From the read model a page is one round trip along `message_conversation_position_key`. As of an
earlier moment there is a second one if a message of the page was edited since, or the conversation
restored: the tables have what is now, and the log what was. From the log the conversation's stream
is read, which also works where the read model is not trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args
from uuid import UUID

from eventstore.database.plan import (
    Batch,
    Plan,
    Rows,
    Statement,
)
from eventstore.database.scope import user_scope
from eventstore.errors import NotFound
from eventstore.events.conversations import (
    ConversationDeleted,
    ConversationRestarted,
    ConversationRestored,
    ConversationStarted,
)
from eventstore.events.fields import check_choice, check_number
from eventstore.events.items import read_item
from eventstore.events.json_codec import loads
from eventstore.events.messages import MessageEdited
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import NOW, PointInTime
from eventstore.log.paging import Cursors, Page, fetched
from eventstore.log.stored_event import REPLAY_COLUMNS, recorded_event, select_list
from projections.models.message import MessageView, full_body, with_calls
from projections.models.tool_call import ToolCallView
from projections.projector import Projections
from projections.queries.history_from_log import ShownMessages, history_from_log
from projections.queries.moments import moment_position
from projections.queries.tool_calls import (
    CallsByMessage,
    by_message,
    calls_of_messages,
    tool_call_view,
)

__all__ = [
    "MESSAGE_COLUMNS",
    "Source",
    "get_answer",
    "history",
    "history_page",
    "items_page",
    "message_view",
    "messages_of_page",
    "page_statements",
    "read_page",
    "require_conversation",
    "select_existence",
]

type Source = Literal["projection", "events"]

# $3 and $4 are the moment. Index: conversation_pkey.
_EXISTENCE = f"""
select position, deleted_position, restored_position, {moment_position(3, 4)}
from eventstore.conversation
where user_id = $1 and id = $2
"""

MESSAGE_COLUMNS = (
    "id, position, sender, content, body::text, created_at, correlation_id, edited_position,"
    " edited_at"
)
"""The select list of `message`, to be read by `messages_of_page`."""

# $3 is `before`; $4 and $5 are the moment; each of them is null where it bounds nothing.
_PAGE = f"""
from eventstore.message
where user_id = $1
  and conversation_id = $2
  and position < coalesce($3, 9223372036854775807)
  and position <= {moment_position(4, 5)}
  and (retracted_position is null or retracted_position > {moment_position(4, 5)})
order by position desc
limit $6
"""
# Index: message_conversation_position_key.
_MESSAGES = f"""
select {MESSAGE_COLUMNS}
{_PAGE}"""
# Index: message_conversation_position_key.
_ITEMS = f"""
select sender, content, body::text
{_PAGE}"""
# Index: message_conversation_position_key.
_MESSAGE = f"""
select {MESSAGE_COLUMNS}, retracted_at is not null
from eventstore.message
where user_id = $1 and conversation_id = $2 and position = $3
"""
_TOOL_CALLS = calls_of_messages(f"""
    select page.id from (select id, tool_call_count, edited_position {_PAGE}) as page
    where page.tool_call_count > 0 or page.edited_position is not null
""")
# What the messages at the positions $4 said at the moment of position $5. Index: event_stream.
_VERSIONS = f"""
select {select_list(REPLAY_COLUMNS)}
from eventstore.event
where user_id = $1
  and stream_id = $2
  and position >= $3
  and (position = any($4) or type = '{MessageEdited.type}')
  and position <= $5
order by stream_id, position
"""
# Whether a conversation was there at a moment, if it was deleted and restored since: the newest of
# the events that decide it. Index: event_stream.
_LAST_CHANGE = f"""
select type
from eventstore.event
where user_id = $1
  and stream_id = $2
  and type in ('{ConversationStarted.type}', '{ConversationDeleted.type}',
               '{ConversationRestored.type}', '{ConversationRestarted.type}')
  and position <= $3
order by stream_id desc, position desc
limit 1
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

    From the tables one round trip, along `message_conversation_position_key`; a second one as of a
    moment before a message of the page was edited, or the conversation restored.

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
    check_choice(source, "source", get_args(Source.__value__))
    if source == "projection":
        page = page_statements(user_id, conversation, moment, before, limit)
        return (yield from read_page(user_id, conversation, moment, page, registry))
    page_of_log = history_from_log(
        user_id, conversation, moment, projections, registry, before, limit
    )
    return (yield from page_of_log)


def history_page(
    user_id: str,
    conversation: UUID,
    *,
    source: Source,
    moment: PointInTime,
    after: str | None,
    limit: int | None,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[Page[MessageView]]:
    """
    Return the page of a history that `after` names, as `history` does.

    :param after: the cursor of the page: `next` of one with newer messages, or None for the newest.
    :param limit: messages at most; None for all.
    :raises InvalidInput: as in `history`, or the cursor is none of this conversation and moment.
    """
    most = None if limit is None else fetched(limit)
    cursors = Cursors(user_id, ("messages", conversation, *moment.bounds), (int,))
    (before,) = cursors.read(after) or (None,)
    messages = yield from history(
        user_id,
        conversation,
        source=source,
        moment=moment,
        before=before,
        limit=most,
        projections=projections,
        registry=registry,
    )
    if limit is None:
        return Page(messages)
    newest_first = messages[::-1]
    page = cursors.page(newest_first, limit, after, lambda one: (one.position,), lambda one: one)
    page.reverse()
    return page


def items_page(user_id: str, conversation: UUID, limit: int | None) -> Plan[list[dict[str, Any]]]:
    """
    Return the bodies of the newest `limit` messages, oldest first; one round trip.

    :raises NotFound: the conversation is absent, deleted or another user's.
    """
    if limit is not None:
        check_number(limit, "limit")
    statements = (
        select_existence(user_id, conversation, NOW),
        Statement(_ITEMS, (user_id, conversation, None, *NOW.bounds, limit)),
    )
    found, rows = yield Batch(user_scope(user_id), statements, planned_once=True)
    require_conversation(conversation, found)
    return [
        full_body(None if stored is None else loads(stored), sender, content)
        for sender, content, stored in reversed(rows)
    ]


def get_answer(user_id: str, call: ToolCallView) -> Plan[MessageView | None]:
    """
    Return the message that ended a call, as it is now; one round trip.

    Index: `message_conversation_position_key`.

    :return: None if the call has ended without one.
    :raises NotFound: the message was taken away.
    """
    page = (user_id, call.conversation_id, call.finished_position)
    (rows,) = yield Batch(user_scope(user_id), (Statement(_MESSAGE, page),))
    for *row, withdrawn in rows:
        if withdrawn:
            raise NotFound("answer to the tool call", call.id)
        return message_view(call.conversation_id, tuple(row), {})
    return None


def page_statements(
    user_id: str, conversation: UUID, moment: PointInTime, before: int | None, limit: int | None
) -> tuple[Statement, ...]:
    """
    Return the three statements that read a page of a history, for `messages_of_page`.

    :param before: as in `history`, and `limit` as well.
    """
    page = (user_id, conversation, before, *moment.bounds, limit)
    # Asking first whether the conversation exists would be a round trip of its own.
    return (
        select_existence(user_id, conversation, moment),
        Statement(_MESSAGES, page),
        Statement(_TOOL_CALLS, page),
    )


def select_existence(user_id: str, conversation: UUID, moment: PointInTime) -> Statement:
    """
    Return the statement that tells whether a conversation was there, for `require_conversation`.

    It selects where the conversation began, was deleted and was restored, and the last position of
    the moment. Index: `conversation_pkey`.
    """
    return Statement(_EXISTENCE, (user_id, conversation, *moment.bounds))


def require_conversation(conversation: UUID, rows: Rows) -> None:
    """
    Refuse a conversation that was not there; of one that was restored since, the log knows.

    :param rows: those of `select_existence`.
    :raises NotFound: absent, deleted or another user's, as of the moment.
    """
    for position, deleted_position, restored_position, last in rows:
        if restored_position is not None and restored_position > last:
            return
        if position <= last and (deleted_position is None or deleted_position > last):
            return
    raise NotFound("conversation", conversation)


def messages_of_page(
    conversation: UUID, moment: PointInTime, answers: Sequence[Rows]
) -> list[MessageView]:
    """
    Return the messages of a page, oldest first; an edited one says what it says now.

    :param answers: the rows of each of the `page_statements`, or of others that select the same:
        messages, newest first, and their calls.
    :raises NotFound: the conversation is absent, deleted or another user's, as of `moment`.
    """
    found, rows, call_rows = answers
    require_conversation(conversation, found)
    if moment == NOW:
        last = None
    else:
        last = found[0][-1]
        # A moment by time may not be over: what came between the statements is behind it for all.
        rows = [row for row in rows if row[1] <= last]
    calls = by_message(map(tool_call_view, call_rows), last)
    return [message_view(conversation, row, calls) for row in reversed(rows)]


def message_view(conversation: UUID, row: tuple[Any, ...], calls: CallsByMessage) -> MessageView:
    """
    Return the view of a row of `message`, as it is now.

    :param row: selected with `MESSAGE_COLUMNS`.
    :param calls: by message, those of this one among them.
    """
    message_id, position, sender, content, stored, created_at, correlation_id, *edited = row
    edited_position, edited_at = edited
    body = full_body(None if stored is None else loads(stored), sender, content)
    requested = calls.get(message_id, ()) if calls else ()
    if edited_position is not None and requested and not read_item(body).calls:
        requested = ()  # as in `posted_view`, for an edit that took the calls away
    return MessageView(
        message_id,
        conversation,
        position,
        sender,
        body.get("content"),
        body,
        requested,
        created_at,
        correlation_id,
        edited_at,
    )


def read_page(
    user_id: str,
    conversation: UUID,
    moment: PointInTime,
    statements: Sequence[Statement],
    registry: EventRegistry,
) -> Plan[list[MessageView]]:
    """
    Return the messages of a page, oldest first, as they were at a moment.

    One round trip; a second one if a message was edited since, or the conversation restored.

    :param statements: `page_statements`, or others that select the same.
    :raises NotFound: the conversation is absent, deleted or another user's, as of `moment`.
    :raises CorruptLog: an event of an edited message cannot be read.
    """
    answers = yield Batch(user_scope(user_id), tuple(statements), planned_once=True)
    messages = messages_of_page(conversation, moment, answers)
    found, rows, call_rows = answers
    _, _, restored_position, last = found[0]
    edited = {
        position
        for _, position, *_, edited_position, _ in rows
        if edited_position is not None and edited_position > last
    }
    restored = restored_position is not None and restored_position > last
    if not edited and not restored:
        return messages
    # Each of the two reads much of the stream, so only what is needed is asked for.
    earlier = []
    if restored:
        earlier.append(Statement(_LAST_CHANGE, (user_id, conversation, last)))
    if edited:
        wanted = (user_id, conversation, min(edited), [*edited], last)
        earlier.append(Statement(_VERSIONS, wanted))
    results = yield Batch(user_scope(user_id), tuple(earlier))
    if restored:
        (last_change,) = results.pop(0) or [(ConversationDeleted.type,)]
        if last_change == (ConversationDeleted.type,):
            raise NotFound("conversation", conversation)
    if not edited:
        return messages
    (versions,) = results
    calls = by_message(map(tool_call_view, call_rows), last)
    shown = ShownMessages()
    for row in versions:
        shown.apply(recorded_event(user_id, row, registry))
    then = {one.id: with_calls(one, calls.get(one.id, ())) for one in shown.page(None, None)}
    # Of a message that was erased since, the log says nothing any more.
    return [
        then.get(one.id, one) if one.position in edited else one
        for one in messages
        if one.position not in edited or one.id in then
    ]
