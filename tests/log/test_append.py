"""An append: all or nothing, only as expected, in its place without a gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from eventstore import (
    BatchTooLarge,
    ConversationStarted,
    Event,
    EventStore,
    Expected,
    InvalidInput,
    NewEvent,
    NotStorable,
    RecordedEvent,
    StreamClosed,
    TaskCreated,
    TaskDeleted,
    TaskUpdated,
    User,
    WrongVersion,
)
from tests.support.tampering import disarm

type Place = tuple[int, int]


def to(stream_id: UUID, data: Event, **how: Any) -> NewEvent:
    return NewEvent(stream_id=stream_id, data=data, **how)


def created(stream_id: UUID | None = None, title: str = "Buy milk", **how: Any) -> NewEvent:
    return to(stream_id or uuid4(), TaskCreated(title=title), **how)


def given_a_task_at_version(user: User, version: int) -> UUID:
    """Return a stream with so many events, the first position of which is 1."""
    stream = uuid4()
    changes = [to(stream, TaskUpdated(title=f"Title {n}")) for n in range(1, version)]
    user.append([created(stream), *changes])
    return stream


def places(events: list[RecordedEvent]) -> list[Place]:
    return [(event.position, event.version) for event in events]


# Places.


def test_positions_follow_the_log_and_versions_their_streams(alice: User) -> None:
    milk, trip, chat = uuid4(), uuid4(), uuid4()
    alice.append([created(milk)])

    recorded = alice.append(
        [
            created(trip),
            to(milk, TaskUpdated(title="Buy oat milk")),
            to(chat, ConversationStarted()),
            to(trip, TaskUpdated(title="Fly")),
            to(milk, TaskDeleted()),
        ]
    )

    assert places(recorded) == [(2, 1), (3, 2), (4, 1), (5, 2), (6, 3)]
    assert alice.events(after=1) == recorded


def test_every_user_has_positions_of_their_own(alice: User, bob: User) -> None:
    stream = uuid4()

    recorded = [user.append([created(stream)]) for user in (alice, bob)]

    assert [places(events) for events in recorded] == [[(1, 1)], [(1, 1)]]


def test_an_append_holds_up_to_a_thousand_events(alice: User, store: EventStore) -> None:
    recorded = alice.append([created(title=f"Task {n}") for n in range(1_000)])

    assert places(recorded) == [(n + 1, 1) for n in range(1_000)]
    assert [event.data.title for event in alice.events()] == [  # type: ignore[attr-defined]  # all are TaskCreated
        f"Task {n}" for n in range(1_000)
    ]
    assert store.verify().ok


def test_more_than_a_thousand_events_or_none_are_refused_unsent(alice: User) -> None:
    with pytest.raises(BatchTooLarge) as too_many:
        alice.append([created() for _ in range(1_001)])
    with pytest.raises(InvalidInput, match="at least one event"):
        alice.append([])

    assert (too_many.value.count, too_many.value.limit) == (1_001, 1_000)
    assert alice.events() == []


def test_time_never_runs_backwards_within_a_log(alice: User, admin: psycopg.Connection) -> None:
    stream = given_a_task_at_version(alice, 1)
    future = datetime.now(UTC).replace(microsecond=7) + timedelta(days=1)
    disarm(admin)
    admin.execute("update eventstore.user_log set recorded_at = %s", (future,))

    (late,) = alice.append([to(stream, TaskUpdated(title="Buy oat milk"))])

    assert late.recorded_at == future
    assert alice.tasks.get(stream).updated_at == future


# Expectations.


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_append_is_accepted_if_and_only_if_its_expectation_is_met(
    store: EventStore, version: int
) -> None:
    def accepts(expected: Expected | int) -> bool:
        user = store.user(f"{expected}")
        stream = given_a_task_at_version(user, version) if version else uuid4()
        data = TaskUpdated(title="Fly") if version else TaskCreated(title="Buy milk")
        try:
            (recorded,) = user.append([to(stream, data, expected=expected)])
        except WrongVersion:
            return len(user.events()) != version
        return (recorded.position, recorded.version) == (version + 1, version + 1)

    accepted = [one for one in (*Expected, 0, 1, 2, 3) if accepts(one)]

    there = Expected.EXISTS if version else Expected.NEW
    assert set(accepted) == {there, Expected.ANY, version}


def test_a_refused_append_tells_what_the_stream_is_at(alice: User) -> None:
    stream = given_a_task_at_version(alice, 2)

    with pytest.raises(WrongVersion) as error:
        alice.append([created(), to(stream, TaskUpdated(title="Fly"), expected=7)])

    assert (error.value.stream_id, error.value.actual) == (stream, 2)
    assert f"stream {stream} is at version 2, but the append expected 7;" in str(error.value)


def test_an_expectation_is_about_the_stream_as_it_was_before_the_append(alice: User) -> None:
    stream = uuid4()

    recorded = alice.append(
        [created(stream, expected=0), to(stream, TaskUpdated(title="Fly"), expected=0)]
    )

    assert places(recorded) == [(1, 1), (2, 2)]


def test_an_expected_version_below_zero_is_refused(alice: User) -> None:
    with pytest.raises(InvalidInput) as error:
        alice.append([created(expected=-1)])

    assert error.value.path == "events[0].expected"


def test_a_closed_stream_takes_no_more_events_whatever_is_expected(alice: User) -> None:
    stream = given_a_task_at_version(alice, 1)
    alice.append([to(stream, TaskDeleted())])

    for expected in (Expected.ANY, Expected.NEW, Expected.EXISTS, 2):
        with pytest.raises(StreamClosed) as error:
            alice.append([to(stream, TaskUpdated(title="Fly"), expected=expected)])
        assert (error.value.stream_id, error.value.version) == (stream, 2)

    assert len(alice.events()) == 2


def test_nothing_follows_a_closing_event_within_one_append_either(alice: User) -> None:
    stream = given_a_task_at_version(alice, 1)

    with pytest.raises(StreamClosed):
        alice.append([created(), to(stream, TaskDeleted()), to(stream, TaskUpdated(title="Fly"))])

    assert len(alice.events()) == 1
    assert alice.tasks.get(stream).title == "Buy milk"


def test_a_stream_keeps_the_kind_it_began_with(alice: User) -> None:
    stream = given_a_task_at_version(alice, 1)

    with pytest.raises(InvalidInput, match=f"{stream} is a task, the append said conversation"):
        alice.append([to(stream, ConversationStarted())])

    assert len(alice.events()) == 1


def test_one_failed_expectation_leaves_nothing_of_the_whole_append(
    alice: User, store: EventStore
) -> None:
    stream = given_a_task_at_version(alice, 2)
    batch = [created(), to(stream, TaskUpdated(title="Fly")), created(expected=Expected.EXISTS)]

    with pytest.raises(WrongVersion):
        alice.append(batch, idempotency_key="trip")

    assert len(alice.tasks.list()) == len({event.stream_id for event in alice.events()}) == 1
    assert places(alice.append(batch[:2], idempotency_key="trip")) == [(3, 1), (4, 3)]
    assert store.verify().ok


class Unregistered(Event, type="Unregistered", stream_kind="task"):
    """An event that the store of these tests was not told of."""


def test_an_event_that_could_not_be_read_back_is_refused(alice: User) -> None:
    with pytest.raises(InvalidInput, match="Unregistered is not registered"):
        alice.append([created(), to(uuid4(), Unregistered())])
    with (
        pytest.raises(InvalidInput, match="Unregistered is not registered"),
        alice.transaction() as tx,
    ):
        tx.append(uuid4(), Unregistered())

    assert alice.events() == []


# What comes back.


def test_metadata_correlation_and_cause_come_back_as_they_were_sent(alice: User) -> None:
    metadata = {"z": [2**70, None, "\0\ud800"], "a": {"b": 1.5}}
    event = created(correlation_id=uuid4(), causation_id=uuid4(), metadata=metadata)

    (recorded,) = alice.append([event])

    (read,) = alice.events()
    assert read == recorded
    assert (read.event_id, read.correlation_id, read.causation_id) == (
        event.event_id,
        event.correlation_id,
        event.causation_id,
    )
    assert read.metadata == metadata
    assert list(read.metadata) == ["z", "a"]


def test_metadata_that_json_cannot_hold_is_refused_by_its_place(alice: User) -> None:
    with pytest.raises(NotStorable) as error:
        alice.append([created(), created(metadata={"score": [float("inf")]})])

    assert error.value.path == "events[1].metadata.score[0]"
    assert alice.events() == []
