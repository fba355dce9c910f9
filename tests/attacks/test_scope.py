"""
A session is its user's in every transaction of its life, whatever ended the one before.

The URL's login is a superuser in half of the tests: a transaction that was not put into its scope
would show everybody's rows.
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
from tests.support.both import blocked
from tests.support.own_read_model import Boxed
from tests.support.server import Server


@pytest.fixture(params=["superuser", "attacker"])
def login_url(request: pytest.FixtureRequest, server: Server, two_users: str) -> str:
    return two_users if request.param == "superuser" else attacker_url(server, two_users)


@pytest.fixture(params=["sync", "async"])
def narrow(request: pytest.FixtureRequest, login_url: str) -> Iterator[EventStore]:
    """A store with a single connection."""
    settings = Settings(database_url=login_url, pool_min_size=1, pool_max_size=1)
    if request.param == "sync":
        with EventStore.connect(settings=settings, events=[Boxed]) as opened:
            yield opened
        return
    loop = asyncio.new_event_loop()

    async def opening() -> AsyncEventStore:
        return await AsyncEventStore.connect(settings=settings, events=[Boxed])

    inner = loop.run_until_complete(opening())
    yield blocked(inner, loop)
    loop.run_until_complete(inner.close())
    loop.close()


def run(session: Any, sql: str) -> Any:
    return session.connection().execute(text(sql))


def fail(session: Any) -> None:
    with pytest.raises(DBAPIError):
        run(session, "select 1 / 0")


def failure(session: Any) -> None:
    fail(session)
    session.rollback()


def fail_in_savepoint(session: Any) -> None:
    nested = session.begin_nested()
    if hasattr(nested, "start"):
        nested = nested.start()
    fail(session)
    nested.rollback()


def savepoint(session: Any) -> None:
    run(session, "savepoint mine")
    run(
        session,
        "select set_config('eventstore.user_id', current_setting('eventstore.user_id'), true)",
    )
    run(session, "rollback to savepoint mine")


def refused_autocommit(session: Any) -> None:
    session.close()
    with pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(
            text("select * from eventstore.task")
        )
    session.close()


MOMENTS: dict[str, Callable[[Any], object]] = {
    "a commit": lambda session: session.commit(),
    "a rollback": lambda session: session.rollback(),
    "a failure": failure,
    "a failure in a savepoint": fail_in_savepoint,
    "a savepoint of SQL's own, rolled back": savepoint,
    "a commit in SQL": lambda session: run(session, "commit"),
    "a rollback in SQL": lambda session: run(session, "rollback"),
    "a commit of the connection": lambda session: session.connection().commit(),
    "a close": lambda session: session.close(),
    "an expiry": lambda session: session.expire_all(),
    "AUTOCOMMIT, which is refused": refused_autocommit,
    "another isolation": lambda session: (
        session.close(),
        session.connection(execution_options={"isolation_level": "SERIALIZABLE"}),
    ),
    "another role, for a while": lambda session: (
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


@pytest.mark.filterwarnings("ignore:transaction already deassociated")  # that is the point of it
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_session_is_still_its_users_after(narrow: EventStore, moment: str) -> None:
    for name in ("bob", "alice", "bob"):
        with narrow.user(name).session(read_only=False) as session:
            assert owners(session) == {name}
            try:
                MOMENTS[moment](session)
            except AttributeError:
                if moment == "a commit of the connection":  # no such thing in the async one
                    session.commit()

            seen = owners(session)
            session.rollback()

        assert seen == {name}
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
def test_a_chained_transaction_which_would_be_nobodys_is_refused(
    narrow: EventStore, sql: str
) -> None:
    with narrow.user("bob").session() as session:
        assert owners(session) == {"bob"}
        with pytest.raises((ConfigurationError, DBAPIError), match="AND CHAIN"):
            run(session, sql)

        assert owners(session) == {"bob"}


LEAVINGS = {
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
    "an ear": ("listen loot", "select pg_listening_channels()"),
}


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_what_a_session_leaves_on_its_connection_the_next_one_does_not_find(
    server: Server, login_url: str, leaving: str
) -> None:
    left, look = LEAVINGS[leaving]
    settings = Settings(
        database_url=server.direct(login_url), pool_max_size=1
    )  # a session of one's own: a pooler would not have it
    with EventStore.connect(settings=settings) as store:
        for _ in range(6):  # past psycopg's threshold for prepared statements
            assert len(store.user("alice").tasks.list()) == 1
        with store.user("alice").session(read_only=False) as session:
            (pid,) = run(session, "select pg_backend_pid()").one()
            run(session, left)
            run(session, "commit")
            assert run(session, look).all()

        with store.user("bob").session() as session:
            assert run(session, "select pg_backend_pid()").one() == (pid,)
            try:
                found = run(session, look).all()
            except DBAPIError:  # no such cursor, table, statement
                found = []
        assert found == []
        assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]


def test_a_commit_after_an_error_that_was_caught_leaves_the_pool_whole(narrow: EventStore) -> None:
    for name in ("alice", "bob") * 3:
        with narrow.user(name).session(read_only=False) as session:
            assert owners(session) == {name}
            fail(session)
            session.commit()

        assert [task.title for task in narrow.user(name).tasks.list()] == [f"{name}'s task"]


def test_a_session_whose_server_process_ended_leaves_the_pool_whole(
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


def test_a_session_whose_connection_was_invalidated_leaves_the_pool_whole(
    narrow: EventStore,
) -> None:
    for name in ("alice", "bob") * 3:
        with narrow.user(name).session(read_only=False) as session:
            assert owners(session) == {name}
            session.connection().invalidate()

        assert [task.title for task in narrow.user(name).tasks.list()] == [f"{name}'s task"]


def test_two_threads_on_two_sessions_do_not_mix(login_url: str) -> None:
    seen: dict[str, list[set[str]]] = {"alice": [], "bob": []}
    failed: list[BaseException] = []
    turn = threading.Barrier(2, timeout=30)

    def read(store: EventStore, name: str) -> None:
        try:
            with store.user(name).session() as session:
                for _ in range(20):
                    turn.wait()
                    seen[name].append(owners(session))
                    session.commit()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)
            turn.abort()

    with EventStore.connect(login_url, events=[Boxed]) as store:
        threads = [threading.Thread(target=read, args=(store, name)) for name in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failed == []
    assert seen == {name: [{name}] * 20 for name in seen}


def test_tasks_that_take_turns_on_one_connection_do_not_mix(login_url: str) -> None:
    async def story() -> dict[str, list[set[str]]]:
        seen: dict[str, list[set[str]]] = {"alice": [], "bob": []}
        settings = Settings(database_url=login_url, pool_max_size=1)
        async with AsyncEventStore.connect(settings=settings, events=[Boxed]) as store:

            async def read(name: str) -> None:
                for _ in range(20):
                    tasks = await store.user(name).tasks.list()
                    async with store.user(name).session() as session:
                        rows = (await session.exec(select(Task))).all()
                    seen[name].append({one.title for one in tasks} | {one.title for one in rows})

            async with asyncio.TaskGroup() as group:
                for name in seen:
                    group.create_task(read(name))
        return seen

    assert asyncio.run(story()) == {name: [{f"{name}'s task"}] * 20 for name in ("alice", "bob")}


def test_a_cancelled_task_leaves_no_user_behind(login_url: str) -> None:
    async def story() -> list[set[str]]:
        seen = []
        settings = Settings(database_url=login_url, pool_max_size=1)
        async with AsyncEventStore.connect(settings=settings, events=[Boxed]) as store:
            for number in range(20):
                running = asyncio.create_task(reading(store, "alice"))
                for _ in range(number):
                    await asyncio.sleep(0)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
                seen.append(await reading(store, "bob"))
        return seen

    async def reading(store: AsyncEventStore, name: str) -> set[str]:
        titles = {one.title for one in await store.user(name).tasks.list()}
        async with store.user(name).session() as session:
            return titles | {one.title for one in (await session.exec(select(Task))).all()}

    assert asyncio.run(story()) == [{"bob's task"}] * 20
