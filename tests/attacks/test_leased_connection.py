"""
The driver's connection under a session is in its scope, and no longer than the session lasts.

The URL's login is a superuser in half of the tests: whatever was not in the scope would show, and
change, everybody's rows.
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

WHO = "select user_id from eventstore.task"


@pytest.fixture(params=["superuser", "attacker"])
def settings(request: pytest.FixtureRequest, server: Server, two_users: str) -> Settings:
    """A pool of one connection: whatever is left on it the next one meets."""
    url = two_users if request.param == "superuser" else attacker_url(server, two_users)
    return Settings(database_url=url, pool_min_size=1, pool_max_size=1, pool_timeout_seconds=5)


@pytest.fixture
def store(settings: Settings) -> Iterator[EventStore]:
    with EventStore.connect(settings=settings) as opened:
        yield opened


def past_the_pooler(server: Server, settings: Settings) -> Settings:
    """Return settings for a server connection of one's own: what is left can be looked for."""
    return settings.model_copy(update={"database_url": server.direct(settings.database_url or "")})


def lent(session: Any) -> Any:
    return session.connection().connection.driver_connection


def run(session: Any, sql: str) -> Any:
    return session.connection().execute(text(sql))


def owners(session: Any) -> list[str]:
    return [one.user_id for one in session.exec(select(Task)).all()]


def copied(session: Any) -> list[Any]:
    with lent(session).cursor().copy(f"copy ({WHO}) to stdout") as copy:
        return list(copy.rows())


def in_a_block(session: Any) -> list[Any]:
    driver = lent(session)
    with driver.transaction():
        return list(driver.execute(WHO).fetchall())


def by_name(session: Any) -> list[Any]:
    with lent(session).cursor("named") as cursor:
        return list(cursor.execute(WHO).fetchall())


def in_two_phases(session: Any) -> list[Any]:
    driver = lent(session)
    driver.tpc_begin("phases")
    rows: list[Any] = driver.execute(WHO).fetchall()
    driver.tpc_rollback()
    return rows


def many_times(session: Any) -> list[Any]:
    cursor = lent(session).cursor()
    cursor.executemany(f"{WHO} where title <> %s", [("x",), ("y",)], returning=True)
    return list(cursor.fetchall())


def after_a_commit(session: Any) -> list[Any]:
    owners(session)
    session.commit()
    return list(lent(session).execute(WHO).fetchall())


def after_a_rollback_of_its_own(session: Any) -> list[Any]:
    owners(session)
    lent(session).rollback()
    return [(name,) for name in owners(session)]


def raw_and_then_mapped(session: Any) -> list[Any]:
    rows = lent(session).execute(WHO).fetchall()
    return [*rows, *((name,) for name in owners(session))]


WAYS: dict[str, Callable[[Any], list[Any]]] = {
    "a cursor": lambda session: lent(session).execute(WHO).fetchall(),
    "a cursor of SQLAlchemy's pool": lambda session: (
        session.connection().connection.cursor().execute(WHO).fetchall()
    ),
    "COPY": copied,
    "a block": in_a_block,
    "a named cursor": by_name,
    "two phases": in_two_phases,
    "executemany": many_times,
    "after a commit": after_a_commit,
    "after a rollback": after_a_rollback_of_its_own,
    "a raw statement, then a mapped one": raw_and_then_mapped,
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_opens_a_transaction_of_a_session_it_is_the_users(
    store: EventStore, way: str
) -> None:
    for name in ("bob", "alice"):
        with store.user(name).session() as session:
            session.connection()

            assert {owner for (owner,) in WAYS[way](session)} == {name}


def test_what_a_raw_cursor_changes_is_the_users_own(store: EventStore) -> None:
    with store.user("bob").session(read_only=False) as session:
        changed = lent(session).execute("update eventstore.task set completed = true").rowcount
        session.rollback()
    with store.user("bob").session() as session, pytest.raises(psycopg.Error, match="read-only"):
        lent(session).execute("update eventstore.task set completed = true")

    assert changed == 1


def test_an_engine_that_is_used_past_any_session_sees_nobodys_rows(store: EventStore) -> None:
    raw = store._engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute(WHO)

    assert cursor.fetchall() == []
    cursor.close()
    raw.close()


def test_autocommit_and_pipelines_of_the_drivers_own_are_refused(store: EventStore) -> None:
    with store.user("bob").session() as session:
        driver = lent(session)
        with pytest.raises(psycopg.NotSupportedError, match="no pipelines"):
            driver.pipeline()
        driver.autocommit = True
        with pytest.raises(psycopg.ProgrammingError, match="AUTOCOMMIT"):
            driver.execute(WHO)
        driver.autocommit = False

        assert owners(session) == ["bob"]


def chained_copy(driver: Any) -> None:
    with driver.cursor().copy("commit and chain"):
        pass


CHAINS: dict[str, Callable[[Any], Any]] = {
    "execute": lambda driver: driver.execute("commit and chain"),
    "a comment": lambda driver: driver.execute("-- done\ncommit and chain"),
    "two statements": lambda driver: driver.execute("commit; begin"),
    "rollback": lambda driver: driver.execute("rollback and chain"),
    "prepared": lambda driver: driver.execute("commit and chain", prepare=True),
    "executemany": lambda driver: driver.cursor().executemany("commit and chain", [()]),
    "COPY": chained_copy,
    "a stream": lambda driver: list(driver.cursor().stream("commit and chain")),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_transaction_that_the_driver_is_told_to_chain_shows_nobody(
    store: EventStore, chain: str
) -> None:
    with store.user("bob").session() as session:
        driver = lent(session)
        assert driver.execute(WHO).fetchall() == [("bob",)]
        with contextlib.suppress(psycopg.Error):
            CHAINS[chain](driver)

        with contextlib.suppress(psycopg.Error):
            assert driver.execute(WHO).fetchall() == [("bob",)]
        session.rollback()
        assert owners(session) == ["bob"]


@pytest.mark.parametrize("chain", CHAINS)
def test_a_transaction_that_the_async_driver_is_told_to_chain_shows_nobody(
    settings: Settings, chain: str
) -> None:
    async def story() -> list[Any]:
        async with (
            AsyncEventStore.connect(settings=settings) as store,
            store.user("bob").session() as session,
        ):
            driver: Any = (
                await (await session.connection()).get_raw_connection()
            ).driver_connection
            await driver.execute(WHO)
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
                return list(await (await driver.execute(WHO)).fetchall())
            return [("bob",)]

    assert asyncio.run(story()) == [("bob",)]


def test_savepoints_of_the_drivers_own_stay_in_the_scope(store: EventStore) -> None:
    with store.user("bob").session() as session:
        driver = lent(session)
        for statement in ("savepoint a", "rollback to savepoint a", "release savepoint a"):
            driver.execute(statement)
            assert driver.execute(WHO).fetchall() == [("bob",)]


@pytest.mark.parametrize("moment", ["checkin", "close"])
@pytest.mark.parametrize("insert", [True, False])
def test_what_listens_as_a_connection_goes_back_is_in_the_scope_and_leaves_nothing(
    server: Server, settings: Settings, moment: str, *, insert: bool
) -> None:
    seen: list[Any] = []

    def listening(connection: Any, _record: object = None) -> None:
        with contextlib.suppress(psycopg.Error):
            cursor = connection.cursor()
            cursor.execute(WHO)
            seen.extend(cursor.fetchall())
            cursor.execute("create temp table loot as select title from eventstore.task")
            cursor.execute("grant all on loot to public")
            connection.commit()

    store = EventStore.connect(settings=past_the_pooler(server, settings))
    with store.user("bob").session(read_only=False) as session:
        engine = session.get_bind()
        event.listen(engine, moment, listening, insert=insert)
        assert owners(session) == ["bob"]
    event.remove(engine, moment, listening)

    assert {owner for (owner,) in seen} <= {"bob"}
    with store.user("carol").session() as session, pytest.raises(DBAPIError, match="loot"):
        run(session, "select * from loot")
    assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]
    store.close()


def test_a_detached_connection_stays_in_the_scope(store: EventStore) -> None:
    with store.user("bob").session() as session:
        connection = session.connection()
        connection.detach()

        assert owners(session) == ["bob"]
        session.commit()
    assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]


def kept_driver(session: Any) -> Callable[[], object]:
    driver = lent(session)
    return lambda: driver.execute(WHO)


def kept_cursor(session: Any) -> Callable[[], object]:
    cursor = lent(session).cursor()
    return lambda: cursor.execute(WHO)


def kept_named_cursor(session: Any) -> Callable[[], object]:
    cursor = lent(session).cursor("named")
    cursor.execute("select generate_series(1, 1000)")
    cursor.fetchmany(10)
    return lambda: cursor.fetchmany(10)


def kept_stream(session: Any) -> Callable[[], object]:
    options = {"yield_per": 10}
    rows = session.connection().execute(
        text("select generate_series(1, 1000)"), execution_options=options
    )
    next(rows)
    return lambda: list(rows)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # left open
@pytest.mark.parametrize("keep", [kept_driver, kept_cursor, kept_named_cursor, kept_stream])
def test_what_is_kept_of_a_session_is_refused_after_it(
    store: EventStore, keep: Callable[[Any], Callable[[], object]]
) -> None:
    with store.user("alice").session() as session:
        use = keep(session)

    with store.user("bob").session() as session:
        assert owners(session) == ["bob"]
        with pytest.raises((psycopg.Error, SQLAlchemyError)):
            use()

        assert owners(session) == ["bob"]  # in the same transaction


def test_a_driver_connection_closed_under_its_session_is_nobody_elses(store: EventStore) -> None:
    with store.user("alice").session() as careless:
        lent(careless).close()
        with store.user("bob").session() as session:
            assert owners(session) == ["bob"]
            with pytest.raises(SQLAlchemyError):
                owners(careless)
            assert owners(session) == ["bob"]
        careless.invalidate()

    assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]


LEFT = (
    "create temp table loot as select title from eventstore.task",
    "declare loot cursor with hold for select title from eventstore.task",
    "prepare loot as select 1",
    "select pg_advisory_lock(7)",
    "set session synchronous_commit = off",
)
FOUND = """
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
def test_however_a_session_ends_nothing_of_it_is_left(
    server: Server, settings: Settings, end: str
) -> None:
    direct = settings.model_copy(
        update={"database_url": server.direct(settings.database_url or "")}
    )
    with EventStore.connect(settings=direct) as store:
        with store.user("alice").session(read_only=False) as session:
            for statement in LEFT:
                run(session, statement)
            run(session, "commit")
            ENDS[end](session)
        gc.collect()  # what was detached goes with its last reference

        with store.user("bob").session() as session:
            assert run(session, FOUND).scalar() == 0


def test_a_request_that_is_cancelled_leaves_nothing_to_the_next(
    server: Server, settings: Settings
) -> None:
    direct = settings.model_copy(
        update={"database_url": server.direct(settings.database_url or "")}
    )

    async def alices(store: AsyncEventStore) -> None:
        async with store.user("alice").session(read_only=False) as session:
            connection = await session.connection()
            for statement in (*LEFT, "commit", "select pg_sleep(60)"):
                await connection.execute(text(statement))

    async def story() -> Any:
        async with AsyncEventStore.connect(settings=direct) as store:
            running = asyncio.create_task(alices(store))
            with psycopg.connect(direct.database_url or "", autocommit=True) as watcher:
                sleeping = "select 1 from pg_stat_activity where wait_event = 'PgSleep'"
                for _ in range(3_000):
                    await asyncio.sleep(0.01)
                    if watcher.execute(sleeping).fetchone():
                        break
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            async with store.user("bob").session() as session:
                return (await (await session.connection()).execute(text(FOUND))).scalar()

    assert asyncio.run(story()) == 0


def test_what_a_session_makes_of_its_driver_ends_with_it(store: EventStore) -> None:
    heard: list[str] = []

    class Shouting(TextLoader):
        def load(self, data: Any) -> Any:
            return str(super().load(data)).upper()

    with store.user("alice").session(read_only=False) as session:
        driver = lent(session)
        driver.row_factory = dict_row
        driver.read_only, driver.isolation_level = True, psycopg.IsolationLevel.SERIALIZABLE
        driver.adapters.register_loader("text", Shouting)
        driver.add_notice_handler(lambda notice: heard.append(str(notice.message_primary)))
        driver.prepare_threshold = 0
        driver.execute(WHO)

    with store.user("bob").session(read_only=False) as session:
        run(session, "do $$ begin raise warning 'bob''s'; end $$")
        assert run(session, "show transaction_isolation").scalar() == "read committed"
        assert run(session, "show transaction_read_only").scalar() == "off"
        assert [task.title for task in session.exec(select(Task)).all()] == ["bob's task"]
    assert [task.title for task in store.user("bob").tasks.list()] == ["bob's task"]
    assert heard == []


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_session_that_was_open_at_a_fork_is_refused_in_the_child(store: EventStore) -> None:
    with store.user("alice").session() as session:
        assert owners(session) == ["alice"]
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                told = str(owners(session))
            except ConfigurationError as error:
                told = str(error)
            os.write(writing, told.encode())
            os._exit(0)
        os.wait()

        assert b"before the process forked" in os.read(reading, 1000)
        assert owners(session) == ["alice"]


@pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_async_session_that_is_never_closed_gives_its_place_back(settings: Settings) -> None:
    async def forget(store: AsyncEventStore) -> None:
        session = store.user("alice").session()
        await session.exec(select(Task))

    async def story() -> list[str]:
        async with AsyncEventStore.connect(settings=settings) as store:
            for _ in range(3):
                await forget(store)
                gc.collect()
                await asyncio.sleep(0)
            return [task.title for task in await store.user("bob").tasks.list()]

    assert asyncio.run(story()) == ["bob's task"]


@pytest.mark.parametrize("moment", ["first statement", "commit"])
def test_a_lost_connection_is_sqlalchemys_error_at_any_moment_of_a_session(
    settings: Settings, server: Server, two_users: str, moment: str
) -> None:
    with EventStore.connect(settings=past_the_pooler(server, settings)) as store:
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


def test_a_constraint_that_fails_at_commit_is_sqlalchemys_error(
    store: EventStore, server: Server, two_users: str
) -> None:
    with psycopg.connect(server.direct(two_users), autocommit=True) as admin:
        admin.execute("create table if not exists public.number (n int unique deferrable"
                      " initially deferred); grant all on public.number to public")  # fmt: skip
    with store.user("bob").session(read_only=False) as session:
        run(session, "insert into public.number values (1), (1)")
        with pytest.raises(DBAPIError, match="duplicate key"):
            session.commit()
        session.rollback()

        assert owners(session) == ["bob"]


def test_many_comments_before_a_statement_cost_little(store: EventStore) -> None:
    comments = "/* a */ -- b\n" * 1_000

    with store.user("bob").session() as session:
        assert run(session, f"{comments} select 1").scalar() == 1
        with pytest.raises(ConfigurationError, match="AND CHAIN"):
            run(session, f"{comments} commit and chain")
