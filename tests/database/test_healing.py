"""Connections that work no more are found out once, and replaced together."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import psycopg
import pytest
from psycopg import sql

from eventstore import AsyncEventStore, ConnectionLost, EventStore, Settings
from tests.database.test_outages import through
from tests.support.drivers import open_store
from tests.support.proxy import Proxy
from tests.support.waiting import until

CONNECTIONS = 4


def has_idle(store: EventStore) -> bool:
    """Tell whether the pool is full, and is not opening connections any more."""
    attempts = store._driver.pool.get_stats()["connections_num"]
    time.sleep(0.1)
    # A fresh connection of an async pool appears only while its loop runs.
    store.user("alice").tasks.list()
    stats = store._driver.pool.get_stats()
    return bool(stats["pool_available"] == CONNECTIONS and stats["connections_num"] == attempts)


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_connections_that_went_read_only_are_replaced(
    direct_url: str, admin: psycopg.Connection, driver: str
) -> None:
    database = sql.Identifier(admin.info.dbname)
    admin.execute(
        sql.SQL("alter database {} set default_transaction_read_only = on").format(database)
    )
    settings = Settings(
        database_url=direct_url,
        pool_min_size=CONNECTIONS,
        pool_max_size=CONNECTIONS,
        deadline_seconds=2,
    )
    try:
        with open_store(driver, settings=settings) as store:
            alice = store.user("alice")
            until(lambda: has_idle(store))
            with pytest.raises(ConnectionLost, match="read-only") as refused:
                alice.tasks.create("too early")
            until(lambda: has_idle(store))
            reset = sql.SQL("alter database {} reset default_transaction_read_only")
            admin.execute(reset.format(database))

            created = [alice.tasks.create(f"task {number}") for number in range(CONNECTIONS)]

            assert not refused.value.may_be_committed
            assert len(alice.tasks.list()) == len(created)
    finally:
        reset = sql.SQL("alter database {} reset default_transaction_read_only")
        admin.execute(reset.format(database))


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_one_silence_costs_one_call_however_many_connections_are_idle(
    database_url: str, proxy: Proxy, driver: str
) -> None:
    limit = 2.0
    settings = through(
        proxy,
        database_url,
        pool_min_size=CONNECTIONS,
        pool_max_size=CONNECTIONS,
        deadline_seconds=limit,
    )
    with open_store(driver, settings=settings) as store:
        alice = store.user("alice")
        until(lambda: has_idle(store))
        proxy.forget()

        began = time.monotonic()
        alice.tasks.create("Buy milk")  # settled on a new connection
        tasks = [alice.tasks.list() for _ in range(CONNECTIONS)]

        assert time.monotonic() - began < 2 * limit
        assert list(map(len, tasks)) == [1] * CONNECTIONS


def test_the_kernel_asks_an_idle_server_unless_the_url_says_otherwise(
    database_url: str, proxy: Proxy
) -> None:
    url = str(through(proxy, database_url).database_url)

    assert keepalive_of(url) == (True, 30)
    assert keepalive_of(f"{url}&keepalives_idle=7") == (True, 7)


def keepalive_of(url: str) -> tuple[bool, int]:
    with (
        EventStore.connect(url) as store,
        store._driver.pool.connection() as connection,
        socket.socket(fileno=os.dup(connection.fileno())) as one,
    ):
        return (
            bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
            one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        )


def test_a_cancelled_call_does_not_wait_for_a_silent_server(
    database_url: str, proxy: Proxy
) -> None:
    async def run() -> float:
        async with AsyncEventStore.connect(settings=through(proxy, database_url)) as store:
            await store.user("alice").tasks.list()
            proxy.silence = lambda _: True
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await store.user("alice").tasks.create("Buy milk")
            took = time.monotonic() - began
            proxy.silence = lambda _: False
            return took

    assert asyncio.run(run()) < 2


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_one_caller_keeps_to_one_connection_of_a_large_pool(
    direct_url: str, admin: psycopg.Connection, driver: str
) -> None:
    settings = Settings(
        database_url=direct_url, pool_min_size=CONNECTIONS, pool_max_size=CONNECTIONS
    )
    with open_store(driver, settings=settings) as store:
        alice = store.user("alice")
        until(lambda: has_idle(store))
        began = admin.execute("select clock_timestamp()").fetchone()

        for _ in range(2 * CONNECTIONS):
            alice.tasks.list()

        used = admin.execute(
            "select pid from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
            " and query_start > %s",
            began,
        ).fetchall()
        assert len(used) == 1
