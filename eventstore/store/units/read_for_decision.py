"""What decisions depend on: rows, the versions of their streams, and whether the key was used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import Erased
from eventstore.log.read import lock_log
from eventstore.store.units.decisions import Decision
from eventstore.store.units.moves import Place, select_place
from projections import Conversation, Message, Task, ToolCall
from projections.apply.table_shape import Row
from projections.models.tool_call import ToolCallView
from projections.queries.conversation_rows import CONVERSATION_DECISION_COLUMNS
from projections.queries.lists import (
    DECISION_COLUMNS,
    select_conversation_to_decide_on,
    select_task_to_decide_on,
)
from projections.queries.tool_calls import TOOL_CALL_COLUMNS, read_json

__all__ = ["DecisionState", "read_for_decision"]

# The key stands on the first event, which says how many are under it. Erasing takes the payload of
# some of them or all. Index: event_idempotency_key, then event_pkey.
_BY_KEY = """
select min(e.position), bool_or(e.payload is null)
from eventstore.event as first
join eventstore.event as e
  on e.user_id = first.user_id
 and e.position >= first.position
 and e.position < first.position + first.append_size
where first.user_id = $1 and first.idempotency_key = $2
group by first.position
"""
# As far back as `append_events` looks. Index: event_pkey.
_BY_IDS = """
select position, payload is null from eventstore.event
where user_id = $1
  and event_id = any($2)
  and position > (select position - 100000 from eventstore.user_log where user_id = $1)
order by position limit 1
"""
# Index: stream_pkey.
_VERSIONS = """
select stream_id, version from eventstore.stream
where user_id = $1 and stream_id = any($2)
"""
# Index: message_pkey.
_MESSAGE_COLUMNS = ("id", "conversation_id", "position", "retracted_at")
_MESSAGE = f"""
select {", ".join(_MESSAGE_COLUMNS)} from eventstore.message
where user_id = $1 and id = $2
"""
# What an edit depends on; a body may have megabytes, and other decisions leave it out.
_WHOLE_MESSAGE_COLUMNS = (*_MESSAGE_COLUMNS, "sender", "content", "body")
_WHOLE_MESSAGE = f"""
select {", ".join(_MESSAGE_COLUMNS)}, sender, content, body::text from eventstore.message
where user_id = $1 and id = $2
"""


@dataclass(frozen=True, slots=True)
class DecisionState:
    """
    What was read for some decisions.

    :ivar rows: by decision; a decision whose row is absent is not in it.
    :ivar versions: of the streams that exist.
    :ivar existing_position: where an earlier attempt, or its idempotency key, is in the log.
    :ivar places: of the tasks beside which others are moved.
    :ivar others: the rows of each further statement.
    """

    rows: dict[Decision, Row]
    versions: dict[UUID, int]
    existing_position: int | None
    places: dict[UUID, Place] = field(default_factory=dict)
    others: Sequence[Rows] = ()


def read_for_decision(
    user_id: str,
    key: str | None,
    retried_ids: Sequence[UUID],
    decisions: Sequence[Decision],
    moves: Sequence[Decision] = (),
    others: Sequence[Statement] = (),
    streams: Sequence[UUID] = (),
    lock: bool = False,
) -> Plan[DecisionState]:
    """
    Read what decisions depend on; one round trip.

    :param key: the idempotency key of the append that is to follow, if it has one.
    :param retried_ids: the ids of events that an earlier attempt may have appended.
    :param decisions: one for each row to read.
    :param moves: the steps that move tasks, be their rows read or not.
    :param others: further statements, whose rows are wanted.
    :param streams: further streams whose versions are wanted.
    :param lock: keep other appends of the user waiting, and the transaction open for the append
        that is to follow; who appends nothing has to end it.
    :raises Erased: the key was used, and what was recorded under it has been erased since.
    """
    existing = []
    # A first attempt without a key has nothing to look for, and pays nothing.
    if key is not None:
        existing.append(Statement(_BY_KEY, (user_id, key)))
    elif retried_ids:
        existing.append(Statement(_BY_IDS, (user_id, list(retried_ids))))
    # The tables are read in the order in which an append and a migration lock them, so that none of
    # the three waits for another in a circle.
    versioned = [one.stream_id for one in decisions if one.needs_version]
    anchors = list({one.beside.anchor for one in moves if one.beside is not None})
    moving = [one.key for one in moves]
    results: list[Rows] = yield Batch(
        user_scope(user_id),
        (
            *([lock_log(user_id)] if lock else ()),
            *existing,
            Statement(_VERSIONS, (user_id, [*versioned, *streams])),
            *(_read(one)[0](user_id, one.key) for one in decisions),
            *(select_place(user_id, anchor, moving) for anchor in anchors),
            *others,
        ),
        hold=lock,
        planned_once=True,
    )
    results = results[lock:]
    found = results.pop(0) if existing else []
    versions, *selected = results
    rows = {
        decision: read_json(dict(zip(_read(decision)[1], one[0], strict=True)))
        for decision, one in zip(decisions, selected, strict=False)
        if one
    }
    further = selected[len(decisions) :]
    places = {anchor: Place(*one[0]) for anchor, one in zip(anchors, further, strict=False) if one}
    position, erased = found[0] if found else (None, False)
    if erased:
        raise Erased(key, position)
    return DecisionState(rows, dict(versions), position, places, further[len(anchors) :])


# What a claim depends on. The server's clock decides whether an earlier claim is over, because the
# clocks of workers differ. Index: tool_call_pkey.
_TOOL_CALL = f"""
select {TOOL_CALL_COLUMNS},
       coalesce(t.claimed_at + make_interval(secs => t.claim_seconds) > clock_timestamp(), false)
from eventstore.tool_call as t
where t.user_id = $1 and t.id = $2
"""


def _select_tool_call(user_id: str, call_id: UUID) -> Statement:
    return Statement(_TOOL_CALL, (user_id, call_id))


def _select_whole_message(user_id: str, message_id: UUID) -> Statement:
    return Statement(_WHOLE_MESSAGE, (user_id, message_id))


def _select_message(user_id: str, message_id: UUID) -> Statement:
    return Statement(_MESSAGE, (user_id, message_id))


_READ: dict[type[Any], tuple[Callable[[str, UUID], Statement], tuple[str, ...]]] = {
    Task: (select_task_to_decide_on, DECISION_COLUMNS),
    Conversation: (select_conversation_to_decide_on, CONVERSATION_DECISION_COLUMNS),
    Message: (_select_message, _MESSAGE_COLUMNS),
    ToolCall: (_select_tool_call, (*ToolCallView.columns(), "claimed")),
}
"""By table: the statement that reads one row, and the columns it selects."""


def _read(decision: Decision) -> tuple[Callable[[str, UUID], Statement], tuple[str, ...]]:
    if decision.with_body:
        return _select_whole_message, _WHOLE_MESSAGE_COLUMNS
    return _READ[decision.table]
