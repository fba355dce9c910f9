"""With EVENTSTORE_TEST_POOLER the application uses the pooler; migrations and superusers do not."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from eventstore import AsyncEventStore, ConfigurationError, EventStore, Settings
from eventstore.schema.migrate import upgrade
from tests.support.pooler import pooler_asked_for
from tests.support.server import Server

pytestmark = pytest.mark.skipif(not pooler_asked_for(), reason="EVENTSTORE_TEST_POOLER is not set")

BACKEND = "select pg_backend_pid()"


def test_a_store_connects_through_the_pooler_and_prepares_no_statements(database_url: str) -> None:
    with EventStore.connect(database_url) as store, store._driver.pool.connection() as connection:
        row = connection.execute(BACKEND).fetchone()

        assert row is not None
        assert row[0] != connection.info.backend_pid
        assert connection.prepare_threshold is None
        assert connection.statement_names is None


def test_an_async_store_connects_through_the_pooler_and_prepares_no_statements(
    database_url: str,
) -> None:
    async def run() -> None:
        async with (
            AsyncEventStore.connect(database_url) as store,
            store._driver.pool.connection() as connection,
        ):
            row = await (await connection.execute(BACKEND)).fetchone()

            assert row is not None
            assert row[0] != connection.info.backend_pid
            assert connection.prepare_threshold is None
            assert connection.statement_names is None

    asyncio.run(run())


def test_an_idle_store_holds_no_server_connection_of_the_pooler(
    store: EventStore, server: Server, database_url: str
) -> None:
    store.user("alice").tasks.create("Buy milk")

    with psycopg.connect(server.url("pgbouncer"), autocommit=True, row_factory=dict_row) as console:
        pools = console.execute("show pools").fetchall()

    name = conninfo_to_dict(database_url)["dbname"]
    (pool,) = [one for one in pools if (one["database"], one["user"]) == (name, "postgres")]
    assert pool["pool_mode"] == "transaction"
    assert pool["cl_active"] >= 1
    assert pool["sv_active"] == 0, "a server connection belongs to a client only in a transaction"


def test_a_superuser_connects_past_the_pooler(admin: psycopg.Connection) -> None:
    assert admin.execute(BACKEND).fetchone() == (admin.info.backend_pid,)


def test_a_migration_through_the_pooler_is_refused(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="the URL leads to a pooler"):
        upgrade(Settings(database_url=database_url))
