"""An append writes all its events or none, checks expected versions and leaves no gap."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
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
    NotFound,
    NotStorable,
    RecordedEvent,
    StreamClosed,
    TaskCreated,
    TaskDeleted,
    TaskUpdated,
    User,
    WrongVersion,
)
from eventstore.events.json_codec import loads
from eventstore.events.registry import BUILT_IN_EVENTS, EventRegistry
from tests.support.own_read_model import Boxed, box_event
from tests.support.tampering import disarm

SAMPLES = Path(__file__).parent.parent / "events" / "samples"


def new_event(stream_id: UUID, data: Event, **options: Any) -> NewEvent:
    return NewEvent(stream_id=stream_id, data=data, **options)


def new_task(stream_id: UUID | None = None, title: str = "Buy milk", **options: Any) -> NewEvent:
    return new_event(stream_id or uuid4(), TaskCreated(title=title), **options)


def create_task_at_version(user: User, version: int) -> UUID:
    """Append the first `version` events of a task to an empty log; return its stream."""
    stream = uuid4()
    changes = [new_event(stream, TaskUpdated(title=f"Title {n}")) for n in range(1, version)]
    user.append([new_task(stream), *changes])
    return stream


def positions_and_versions(events: list[RecordedEvent]) -> list[tuple[int, int]]:
    return [(event.position, event.version) for event in events]


# Positions and versions.


def test_positions_count_through_the_log_and_versions_through_each_stream(alice: User) -> None:
    milk, trip, chat = uuid4(), uuid4(), uuid4()
    alice.append([new_task(milk)])

    recorded = alice.append(
        [
            new_task(trip),
            new_event(milk, TaskUpdated(title="Buy oat milk")),
            new_event(chat, ConversationStarted()),
            new_event(trip, TaskUpdated(title="Fly")),
            new_event(milk, TaskDeleted()),
        ]
    )

    assert positions_and_versions(recorded) == [(2, 1), (3, 2), (4, 1), (5, 2), (6, 3)]
    assert alice.events(after=1) == recorded


def test_positions_are_counted_per_user(alice: User, bob: User) -> None:
    stream = uuid4()

    recorded = [user.append([new_task(stream)]) for user in (alice, bob)]

    assert [positions_and_versions(events) for events in recorded] == [[(1, 1)], [(1, 1)]]


def test_an_append_may_have_a_thousand_events(alice: User, store: EventStore) -> None:
    recorded = alice.append([new_task(title=f"Task {n}") for n in range(1_000)])

    assert positions_and_versions(recorded) == [(n + 1, 1) for n in range(1_000)]
    assert [event.data.title for event in alice.events()] == [  # type: ignore[attr-defined]  # all are TaskCreated
        f"Task {n}" for n in range(1_000)
    ]
    assert store.verify().ok


def test_more_than_a_thousand_events_or_none_at_all_are_refused(alice: User) -> None:
    with pytest.raises(BatchTooLarge) as too_many:
        alice.append([new_task() for _ in range(1_001)])
    with pytest.raises(InvalidInput, match="at least one event"):
        alice.append([])

    assert (too_many.value.count, too_many.value.limit) == (1_001, 1_000)
    assert alice.events() == []


def test_recorded_at_never_runs_backwards_within_a_log(
    alice: User, admin: psycopg.Connection
) -> None:
    stream = create_task_at_version(alice, 1)
    future = datetime.now(UTC).replace(microsecond=7) + timedelta(days=1)
    disarm(admin)
    admin.execute("update eventstore.user_log set recorded_at = %s", (future,))

    (late,) = alice.append([new_event(stream, TaskUpdated(title="Buy oat milk"))])

    assert late.recorded_at == future
    assert alice.tasks.get(stream).updated_at == future


# Expected versions.


@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_append_is_accepted_if_and_only_if_the_stream_is_as_expected(
    store: EventStore, version: int
) -> None:
    def accepts(expected: Expected | int) -> bool:
        user = store.user(f"{expected}")
        stream = create_task_at_version(user, version) if version else uuid4()
        begins = not version or expected in {Expected.NEW, 0}
        data = TaskCreated(title="Buy milk") if begins else TaskUpdated(title="Fly")
        try:
            (recorded,) = user.append([new_event(stream, data, expected=expected)])
        except WrongVersion:
            return len(user.events()) != version
        return (recorded.position, recorded.version) == (version + 1, version + 1)

    accepted = [one for one in (*Expected, 0, 1, 2, 3) if accepts(one)]

    existence = Expected.EXISTS if version else Expected.NEW
    assert set(accepted) == {existence, Expected.ANY, version}


@pytest.mark.parametrize("expected", [Expected.NEW, 0])
def test_an_event_that_begins_no_stream_is_refused_where_a_new_one_is_expected(
    alice: User, expected: Expected | int
) -> None:
    for stream in (uuid4(), create_task_at_version(alice, 1)):
        with pytest.raises(InvalidInput, match="TaskUpdated cannot be the first event") as refused:
            alice.append([new_event(stream, TaskUpdated(title="Fly"), expected=expected)])
        assert refused.value.path == "events[0].expected"

    assert len(alice.events()) == 1


STARTING: set[type[Event]] = {TaskCreated, ConversationStarted}
LATER = [
    kind
    for kind in BUILT_IN_EVENTS
    if kind not in STARTING and kind.stream_kind in {"task", "conversation"}
]


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "among others"])
@pytest.mark.parametrize("kind", LATER, ids=lambda kind: kind.type)
def test_a_task_or_conversation_begins_with_its_own_event_and_with_no_other(
    alice: User, admin: psycopg.Connection, kind: type[Event], alone: bool
) -> None:
    stream = uuid4()
    sample = (SAMPLES / f"{kind.type}.v{kind.schema_version}.json").read_text(encoding="utf-8")
    event = EventRegistry().read(kind.type, kind.schema_version, loads(sample))

    with pytest.raises(NotFound) as in_transaction, alice.transaction() as tx:  # noqa: PT012 - one transaction
        if not alone:
            tx.tasks.create("Buy milk")
        tx.append(stream, event)
    with pytest.raises(WrongVersion) as error:
        alice.append([*([] if alone else [new_task()]), new_event(stream, event)])

    assert (in_transaction.value.kind, in_transaction.value.key) == (kind.stream_kind, stream)
    assert (error.value.stream_id, error.value.actual) == (stream, 0)
    assert error.value.expected == Expected.EXISTS
    assert alice.events() == []
    assert admin.execute("select count(*) from eventstore.stream").fetchall() == [(0,)]


def test_the_built_in_events_that_start_a_stream_are_those_of_a_new_entity() -> None:
    starting = {kind for kind in BUILT_IN_EVENTS if kind.starts}

    assert starting >= STARTING
    assert {kind for kind in starting if kind.stream_kind in {"task", "conversation"}} == STARTING


def test_a_stream_of_a_services_own_kind_begins_with_any_of_its_events(
    service_store: EventStore,
) -> None:
    alice, one, two = service_store.user("alice"), uuid4(), uuid4()

    with alice.transaction() as tx:
        tx.append(one, Boxed(done="noted", value="x"))
    alice.append([box_event(two, "noted", value="x"), box_event(two, "gone")])

    assert positions_and_versions(alice.events()) == [(1, 1), (2, 1), (3, 2)]


def test_a_wrong_version_error_names_the_actual_version(alice: User) -> None:
    stream = create_task_at_version(alice, 2)

    with pytest.raises(WrongVersion) as error:
        alice.append([new_task(), new_event(stream, TaskUpdated(title="Fly"), expected=7)])

    assert (error.value.stream_id, error.value.actual) == (stream, 2)
    assert f"stream {stream} is at version 2, but the append expected version 7;" in str(
        error.value
    )


def test_an_expected_version_refers_to_the_stream_before_the_append(alice: User) -> None:
    stream = uuid4()

    recorded = alice.append(
        [new_task(stream, expected=0), new_event(stream, TaskUpdated(title="Fly"), expected=0)]
    )

    assert positions_and_versions(recorded) == [(1, 1), (2, 2)]


def test_an_expected_version_below_zero_is_refused(alice: User) -> None:
    with pytest.raises(InvalidInput) as error:
        alice.append([new_task(expected=-1)])

    assert error.value.path == "events[0].expected"


def test_a_closed_stream_accepts_no_event_whatever_version_is_expected(alice: User) -> None:
    stream = create_task_at_version(alice, 1)
    alice.append([new_event(stream, TaskDeleted())])

    for expected in (Expected.ANY, Expected.NEW, Expected.EXISTS, 2):
        data = TaskCreated(title="Fly") if expected is Expected.NEW else TaskUpdated(title="Fly")
        with pytest.raises(StreamClosed) as error:
            alice.append([new_event(stream, data, expected=expected)])
        assert (error.value.stream_id, error.value.version) == (stream, 2)

    assert len(alice.events()) == 2


def test_an_append_with_an_event_after_a_closing_event_is_refused(alice: User) -> None:
    stream = create_task_at_version(alice, 1)

    with pytest.raises(StreamClosed):
        alice.append(
            [
                new_task(),
                new_event(stream, TaskDeleted()),
                new_event(stream, TaskUpdated(title="Fly")),
            ]
        )

    assert len(alice.events()) == 1
    assert alice.tasks.get(stream).title == "Buy milk"


def test_a_stream_accepts_only_events_of_its_kind(alice: User) -> None:
    stream = create_task_at_version(alice, 1)

    with pytest.raises(InvalidInput, match=f"{stream} is a task, not a conversation"):
        alice.append([new_event(stream, ConversationStarted())])

    assert len(alice.events()) == 1


def test_one_failed_expectation_refuses_the_whole_append(alice: User, store: EventStore) -> None:
    stream = create_task_at_version(alice, 2)
    batch = [
        new_task(),
        new_event(stream, TaskUpdated(title="Fly")),
        new_task(expected=Expected.EXISTS),
    ]

    with pytest.raises(WrongVersion):
        alice.append(batch, idempotency_key="trip")

    assert len(alice.tasks.list()) == len({event.stream_id for event in alice.events()}) == 1
    assert positions_and_versions(alice.append(batch[:2], idempotency_key="trip")) == [
        (3, 1),
        (4, 3),
    ]
    assert store.verify().ok


class Unregistered(Event, type="Unregistered", stream_kind="task"):
    """An event type that is not registered with the store."""


def test_an_event_of_an_unregistered_type_is_refused(alice: User) -> None:
    with pytest.raises(InvalidInput, match="Unregistered is not registered"):
        alice.append([new_task(), new_event(uuid4(), Unregistered())])
    with (
        pytest.raises(InvalidInput, match="Unregistered is not registered"),
        alice.transaction() as tx,
    ):
        tx.append(uuid4(), Unregistered())

    assert alice.events() == []


# Reading back.


def test_metadata_correlation_and_causation_are_read_back_unchanged(alice: User) -> None:
    metadata = {"z": [2**70, None, "\0\ud800"], "a": {"b": 1.5}}
    event = new_task(correlation_id=uuid4(), causation_id=uuid4(), metadata=metadata)

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


def test_metadata_that_json_cannot_hold_is_refused_and_its_path_named(alice: User) -> None:
    with pytest.raises(NotStorable) as error:
        alice.append([new_task(), new_task(metadata={"score": [float("inf")]})])

    assert error.value.path == "events[1].metadata.score[0]"
    assert alice.events() == []


def test_the_id_of_an_appended_event_can_be_the_key_of_what_follows_from_it(alice: User) -> None:
    (event,) = alice.append([new_task()])

    for _ in range(2):
        with alice.transaction(idempotency_key=str(event.event_id)) as tx:
            tx.tasks.create("what follows", caused_by=event)

    assert len(alice.tasks.list()) == 2
