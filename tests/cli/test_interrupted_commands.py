"""Ctrl-C ends work that runs side by side at once, and leaves no place in the pool taken."""

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
from eventstore.database.connections import LimitedConnection
from tests.support.waiting import until


class Enough(Exception):
    """What a progress callback raises."""


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
def test_an_interrupted_rebuild_ends_at_once_and_leaves_the_rest_undone(
    database_url: str, direct_url: str, admin: psycopg.Connection, jobs: int
) -> None:
    environment = {"EVENTSTORE_DATABASE_URL": database_url, "EVENTSTORE_LOCK_TIMEOUT_SECONDS": "99"}
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
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nobody forks while a thread has a lock
        )
        until(lambda: admin.execute(_WAITING).fetchone() == (jobs,))
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)

        assert (running.returncode, "Traceback" in said) == (130, False), said
    assert {user for (user,) in admin.execute(_DONE)} == {"alice", "bob"}


@pytest.mark.usefixtures("four_users")
def test_one_failure_ends_what_runs_beside_it(
    database_url: str, direct_url: str, admin: psycopg.Connection
) -> None:
    def enough(_: object) -> None:
        until(lambda: admin.execute(_WAITING).fetchone() == (1,))
        raise Enough

    settings = Settings(database_url=database_url, lock_timeout_seconds=99)
    with (
        EventStore.connect(settings=settings) as store,
        ThreadPoolExecutor() as threads,
        psycopg.connect(direct_url) as holder,
    ):
        holder.execute("select from eventstore.user_log where user_id = 'alice' for update")
        rebuilding = threads.submit(store.rebuild, jobs=2, progress=enough)

        assert isinstance(rebuilding.exception(30), Enough)  # alice's log is still held
        holder.rollback()
        assert store.rebuild().users >= len(USERS) - 1


def test_an_interrupt_while_a_connection_is_given_back_leaves_its_place_free(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    settings = Settings(database_url=database_url, pool_max_size=1, pool_timeout_seconds=5)
    with EventStore.connect(settings=settings) as store:
        store.user("alice").tasks.create("Buy milk")
        with monkeypatch.context() as patch:
            patch.setattr(LimitedConnection, "rollback", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.verify("alice", seen=interrupted)

        assert store.verify("alice").ok


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_more_jobs_than_connections_wait_for_their_turn_and_not_for_the_pool(
    four_users: EventStore, database_url: str, colour: str
) -> None:
    settings = Settings(database_url=database_url, pool_max_size=2, pool_timeout_seconds=0.3)
    lasting = threading.Event()

    def last(_: int) -> None:
        lasting.wait(2 * settings.pool_timeout_seconds)

    async def story() -> bool:
        async with AsyncEventStore.connect(settings=settings) as store:
            return (await store.verify(jobs=4, seen=last)).ok

    if colour == "async":
        assert asyncio.run(story())
        return
    with EventStore.connect(settings=settings) as store:
        assert store.verify(jobs=4, seen=last).ok
