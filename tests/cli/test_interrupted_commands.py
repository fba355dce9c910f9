"""Ctrl-C ends concurrent work at once and returns every connection to the pool."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from eventstore import AsyncEventStore, EventStore, Settings
from eventstore.database.connections import StoreConnection
from tests.support.waiting import until


class Enough(Exception):
    """Raised by a progress callback."""


LIMIT_SECONDS = 300.0
"""A safety net for tests that would wait for ever; a busy machine takes long to start Python."""
USERS = ("alice", "bob", "carol", "dave")
_WAITING = """
select count(*) from pg_stat_activity
where wait_event_type = 'Lock' and datname = current_database()
"""
_DONE = "select user_id from eventstore.rebuild_progress where finished_at is not null"


@pytest.fixture
def four_users(database_url: str) -> Iterator[EventStore]:
    with EventStore.connect(database_url) as store:
        for name in USERS:
            store.user(name).tasks.create("Buy milk")
        yield store


@pytest.mark.usefixtures("four_users")
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_rebuild_ends_at_once_and_does_not_touch_the_other_users(
    database_url: str, direct_url: str, admin: psycopg.Connection, jobs: int
) -> None:
    environment = {
        "EVENTSTORE_DATABASE_URL": database_url,
        "EVENTSTORE_LOCK_TIMEOUT_SECONDS": "999",
    }
    command = [sys.executable, "-m", "eventstore.cli", "rebuild", "--jobs", str(jobs)]
    with psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.user_log where user_id in ('carol', 'dave')"
                       " for update")  # fmt: skip
        running = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no other thread has a lock
        )
        until(
            lambda: running.poll() is not None or admin.execute(_WAITING).fetchone() == (jobs,),
            LIMIT_SECONDS,
        )
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=LIMIT_SECONDS)

        assert (running.returncode, "Traceback" in errors) == (130, False), errors
    assert {user for (user,) in admin.execute(_DONE)} == {"alice", "bob"}


@pytest.mark.usefixtures("four_users")
def test_a_failed_job_ends_the_other_jobs(
    database_url: str, direct_url: str, admin: psycopg.Connection
) -> None:
    def fail(_: object) -> None:
        until(lambda: admin.execute(_WAITING).fetchone() == (1,), LIMIT_SECONDS)
        raise Enough

    settings = Settings(database_url=database_url, deadline_seconds=999)
    with (
        EventStore.connect(settings=settings) as store,
        ThreadPoolExecutor() as threads,
        psycopg.connect(direct_url) as holder,
    ):
        holder.execute("select from eventstore.user_log where user_id = 'alice' for update")
        rebuilding = threads.submit(store.rebuild, jobs=2, progress=fail)

        # The job that waits for alice's log ends although the log is still locked.
        assert isinstance(rebuilding.exception(LIMIT_SECONDS), Enough)
        holder.rollback()
        assert store.rebuild().users >= len(USERS) - 1


def test_an_interrupt_while_a_connection_is_returned_does_not_leak_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    settings = Settings(database_url=database_url, pool_max_size=1, deadline_seconds=60)
    with EventStore.connect(settings=settings) as store:
        store.user("alice").tasks.create("Buy milk")
        with monkeypatch.context() as patch:
            patch.setattr(StoreConnection, "rollback", interrupt)
            with pytest.raises(KeyboardInterrupt):
                store.verify("alice", seen=interrupt)

        assert store.verify("alice").ok


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_more_jobs_than_connections_wait_for_each_other_and_not_for_the_pool(
    four_users: EventStore, database_url: str, driver: str
) -> None:
    settings = Settings(database_url=database_url, pool_min_size=2, pool_max_size=2)
    never = threading.Event()

    def pause(_: int) -> None:
        """Hold a connection for a time in which other jobs would ask the pool for one."""
        never.wait(0.5)

    def queued(store: EventStore | AsyncEventStore) -> int:
        """Return how many requests have found no free connection in the pool so far."""
        return store._driver.pool.get_stats().get("requests_queued", 0)

    async def run() -> tuple[bool, int]:
        async with AsyncEventStore.connect(settings=settings) as store:
            await store._driver.pool.wait(LIMIT_SECONDS)
            before = queued(store)
            return (await store.verify(jobs=4, seen=pause)).ok, queued(store) - before

    if driver == "async":
        assert asyncio.run(run()) == (True, 0)
        return
    with EventStore.connect(settings=settings) as store:
        store._driver.pool.wait(LIMIT_SECONDS)
        before = queued(store)
        assert (store.verify(jobs=4, seen=pause).ok, queued(store) - before) == (True, 0)
