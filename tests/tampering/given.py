"""A user whose rows stand in every table, on a database whose triggers are out of the way."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID, uuid4

import psycopg
import pytest

from eventstore import (
    ConversationStarted,
    EventStore,
    MessagePosted,
    NewEvent,
    TaskCompleted,
    TaskCreated,
)
from eventstore.log.anchors import Anchor
from tests.support.own_read_model import Boxed, boxed, project_box, project_done
from tests.support.tampering import disarm

__all__ = ["LENGTH", "MIDDLE", "anchored", "armed", "given_a_log", "seen"]

MIDDLE = 8
"""The position of an event that has everything: the first of an append of two."""
LENGTH = 12

ITEM = {"a": 1, "b": True, "at": "$recorded_at"}


def given_a_log(store: EventStore, user_id: str) -> None:
    """Write twelve events in four appends, so that each read model has rows of this user."""
    user, chat, task, box = store.user(user_id), uuid4(), uuid4(), uuid4()
    said = {"role": "user", "content": "Buy milk", "urgent": True, "n": 1}
    user.append(
        [
            NewEvent(stream_id=chat, data=ConversationStarted(key="key", title="Groceries")),
            posted(chat, said),
            NewEvent(stream_id=task, data=TaskCreated(title="Milk", description="oat")),
            NewEvent(stream_id=task, data=TaskCompleted()),
            boxed(box, "made", value={"x": 1, "y": True}),
            boxed(box, "put", value=ITEM),
            boxed(box, "put", value={"a": 2}),
        ]
    )
    full = NewEvent(
        stream_id=box,
        data=Boxed(done="noted", value="a note"),
        correlation_id=uuid4(),
        causation_id=uuid4(),
        metadata={"model": "m", "warm": True},
    )
    user.append([full, boxed(box, "counted", value=3)], idempotency_key=f"key of {user_id}")
    call = user.tool_calls.request(chat, name="f", arguments='{"x": 1}')
    user.tool_calls.succeed(call, output={"done": True})


def posted(chat: UUID, body: dict[str, object]) -> NewEvent:
    return NewEvent(
        stream_id=chat, data=MessagePosted(message_id=uuid4(), sender="user", body=body)
    )


def anchored(store: EventStore) -> Anchor:
    """Return what `eventstore anchor` would have kept of all users now."""
    return Anchor(datetime.now(UTC), {head.user_id: head for head in store.heads()}, signed=False)


def seen(store: EventStore, *anchors: Anchor) -> set[tuple[str, str, int | None]]:
    """Return who has which problem at which position."""
    return {(one.user_id, one.kind, one.position) for one in store.verify(anchors=anchors).problems}


@pytest.fixture
def armed(service_url: str, admin: psycopg.Connection) -> Iterator[EventStore]:
    """A store with every kind of read model, on a database whose triggers are out of the way."""
    with EventStore.connect(
        service_url, projectors=[project_box, project_done], events=[Boxed]
    ) as store:
        disarm(admin)
        yield store
