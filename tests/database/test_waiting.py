"""
A wait for the server ends with an answer, at a limit, or by a signal or a cancellation.

A slow answer is awaited as long as its bytes arrive. However a wait ends, the store gets its
connection back and can be used again.
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
from eventstore.database.connections import StoreConnection
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Statement
from tests.database.stopping import stopped_after
from tests.support.proxy import Proxy, url_through
from tests.support.server import Server

LONG_ANSWER = Statement("select repeat('x', 10000000)")


class TooLong(Exception):
    """Raised by a signal handler of the application."""


def settings_through(proxy: Proxy, database_url: str, **limits: float) -> Settings:
    url = url_through(proxy, database_url)
    return Settings(database_url=url, pool_max_size=1, **limits)  # type: ignore[arg-type]  # numbers


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


def test_a_slow_answer_is_awaited_as_long_as_its_bytes_arrive(
    database_url: str, proxy: Proxy
) -> None:
    def delay(_: bytes) -> bool:
        time.sleep(0.05)
        return False

    url = str(settings_through(proxy, database_url).database_url)
    with StoreConnection.connect(url, autocommit=True) as connection:
        connection.silence_seconds = 3.0  # a busy machine may pause for a second
        proxy.lose_reply = delay
        began = time.monotonic()

        ((answer,),) = connection.wait(run_pipeline(connection, [LONG_ANSWER]))[0]

        assert time.monotonic() - began > 2 * connection.silence_seconds
        assert len(str(answer)) == 10_000_000
        with pytest.raises(psycopg.OperationalError, match="the server did not answer in time"):
            connection.wait(run_pipeline(connection, [Statement("select pg_sleep(60)")]))
        assert connection.closed


@pytest.mark.parametrize("error", [TooLong, KeyboardInterrupt])
def test_an_exception_of_a_signal_handler_ends_the_wait_for_an_answer(
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
        # The store cannot know whether the interrupted append was committed, nor when: its server
        # process goes on as soon as it has the lock.
        assert titles[0] == "before"
        assert sorted(titles[1:]) in (["after"], ["after", "during"])
        assert store.verify().ok


def test_an_interrupt_before_the_sync_is_sent_does_not_wait_for_an_answer(
    database_url: str,
) -> None:
    with EventStore.connect(settings=Settings(database_url=database_url, pool_max_size=1)) as store:
        alice = store.user("alice")
        alice.tasks.create("before")
        with (
            alarm(10, TooLong),
            stopped_after(1, KeyboardInterrupt),
            pytest.raises(KeyboardInterrupt),
        ):
            alice.tasks.create("during")

        assert [task.title for task in alice.tasks.list()] == ["before"]


def test_a_server_that_is_silent_after_the_login_raises_unavailable(
    database_url: str, proxy: Proxy, server: Server, admin: psycopg.Connection
) -> None:
    settings = settings_through(proxy, database_url, deadline_seconds=1.5)
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


def test_a_session_on_a_silent_server_ends_with_an_error(database_url: str, proxy: Proxy) -> None:
    with EventStore.connect(
        settings=settings_through(proxy, database_url, deadline_seconds=1.5)
    ) as store:
        store.verify()  # verify waits longer for an answer, and the session must not
        with store.user("alice").session() as session:
            session.connection().execute(text("select 1"))
            proxy.silence = lambda _: True
            with (
                alarm(20, TooLong),
                pytest.raises(Exception, match="the server did not answer in time"),
            ):
                session.connection().execute(text("select 1"))
        proxy.silence = lambda _: False


def test_a_session_cancelled_while_it_closes_returns_its_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        eventstore.database.sessions.engines, "_LEAVE_NOTHING", "select pg_sleep(60)"
    )

    async def use_session(store: AsyncEventStore) -> None:
        async with store.user("alice").session() as session:
            await (await session.connection()).execute(text("select 1"))
            await session.commit()

    async def run() -> int:
        settings = Settings(database_url=database_url, pool_max_size=1, deadline_seconds=5)
        async with AsyncEventStore.connect(settings=settings) as store:
            await store.user("alice").tasks.create("x")
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(use_session(store), 1.0)
            return len(await store.user("alice").tasks.list())

    assert asyncio.run(run()) == 1


def test_a_session_interrupted_while_it_closes_returns_its_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        eventstore.database.sessions.engines, "_LEAVE_NOTHING", "select pg_sleep(60)"
    )
    settings = Settings(database_url=database_url, pool_max_size=1, deadline_seconds=5)
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
