"""An append that is sent again happens once, whoever sends it again and whenever."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from eventstore import (
    Event,
    EventStore,
    Expected,
    IdempotencyConflict,
    InvalidInput,
    NewEvent,
    TaskCreated,
    TaskDeleted,
    TaskUpdated,
    User,
    WrongVersion,
)


def new_event(stream_id: UUID, data: Event, **options: Any) -> NewEvent:
    return NewEvent(stream_id=stream_id, data=data, **options)


def new_task(stream_id: UUID | None = None, title: str = "Buy milk", **options: Any) -> NewEvent:
    return new_event(stream_id or uuid4(), TaskCreated(title=title), **options)


def test_an_append_with_the_same_key_and_content_returns_the_first_result(
    store: EventStore, alice: User, database_url: str
) -> None:
    stream = uuid4()
    batch = [new_task(stream, expected=Expected.NEW), new_event(stream, TaskUpdated(title="Fly"))]
    first = alice.append(batch, idempotency_key="trip")
    alice.append([new_event(stream, TaskDeleted())])

    again = alice.append(batch, idempotency_key="trip")
    with EventStore.connect(database_url) as other_store:
        from_other_store = other_store.user("alice").append(batch, idempotency_key="trip")

    assert again == from_other_store == first
    assert len(alice.events()) == 3
    assert store.verify().ok


def test_an_append_without_a_key_is_recognized_when_it_is_sent_again(
    store: EventStore, alice: User
) -> None:
    batch = [new_task(), new_task(title="Fly")]

    first = alice.append(batch)
    again = alice.append(batch)

    assert again == first
    assert len(alice.events()) == len(alice.tasks.list()) == 2
    assert store.verify().ok


def test_the_same_key_for_other_content_is_refused(alice: User) -> None:
    one, two = new_task(), new_task(title="Fly")
    alice.append([new_task()])
    alice.append([one, two], idempotency_key="trip")

    for other in (
        [one, new_task(two.stream_id, title="Walk")],
        [one, new_task(title="Fly")],
        [one, new_event(two.stream_id, TaskUpdated(title="Fly"))],
        [one],
        [one, two, new_task()],
        [two, one],
    ):
        with pytest.raises(IdempotencyConflict) as error:
            alice.append(other, idempotency_key="trip")
        assert (error.value.key, error.value.position) == ("trip", 2)

    assert len(alice.events()) == len(alice.tasks.list()) == 3


def test_two_users_may_use_the_same_key(alice: User, bob: User) -> None:
    recorded = [
        user.append([new_task(title=user.user_id)], idempotency_key="trip") for user in (alice, bob)
    ]

    assert [events[0].data for events in recorded] == [
        TaskCreated(title="alice"),
        TaskCreated(title="bob"),
    ]


def test_a_key_that_cannot_be_stored_is_refused(alice: User) -> None:
    for key in ("", " ", "k" * 256, "k\0", "\ud800"):
        with pytest.raises(InvalidInput) as error:
            alice.append([new_task()], idempotency_key=key)
        assert error.value.path == "idempotency_key"

    assert alice.events() == []


def test_a_retry_may_have_other_correlation_ids_and_metadata(alice: User) -> None:
    stream = uuid4()

    def batch_of(attempt: int) -> list[NewEvent]:
        return [
            new_task(
                stream,
                expected=Expected.NEW,
                correlation_id=uuid4(),
                causation_id=uuid4(),
                metadata={"attempt": attempt},
            )
        ]

    first = alice.append(batch_of(1), idempotency_key="trip")
    again = alice.append(batch_of(2), idempotency_key="trip")

    assert again == first == alice.events()
    assert first[0].metadata == {"attempt": 1}


def test_a_failed_append_does_not_use_up_its_key(alice: User) -> None:
    stream = uuid4()
    with pytest.raises(WrongVersion):
        alice.append([new_task(stream, expected=1)], idempotency_key="trip")

    recorded = alice.append([new_task(stream, expected=0)], idempotency_key="trip")

    assert alice.events() == recorded


def test_a_command_repeated_with_its_key_is_done_once(store: EventStore, alice: User) -> None:
    task = alice.keyed("create").tasks.create("Buy milk")
    done = alice.keyed("complete").tasks.complete(task.id)
    alice.tasks.reopen(task.id)

    again = alice.keyed("create").tasks.create("Buy milk")
    done_again = alice.keyed("complete").tasks.complete(task.id)

    assert (again, done_again) == (task, done)
    assert [event.type for event in alice.events()] == [
        "TaskCreated",
        "TaskCompleted",
        "TaskReopened",
    ]
    assert not alice.tasks.get(task.id).completed
    assert store.verify().ok


def test_a_transaction_repeated_with_its_key_is_done_once_and_returns_the_same_ids(
    alice: User,
) -> None:
    chat = alice.conversations.start()

    def run_turn() -> list[UUID]:
        with alice.transaction(idempotency_key="turn 1") as tx:
            task = tx.tasks.create("Buy milk")
            message = tx.messages.post(chat.id, sender="assistant", content="Done.")
        assert len(tx.recorded) == 2
        return [task.id, message.id, *(event.event_id for event in tx.recorded)]

    first, again = run_turn(), run_turn()

    assert again == first
    assert len(alice.events()) == 3
