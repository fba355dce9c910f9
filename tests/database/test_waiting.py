"""
Waiting for the server: as long as something moves, and what ends a wait is told and costs nothing.

Interrupted, cancelled or met with silence, a store has its connections back and goes on.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from sqlalchemy import text

import eventstore.database.sessions.engines
from eventstore import AsyncEventStore, EventStore, Settings, Unavailable
from eventstore.database.connections import LimitedConnection, _EndsWithSync
from eventstore.database.pipeline import exchange
from eventstore.database.plan import Statement
from tests.support.proxy import Proxy, proxied
from tests.support.server import Server


class TooLong(Exception):
    """What a service's own signal handler raises."""


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxied(server.socket) as running:
        yield running


def through(proxy: Proxy, database_url: str, **how: float) -> Settings:
    name = database_url.split("@/", maxsplit=1)[1].split("?", maxsplit=1)[0]
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
    return Settings(database_url=url, pool_max_size=1, **how)  # type: ignore[arg-type]  # numbers


@contextmanager
def alarm(seconds: float, error: type[BaseException]) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_answer_that_comes_slowly_is_waited_for(database_url: str, proxy: Proxy) -> None:
    def dawdle(_: bytes) -> bool:
        time.sleep(0.05)
        return False

    url = str(through(proxy, database_url).database_url)
    with LimitedConnection.connect(url, autocommit=True) as connection:
        connection.answer_timeout_seconds = 3.0  # a busy machine may stand still for a second
        proxy.lose_reply = dawdle
        began = time.monotonic()

        ((answer,),) = exchange(connection, [Statement("select repeat('x', 10000000)")])[0]

        assert time.monotonic() - began > 2 * connection.answer_timeout_seconds
        assert len(str(answer)) == 10_000_000
        with pytest.raises(psycopg.OperationalError, match="the server was silent"):
            exchange(connection, [Statement("select pg_sleep(60)")])
        assert connection.closed


@pytest.mark.parametrize("error", [TooLong, KeyboardInterrupt])
def test_what_a_signal_handler_raises_while_an_answer_is_awaited_is_raised(
    database_url: str, admin: psycopg.Connection, error: type[BaseException]
) -> None:
    with EventStore.connect(settings=Settings(database_url=database_url, pool_max_size=1)) as store:
        alice = store.user("alice")
        alice.tasks.create("before")
        with admin.transaction():
            admin.execute("select from eventstore.user_log for update")
            with alarm(0.2, error), pytest.raises(error):
                alice.tasks.create("during")

        alice.tasks.create("after")
        titles = [task.title for task in alice.tasks.list()]
        assert titles in (["before", "after"], ["before", "during", "after"])  # not known, not two
        assert store.verify().ok


def test_an_interrupt_before_the_sync_is_sent_does_not_wait_for_an_answer(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with EventStore.connect(settings=Settings(database_url=database_url, pool_max_size=1)) as store:
        alice = store.user("alice")
        alice.tasks.create("before")
        with monkeypatch.context() as patch, alarm(10, TooLong):
            patch.setattr(_EndsWithSync, "_enqueue_sync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                alice.tasks.create("during")

        assert [task.title for task in alice.tasks.list()] == ["before"]


def test_a_server_that_is_silent_just_after_the_login_is_given_up(
    database_url: str, proxy: Proxy, server: Server, admin: psycopg.Connection
) -> None:
    settings = through(
        proxy, database_url, answer_timeout_seconds=1.5, pool_timeout_seconds=3, retry_seconds=0
    )
    with EventStore.connect(settings=settings) as store:
        alice = store.user("alice")
        alice.tasks.create("before")
        proxy.silence = lambda data: b"pg_backend_pid" in data  # the first answer after the login
        proxy.cut()
        for _ in range(3):
            with pytest.raises(Unavailable):
                alice.tasks.list()

        proxy.silence = lambda _: False
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                tasks = alice.tasks.list()
            except Unavailable:
                continue
            break
        assert [task.title for task in tasks] == ["before"]


def test_a_session_on_a_silent_server_is_given_up(database_url: str, proxy: Proxy) -> None:
    with EventStore.connect(
        settings=through(proxy, database_url, answer_timeout_seconds=1.5)
    ) as store:
        store.verify()  # whose own patience is longer
        with store.user("alice").session() as session:
            session.connection().execute(text("select 1"))
            proxy.silence = lambda _: True
            with alarm(20, TooLong), pytest.raises(Exception, match="the server was silent"):
                session.connection().execute(text("select 1"))
        proxy.silence = lambda _: False


def test_a_session_that_is_cancelled_while_it_is_closed_gives_its_connection_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        eventstore.database.sessions.engines, "_LEAVE_NOTHING", "select pg_sleep(60)"
    )

    async def look(store: AsyncEventStore) -> None:
        async with store.user("alice").session() as session:
            await (await session.connection()).execute(text("select 1"))
            await session.commit()

    async def story() -> int:
        settings = Settings(database_url=database_url, pool_max_size=1, pool_timeout_seconds=5)
        async with AsyncEventStore.connect(settings=settings) as store:
            await store.user("alice").tasks.create("x")
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(look(store), 1.0)
            return len(await store.user("alice").tasks.list())

    assert asyncio.run(story()) == 1


def test_a_session_that_is_interrupted_while_it_is_closed_gives_its_connection_back(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        eventstore.database.sessions.engines, "_LEAVE_NOTHING", "select pg_sleep(60)"
    )
    settings = Settings(database_url=database_url, pool_max_size=1, pool_timeout_seconds=5)
    with EventStore.connect(settings=settings) as store:
        store.user("alice").tasks.create("x")
        for _ in range(3):
            with (
                alarm(1.0, TooLong),
                pytest.raises(TooLong),
                store.user("alice").session() as session,
            ):
                session.connection().execute(text("select 1"))

        assert len(store.user("alice").tasks.list()) == 1
