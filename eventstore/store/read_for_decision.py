"""What decisions depend on: rows, the versions of their streams, and whether the key was used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import Erased
from eventstore.store.decisions import Decision
from projections import Conversation, Message, Task
from projections.apply.replay import Row
from projections.models.conversation import ConversationView
from projections.models.task import TaskView
from projections.queries.lists import select_conversation, select_task

__all__ = ["DecisionState", "read_for_decision"]

_KEY = """
select position, fingerprint is null from eventstore.event
where user_id = $1 and idempotency_key = $2
"""
_VERSIONS = """
select stream_id, version from eventstore.stream
where user_id = $1 and stream_id = any($2)
"""
_MESSAGE_COLUMNS = ("id", "conversation_id", "retracted_at")
_MESSAGE = f"""
select {", ".join(_MESSAGE_COLUMNS)} from eventstore.message
where user_id = $1 and id = $2
"""


@dataclass(frozen=True, slots=True)
class DecisionState:
    """
    What was read for some decisions.

    :ivar rows: by decision; a decision whose row is absent is not in it.
    :ivar versions: of the streams that exist.
    :ivar existing_position: where the idempotency key was used before, or None.
    """

    rows: dict[Decision, Row]
    versions: dict[UUID, int]
    existing_position: int | None


def read_for_decision(user_id: str, key: str, decisions: Sequence[Decision]) -> Plan[DecisionState]:
    """
    Read what decisions depend on; one round trip.

    The tables are read in the order in which an append and a migration lock them, so that none of
    the three waits for another in a circle.

    :param key: the idempotency key of the append that is to follow.
    :raises Erased: the key was used, and what was recorded under it has been erased since.
    """
    results: list[Rows] = yield Batch(
        user_scope(user_id),
        (
            Statement(_KEY, (user_id, key)),
            Statement(_VERSIONS, (user_id, [one.stream_id for one in decisions])),
            *(_READ[one.table][0](user_id, one.key) for one in decisions),
        ),
    )
    rows = {
        decision: dict(zip(_READ[decision.table][1], found[0], strict=True))
        for decision, found in zip(decisions, results[2:], strict=True)
        if found
    }
    position, erased = results[0][0] if results[0] else (None, False)
    if erased:
        raise Erased(key, position)
    return DecisionState(rows, dict(results[1]), position)


def _select_message(user_id: str, message_id: UUID) -> Statement:
    return Statement(_MESSAGE, (user_id, message_id))


_READ: dict[type[Any], tuple[Callable[[str, UUID], Statement], tuple[str, ...]]] = {
    Task: (select_task, TaskView.columns()),
    Conversation: (select_conversation, ConversationView.columns()),
    Message: (_select_message, _MESSAGE_COLUMNS),
}
"""By table: the statement that reads one row, and the columns it selects."""
