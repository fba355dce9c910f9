"""
What a model is given of a conversation: the newest messages with what they need, one round trip.

A page that ends the history holds the answers of all its calls, for an answer follows its call. But
it may begin between a call and its answer, or between the items of one response, so a page with a
limit begins earlier where it must: at the oldest call that was answered in the page, and at the
first of the items of the model that stand before it in a row.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan, Statement
from eventstore.events.fields import check_number
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import PointInTime
from projections.model_input.arrange import Pending, arrange, check_options
from projections.model_input.formats import FormatName
from projections.projector import Projections
from projections.queries.history import MESSAGE_COLUMNS, history, read_page, select_existence
from projections.queries.moments import moment_position
from projections.queries.tool_calls import calls_of_messages

__all__ = ["MESSAGES", "REACH", "TOOL_CALLS", "model_input"]

REACH = 500
"""Messages before the page in which calls of its answers are looked for; older ones are cut off."""

# $3 and $4 are the moment, null where it bounds nothing, as in a history.
_THERE = f"""
where user_id = $1
  and conversation_id = $2
  and position <= {moment_position(3, 4)}
  and (retracted_position is null or retracted_position > {moment_position(3, 4)})
"""
# The items of a response have senders of many names, those between two responses have these.
_BETWEEN = "('user', 'system', 'developer', 'tool', 'function')"
# Indexes: message_conversation_position_key, tool_call_message. The bodies are not read here. The
# aggregate is looked up for each message by the index; of `exists` the planner makes a join, for
# which it reads all calls.
_BEGIN = f"""
with page as (
  select min(newest.position) as position
  from (
    select position
    from eventstore.message
    {_THERE}
    order by position desc
    limit $5
  ) as newest
), before as (
  select id, position, sender, tool_call_count
  from eventstore.message
  {_THERE}
    and position < (select position from page)
  order by position desc
  limit {REACH}
), first as (
  select coalesce(
    (select min(before.position)
     from before
     where before.tool_call_count > 0
       and (select max(t.finished_position)
            from eventstore.tool_call as t
            where t.user_id = $1
              and t.message_id = before.id) >= (select position from page)),
    (select position from page)) as position
)
select coalesce(
  (select min(before.position)
   from before
   where before.position < (select position from first)
     and before.position > coalesce(
       (select max(between_two.position)
        from before as between_two
        where between_two.position < (select position from first)
          and between_two.sender in {_BETWEEN}),
       0)),
  (select position from first))
"""
# Index: message_conversation_position_key.
MESSAGES = f"""
select {MESSAGE_COLUMNS}
from eventstore.message
{_THERE}
  and position >= ({_BEGIN})
order by position desc
"""
TOOL_CALLS = calls_of_messages(f"""
    select id
    from eventstore.message
    {_THERE}
      and position >= ({_BEGIN})
      and (tool_call_count > 0 or edited_position is not null)
""")


def model_input(
    user_id: str,
    conversation: UUID,
    *,
    limit: int | None,
    pending: Pending,
    format: FormatName | None,  # noqa: A002 - the word that callers look for
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
) -> Plan[list[dict[str, Any]]]:
    """
    Return the list that a model is given next; one round trip, or two as in `read_page`.

    :param limit: messages at least, if there are so many; None for all.
    :param pending: `leave_out` or `answer`.
    :param format: `chat_completions`, `responses`, `anthropic`, or None for that of the items.
    :raises InvalidInput: `limit`, `pending` or `format` has a wrong type or value.
    :raises NotFound: the conversation is absent, deleted or another user's, as of `moment`.
    """
    if limit is not None:
        check_number(limit, "limit")
    check_options(pending, format)
    if limit is None:
        messages = yield from history(
            user_id,
            conversation,
            source="projection",
            moment=moment,
            before=None,
            limit=None,
            projections=projections,
            registry=registry,
        )
    else:
        page = (user_id, conversation, *moment.bounds, limit)
        statements = (
            select_existence(user_id, conversation, moment),
            Statement(MESSAGES, page),
            Statement(TOOL_CALLS, page),
        )
        messages = yield from read_page(user_id, conversation, moment, statements, registry)
    return arrange(messages, pending=pending, format=format, limit=limit)
