"""A log that fills every table, for tests that change its rows afterwards."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from eventstore import (
    ConversationStarted,
    EventStore,
    MessagePosted,
    NewEvent,
    TaskCompleted,
    TaskCreated,
)
from eventstore.log.anchors import Anchor
from tests.support.own_read_model import Boxed, box_event

__all__ = ["LENGTH", "MIDDLE", "find_problems", "take_anchor", "write_log", "write_turn"]

MIDDLE = 8
"""The position of the event that has a value in every column; its append has two events."""
LENGTH = 12
"""The number of events that `write_log` writes."""


DUE: dict[str, Any] = {
    "due_at": "2026-11-30T08:00Z",
    "due_zone": "Europe/Berlin",
    "priority": "high",
    "tags": ["shop"],
}


def write_log(store: EventStore, user_id: str) -> None:
    """Write twelve events in four appends, so that each read model gets rows of this user."""
    user, chat, task, box = store.user(user_id), uuid4(), uuid4(), uuid4()
    body = {"role": "user", "content": "Buy milk", "urgent": True, "n": 1}
    user.append(
        [
            NewEvent(stream_id=chat, data=ConversationStarted(key="key", title="Groceries")),
            message_posted(chat, body),
            NewEvent(stream_id=task, data=TaskCreated(title="Milk", description="oat", **DUE)),
            NewEvent(stream_id=task, data=TaskCompleted()),
            box_event(box, "made", value={"x": 1, "y": True}),
            box_event(box, "tagged", value=["a", "b"]),
            box_event(box, "noted if", value="none", n=0),
        ]
    )
    full = NewEvent(
        stream_id=box,
        data=Boxed(done="noted", value="a note"),
        correlation_id=uuid4(),
        causation_id=uuid4(),
        metadata={"model": "m", "warm": True},
        occurred_at=datetime(2024, 1, 5, 8, tzinfo=UTC),
    )
    user.append([full, box_event(box, "counted", value=3)], idempotency_key=f"key of {user_id}")
    call = user.tool_calls.request(chat, name="f", arguments='{"x": 1}')
    user.tool_calls.succeed(call, output={"done": True})


def write_turn(store: EventStore, user_id: str) -> None:
    """Write a turn with a claimed call after the log, so that every column has a value."""
    user = store.user(user_id)
    (chat,) = user.conversations.list()
    with user.turn(chat.id, key="request", items=[{"role": "user", "content": "x"}]) as turn:
        turn.extend([{"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}])
        (call,) = turn.pending_calls
        user.tool_calls.claim(call, seconds=60)
        turn.fail(call, error={"code": 1})
        turn.end(model="gpt", usage={"input_tokens": 7, "output_tokens": 2})


def message_posted(chat: UUID, body: dict[str, object]) -> NewEvent:
    return NewEvent(stream_id=chat, data=MessagePosted(sender="user", body=body))


def take_anchor(store: EventStore) -> Anchor:
    """Return the anchor that `eventstore anchor` would write of all users now."""
    return Anchor(datetime.now(UTC), {head.user_id: head for head in store.heads()}, signed=False)


def find_problems(store: EventStore, *anchors: Anchor) -> set[tuple[str, str, int | None]]:
    """Return the user, kind and position of each problem that verify reports."""
    return {(one.user_id, one.kind, one.position) for one in store.verify(anchors=anchors).problems}
