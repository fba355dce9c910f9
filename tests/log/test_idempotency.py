"""An append happens once, however often, from wherever and at whatever time it is sent."""

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


def to(stream_id: UUID, data: Event, **how: Any) -> NewEvent:
    return NewEvent(stream_id=stream_id, data=data, **how)


def created(stream_id: UUID | None = None, title: str = "Buy milk", **how: Any) -> NewEvent:
    return to(stream_id or uuid4(), TaskCreated(title=title), **how)


def test_the_same_key_and_content_again_returns_the_first_result(
    store: EventStore, alice: User, database_url: str
) -> None:
    stream = uuid4()
    batch = [created(stream, expected=Expected.NEW), to(stream, TaskUpdated(title="Fly"))]
    first = alice.append(batch, idempotency_key="trip")
    alice.append([to(stream, TaskDeleted())])

    again = alice.append(batch, idempotency_key="trip")
    with EventStore.connect(database_url) as elsewhere:
        from_elsewhere = elsewhere.user("alice").append(batch, idempotency_key="trip")

    assert again == from_elsewhere == first
    assert len(alice.events()) == 3
    assert store.verify().ok


def test_without_a_key_an_append_that_is_sent_again_is_still_known(
    store: EventStore, alice: User
) -> None:
    batch = [created(), created(title="Fly")]

    first = alice.append(batch)
    again = alice.append(batch)

    assert again == first
    assert len(alice.events()) == len(alice.tasks.list()) == 2
    assert store.verify().ok


def test_the_same_key_for_other_content_is_refused(alice: User) -> None:
    one, two = created(), created(title="Fly")
    alice.append([created()])
    alice.append([one, two], idempotency_key="trip")

    for other in (
        [one, created(two.stream_id, title="Walk")],
        [one, created(title="Fly")],
        [one, to(two.stream_id, TaskUpdated(title="Fly"))],
        [one],
        [one, two, created()],
        [two, one],
    ):
        with pytest.raises(IdempotencyConflict) as error:
            alice.append(other, idempotency_key="trip")
        assert (error.value.key, error.value.position) == ("trip", 2)

    assert len(alice.events()) == len(alice.tasks.list()) == 3


def test_a_key_is_its_users_own(alice: User, bob: User) -> None:
    recorded = [
        user.append([created(title=user.user_id)], idempotency_key="trip") for user in (alice, bob)
    ]

    assert [events[0].data for events in recorded] == [
        TaskCreated(title="alice"),
        TaskCreated(title="bob"),
    ]


def test_a_key_that_cannot_be_kept_is_refused(alice: User) -> None:
    for key in ("", " ", "k" * 256, "k\0", "\ud800"):
        with pytest.raises(InvalidInput) as error:
            alice.append([created()], idempotency_key=key)
        assert error.value.path == "idempotency_key"

    assert alice.events() == []


def test_a_key_says_what_happened_even_if_the_retry_was_put_together_anew(alice: User) -> None:
    stream = uuid4()

    def anew(attempt: int) -> list[NewEvent]:
        return [
            created(
                stream,
                expected=Expected.NEW,
                correlation_id=uuid4(),
                causation_id=uuid4(),
                metadata={"attempt": attempt},
            )
        ]

    first = alice.append(anew(1), idempotency_key="trip")
    again = alice.append(anew(2), idempotency_key="trip")

    assert again == first == alice.events()
    assert first[0].metadata == {"attempt": 1}


def test_a_failed_append_leaves_its_key_free(alice: User) -> None:
    stream = uuid4()
    with pytest.raises(WrongVersion):
        alice.append([created(stream, expected=1)], idempotency_key="trip")

    recorded = alice.append([created(stream, expected=0)], idempotency_key="trip")

    assert alice.events() == recorded


def test_commands_under_one_key_are_done_once(store: EventStore, alice: User) -> None:
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


def test_a_transaction_under_one_key_is_done_once_and_gives_the_same_ids(alice: User) -> None:
    chat = alice.conversations.start()

    def turn() -> list[UUID]:
        with alice.transaction(idempotency_key="turn 1") as tx:
            task = tx.tasks.create("Buy milk")
            message = tx.messages.post(chat.id, sender="assistant", content="Done.")
        assert len(tx.recorded) == 2
        return [task.id, message.id, *(event.event_id for event in tx.recorded)]

    first, again = turn(), turn()

    assert again == first
    assert len(alice.events()) == 3
