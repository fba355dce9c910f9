"""Databases that all attacks of a module share; each test has users of its own in them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventstore import EventStore
from tests.attacks.support import fill_tables
from tests.support.drivers import open_store
from tests.support.server import Server


@pytest.fixture(scope="module", params=["sync", "async"])
def shared_store(request: pytest.FixtureRequest, server: Server) -> Iterator[EventStore]:
    """A store that all tests of a module share; each test has users of its own in it."""
    url = server.create_database()
    with open_store(request.param, url) as store:
        yield store
    server.drop_database(url)


@pytest.fixture(scope="module")
def two_users(server: Server) -> Iterator[str]:
    """A database with rows of two users in every table."""
    url = server.create_database()
    fill_tables(server, url)
    yield url
    server.drop_database(url)
