"""
A pipeline is one transaction, and its connection can be used again whatever became of it.

What is prepared on a connection is known by the names that the server knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg.errors import AdminShutdown, DivisionByZero, UniqueViolation

from eventstore import EventStore, Settings
from eventstore.database.connections import StoreAsyncConnection, StoreConnection
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Rows, Statement

ONE, TWO = Statement("select 1"), Statement("select $1::int", (2,))
FAILS = Statement("select 1 / $1::int", (0,))
WRONG = Statement("selekt 1")
_PREPARED = Statement(
    "select statement, convert_to(name, 'UTF8') from pg_prepared_statements", prepared=False
)

type Run = Callable[..., list[Rows]]


@pytest.fixture
def connection(direct_url: str) -> Iterator[StoreConnection]:
    with StoreConnection.connect(direct_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=["sync", "async"])
def run(request: pytest.FixtureRequest, direct_url: str) -> Iterator[Run]:
    """Runs pipelines on one connection, sync or async."""
    if request.param == "sync":
        with StoreConnection.connect(direct_url, autocommit=True) as connection:
            yield lambda statements, unread=0: connection.wait(
                run_pipeline(connection, statements, unread)
            )
        return
    with asyncio.Runner() as runner:
        async_connection = runner.run(StoreAsyncConnection.connect(direct_url, autocommit=True))
        yield lambda statements, unread=0: runner.run(
            async_connection.wait(run_pipeline(async_connection, statements, unread))
        )
        runner.run(async_connection.close())


def prepared(connection: StoreConnection) -> dict[str, bytes]:
    """Return what the server has prepared, by its SQL."""
    (rows,) = connection.wait(run_pipeline(connection, [_PREPARED]))
    return {sql: bytes(name) for sql, name in rows}


def test_each_statement_has_its_rows_and_those_that_nobody_reads_are_left_out(run: Run) -> None:
    several = Statement("select n, null from generate_series(1, 3) as n")
    nothing = Statement("set application_name = 'x'", prepared=False)

    assert run([ONE, TWO, several, nothing]) == [
        [(1,)],
        [(2,)],
        [(1, None), (2, None), (3, None)],
        [],
    ]
    assert run([ONE, TWO, several], 2) == [[(1, None), (2, None), (3, None)]]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_after_an_error_the_answers_are_read_to_the_end_of_the_pipeline(
    run: Run, place: int
) -> None:
    statements = [ONE, TWO, ONE]
    statements.insert(place, FAILS)

    for _ in range(2):
        with pytest.raises(DivisionByZero):
            run(statements)

        assert run([TWO, ONE]) == [[(2,)], [(1,)]]


def test_a_pipeline_that_fails_has_done_nothing(run: Run, admin: psycopg.Connection) -> None:
    admin.execute("create table public.number (n int unique deferrable initially deferred)")
    insert = Statement("insert into public.number values ($1::int)", (1,))

    with pytest.raises(DivisionByZero):
        run([insert, FAILS])
    with pytest.raises(UniqueViolation):  # at COMMIT
        run([insert, insert, ONE])

    assert admin.execute("select from public.number").fetchall() == []
    assert run([insert, Statement("select n from public.number")]) == [[], [(1,)]]


def test_the_error_with_which_the_server_ends_the_connection_is_raised(run: Run) -> None:
    with pytest.raises(AdminShutdown):
        run([ONE, Statement("select pg_terminate_backend(pg_backend_pid())"), TWO])


def test_a_statement_is_prepared_once_under_the_name_that_the_server_knows(
    connection: StoreConnection,
) -> None:
    for _ in range(3):
        connection.wait(run_pipeline(connection, [ONE, TWO, ONE]))

    names = prepared(connection)

    assert names == connection.statement_names
    assert {*names} == {ONE.sql, TWO.sql}
    assert all(name.startswith(b"eventstore_") for name in names.values())


@pytest.mark.parametrize(
    ("statements", "error", "stay_prepared"),
    [
        ([ONE, FAILS, TWO], DivisionByZero, [ONE, FAILS]),
        ([ONE, WRONG, TWO], psycopg.errors.SyntaxError, [ONE]),
        ([WRONG], psycopg.errors.SyntaxError, []),
    ],
)
def test_the_names_are_those_of_the_server_after_an_error(
    connection: StoreConnection,
    statements: list[Statement],
    error: type[Exception],
    stay_prepared: list[Statement],
) -> None:
    for _ in range(2):
        with pytest.raises(error):
            connection.wait(run_pipeline(connection, statements))

        assert prepared(connection) == connection.statement_names
        assert {*prepared(connection)} == {one.sql for one in stay_prepared}

    assert connection.wait(run_pipeline(connection, [TWO, ONE])) == [[(2,)], [(1,)]]
    names = prepared(connection)
    assert names == connection.statement_names
    assert len({*names.values()}) == len(names)


def test_nothing_is_prepared_that_is_for_one_occasion_or_behind_a_pooler(
    connection: StoreConnection,
) -> None:
    once = Statement("select 3", prepared=False)
    assert connection.wait(run_pipeline(connection, [once, once])) == [[(3,)], [(3,)]]
    assert prepared(connection) == {}

    connection.statement_names = None
    for _ in range(7):
        assert connection.wait(run_pipeline(connection, [ONE, TWO])) == [[(1,)], [(2,)]]
    assert prepared(connection) == {}


def test_a_connection_that_lost_its_prepared_statements_is_closed_and_replaced(
    direct_url: str,
) -> None:
    settings = Settings(database_url=direct_url, pool_min_size=1, pool_max_size=1)
    with EventStore.connect(settings=settings) as store:
        alice = store.user("alice")
        alice.tasks.create("one")
        with store._driver.pool.connection() as pooled:
            pooled.execute("deallocate all")

        alice.tasks.create("two")

        assert pooled.closed
        assert [task.title for task in alice.tasks.list()] == ["one", "two"]
        assert len(alice.events()) == 2
