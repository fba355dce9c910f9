"""Faults on demand happen when they are asked for, and a fault that does not happen is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from eventstore import (
    AsyncEventStore,
    EventStore,
    OutcomeUnknown,
    Settings,
    Unavailable,
    User,
)
from eventstore.testing import Faults
from tests.support.waiting import until


@pytest.fixture
def alice(event_store: EventStore) -> User:
    return event_store.user("alice")


@pytest.fixture
def once(event_store_url: str) -> Iterator[User]:
    """Alice, on a store whose calls have one second."""
    settings = Settings(database_url=event_store_url, deadline_seconds=1)
    with EventStore.connect(settings=settings) as store:
        yield store.user("alice")


def test_an_outcome_that_nobody_can_be_asked_for_is_unknown_and_was_committed(
    faults: Faults, once: User, event_store_database: str
) -> None:
    with faults.outcome_unknown(), pytest.raises(OutcomeUnknown) as unknown:
        once.tasks.create("Buy milk")

    assert once.find_append(unknown.value) != []
    with EventStore.connect(event_store_database) as store:
        assert [one.title for one in store.user("alice").tasks.list()] == ["Buy milk"]


def test_a_store_finds_what_was_committed_and_lost(faults: Faults, alice: User) -> None:
    task = alice.tasks.create("Buy milk")

    with faults.lose_commit_reply():
        alice.tasks.complete(task.id)
    with faults.lose_commit_reply():
        alice.keyed("k").tasks.create("Bread")

    assert [event.type for event in alice.events()] == [
        "TaskCreated",
        "TaskCompleted",
        "TaskCreated",
    ]


def test_an_append_that_is_lost_on_its_way_is_sent_again(faults: Faults, alice: User) -> None:
    with faults.lose_append(times=2):
        alice.tasks.create("Buy milk")

    assert len(alice.events()) == 1
    assert faults.proxy.lost == 2


def test_only_appends_are_lost_whatever_is_read_meanwhile(faults: Faults, alice: User) -> None:
    def read() -> None:
        with faults.lose_commit_reply():
            alice.tasks.list()
            alice.events()

    with pytest.raises(AssertionError, match="0 of 1 appends were lost"):
        read()

    alice.tasks.create("Buy milk")
    assert faults.proxy.lost == 0


def test_the_reply_of_an_append_that_is_refused_is_not_lost(faults: Faults, alice: User) -> None:
    alice.keyed("k").tasks.create("Buy milk")

    with (
        pytest.raises(AssertionError, match="0 of 1"),
        faults.lose_commit_reply(),
    ):
        alice.keyed("k").tasks.create("Buy milk")


def test_a_server_that_is_down_is_back_after_the_block(faults: Faults, once: User) -> None:
    once.tasks.create("Buy milk")

    for _ in range(2):
        with faults.server_down():
            for _ in range(2):
                with pytest.raises(Unavailable):
                    once.tasks.list()
        with ThreadPoolExecutor() as threads:
            titles = list(threads.map(lambda _: _retried(once), range(4)))
        assert titles == [["Buy milk"]] * 4


def _retried(user: User) -> list[str]:
    # A connection that was idle when the server went is lost at its first use.
    while True:
        try:
            return [one.title for one in user.tasks.list()]
        except Unavailable:
            continue


def test_faults_reach_an_async_store_too(faults: Faults, event_store_url: str) -> None:
    async def run() -> list[str]:
        async with AsyncEventStore.connect(event_store_url) as store:
            alice = store.user("alice")
            with faults.lose_commit_reply():
                await alice.tasks.create("Buy milk")
            return [one.title for one in await alice.tasks.list()]

    assert asyncio.run(run()) == ["Buy milk"]


def test_a_reset_is_no_orderly_end(faults: Faults) -> None:
    for reset in (True, False):
        with socket.create_connection(("127.0.0.1", faults.proxy.port)) as client:
            until(lambda: len(faults.proxy._pairs) == 1)
            assert faults.proxy.cut(reset=reset) == 1
            if reset:
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
            else:
                assert client.recv(1) == b""
        until(lambda: not faults.proxy._pairs)
