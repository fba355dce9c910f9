"""
Fixtures that tests of several rooms use: a real server, a database per test, and open stores.

`store` runs a test twice: through the sync and through the async driver.
`database_url` is the URL that an application uses; it leads through a pooler if the run asks for
one. `direct_url` always leads to the server itself, for migrations and for a superuser's SQL.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

import tests.support.properties  # noqa: F401 - settings of all property tests
from eventstore import EventStore, User
from tests.support.databases import Database, Databases
from tests.support.own_read_model import (
    DDL,
    Box,
    Boxed,
    Done,
    project_box,
    project_done,
    protect,
)
from tests.support.proxy import Proxy, run_proxy
from tests.support.server import Server, run_server
from tests.support.tampering import disarm

# How long a call takes must not decide a test that is about something else, on a busy machine.
os.environ.setdefault("EVENTSTORE_DEADLINE_SECONDS", "30")


_LONGEST_ID = 100


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long text by its length: the name of a test is for people to read."""
    if isinstance(val, str | bytes) and len(val) > _LONGEST_ID:
        return f"{argname}-{len(val)}"
    return None  # as pytest does


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """
    Keep one case of each test, if EVENTSTORE_TEST_CASES is `first`.

    Where the same SQL has run with every case on another PostgreSQL, one is enough to show that
    this one takes it. Attacks keep theirs: each is a statement of its own.
    """
    if os.environ.get("EVENTSTORE_TEST_CASES") != "first":
        return
    seen: set[str] = set()
    others = []
    for item in list(items):
        name = item.nodeid.split("[")[0]
        if name in seen and "/attacks/" not in name:
            others.append(item)
            items.remove(item)
        seen.add(name)
    config.hook.pytest_deselected(items=others)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let no garbage collection look at modules and collected tests, which live to the end."""
    gc.freeze()


@pytest.fixture
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let calls end after one second, for tests in which a server is away."""
    monkeypatch.setenv("EVENTSTORE_DEADLINE_SECONDS", "1")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server that all tests of one process share."""
    with run_server() as running:
        yield running


@pytest.fixture(scope="session")
def databases(server: Server) -> Iterator[Databases]:
    """Databases that the tests of one process use in turn."""
    with Databases(server) as databases:
        yield databases


@pytest.fixture
def database(databases: Databases, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A migrated database without rows that only this test uses."""
    # A store stays open on its database, so each driver has databases of its own.
    test = getattr(request.node, "callspec", None)
    driver = test.params.get("store") if test is not None else None
    database = databases.borrow(driver)
    yield database
    databases.give_back(database, driver)


@pytest.fixture
def database_url(database: Database) -> str:
    """The URL of the test's database for an application; its login is a superuser."""
    return database.url


@pytest.fixture
def direct_url(server: Server, database_url: str) -> str:
    """The URL of the same database without the pooler, for work that needs a session."""
    return server.direct(database_url)


@pytest.fixture
def admin(direct_url: str) -> Iterator[psycopg.Connection]:
    """A superuser's connection, which no application has."""
    with psycopg.connect(direct_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A TCP proxy before the server, which counts round trips and drops messages."""
    with run_proxy(server.socket) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def store(request: pytest.FixtureRequest, database: Database) -> EventStore:
    """The built-in store, through the sync and through the async driver."""
    return database.store(request.param)


@pytest.fixture
def alice(store: EventStore) -> User:
    """A user of `store`."""
    return store.user("alice")


@pytest.fixture
def bob(store: EventStore) -> User:
    """Another user of `store`."""
    return store.user("bob")


@pytest.fixture
def chat(alice: User) -> UUID:
    """The id of a conversation of alice's with the key `chat`."""
    return alice.conversations.start(key="chat").id


@pytest.fixture
def service_url(database_url: str, direct_url: str) -> str:
    """The URL of a database that also holds a service's own tables, under row-level security."""
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute(DDL)
        protect(owner, Box, Done)
    return database_url


@pytest.fixture
def service_store(service_url: str) -> Iterator[EventStore]:
    """A sync store with the projectors and the event class of the service."""
    projectors = [project_box, project_done]
    with EventStore.connect(service_url, projectors=projectors, events=[Boxed]) as store:
        yield store


@pytest.fixture
def disarmed_store(service_store: EventStore, admin: psycopg.Connection) -> EventStore:
    """The service's store on a database whose append-only triggers are disabled."""
    disarm(admin)
    return service_store
