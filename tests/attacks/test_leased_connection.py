"""
The driver connection of a session is in the user's scope and ends with the session.

The login of the URL is a superuser in half of the tests, so that a statement without a scope would
return, and change, the rows of every user.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlmodel import select

from eventstore import AsyncEventStore, ConfigurationError, EventStore, Settings
from projections import Task
from tests.attacks.support import attacker_url
from tests.support.server import Server

SELECT_OWNERS = "select user_id from eventstore.task"


@pytest.fixture(params=["superuser", "attacker"])
def settings(request: pytest.FixtureRequest, server: Server, two_users: str) -> Settings:
    """A pool of one connection: whatever is left on it the next one meets."""
    url = two_users if request.param == "superuser" else attacker_url(server, two_users)
    return Settings(database_url=url, pool_min_size=1, pool_max_size=1, deadline_seconds=5)


@pytest.fixture
def leasing_store(settings: Settings) -> Iterator[EventStore]:
    with EventStore.connect(settings=settings) as store:
        yield store


def direct_settings(server: Server, settings: Settings) -> Settings:
    """Return settings without the pooler, so that two sessions get the same server connection."""
    return settings.model_copy(update={"database_url": server.direct(settings.database_url or "")})


def driver_of(session: Any) -> Any:
    return session.connection().connection.driver_connection


def run(session: Any, sql: str) -> Any:
    return session.connection().execute(text(sql))


def owners(session: Any) -> list[str]:
    return [one.user_id for one in session.exec(select(Task)).all()]


def copy_rows(session: Any) -> list[Any]:
    with driver_of(session).cursor().copy(f"copy ({SELECT_OWNERS}) to stdout") as copy:
        return list(copy.rows())


def read_in_a_block(session: Any) -> list[Any]:
    driver = driver_of(session)
    with driver.transaction():
        return list(driver.execute(SELECT_OWNERS).fetchall())


def read_by_named_cursor(session: Any) -> list[Any]:
    with driver_of(session).cursor("named") as cursor:
        return list(cursor.execute(SELECT_OWNERS).fetchall())


def read_in_two_phases(session: Any) -> list[Any]:
    driver = driver_of(session)
    driver.tpc_begin("phases")
    rows: list[Any] = driver.execute(SELECT_OWNERS).fetchall()
    driver.tpc_rollback()
    return rows


def read_by_executemany(session: Any) -> list[Any]:
    cursor = driver_of(session).cursor()
    cursor.executemany(f"{SELECT_OWNERS} where title <> %s", [("x",), ("y",)], returning=True)
    return list(cursor.fetchall())


def read_after_commit(session: Any) -> list[Any]:
    owners(session)
    session.commit()
    return list(driver_of(session).execute(SELECT_OWNERS).fetchall())


def read_after_rollback(session: Any) -> list[Any]:
    owners(session)
    driver_of(session).rollback()
    return [(name,) for name in owners(session)]


def read_raw_and_mapped(session: Any) -> list[Any]:
    rows = driver_of(session).execute(SELECT_OWNERS).fetchall()
    return [*rows, *((name,) for name in owners(session))]


WAYS: dict[str, Callable[[Any], list[Any]]] = {
    "a cursor": lambda session: driver_of(session).execute(SELECT_OWNERS).fetchall(),
    "a cursor of SQLAlchemy's pool": lambda session: (
        session.connection().connection.cursor().execute(SELECT_OWNERS).fetchall()
    ),
    "COPY": copy_rows,
    "a block": read_in_a_block,
    "a named cursor": read_by_named_cursor,
    "two phases": read_in_two_phases,
    "executemany": read_by_executemany,
    "after a commit": read_after_commit,
    "after a rollback": read_after_rollback,
    "a raw statement, then a mapped one": read_raw_and_mapped,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_read_on_the_driver_connection_is_in_scope(
    leasing_store: EventStore, way: str
) -> None:
    for name in ("bob", "alice"):
        with leasing_store.user(name).session() as session:
            session.connection()

            assert {owner for (owner,) in WAYS[way](session)} == {name}


def test_a_raw_cursor_changes_the_users_rows_only_and_none_in_a_read_only_session(
    leasing_store: EventStore,
) -> None:
    with leasing_store.user("bob").session(read_only=False) as session:
        changed = driver_of(session).execute("update eventstore.task set completed = true").rowcount
        session.rollback()
    with (
        leasing_store.user("bob").session() as session,
        pytest.raises(psycopg.Error, match="read-only"),
    ):
        driver_of(session).execute("update eventstore.task set completed = true")

    assert changed == 1


def test_a_raw_connection_of_the_engine_reads_no_row(
    leasing_store: EventStore,
) -> None:
    raw = leasing_store._engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute(SELECT_OWNERS)

    assert cursor.fetchall() == []
    cursor.close()
    raw.close()


def test_autocommit_and_pipelines_on_the_driver_connection_are_refused(
    leasing_store: EventStore,
) -> None:
    with leasing_store.user("bob").session() as session:
        driver = driver_of(session)
        with pytest.raises(psycopg.NotSupportedError, match="no pipelines"):
            driver.pipeline()
        driver.autocommit = True
        with pytest.raises(psycopg.ProgrammingError, match="AUTOCOMMIT"):
            driver.execute(SELECT_OWNERS)
        driver.autocommit = False

        assert owners(session) == ["bob"]


def chain_by_copy(driver: Any) -> None:
    with driver.cursor().copy("commit and chain"):
        pass


CHAINS: dict[str, Callable[[Any], Any]] = {
    "execute": lambda driver: driver.execute("commit and chain"),
    "a comment": lambda driver: driver.execute("-- done\ncommit and chain"),
    "two statements": lambda driver: driver.execute("commit; begin"),
    "rollback": lambda driver: driver.execute("rollback and chain"),
    "prepared": lambda driver: driver.execute("commit and chain", prepare=True),
    "executemany": lambda driver: driver.cursor().executemany("commit and chain", [()]),
    "COPY": chain_by_copy,
    "a stream": lambda driver: list(driver.cursor().stream("commit and chain")),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_transaction_chained_on_the_driver_connection_shows_no_other_user(
    leasing_store: EventStore, chain: str
) -> None:
    with leasing_store.user("bob").session() as session:
        driver = driver_of(session)
        assert driver.execute(SELECT_OWNERS).fetchall() == [("bob",)]
        with contextlib.suppress(psycopg.Error):
            CHAINS[chain](driver)

        with contextlib.suppress(psycopg.Error):
            assert driver.execute(SELECT_OWNERS).fetchall() == [("bob",)]
        session.rollback()
        assert owners(session) == ["bob"]


@pytest.mark.parametrize("chain", CHAINS)
def test_a_transaction_chained_on_the_async_driver_connection_shows_no_other_user(
    settings: Settings, chain: str
) -> None:
    async def scenario() -> list[Any]:
        async with (
            AsyncEventStore.connect(settings=settings) as store,
            store.user("bob").session() as session,
        ):
            driver: Any = (
                await (await session.connection()).get_raw_connection()
            ).driver_connection
            await driver.execute(SELECT_OWNERS)
            with contextlib.suppress(psycopg.Error):
                match chain:
                    case "COPY":
                        async with driver.cursor().copy("commit and chain"):
                            pass
                    case "a stream":
                        [one async for one in driver.cursor().stream("commit and chain")]
                    case _:
                        await CHAINS[chain](driver)
            with contextlib.suppress(psycopg.Error):
                return list(await (await driver.execute(SELECT_OWNERS)).fetchall())
            return [("bob",)]

    assert asyncio.run(scenario()) == [("bob",)]


def test_savepoints_on_the_driver_connection_stay_in_scope(leasing_store: EventStore) -> None:
    with leasing_store.user("bob").session() as session:
        driver = driver_of(session)
        for statement in ("savepoint a", "rollback to savepoint a", "release savepoint a"):
            driver.execute(statement)
            assert driver.execute(SELECT_OWNERS).fetchall() == [("bob",)]


@pytest.mark.parametrize("moment", ["checkin", "close"])
@pytest.mark.parametrize("insert", [True, False])
def test_a_listener_of_the_pool_runs_in_scope_and_leaves_nothing_on_the_connection(
    server: Server, settings: Settings, moment: str, *, insert: bool
) -> None:
    rows: list[Any] = []

    def read_and_leave(connection: Any, _record: object = None) -> None:
        with contextlib.suppress(psycopg.Error):
            cursor = connection.cursor()
            cursor.execute(SELECT_OWNERS)
            rows.extend(cursor.fetchall())
            cursor.execute("create temp table loot as select title from eventstore.task")
            cursor.execute("grant all on loot to public")
            connection.commit()

    store = EventStore.connect(settings=direct_settings(server, settings))
    with store.user("bob").session(read_only=False) as session:
        engine = session.get_bind()
        event.listen(engine, moment, read_and_leave, insert=insert)
        assert owners(session) == ["bob"]
    event.remove(engine, moment, read_and_leave)

    assert {owner for (owner,) in rows} <= {"bob"}
    with store.user("carol").session() as session, pytest.raises(DBAPIError, match="loot"):
        run(session, "select * from loot")
    assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]
    store.close()


def test_a_detached_connection_stays_in_scope(leasing_store: EventStore) -> None:
    with leasing_store.user("bob").session() as session:
        connection = session.connection()
        connection.detach()

        assert owners(session) == ["bob"]
        session.commit()
    assert [task.title for task in leasing_store.user("bob").tasks.list()] == ["bob's task"]


def keep_driver(session: Any) -> Callable[[], object]:
    driver = driver_of(session)
    return lambda: driver.execute(SELECT_OWNERS)


def keep_cursor(session: Any) -> Callable[[], object]:
    cursor = driver_of(session).cursor()
    return lambda: cursor.execute(SELECT_OWNERS)


def keep_named_cursor(session: Any) -> Callable[[], object]:
    cursor = driver_of(session).cursor("named")
    cursor.execute("select generate_series(1, 1000)")
    cursor.fetchmany(10)
    return lambda: cursor.fetchmany(10)


def keep_stream(session: Any) -> Callable[[], object]:
    options = {"yield_per": 10}
    rows = session.connection().execute(
        text("select generate_series(1, 1000)"), execution_options=options
    )
    next(rows)
    return lambda: list(rows)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it stays open
@pytest.mark.parametrize("keep", [keep_driver, keep_cursor, keep_named_cursor, keep_stream])
def test_an_object_kept_from_a_session_cannot_be_used_after_it(
    leasing_store: EventStore, keep: Callable[[Any], Callable[[], object]]
) -> None:
    with leasing_store.user("alice").session() as session:
        use = keep(session)

    with leasing_store.user("bob").session() as session:
        assert owners(session) == ["bob"]
        with pytest.raises((psycopg.Error, SQLAlchemyError)):
            use()

        assert owners(session) == ["bob"]  # the refusal does not end bob's transaction


def test_closing_the_driver_connection_of_a_session_does_not_affect_another_session(
    leasing_store: EventStore,
) -> None:
    with leasing_store.user("alice").session() as careless:
        driver_of(careless).close()
        with leasing_store.user("bob").session() as session:
            assert owners(session) == ["bob"]
            with pytest.raises(SQLAlchemyError):
                owners(careless)
            assert owners(session) == ["bob"]
        careless.invalidate()

    assert [task.title for task in leasing_store.user("bob").tasks.list()] == ["bob's task"]


LEFTOVERS = (
    "create temp table loot as select title from eventstore.task",
    "declare loot cursor with hold for select title from eventstore.task",
    "prepare loot as select 1",
    "select pg_advisory_lock(7)",
    "set session synchronous_commit = off",
)
COUNT_LEFTOVERS = """
select (select count(*) from pg_class
        where relname = 'loot' and relnamespace = pg_my_temp_schema())
     + (select count(*) from pg_cursors where name = 'loot')
     + (select count(*) from pg_prepared_statements where name = 'loot')
     + (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())
     + (current_setting('synchronous_commit') = 'off')::int
"""
ENDS: dict[str, Callable[[Any], object]] = {
    "invalidated": lambda session: session.connection().invalidate(),
    "a session invalidated": lambda session: session.invalidate(),
    "detached": lambda session: session.connection().detach(),
    "closed": lambda session: session.close(),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_session_leaves_nothing_on_its_connection_however_it_ends(
    server: Server, settings: Settings, end: str
) -> None:
    direct = settings.model_copy(
        update={"database_url": server.direct(settings.database_url or "")}
    )
    with EventStore.connect(settings=direct) as store:
        with store.user("alice").session(read_only=False) as session:
            for statement in LEFTOVERS:
                run(session, statement)
            run(session, "commit")
            ENDS[end](session)
        gc.collect()  # a detached connection is closed with its last reference

        with store.user("bob").session() as session:
            assert run(session, COUNT_LEFTOVERS).scalar() == 0


def test_a_cancelled_session_leaves_nothing_on_its_connection(
    server: Server, settings: Settings
) -> None:
    direct = settings.model_copy(
        update={"database_url": server.direct(settings.database_url or "")}
    )

    async def leave_as_alice(store: AsyncEventStore) -> None:
        async with store.user("alice").session(read_only=False) as session:
            connection = await session.connection()
            for statement in (*LEFTOVERS, "commit", "select pg_sleep(60)"):
                await connection.execute(text(statement))

    async def scenario() -> Any:
        async with AsyncEventStore.connect(settings=direct) as store:
            running = asyncio.create_task(leave_as_alice(store))
            with psycopg.connect(direct.database_url or "", autocommit=True) as watcher:
                sleeping = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
                for _ in range(3_000):
                    await asyncio.sleep(0.01)
                    if watcher.execute(sleeping).fetchone():
                        break
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            async with store.user("bob").session() as session:
                return (await (await session.connection()).execute(text(COUNT_LEFTOVERS))).scalar()

    assert asyncio.run(scenario()) == 0


def test_changes_to_the_driver_connection_end_with_the_session(leasing_store: EventStore) -> None:
    notices: list[str] = []

    class UpperCaseLoader(TextLoader):
        def load(self, data: Any) -> Any:
            return str(super().load(data)).upper()

    with leasing_store.user("alice").session(read_only=False) as session:
        driver = driver_of(session)
        driver.row_factory = dict_row
        driver.read_only, driver.isolation_level = True, psycopg.IsolationLevel.SERIALIZABLE
        driver.adapters.register_loader("text", UpperCaseLoader)
        driver.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        driver.prepare_threshold = 0
        driver.execute(SELECT_OWNERS)

    with leasing_store.user("bob").session(read_only=False) as session:
        run(session, "do $$ begin raise warning 'bob''s'; end $$")
        assert run(session, "show transaction_isolation").scalar() == "read committed"
        assert run(session, "show transaction_read_only").scalar() == "off"
        assert [task.title for task in session.exec(select(Task)).all()] == ["bob's task"]
    assert [task.title for task in leasing_store.user("bob").tasks.list()] == ["bob's task"]
    assert notices == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_session_that_was_open_at_a_fork_is_refused_in_the_child(
    leasing_store: EventStore,
) -> None:
    with leasing_store.user("alice").session() as session:
        assert owners(session) == ["alice"]
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                reply = str(owners(session))
            except ConfigurationError as error:
                reply = str(error)
            os.write(writing, reply.encode())
            os._exit(0)
        os.wait()

        assert b"before the process forked" in os.read(reading, 1000)
        assert owners(session) == ["alice"]


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_async_session_that_is_never_closed_returns_its_connection(settings: Settings) -> None:
    async def forget(store: AsyncEventStore) -> None:
        session = store.user("alice").session()
        await session.exec(select(Task))

    async def scenario() -> list[str]:
        async with AsyncEventStore.connect(settings=settings) as store:
            for _ in range(3):
                await forget(store)
                gc.collect()
                await asyncio.sleep(0)
            return [task.title for task in await store.user("bob").tasks.list()]

    assert asyncio.run(scenario()) == ["bob's task"]


@pytest.mark.parametrize("moment", ["first statement", "commit"])
def test_a_lost_connection_raises_sqlalchemys_error_at_any_moment_of_a_session(
    settings: Settings, server: Server, two_users: str, moment: str
) -> None:
    with EventStore.connect(settings=direct_settings(server, settings)) as store:
        with store.user("alice").session() as session:
            (pid,) = run(session, "select pg_backend_pid()").one()
            if moment == "first statement":
                session.commit()
            with psycopg.connect(server.direct(two_users), autocommit=True) as admin:
                admin.execute("select pg_terminate_backend(%s, 5000)", (pid,))
            with pytest.raises(DBAPIError) as error:
                session.commit() if moment == "commit" else owners(session)
            assert error.value.connection_invalidated
            session.rollback()

        assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]


def test_a_constraint_that_fails_at_commit_raises_sqlalchemys_error(
    leasing_store: EventStore, server: Server, two_users: str
) -> None:
    with psycopg.connect(server.direct(two_users), autocommit=True) as admin:
        admin.execute("create table if not exists public.number (n int unique deferrable"
                      " initially deferred); grant all on public.number to public")  # fmt: skip
    with leasing_store.user("bob").session(read_only=False) as session:
        run(session, "insert into public.number values (1), (1)")
        with pytest.raises(DBAPIError, match="duplicate key"):
            session.commit()
        session.rollback()

        assert owners(session) == ["bob"]


def test_many_comments_before_a_statement_do_not_slow_down_its_check(
    leasing_store: EventStore,
) -> None:
    comments = "/* a */ -- b\n" * 1_000

    with leasing_store.user("bob").session() as session:
        assert run(session, f"{comments} select 1").scalar() == 1
        with pytest.raises(ConfigurationError, match="AND CHAIN"):
            run(session, f"{comments} commit and chain")
