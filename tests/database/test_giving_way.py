"""Who works through a long log lets the other tasks of the event loop run meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.turns import EVENTS_PER_TURN, fill
from eventstore import AsyncEventStore, EventStore
from eventstore.database.plan import ROWS_AT_A_TIME

TURNS = 4 * ROWS_AT_A_TIME // EVENTS_PER_TURN

LONG_WORK: dict[str, Callable[[AsyncEventStore], Any]] = {
    "a history from events": lambda store: store.user("alice").history(
        "chat", source="events", limit=1
    ),
    "the views of a history": lambda store: store.user("alice").history("chat", source="events"),
    "an audit": lambda store: store.user("alice").audit(),
    "verify": lambda store: store.verify("alice"),
    "rebuild": lambda store: store.rebuild("alice"),
    "export": lambda store: store.export("alice", len),
}


@pytest.fixture
def long_log(database_url: str) -> str:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        fill(alice, alice.conversations.start(key="chat").id, TURNS)
    return database_url


@pytest.mark.parametrize("work", LONG_WORK.values(), ids=LONG_WORK)
def test_a_task_runs_between_two_parts_of_a_long_log(
    long_log: str, monkeypatch: pytest.MonkeyPatch, work: Callable[[AsyncEventStore], Any]
) -> None:
    given: list[float] = []
    sleep = asyncio.sleep

    async def recorded(seconds: float, *rest: Any) -> None:
        given.append(seconds)
        await sleep(seconds, *rest)

    async def run() -> None:
        async with AsyncEventStore.connect(long_log) as store:
            await work(store)
            monkeypatch.setattr(asyncio, "sleep", recorded)
            await work(store)

    asyncio.run(run())

    assert given.count(0) >= 3  # of the four parts the last one is followed by an answer
