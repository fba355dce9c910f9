"""Read turns: one by its id, what runs in a conversation, lists, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import NotFound
from eventstore.events.json_codec import loads
from eventstore.log.paging import Cursors, Page, fetched
from projections.models.turn import TurnView
from projections.queries.tool_calls import TOOL_CALL_COLUMNS

__all__ = [
    "FENCED",
    "KnownTurn",
    "Usage",
    "UsageBy",
    "fence_turn",
    "get_turn",
    "known_turns",
    "list_turns",
    "select_others_ended",
    "turn_state_statements",
    "usage",
]

_JSON = {"usage", "error"}
_COLUMNS = ", ".join(f"{name}::text" if name in _JSON else name for name in TurnView.columns())
# The server's clock decides whether a lease is over, because the clocks of processes differ.
_LIVE = "leased_at + make_interval(secs => lease_seconds) > clock_timestamp()"
# Indexes: turn_pkey, turn_running.
_STATE = f"""
select {_COLUMNS}, {_LIVE} from eventstore.turn where user_id = $1 and id = $2
union all
select {_COLUMNS}, {_LIVE} from eventstore.turn
where user_id = $1 and conversation_id = $3 and status = 'running' and lease_seconds > 0
  and id <> $2
"""
# Index: tool_call_call_id.
_CALLS = f"""
select {TOOL_CALL_COLUMNS} from eventstore.tool_call as t
where t.user_id = $1 and t.conversation_id = $2 and t.correlation_id = $3
order by t.position
"""
_VERSION = "select version from eventstore.stream where user_id = $1 and stream_id = $2"
# Index: turn_pkey.
_GET = f"select {_COLUMNS} from eventstore.turn where user_id = $1 and id = $2"
# Index: turn_conversation.
_LIST = f"""
select {_COLUMNS} from eventstore.turn
where user_id = $1 and conversation_id = $2 and position < coalesce($3, 9223372036854775807)
order by position desc
limit $4
"""

type UsageBy = Literal["day", "conversation", "model"]

_GROUPS: dict[UsageBy | None, str] = {
    None: "null::text",
    "day": "((started_at at time zone $4)::date)::text",
    "conversation": "conversation_id::text",
    "model": "model",
}
# The turns of one user: some a day, read along turn_pkey.
_USAGE = """
select {group} as of, count(*), coalesce(sum(input_tokens), 0),
       coalesce(sum(output_tokens), 0)
from eventstore.turn
where user_id = $1
  and started_at >= coalesce($2, '-infinity'::timestamptz)
  and started_at < coalesce($3, 'infinity'::timestamptz)
  and $4::text is not null
group by 1
order by 1
"""


class KnownTurn(NamedTuple):
    """
    A turn as it was found.

    :ivar live: its lease is not over, by the server's clock.
    """

    turn: TurnView
    live: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """
    What some turns cost.

    :ivar of: the day, the conversation's id or the model's name; None for the sum of all, or
        where the turn names no model.
    """

    of: date | UUID | str | None
    turns: int
    input_tokens: int
    output_tokens: int


FENCED = "22012"
"""The SQLSTATE of a division by zero, with which `fence_turn` ends a transaction."""

# PostgreSQL has no assertion; a division by zero is an error that a plain expression can raise, and
# it ends the transaction with everything that it wrote. A conversation that began anew has a later
# position than the turns of what it was before. Indexes: turn_pkey, conversation_pkey.
_FENCE = """
select 1 / count(*) from eventstore.turn as t
where t.user_id = $1 and t.id = $2 and t.holder = $3
  and (t.status = 'running'
       or t.ended_position = (select position from eventstore.user_log where user_id = $1))
  and t.position > (
    select c.position from eventstore.conversation as c
    where c.user_id = t.user_id and c.id = t.conversation_id)
"""


def fence_turn(user_id: str, turn_id: UUID, holder: UUID) -> Statement:
    """
    Return the statement that fails unless a process still has the turn, in its conversation.

    It stands behind the append, whose lock on the user's row keeps every other append out. The
    append may end the turn with its last event.

    :param holder: the number that the process drew.
    """
    return Statement(_FENCE, (user_id, turn_id, holder))


# Index: tool_call_call_id.
_OTHERS_ENDED = """
select id from eventstore.tool_call
where user_id = $1 and conversation_id = $2 and call_id = any($3)
  and correlation_id is distinct from $4
  and finished_position > (select position from eventstore.user_log where user_id = $1) - $5
"""


def select_others_ended(
    user_id: str, conversation: UUID, turn_id: UUID, call_ids: Sequence[str], events: int
) -> Statement:
    """
    Return the statement that selects calls of others which the newest append has ended.

    :param call_ids: which calls its items answer, as the model names them.
    :param events: how many events the append has at most.
    """
    return Statement(_OTHERS_ENDED, (user_id, conversation, list(call_ids), turn_id, events))


def turn_state_statements(
    user_id: str, conversation: UUID, turn_id: UUID
) -> tuple[Statement, Statement, Statement]:
    """Return the statements for a conversation's version, for `known_turns` and for the calls."""
    return (
        Statement(_VERSION, (user_id, conversation)),
        Statement(_STATE, (user_id, turn_id, conversation)),
        Statement(_CALLS, (user_id, conversation, turn_id)),
    )


def known_turns(rows: Rows, turn_id: UUID) -> tuple[KnownTurn | None, KnownTurn | None]:
    """Return the turn with an id, and another one that runs in the conversation."""
    known = [KnownTurn(_view(row[:-1]), row[-1]) for row in rows]
    own = next((one for one in known if one.turn.id == turn_id), None)
    return own, next((one for one in known if one.turn.id != turn_id), None)


def get_turn(user_id: str, turn_id: UUID) -> Plan[TurnView]:
    """
    Return one turn; one round trip. Index: `turn_pkey`.

    :raises NotFound: there is none, or it is another user's.
    """
    (rows,) = yield Batch(user_scope(user_id), (Statement(_GET, (user_id, turn_id)),))
    if not rows:
        raise NotFound("turn", turn_id)
    return _view(rows[0])


def list_turns(
    user_id: str, conversation: UUID, *, after: str | None, limit: int
) -> Plan[Page[TurnView]]:
    """
    Return the newest turns of a conversation, newest first; one round trip.

    Index: `turn_conversation`.

    :param after: the cursor of the page; None for the first one.
    :raises InvalidInput: `limit` is no number, or the cursor is none of this list.
    """
    most = fetched(limit)
    cursors = Cursors(user_id, ("turns", conversation), (int,))
    (before,) = cursors.read(after) or (None,)
    statement = Statement(_LIST, (user_id, conversation, before, most))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    turns = list(map(_view, rows))
    return cursors.page(turns, limit, after, lambda one: (one.position,), lambda one: one)


def usage(
    user_id: str,
    *,
    by: UsageBy | None,
    since: datetime | None,
    until: datetime | None,
    zone: str,
) -> Plan[list[Usage]]:
    """
    Return what a user's turns cost, summed by PostgreSQL; one round trip.

    :param since: with time zone: turns that started then or later; `until` before then.
    :param zone: in which a day begins and ends.
    """
    statement = Statement(_USAGE.format(group=_GROUPS[by]), (user_id, since, until, zone))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    read: dict[UsageBy | None, Any] = {"day": date.fromisoformat, "conversation": UUID}
    convert = read.get(by, str)
    return [Usage(None if of is None else convert(of), *map(int, sums)) for of, *sums in rows]


def _view(row: tuple[Any, ...]) -> TurnView:
    values = dict(zip(TurnView.columns(), row, strict=True))
    for name in _JSON:
        if values[name] is not None:
            values[name] = loads(values[name])
    return TurnView(**values)
