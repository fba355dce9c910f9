"""
The history of one conversation, from the read model or from the log: the same answer.

From the read model a page is one round trip along `message_conversation_position_key`. From the
log the conversation's stream is replayed, which also works where the read model is not trusted.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Literal
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.fields import check_number
from eventstore.events.json_codec import loads
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import PointInTime
from eventstore.log.read import Selection, read_all_events
from projections.apply.replay import Replay
from projections.models.conversation import Conversation
from projections.models.message import Message, MessageView, message_view
from projections.projector import Projections

__all__ = ["Source", "history"]

type Source = Literal["projection", "events"]

_CONVERSATION = """
select position, created_at, deleted_position, deleted_at
from eventstore.conversation
where user_id = $1 and id = $2
"""

# $3 is `before`; $4 and $5 are the moment; each of them is null where it bounds nothing.
_MESSAGES = """
select id, position, sender, body::text, tool_calls::text[], created_at
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

    :raises NotFound: the conversation is absent, deleted or another user's, as of `moment`.
    """
    for value, name in ((limit, "limit"), (before, "before")):
        if value is not None:
            check_number(value, name)
    match source:
        case "projection":
            return (yield from _from_tables(user_id, conversation, moment, before, limit))
        case "events":
            only = projections.of(Conversation, Message)
            messages = yield from _from_log(user_id, conversation, moment, only, registry)
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
    bounds = (before, moment.position, moment.timestamp, limit)
    found, rows = yield Batch(
        user_scope(user_id),
        (
            Statement(_CONVERSATION, (user_id, conversation)),
            Statement(_MESSAGES, (user_id, conversation, *bounds)),
        ),
    )
    if not found or not _existed(found[0], moment):
        raise NotFound("conversation", conversation)
    return [
        message_view(
            {
                "id": message_id,
                "conversation_id": conversation,
                "position": position,
                "sender": sender,
                "body": loads(body),
                "tool_calls": tool_calls and [loads(call) for call in tool_calls],
                "created_at": created_at,
            },
            moment,
        )
        for message_id, position, sender, body, tool_calls, created_at in reversed(rows)
    ]


def _from_log(
    user_id: str,
    conversation: UUID,
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[MessageView]]:
    wanted = Selection(stream_id=conversation, moment=moment)
    replay = Replay(projections)
    replay.apply((yield from read_all_events(user_id, wanted, registry)))
    row = replay.rows(Conversation).get((conversation,))
    if row is None or row["deleted_position"] is not None:
        raise NotFound("conversation", conversation)
    return [
        message_view(message, moment)
        for message in sorted(replay.rows(Message).values(), key=itemgetter("position"))
        if message["retracted_position"] is None
    ]


def _existed(row: tuple[Any, ...], moment: PointInTime) -> bool:
    position, created_at, deleted_position, deleted_at = row
    deleted = deleted_position is not None and moment.includes(deleted_position, deleted_at)
    return moment.includes(position, created_at) and not deleted
