"""Look before deciding: rows, the versions of their streams, and whether the key is in the log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import Erased
from eventstore.store.steps import Decision
from projections import Conversation, Message, Task
from projections.queries import (
    CONVERSATION_COLUMNS,
    MESSAGE_COLUMNS,
    TASK_COLUMNS,
    select_conversation,
    select_message,
    select_task,
)
from projections.replay import Row

__all__ = ["Seen", "look"]

_VERSIONS = """
select stream_id, version from eventstore.stream
where user_id = $1 and stream_id = any($2)
"""
_KEYED = """
select position, request_digest is null from eventstore.event
where user_id = $1 and idempotency_key = $2
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found: rows and versions of the streams, and where the key stands if it does."""

    rows: dict[Decision, Row]
    versions: dict[UUID, int]
    keyed: int | None


def look(user_id: str, key: str, looked_at: Sequence[Decision]) -> Plan[Seen]:
    """
    Read versions and rows of what is to be decided on; one round trip.

    :raises Erased: what was recorded under this key is gone, so it cannot be compared.
    """
    results: list[Rows] = yield Batch(
        user_scope(user_id),
        (
            Statement(_VERSIONS, (user_id, [one.stream_id for one in looked_at])),
            Statement(_KEYED, (user_id, key)),
            *(_SELECT[one.table](user_id, one.key) for one in looked_at),
        ),
    )
    rows = {
        decision: dict(zip(_COLUMNS[decision.table], found[0], strict=True))
        for decision, found in zip(looked_at, results[2:], strict=True)
        if found
    }
    keyed, erased = results[1][0] if results[1] else (None, False)
    if erased:
        raise Erased(key, keyed)
    return Seen(rows, dict(results[0]), keyed)


_SELECT: dict[type[Any], Callable[[str, UUID], Statement]] = {
    Task: select_task,
    Conversation: select_conversation,
    Message: select_message,
}
_COLUMNS: dict[type[Any], tuple[str, ...]] = {
    Task: TASK_COLUMNS,
    Conversation: CONVERSATION_COLUMNS,
    Message: MESSAGE_COLUMNS,
}
