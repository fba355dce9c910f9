"""
The OpenAI Agents SDK on this store: its sessions, and a record of its tool calls.

::

    session = EventStoreSession("session-7", store.user("alice"))
    await Runner.run(agent, text, session=session, hooks=RecordToolCalls())

Needs the extra `agents`. A session's items are the messages of the conversation whose key is the
session's id. A call is recorded before its tool runs and when it has ended, and stands in the same
conversation; the item that asks for it, which the SDK writes later, is joined with it.
"""

from eventstore.integrations.agents.hooks import (
    Recording,
    RecordToolCalls,
    current_call,
    recording,
)
from eventstore.integrations.agents.session import Compact, EventStoreSession
from eventstore.integrations.agents.turn import SessionTurn

__all__ = [
    "Compact",
    "EventStoreSession",
    "RecordToolCalls",
    "Recording",
    "SessionTurn",
    "current_call",
    "recording",
]
