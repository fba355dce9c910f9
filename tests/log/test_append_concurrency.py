"""Concurrent writers, as threads and as asyncio tasks: no gap, no duplicate and no error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID, uuid4

import pytest

from eventstore import (
    AsyncEventStore,
    EventStore,
    Expected,
    NewEvent,
    RecordedEvent,
    TaskCreated,
    TaskUpdated,
    User,
    WrongVersion,
)

WRITERS = 8
APPENDS = 15

type Request = tuple[str, list[NewEvent], str | None]
type AtOnce = Callable[[list[list[Request]]], list[list[RecordedEvent]]]
"""Runs lists of requests concurrently, each list in order, and returns all results."""


@pytest.fixture(params=["threads", "tasks"])
def at_once(request: pytest.FixtureRequest, database_url: str) -> AtOnce:
    return in_threads(database_url) if request.param == "threads" else in_tasks(database_url)


def in_threads(database_url: str) -> AtOnce:
    def run(lists: list[list[Request]]) -> list[list[RecordedEvent]]:
        start = Barrier(len(lists))

        def work(store: EventStore, requests: list[Request]) -> list[list[RecordedEvent]]:
            start.wait()
            return [
                store.user(user).append(events, idempotency_key=key)
                for user, events, key in requests
            ]

        with EventStore.connect(database_url) as store, ThreadPoolExecutor(len(lists)) as pool:
            return [
                one
                for many in pool.map(lambda requests: work(store, requests), lists)
                for one in many
            ]

    return run


def in_tasks(database_url: str) -> AtOnce:
    async def work(store: AsyncEventStore, requests: list[Request]) -> list[list[RecordedEvent]]:
        return [
            await store.user(user).append(events, idempotency_key=key)
            for user, events, key in requests
        ]

    async def run(lists: list[list[Request]]) -> list[list[RecordedEvent]]:
        async with AsyncEventStore.connect(database_url) as store:
            results = await asyncio.gather(*(work(store, requests) for requests in lists))
        return [one for many in results for one in many]

    return lambda lists: asyncio.run(run(lists))


@pytest.fixture
def witness(database_url: str) -> Iterator[EventStore]:
    """A store beside the writers, to look at what they left."""
    with EventStore.connect(database_url) as store:
        yield store


def new_task(stream_id: UUID | None = None) -> NewEvent:
    return NewEvent(stream_id=stream_id or uuid4(), data=TaskCreated(title="Buy milk"))


def test_writers_of_one_user_get_every_position_and_version_exactly_once(
    at_once: AtOnce, witness: EventStore
) -> None:
    shared = uuid4()
    witness.user("alice").append([new_task(shared)])

    def request() -> Request:
        change = NewEvent(stream_id=shared, data=TaskUpdated(title="Buy oat milk"))
        return ("alice", [change, new_task()], None)

    results = at_once([[request() for _ in range(APPENDS)] for _ in range(WRITERS)])

    total = WRITERS * APPENDS
    pairs = sorted([(event.position, event.version) for event in events] for events in results)
    assert pairs == [[(2 * n, n + 1), (2 * n + 1, 1)] for n in range(1, total + 1)]
    assert [event.position for event in witness.user("alice").events()] == list(
        range(1, 2 * total + 2)
    )
    assert witness.verify().problems == ()


def test_writers_of_different_users_do_not_affect_each_other(
    at_once: AtOnce, witness: EventStore
) -> None:
    names = [f"user {n}" for n in range(WRITERS)]

    results = at_once([[(name, [new_task()], None) for _ in range(APPENDS)] for name in names])

    in_order = list(range(1, APPENDS + 1))
    assert [events[0].position for events in results] == in_order * WRITERS
    assert witness.users() == names
    assert witness.verify(jobs=2).problems == ()


def test_many_concurrent_appends_with_one_idempotency_key_append_once(
    at_once: AtOnce, witness: EventStore
) -> None:
    batch = [new_task(), new_task()]

    results = at_once([[("alice", batch, "trip")] for _ in range(WRITERS)])

    assert all(result == results[0] for result in results)
    assert witness.user("alice").events() == results[0]
    assert len(witness.user("alice").tasks.list()) == 2


def test_of_many_writers_that_expect_the_same_version_exactly_one_succeeds(
    database_url: str, witness: EventStore
) -> None:
    stream = uuid4()
    witness.user("alice").append([new_task(stream)])
    start = Barrier(WRITERS)

    def write(user: User) -> int:
        event = NewEvent(stream_id=stream, data=TaskUpdated(title="Fly"), expected=1)
        start.wait()
        try:
            return user.append([event])[0].version
        except WrongVersion as error:
            return -error.actual

    with EventStore.connect(database_url) as store, ThreadPoolExecutor(WRITERS) as pool:
        outcomes = list(pool.map(write, [store.user("alice")] * WRITERS))

    assert sorted(outcomes) == [-2] * (WRITERS - 1) + [2]
    assert len(witness.user("alice").events()) == 2


def test_of_many_writers_that_start_the_same_stream_exactly_one_succeeds(
    database_url: str, witness: EventStore
) -> None:
    stream = uuid4()
    start = Barrier(WRITERS)

    def write(user: User) -> bool:
        event = NewEvent(
            stream_id=stream, data=TaskCreated(title="Buy milk"), expected=Expected.NEW
        )
        start.wait()
        try:
            return bool(user.append([event]))
        except WrongVersion:
            return False

    with EventStore.connect(database_url) as store, ThreadPoolExecutor(WRITERS) as pool:
        outcomes = list(pool.map(write, [store.user("alice")] * WRITERS))

    assert outcomes.count(True) == 1
    assert len(witness.user("alice").events()) == 1
