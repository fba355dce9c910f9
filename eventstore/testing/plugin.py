"""
The fixtures: a store on a database of its own for each test.

A fixture of the same name in a `conftest.py` replaces one of these; `event_store_options` and
`event_store_migrate` are there to be replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from eventstore.events.event import Event
from eventstore.log.envelope import NewEvent
from eventstore.store.store import EventStore
from eventstore.testing.network import Faults
from eventstore.testing.scenario import Scenario
from eventstore.testing.server import Migrate, Server, run_server, server_at

__all__ = [
    "event_store",
    "event_store_database",
    "event_store_migrate",
    "event_store_options",
    "event_store_server",
    "event_store_url",
    "faults",
    "given",
]


@pytest.fixture(scope="session")
def event_store_migrate() -> Migrate:
    """What makes your own tables in the template, called with its URL; replace it."""
    return lambda _: None


@pytest.fixture(scope="session")
def event_store_options() -> dict[str, Any]:
    """The `projectors` and `events` with which `event_store` connects; replace it."""
    return {}


@pytest.fixture(scope="session")
def event_store_server(event_store_migrate: Migrate) -> Iterator[Server]:
    """The server of this test process, with a migrated template of its own."""
    url = os.environ.get("EVENTSTORE_TEST_DATABASE_URL")
    running = server_at(url, event_store_migrate) if url else run_server(event_store_migrate)
    with running as server:
        yield server


@pytest.fixture
def event_store_database(event_store_server: Server) -> Iterator[str]:
    """The direct URL of the test's database, for SQL of its own; never behind faults."""
    url = event_store_server.create_database()
    yield url
    event_store_server.drop_database(url)


@pytest.fixture
def faults(event_store_database: str) -> Iterator[Faults]:
    """Faults on demand; a test that asks for them has its URL and its store behind them."""
    faults = Faults(event_store_database)
    yield faults
    faults.close()


@pytest.fixture
def event_store_url(request: pytest.FixtureRequest, event_store_database: str) -> str:
    """The URL of a migrated database without rows that only this test uses."""
    if "faults" in request.fixturenames:
        behind: Faults = request.getfixturevalue("faults")
        return behind.url
    return event_store_database


@pytest.fixture
def event_store(event_store_url: str, event_store_options: dict[str, Any]) -> Iterator[EventStore]:
    """A store on the database of this test."""
    with EventStore.connect(event_store_url, **event_store_options) as store:
        yield store


@pytest.fixture
def given(
    event_store: EventStore, event_store_url: str, event_store_options: dict[str, Any]
) -> Callable[..., Scenario]:
    """Begin a scenario: `given(*events)`, of the user `alice` or `given(…, user_id=…)`."""
    options = {"database_url": event_store_url, **event_store_options}

    def begin(*events: Event | NewEvent, user_id: str = "alice") -> Scenario:
        return Scenario(event_store, options=options, user_id=user_id).given(*events)

    return begin
