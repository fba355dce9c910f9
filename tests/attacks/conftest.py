"""A store for a whole module of attacks: each test has users of its own in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from eventstore import AsyncEventStore, EventStore
from tests.attacks.support import given_two_users
from tests.support.both import blocked
from tests.support.server import Server


@pytest.fixture(scope="module", params=["sync", "async"])
def shared(request: pytest.FixtureRequest, server: Server) -> Iterator[EventStore]:
    """One store for all of these tests: each has users of its own."""
    url = server.create_database()
    if request.param == "sync":
        with EventStore.connect(url) as opened:
            yield opened
    else:
        loop = asyncio.new_event_loop()

        async def opening() -> AsyncEventStore:
            return await AsyncEventStore.connect(url)

        inner = loop.run_until_complete(opening())
        yield blocked(inner, loop)
        loop.run_until_complete(inner.close())
        loop.close()
    server.drop_database(url)


@pytest.fixture(scope="module")
def two_users(server: Server) -> Iterator[str]:
    """A database with rows of two users in every table."""
    url = server.create_database()
    given_two_users(server, url)
    yield url
    server.drop_database(url)
