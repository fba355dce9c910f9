"""Reading the log: any selection, in either direction, in pages, never past an unreadable event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    Event,
    EventStore,
    InvalidInput,
    NewEvent,
    RecordedEvent,
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskUpdated,
    UnknownEventType,
    UnreadableEvent,
    User,
)
from tests.support.paging import everything
from tests.support.properties import examples
from tests.support.tampering import disarm

# The pool's thread may use `random` while Hypothesis draws an example, and Hypothesis then warns.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

MILK, TRIP, UNUSED = UUID(int=1), UUID(int=2), UUID(int=3)
APPENDS: tuple[tuple[tuple[UUID, Event], ...], ...] = (
    ((MILK, TaskCreated(title="Buy milk")),),
    ((TRIP, TaskCreated(title="Fly")), (MILK, TaskUpdated(title="Buy oat milk"))),
    ((MILK, TaskCompleted()), (TRIP, TaskUpdated(title="Walk")), (TRIP, TaskCompleted())),
    ((MILK, TaskDeleted()), (TRIP, TaskUpdated(description=None))),
)


@pytest.fixture
def log(alice: User, bob: User) -> list[RecordedEvent]:
    """Return alice's eight events from four appends; bob has some too."""
    events: list[RecordedEvent] = []
    for number, batch in enumerate(APPENDS):
        news = [NewEvent(stream_id=stream, data=data) for stream, data in batch]
        events += alice.append(news)
        bob.tasks.create(f"Task {number}")
    return events


def test_the_log_is_read_in_order_and_as_it_was_recorded(
    alice: User, log: list[RecordedEvent]
) -> None:
    assert alice.events() == log
    assert [event.position for event in log] == list(range(1, 9))
    assert {event.user_id for event in log} == {"alice"}
    assert all(event.recorded_at.tzinfo is UTC for event in log)


types = st.sampled_from(["TaskCreated", "TaskUpdated", "TaskCompleted", "MessagePosted"])


@given(
    stream_id=st.sampled_from([None, MILK, TRIP, UNUSED]),
    after=st.none() | st.integers(0, 10),
    wanted=st.none() | st.lists(types, max_size=2),
    as_of=st.none() | st.integers(0, 10),
    backward=st.booleans(),
    limit=st.integers(0, 10),
)
@examples(60)
def test_a_selection_equals_the_filtered_log(
    alice: User,
    log: list[RecordedEvent],
    stream_id: UUID | None,
    after: int | None,
    wanted: list[str] | None,
    as_of: int | None,
    backward: bool,
    limit: int,
) -> None:
    found = alice.events(
        stream_id=stream_id,
        after=after,
        types=wanted,
        as_of=as_of,
        backward=backward,
        limit=limit,
    )

    assert (
        found
        == [
            event
            for event in (reversed(log) if backward else log)
            if (stream_id is None or event.stream_id == stream_id)
            and (after is None or event.position != after)
            and (after is None or (event.position < after) == backward)
            and (as_of is None or event.position <= as_of)
            and (wanted is None or event.type in wanted)
        ][:limit]
    )


def test_as_of_a_timestamp_returns_the_events_recorded_until_then(
    alice: User, log: list[RecordedEvent]
) -> None:
    moments = sorted({event.recorded_at for event in log})
    just_before = timedelta(microseconds=1)

    counts = [len(alice.events(as_of=moment)) for moment in moments]
    counts_before = [len(alice.events(as_of=moment - just_before)) for moment in moments]

    assert counts == [1, 3, 6, 8]  # all events of an append have one timestamp
    assert counts_before == [0, 1, 3, 6]


@pytest.mark.parametrize("page", [1, 3, 8])
def test_all_pages_together_are_the_log_in_either_direction(
    alice: User, log: list[RecordedEvent], page: int
) -> None:
    assert everything(alice.events, limit=page) == log
    assert everything(alice.events, limit=page, backward=True) == log[::-1]


def test_a_page_has_a_thousand_events_by_default(alice: User) -> None:
    stream = NewEvent(stream_id=MILK, data=TaskCreated(title="Buy milk"))
    change = TaskUpdated(title="Buy oat milk")
    alice.append([stream, *(NewEvent(stream_id=MILK, data=change) for _ in range(999))])
    alice.append([NewEvent(stream_id=MILK, data=change)])

    assert len(alice.events()) == 1_000
    assert [event.position for event in alice.events(after=1_000)] == [1_001]
    assert len(alice.events(limit=2_000)) == 1_001


@pytest.mark.parametrize("types", [iter(["TaskCreated"]), ["x" * 101], "TaskCreated"])
def test_types_are_a_list_of_names_that_an_event_can_have(alice: User, types: Any) -> None:
    # An iterator would have nothing left when a lost connection makes the store ask again.
    with pytest.raises(InvalidInput, match="types: "):
        alice.events(types=types)


def test_an_invalid_argument_is_refused_and_named(alice: User) -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the store must refuse it

    with pytest.raises(InvalidInput) as limit:
        alice.events(limit=-1)
    with pytest.raises(InvalidInput, match="give 0 to") as position:
        alice.events(as_of=-1)
    with pytest.raises(InvalidInput, match="without time zone") as timestamp:
        alice.events(as_of=naive)
    with pytest.raises(InvalidInput, match="a bool") as flag:
        alice.events(as_of=True)

    assert limit.value.path == "limit"
    assert {error.value.path for error in (position, timestamp, flag)} == {"as_of"}


def test_another_users_events_are_never_returned(
    store: EventStore, log: list[RecordedEvent]
) -> None:
    carol = store.user("carol")

    assert carol.events() == carol.events(stream_id=MILK) == carol.events(backward=True) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("type = 'TaskPainted'", "event type TaskPainted (schema version 1) at position 5"),
        ("schema_version = 2", "event type TaskUpdated (schema version 2) at position 5"),
    ],
)
def test_reading_stops_at_an_event_of_unknown_type_and_names_it(
    alice: User, log: list[RecordedEvent], admin: psycopg.Connection, change: str, message: str
) -> None:
    disarm(admin)
    admin.execute(f"update eventstore.event set {change} where user_id = 'alice' and position = 5")

    for selection in ({}, {"after": 4, "limit": 1}, {"stream_id": TRIP}, {"backward": True}):
        with pytest.raises(UnknownEventType) as error:
            alice.events(**selection)
        assert error.value.position == 5
        assert message in str(error.value)

    assert alice.events(as_of=4) + alice.events(after=5) == log[:4] + log[5:]
    assert alice.events(types=["TaskCompleted"]) == [log[3], log[5]]


def test_reading_stops_at_an_unreadable_payload_and_does_not_quote_it(
    alice: User, log: list[RecordedEvent], admin: psycopg.Connection
) -> None:
    disarm(admin)
    admin.execute(
        """
        update eventstore.event set payload = '{"title": "Buy milk", "secret": "swordfish"}'
        where user_id = 'alice' and position = 1
        """
    )

    with pytest.raises(UnreadableEvent) as error:
        alice.events()

    assert (error.value.type, error.value.position) == ("TaskCreated", 1)
    assert "swordfish" not in str(error.value)
