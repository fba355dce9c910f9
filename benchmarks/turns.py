"""
Messages and agent turns of a todo chatbot, in usual sizes, which the benchmarks append.

Texts have a few hundred characters, as chat messages do, and differ from each other.
"""

from __future__ import annotations

from uuid import UUID

from eventstore.store.units.transaction import TransactionCommands
from eventstore.store.user import User

__all__ = [
    "EVENTS_PER_AGENT_TURN",
    "EVENTS_PER_TURN",
    "MESSAGES_PER_TURN",
    "agent_turn",
    "fill",
    "text",
]

EVENTS_PER_AGENT_TURN = 5
"""The message that requests the call, the call, the task, the outcome and the closing message."""

EVENTS_PER_TURN = EVENTS_PER_AGENT_TURN + 1
MESSAGES_PER_TURN = 4

_TURNS_PER_APPEND = 150  # 900 events; an append may have 1,000
_SENTENCE = "Please put item {0} on the list, after item {1} and before the one due on day {2}. "


def text(number: int) -> str:
    """Return the text of a message, some 250 characters."""
    # A list, because each step of a generator would count as a call of the store's.
    parts = [_SENTENCE.format(number + n, number * 7 + n, number % 31) for n in range(3)]
    return "".join(parts)


def agent_turn(record: TransactionCommands, conversation: UUID, number: int) -> None:
    """Record the five events of a turn; see `EVENTS_PER_AGENT_TURN`."""
    call = record.tool_calls.request(
        conversation, name="add_task", arguments=f'{{"title": "Item {number}"}}'
    )
    task = record.tasks.create(f"Item {number}", description=text(number), caused_by=call)
    record.tool_calls.succeed(call, output={"task_id": task.id, "position": number})
    record.messages.post(conversation, sender="assistant", content=text(number + 1))


def fill(user: User, conversation: UUID, turns: int) -> None:
    """Append turns that begin with a message of the user: six events and four messages each."""
    for start in range(0, turns, _TURNS_PER_APPEND):
        with user.transaction() as record:
            for number in range(start, min(start + _TURNS_PER_APPEND, turns)):
                record.messages.post(conversation, sender="user", content=text(number))
                agent_turn(record, conversation, number)
