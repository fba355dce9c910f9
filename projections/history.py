"""
The history of one conversation, from the read model or from the log: the same answer.

From the read model a page is one round trip along `message_conversation_position_key`. From the
log the conversation's stream is replayed, so it also answers when the read model is not trusted.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, Literal
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.jsontext import loads
from eventstore.events.limits import check_number
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import Cut
from eventstore.log.read import Selection, every_page
from projections.projector import Projections
from projections.replay import Replay
from projections.tables import Conversation, Message
from projections.views import MessageView, message_view

__all__ = ["Source", "history"]

type Source = Literal["projection", "events"]

_CONVERSATION = """
select position, created_at, deleted_position, deleted_at
from eventstore.conversation
where user_id = $1 and id = $2
"""

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
    cut: Cut,
    before: int | None,
    limit: int | None,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[MessageView]]:
    """
    Return the newest `limit` messages before position `before`, oldest first, as of `cut`.

    :raises NotFound: absent, deleted or another user's, as of `cut`.
    """
    for value, place in ((limit, "limit"), (before, "before")):
        if value is not None:
            check_number(value, place)
    match source:
        case "projection":
            return (yield from _from_tables(user_id, conversation, cut, before, limit))
        case "events":
            only = projections.of(Conversation, Message)
            every = yield from _from_log(user_id, conversation, cut, only, registry)
            earlier = [one for one in every if before is None or one.position < before]
            return earlier if limit is None else earlier[len(earlier) - min(limit, len(earlier)) :]
        case _:
            raise InvalidInput("source", f"{source!r}; give 'projection' or 'events'")


def _from_tables(
    user_id: str, conversation: UUID, cut: Cut, before: int | None, limit: int | None
) -> Plan[list[MessageView]]:
    found, rows = yield Batch(
        user_scope(user_id),
        (
            Statement(_CONVERSATION, (user_id, conversation)),
            Statement(_MESSAGES, (user_id, conversation, before, cut.position, cut.instant, limit)),
        ),
    )
    if not found or not _stands(found[0], cut):
        raise NotFound("conversation", conversation)
    return [
        message_view(
            conversation,
            message_id,
            position,
            sender,
            loads(body),
            tool_calls and map(loads, tool_calls),
            created_at,
            cut,
        )
        for message_id, position, sender, body, tool_calls, created_at in reversed(rows)
    ]


def _from_log(
    user_id: str, conversation: UUID, cut: Cut, projections: Projections, registry: EventRegistry
) -> Plan[list[MessageView]]:
    events = yield from every_page(user_id, Selection(stream_id=conversation, cut=cut), registry)
    replay = Replay(projections)
    replay.see(events)
    row = replay.rows(Conversation).get((conversation,))
    if row is None or row["deleted_position"] is not None:
        raise NotFound("conversation", conversation)
    return [
        message_view(
            conversation,
            row["id"],
            row["position"],
            row["sender"],
            row["body"],
            row["tool_calls"],
            row["created_at"],
            cut,
        )
        for row in sorted(replay.rows(Message).values(), key=itemgetter("position"))
        if row["retracted_position"] is None
    ]


def _stands(row: tuple[Any, ...], cut: Cut) -> bool:
    position, created_at, deleted_position, deleted_at = row
    gone = deleted_position is not None and cut.includes(deleted_position, deleted_at)
    return cut.includes(position, created_at) and not gone
