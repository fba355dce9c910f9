"""Find tool calls in the read model, now or as of an earlier moment."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import NotFound
from eventstore.events.json_codec import loads
from projections.models.message import plain_text
from projections.models.tool_call import ToolCallView

__all__ = ["TOOL_CALL_COLUMNS", "find_tool_call", "tool_call_view"]

_JSON = {"arguments", "output", "error"}
TOOL_CALL_COLUMNS = ", ".join(
    f"t.{name}::text" if name in _JSON else f"t.{name}" for name in ToolCallView.columns()
)
"""The select list of `tool_call as t`, to be read with `tool_call_view`."""

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


def find_tool_call(user_id: str, conversation: UUID, call_id: str) -> Plan[ToolCallView]:
    """
    Return the newest call with that name in a conversation; one round trip.

    Index: `tool_call_call_id`.

    :param call_id: the model's name for the call, which may come again in one conversation.
    :raises NotFound: there is none, its message was retracted, or it is another user's.
    """
    # No stored name has a NUL or a lone surrogate. With U+FFFD in their place such a name is not
    # found; as it is, it would be refused as a parameter.
    statement = Statement(_FIND, (user_id, conversation, plain_text(call_id)))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    if not rows:
        raise NotFound("tool call", call_id)
    return tool_call_view(rows[0])


def tool_call_view(row: tuple[Any, ...]) -> ToolCallView:
    """
    Return the view of a row.

    :param row: selected with `TOOL_CALL_COLUMNS`, its JSON columns as text.
    """
    values = dict(zip(ToolCallView.columns(), row, strict=True))
    for name in _JSON:
        if values[name] is not None:
            values[name] = loads(values[name])
    return ToolCallView(**values)
