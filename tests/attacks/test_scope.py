"""
A session stays in its user's scope in every transaction, however the one before it ended.

The login of the URL is a superuser in half of the tests, so that a transaction without a scope
would return the rows of every user.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import select

from eventstore import AsyncEventStore, ConfigurationError, EventStore, Settings
from projections import Task
from tests.attacks.support import attacker_url
from tests.support.drivers import open_store
from tests.support.own_read_model import Boxed
from tests.support.server import Server


@pytest.fixture(params=["superuser", "attacker"])
def login_url(request: pytest.FixtureRequest, server: Server, two_users: str) -> str:
    return two_users if request.param == "superuser" else attacker_url(server, two_users)


@pytest.fixture(params=["sync", "async"])
def narrow(request: pytest.FixtureRequest, login_url: str) -> Iterator[EventStore]:
    """A store with a single connection."""
    settings = Settings(database_url=login_url, pool_min_size=1, pool_max_size=1)
    with open_store(request.param, settings=settings, events=[Boxed]) as store:
        yield store


def run(session: Any, sql: str) -> Any:
    return session.connection().execute(text(sql))


def fail(session: Any) -> None:
    with pytest.raises(DBAPIError):
        run(session, "select 1 / 0")


def fail_and_roll_back(session: Any) -> None:
    fail(session)
    session.rollback()


def fail_in_savepoint(session: Any) -> None:
    nested = session.begin_nested()
    if hasattr(nested, "start"):
        nested = nested.start()
    fail(session)
    nested.rollback()


def roll_back_savepoint(session: Any) -> None:
    run(session, "savepoint mine")
    run(
        session,
        "select set_config('eventstore.user_id', current_setting('eventstore.user_id'), true)",
    )
    run(session, "rollback to savepoint mine")


def try_autocommit(session: Any) -> None:
    session.reset()
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(
            text("select * from eventstore.task")
        )
    session.reset()


ACTIONS: dict[str, Callable[[Any], object]] = {
    "a commit": lambda session: session.commit(),
    "a rollback": lambda session: session.rollback(),
    "a failure": fail_and_roll_back,
    "a failure in a savepoint": fail_in_savepoint,
    "a savepoint in SQL, rolled back": roll_back_savepoint,
    "a commit in SQL": lambda session: run(session, "commit"),
    "a rollback in SQL": lambda session: run(session, "rollback"),
    "a commit of the connection": lambda session: session.connection().commit(),
    "a close": lambda session: session.reset(),
    "an expiry": lambda session: session.expire_all(),
    "AUTOCOMMIT, which is refused": try_autocommit,
    "another isolation level": lambda session: (
        session.reset(),
        session.connection(execution_options={"isolation_level": "SERIALIZABLE"}),
    ),
    "another role in one transaction": lambda session: (
        run(session, "set local role eventstore_app"),
        session.commit(),
    ),
    "a session's SET": lambda session: (
        run(session, "set session eventstore.user_id = 'alice'"),
        session.commit(),
    ),
    "a session's SET, rolled back": lambda session: (
        run(session, "set session eventstore.user_id = 'alice'"),
        session.rollback(),
    ),
}


def owners(session: Any) -> set[str]:
    rows = run(
        session, "select user_id from eventstore.event union select user_id from service.box"
    )
    return {one.user_id for one in session.exec(select(Task)).all()} | {
        row[0] for row in rows.all()
    }


@pytest.mark.filterwarnings("ignore:transaction already deassociated")  # some actions cause it
@pytest.mark.parametrize("action", ACTIONS)
def test_no_action_takes_a_session_out_of_its_users_scope(narrow: EventStore, action: str) -> None:
    for name in ("bob", "alice", "bob"):
        with narrow.user(name).session(read_only=False) as session:
            assert owners(session) == {name}
            try:
                ACTIONS[action](session)
            except AttributeError:
                if action == "a commit of the connection":  # an async session has no such method
                    session.commit()

            results = owners(session)
            session.rollback()

        assert results == {name}
        assert [task.title for task in narrow.user(name).tasks.list()] == [f"{name}'s task"]


@pytest.mark.parametrize(
    "sql",
    [
        "commit and chain",
        " ROLLBACK work\nAND  CHAIN ",
        "end and chain",
        "/* app */ commit and chain",
        "-- app\n/* /* nested */ */ commit and chain",
        "select 1; commit and chain",
        "commit; begin",
        "commit; begin; select 1",
    ],
)
def test_a_chained_transaction_is_refused_because_it_would_have_no_scope(
    narrow: EventStore, sql: str
) -> None:
    with narrow.user("bob").session() as session:
        assert owners(session) == {"bob"}
        with pytest.raises((ConfigurationError, DBAPIError), match="AND CHAIN"):
            run(session, sql)

        assert owners(session) == {"bob"}


LEFTOVERS = {
    "a held cursor": (
        "declare loot scroll cursor with hold for select title from eventstore.task",
        "fetch first from loot",
    ),
    "a temporary table": (
        "create temp table loot as select title from eventstore.task",
        "select * from loot",
    ),
    "a prepared statement": ("prepare loot as select 'alice''s secret'", "execute loot"),
    "a lock": ("select pg_advisory_lock(7)", "select 1 from pg_locks where locktype = 'advisory'"),
    "a subscription": ("listen loot", "select pg_listening_channels()"),
}


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_session_finds_nothing_that_an_earlier_session_left_on_its_connection(
    server: Server, login_url: str, leftover: str
) -> None:
    statement, query = LEFTOVERS[leftover]
    # Behind a pooler the two sessions might get different server connections.
    settings = Settings(database_url=server.direct(login_url), pool_max_size=1)
    with EventStore.connect(settings=settings) as store:
        for _ in range(6):  # past psycopg's threshold for prepared statements
            assert len(store.user("alice").tasks.list()) == 1
        with store.user("alice").session(read_only=False) as session:
            (pid,) = run(session, "select pg_backend_pid()").one()
            run(session, statement)
            run(session, "commit")
            assert run(session, query).all()

        with store.user("bob").session() as session:
            assert run(session, "select pg_backend_pid()").one() == (pid,)
            try:
                found = run(session, query).all()
            except DBAPIError:  # no such cursor, table, statement
                found = []
        assert found == []
        assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]


def test_a_commit_after_an_error_that_was_caught_leaves_the_pool_usable(narrow: EventStore) -> None:
    for name in ("alice", "bob") * 3:
        with narrow.user(name).session(read_only=False) as session:
            assert owners(session) == {name}
            fail(session)
            with pytest.raises(DBAPIError, match="its error was caught"):
                session.commit()

        assert [task.title for task in narrow.user(name).tasks.list()] == [f"{name}'s task"]


def test_a_session_whose_server_process_ended_leaves_the_pool_usable(
    narrow: EventStore, two_users: str, server: Server
) -> None:
    for name in ("alice", "bob") * 3:
        with narrow.user(name).session(read_only=False) as session:
            (pid,) = run(session, "select pg_backend_pid()").one()
            with psycopg.connect(server.direct(two_users), autocommit=True) as admin:
                admin.execute("select pg_terminate_backend(%s)", (pid,))
            with pytest.raises(DBAPIError):
                owners(session)
            with contextlib.suppress(DBAPIError):
                session.rollback()

        assert [task.title for task in narrow.user(name).tasks.list()] == [f"{name}'s task"]


def test_a_session_whose_connection_was_invalidated_leaves_the_pool_usable(
    narrow: EventStore,
) -> None:
    for name in ("alice", "bob") * 3:
        with narrow.user(name).session(read_only=False) as session:
            assert owners(session) == {name}
            session.connection().invalidate()

        assert [task.title for task in narrow.user(name).tasks.list()] == [f"{name}'s task"]


def test_two_threads_with_a_session_each_read_only_their_users_rows(login_url: str) -> None:
    results: dict[str, list[set[str]]] = {"alice": [], "bob": []}
    failed: list[BaseException] = []
    turn = threading.Barrier(2, timeout=30)

    def read(store: EventStore, name: str) -> None:
        try:
            with store.user(name).session() as session:
                for _ in range(20):
                    turn.wait()
                    results[name].append(owners(session))
                    session.commit()
        except BaseException as error:  # noqa: BLE001 - asserted below
            failed.append(error)
            turn.abort()

    with EventStore.connect(login_url, events=[Boxed]) as store:
        threads = [threading.Thread(target=read, args=(store, name)) for name in results]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failed == []
    assert results == {name: [{name}] * 20 for name in results}


def test_tasks_that_share_one_connection_read_only_their_users_rows(login_url: str) -> None:
    async def scenario() -> dict[str, list[set[str]]]:
        results: dict[str, list[set[str]]] = {"alice": [], "bob": []}
        settings = Settings(database_url=login_url, pool_max_size=1)
        async with AsyncEventStore.connect(settings=settings, events=[Boxed]) as store:

            async def read(name: str) -> None:
                for _ in range(20):
                    tasks = await store.user(name).tasks.list()
                    async with store.user(name).session() as session:
                        rows = (await session.exec(select(Task))).all()
                    results[name].append({one.title for one in tasks} | {one.title for one in rows})

            async with asyncio.TaskGroup() as group:
                for name in results:
                    group.create_task(read(name))
        return results

    assert asyncio.run(scenario()) == {name: [{f"{name}'s task"}] * 20 for name in ("alice", "bob")}


def test_a_cancelled_task_leaves_no_scope_on_its_connection(login_url: str) -> None:
    async def scenario() -> list[set[str]]:
        results = []
        settings = Settings(database_url=login_url, pool_max_size=1)
        async with AsyncEventStore.connect(settings=settings, events=[Boxed]) as store:
            for number in range(20):
                running = asyncio.create_task(read(store, "alice"))
                for _ in range(number):
                    await asyncio.sleep(0)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                results.append(await read(store, "bob"))
        return results

    async def read(store: AsyncEventStore, name: str) -> set[str]:
        titles = {one.title for one in await store.user(name).tasks.list()}
        async with store.user(name).session() as session:
            return titles | {one.title for one in (await session.exec(select(Task))).all()}

    assert asyncio.run(scenario()) == [{"bob's task"}] * 20
