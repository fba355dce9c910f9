"""Tasks and conversations of earlier moments: what changed since is read from its stream alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from eventstore import EventStore, NewEvent, RequestedCall, User
from eventstore.events.conversations import ConversationEvent
from projections.models.conversation import ConversationView
from projections.queries import past
from tests.support.paging import everything


class Pinned(ConversationEvent, type="ConversationPinned"):
    """An event of a service's own, in the stream of a conversation."""

    at: int


def talk(alice: User) -> Iterator[None]:
    """Do everything that changes a conversation, and yield after each step."""
    first, second, third = (alice.conversations.start(title=t).id for t in ("one", "two", "three"))
    yield
    posted = alice.messages.post(first, sender="user", content="hello")
    yield
    alice.conversations.rename(second, title="two!")
    yield
    call = RequestedCall(id="call_1", name="add_task", arguments="{}")
    message = alice.messages.post(second, sender="assistant", content=None, tool_calls=[call])
    alice.tool_calls.succeed(message.tool_calls[0], output="done")
    yield
    alice.messages.retract(first, posted.id)
    alice.conversations.archive(third)
    yield
    alice.conversations.reopen(third)
    alice.conversations.delete(second)
    yield


def list_every_way(alice: User, **options: Any) -> list[list[ConversationView]]:
    return [
        everything(alice.conversations.list, archived=archived, limit=limit, **options)
        for archived in (None, True, False)
        for limit in (1, 10)
    ]


@pytest.mark.parametrize("at_once", [1, 1_000])
def test_conversations_as_of_an_event_equal_those_at_that_time(
    alice: User, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "_STREAMS_AT_ONCE", at_once)
    then: dict[int, list[list[ConversationView]]] = {}
    for _ in talk(alice):
        alice.tasks.create("something else happens too")
        (newest,) = alice.events(backward=True, limit=1)
        then[newest.position] = list_every_way(alice)

    moments = {event.position: event.recorded_at for event in alice.events()}
    for position, lists in then.items():
        assert list_every_way(alice, as_of=position) == lists
        assert list_every_way(alice, as_of=moments[position]) == lists
    assert len(then) == 6


def test_tasks_of_more_streams_than_are_read_at_once_are_all_found(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(past, "_STREAMS_AT_ONCE", 2)
    tasks = [alice.tasks.create(f"task {number}") for number in range(5)]
    for task in tasks:
        alice.tasks.complete(task.id)

    assert alice.tasks.list(as_of=5) == tasks
    first = alice.tasks.list(as_of=5, limit=2)
    assert first + alice.tasks.list(as_of=5, limit=2, after=first.next) == tasks[:4]


def test_an_event_of_a_services_own_is_activity_of_its_conversation(database_url: str) -> None:
    with EventStore.connect(database_url, events=[Pinned]) as store:
        alice = store.user("alice")
        chat = alice.conversations.start().id
        alice.append([NewEvent(stream_id=chat, data=Pinned(at=3))])
        pinned = alice.conversations.get(chat)
        alice.messages.post(chat, sender="user", content="hello")

        assert pinned.last_position == 2
        assert alice.conversations.get(chat, as_of=2) == pinned
        assert alice.conversations.list(as_of=2) == [pinned]


def test_what_was_erased_is_missing_from_every_earlier_moment(
    store: EventStore, alice: User, chat: UUID
) -> None:
    alice.tasks.create("milk")
    before = alice.conversations.list(as_of=1)
    store.erase("alice", ordered_by="test", conversation=chat)

    assert len(before) == 1
    assert alice.conversations.list(as_of=1) == []
    assert [task.title for task in alice.tasks.list(as_of=2)] == ["milk"]
