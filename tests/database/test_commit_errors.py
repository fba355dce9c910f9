"""
A failed COMMIT raises the server's error and leaves the connection usable.

The server sends the error before its answer to the Sync, as one more result than the client
expects. The client may receive the two separately or, if it reads late, together.
"""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from psycopg.abc import PQGen
from psycopg.errors import UniqueViolation
from psycopg.generators import send
from psycopg.pq.abc import PGconn

import eventstore.database.driver.pipeline
from eventstore.database.connections import StoreAsyncConnection, StoreConnection
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Statement

END_MYSELF = """
create function public.end_myself() returns trigger language plpgsql as $$
begin
    perform pg_terminate_backend(pg_backend_pid());
    return null;
end
$$;
create constraint trigger end_myself after insert on public.number
deferrable initially deferred for each row execute function public.end_myself();
"""
INSERT = Statement("insert into public.number values (1)")
SELECT = Statement("select n from public.number")


@pytest.fixture(params=[0.0, 0.3])
def number(
    request: pytest.FixtureRequest, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that looks for doubles at COMMIT, and a client that looks away after its Sync."""
    admin.execute("create table public.number (n int unique deferrable initially deferred)")

    def send_and_look_away(pgconn: PGconn) -> PQGen[None]:
        yield from send(pgconn)
        time.sleep(request.param)

    monkeypatch.setattr(eventstore.database.driver.pipeline, "send", send_and_look_away)


@pytest.mark.usefixtures("number")
def test_an_error_at_commit_is_raised_however_soon_it_arrives(database_url: str) -> None:
    with StoreConnection.connect(database_url, autocommit=True) as connection:
        for _ in range(2):
            with pytest.raises(UniqueViolation):
                connection.wait(run_pipeline(connection, [INSERT, INSERT]))

        assert connection.wait(run_pipeline(connection, [INSERT, SELECT])) == [[], [(1,)]]


@pytest.mark.usefixtures("number")
def test_an_error_at_commit_is_raised_however_soon_it_arrives_async(database_url: str) -> None:
    async def run() -> None:
        connection = await StoreAsyncConnection.connect(database_url, autocommit=True)
        async with connection:
            for _ in range(2):
                with pytest.raises(UniqueViolation):
                    await connection.wait(run_pipeline(connection, [INSERT, INSERT]))

            assert await connection.wait(run_pipeline(connection, [INSERT, SELECT])) == [[], [(1,)]]

    asyncio.run(run())


@pytest.mark.usefixtures("number")
def test_a_connection_that_ends_at_commit_raises_and_is_closed(
    database_url: str, admin: psycopg.Connection
) -> None:
    admin.execute(END_MYSELF)
    with StoreConnection.connect(database_url, autocommit=True) as connection:
        with pytest.raises(psycopg.OperationalError):
            connection.wait(run_pipeline(connection, [INSERT, SELECT]))

        assert connection.closed


@pytest.mark.usefixtures("number")
def test_a_connection_that_ends_at_commit_raises_and_is_closed_async(
    database_url: str, admin: psycopg.Connection
) -> None:
    async def run() -> None:
        connection = await StoreAsyncConnection.connect(database_url, autocommit=True)
        async with connection:
            with pytest.raises(psycopg.OperationalError):
                await connection.wait(run_pipeline(connection, [INSERT, SELECT]))

            assert connection.closed

    admin.execute(END_MYSELF)
    asyncio.run(run())
