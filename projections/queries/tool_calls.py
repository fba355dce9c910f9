"""Find tool calls in the read model, now or as of an earlier moment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.fields import storable_label
from eventstore.events.json_codec import loads
from eventstore.log.paging import Cursors, Page, fetched
from projections.models.tool_call import ToolCallStatus, ToolCallView

__all__ = [
    "ENDED_BEFORE",
    "TOOL_CALL_COLUMNS",
    "CallsByMessage",
    "EndedCall",
    "by_message",
    "calls_of_messages",
    "fence_outcome",
    "find_tool_call",
    "get_tool_call",
    "list_tool_calls",
    "obstacles",
    "read_json",
    "tool_call_view",
]

type CallsByMessage = Mapping[UUID, tuple[ToolCallView, ...]]

_JSON = {"arguments", "output", "error"}
_JSON_TEXTS = (*_JSON, "body")
TOOL_CALL_COLUMNS = ", ".join(
    f"t.{name}::text" if name in _JSON else f"t.{name}" for name in ToolCallView.columns()
)
"""The select list of `tool_call as t`, to be read with `tool_call_view`."""
_JSON_PLACES = tuple(place for place, name in enumerate(ToolCallView.columns()) if name in _JSON)


def calls_of_messages(ids: str) -> str:
    """
    Return the SQL that selects the calls of messages of a conversation, with the order of each.

    Index: `tool_call_message`.

    :param ids: SQL that selects the ids of messages; $1 is the user, $2 the conversation.
    """
    # As a join, it would be planned by the number of messages and calls that the statistics expect:
    # in a new database, which has none, for each call all messages were read. The conversation
    # decides nothing but which calls of a raw append are meant, and uses no index.
    return f"""
select {TOOL_CALL_COLUMNS}
from eventstore.tool_call as t
where t.user_id = $1
  and t.message_id = any(array({ids}))
  and (t.conversation_id = $2) is true
order by t.index, t.position
"""


# Index: tool_call_call_id.
_FIND = f"""
select {TOOL_CALL_COLUMNS}
from eventstore.tool_call as t
join eventstore.conversation as c
  on c.user_id = t.user_id and c.id = t.conversation_id and c.status <> 'deleted'
left join eventstore.message as m on m.user_id = t.user_id and m.id = t.message_id
where t.user_id = $1
  and t.conversation_id = $2
  and t.call_id = $3
  and m.retracted_at is null
order by t.position desc
limit 1
"""
# Index: tool_call_pkey.
_GET = f"""
select {TOOL_CALL_COLUMNS} from eventstore.tool_call as t where t.user_id = $1 and t.id = $2
"""
# Indexes: tool_call_pending for pending calls, tool_call_call_id for those of one conversation.
_LIST = f"""
select {TOOL_CALL_COLUMNS}
from eventstore.tool_call as t
where t.user_id = $1
  and t.position > $2
  and ($3::timestamptz is null or t.requested_at < $3)
  {{conditions}}
order by t.position
limit $4
"""

ENDED_BEFORE = "2201E"
"""The SQLSTATE of a logarithm of zero, with which `fence_outcome` ends a transaction."""

# Like the fence of turns: an error that a plain expression can raise ends the transaction. The
# append has moved the head of the log to its last event. Indexes: tool_call_pkey, message_pkey. It
# has no list of calls and no optional condition, for which PostgreSQL would make another plan each
# time, in a quarter of a millisecond.
_FENCE = """
select ln(count(*))
from eventstore.tool_call as t
where t.user_id = $1 and t.id = $2
  and t.finished_position
    = (select position from eventstore.user_log where user_id = $1) - $3::bigint
"""
_FENCE_OF_MESSAGE = f"""{_FENCE}
  and (select retracted_position is null or retracted_position > t.finished_position
       from eventstore.message where user_id = $1 and id = t.message_id)
"""

# Indexes: tool_call_pkey, message_pkey.
_OBSTACLES = """
select t.finished_position, m.id
from eventstore.tool_call as t
left join eventstore.message as m
  on m.user_id = t.user_id and m.id = t.message_id and m.retracted_at is not null
where t.user_id = $1 and t.id = $2 and t.conversation_id = $3
"""


class EndedCall(NamedTuple):
    """
    A call that an append ends, and that was requested before.

    :ivar later: how many events of the append come after the outcome.
    :ivar posts: whether that is a message too, which needs the one that asks for the call.
    """

    id: UUID
    conversation_id: UUID
    later: int
    posts: bool


def fence_outcome(user_id: str, call: EndedCall) -> Statement:
    """
    Return the statement that fails unless a call was ended by its outcome in this append.

    It stands behind the append and its row changes, of which the first outcome alone changes a row.
    """
    sql = _FENCE_OF_MESSAGE if call.posts else _FENCE
    return Statement(sql, (user_id, call.id, call.later))


def obstacles(user_id: str, call: EndedCall) -> Plan[tuple[int | None, UUID | None]]:
    """
    Return what stands in the way of an outcome; one round trip.

    :return: where the call ended, if it did, and the message that asks for it, if that was taken
        away.
    :raises NotFound: the conversation has no such call, or it is another user's.
    """
    wanted = (user_id, call.id, call.conversation_id)
    (rows,) = yield Batch(user_scope(user_id), (Statement(_OBSTACLES, wanted),))
    if not rows:
        raise NotFound("tool call", call.id)
    ((ended, message_id),) = rows
    return ended, message_id


def find_tool_call(user_id: str, conversation: UUID, call_id: str) -> Plan[ToolCallView]:
    """
    Return the newest call with that name in a conversation; one round trip.

    Index: `tool_call_call_id`.

    :param call_id: the model's name for the call, which may come again in one conversation.
    :raises NotFound: there is none, its message was retracted, or it is another user's.
    """
    if not isinstance(call_id, str):
        raise InvalidInput("call_id", f"a {type(call_id).__name__}; give a text")
    # Names are stored as `storable_label` makes them, and found as they came.
    statement = Statement(_FIND, (user_id, conversation, storable_label(call_id)))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    if not rows:
        raise NotFound("tool call", call_id)
    return tool_call_view(rows[0])


def get_tool_call(user_id: str, call: UUID) -> Plan[ToolCallView]:
    """
    Return a call by the id of the event that requested it; one round trip.

    Index: `tool_call_pkey`.

    :raises NotFound: there is none, or it is another user's.
    """
    (rows,) = yield Batch(user_scope(user_id), (Statement(_GET, (user_id, call)),))
    if not rows:
        raise NotFound("tool call", call)
    return tool_call_view(rows[0])


def list_tool_calls(
    user_id: str,
    *,
    conversation: UUID | None,
    status: ToolCallStatus | None,
    requested_before: datetime | None,
    after: str | None,
    limit: int,
) -> Plan[Page[ToolCallView]]:
    """
    Return calls in the order of their requests; one round trip.

    Indexes: `tool_call_pending`, or `tool_call_call_id` for one conversation.

    :param requested_before: with time zone; None for any time.
    :param after: the cursor of the page; None for the first one.
    :raises InvalidInput: `limit` is no number, or the cursor is none of this list.
    """
    most = fetched(limit)
    # What is old enough is asked anew for each page, as time passes.
    cursors = Cursors(user_id, ("tool calls", conversation, status), (int,))
    (position,) = cursors.read(after) or (0,)
    parameters: list[object] = [user_id, position, requested_before, most]
    conditions = ""
    if conversation is not None:
        parameters.append(conversation)
        conditions += f" and t.conversation_id = ${len(parameters)}"
    if status == "pending":
        conditions += " and t.status = 'pending'"  # as text, so that the partial index is taken
    elif status is not None:
        parameters.append(status)
        conditions += f" and t.status = ${len(parameters)}"
    statement = Statement(_LIST.format(conditions=conditions), parameters)
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    calls = list(map(tool_call_view, rows))
    return cursors.page(calls, limit, after, lambda one: (one.position,), lambda one: one)


def tool_call_view(row: tuple[Any, ...]) -> ToolCallView:
    """
    Return the view of a row.

    :param row: selected with `TOOL_CALL_COLUMNS`, its JSON columns as text.
    """
    values = list(row)
    for place in _JSON_PLACES:
        if values[place] is not None:
            values[place] = loads(values[place])
    return ToolCallView(*values)


def read_json(values: dict[str, Any]) -> dict[str, Any]:
    """Read the JSON columns of a row of `tool_call` or `message`, in place; others have none."""
    for name in _JSON_TEXTS:
        if values.get(name) is not None:
            values[name] = loads(values[name])
    return values


def by_message(calls: Iterable[ToolCallView], last: int | None) -> CallsByMessage:
    """
    Return calls as they were at a moment, by their message, in their order.

    :param last: the position of the moment; None for now.
    """
    found: dict[UUID, tuple[ToolCallView, ...]] = {}
    for call in calls:
        if call.message_id is not None and (last is None or call.position <= last):
            found[call.message_id] = (*found.get(call.message_id, ()), call.as_of(last))
    return found
