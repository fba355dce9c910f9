"""Acknowledged messages survive a crash of the server, and none is doubled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from uuid import UUID

import pytest

from eventstore import EventStore, Settings
from tests.support.server import Server, run_server

WRITERS = 4
CRASHES = 3
MESSAGES_BETWEEN_CRASHES = 40


@pytest.fixture
def durable_server() -> Iterator[Server]:
    with run_server(durable=True) as running:
        yield running


def test_acknowledged_messages_survive_crashes_and_none_is_doubled(durable_server: Server) -> None:
    url = durable_server.create_database()
    acknowledged: dict[str, list[UUID]] = {f"user-{n}": [] for n in range(WRITERS)}
    enough = threading.Semaphore(0)
    stop = threading.Event()

    def write(store: EventStore, name: str) -> None:
        user = store.user(name)
        user.conversations.start(key="diary")
        while not stop.is_set():
            message = user.messages.post("diary", sender="user", content="I was here")
            acknowledged[name].append(message.id)
            enough.release()

    with EventStore.connect(settings=Settings(database_url=url, deadline_seconds=60)) as store:
        threads = [threading.Thread(target=write, args=(store, name)) for name in acknowledged]
        for thread in threads:
            thread.start()
        for _ in range(CRASHES):
            for _ in range(MESSAGES_BETWEEN_CRASHES):
                assert enough.acquire(timeout=60)
            durable_server.crash()
        for _ in range(MESSAGES_BETWEEN_CRASHES):
            assert enough.acquire(timeout=60)
        stop.set()
        for thread in threads:
            thread.join()

        for name, ids in acknowledged.items():
            assert [one.id for one in store.user(name).history("diary")] == ids
        assert sum(map(len, acknowledged.values())) >= CRASHES * MESSAGES_BETWEEN_CRASHES
        assert store.verify().ok
