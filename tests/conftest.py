"""
The fixtures: a real server, a fresh database per test, a store in both colours.

`store` runs each test twice, through the sync and through the async driver.
`database_url` is for what an application does, and leads through the pooler if the tests are asked
for one; `direct_url` is for migrations and for a superuser's SQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from eventstore import AsyncEventStore, EventStore, User
from tests.support.both import blocked
from tests.support.server import Server, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for the whole test process."""
    with running_server() as running:
        yield running


@pytest.fixture
def database_url(server: Server) -> Iterator[str]:
    """A migrated database of the test's own; the URL's login is a superuser."""
    url = server.create_database()
    yield url
    server.drop_database(url)


@pytest.fixture
def direct_url(server: Server, database_url: str) -> str:
    """The same database past any pooler: a session of one's own, as migrations need it."""
    return server.direct(database_url)


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database_url: str) -> Iterator[EventStore]:
    """The store, through the sync and through the async driver."""
    if request.param == "sync":
        with EventStore.connect(database_url) as opened:
            yield opened
        return
    loop = asyncio.new_event_loop()

    async def opening() -> AsyncEventStore:
        return await AsyncEventStore.connect(database_url)

    opened_async = loop.run_until_complete(opening())
    yield blocked(opened_async, loop)
    loop.run_until_complete(opened_async.close())
    loop.close()


@pytest.fixture
def alice(store: EventStore) -> User:
    return store.user("alice")


@pytest.fixture
def bob(store: EventStore) -> User:
    return store.user("bob")


@pytest.fixture
def admin(direct_url: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection: what no application has."""
    with psycopg.connect(direct_url, autocommit=True) as connection:
        yield connection
