"""Rebuilds while users write, interrupted rebuilds, and simultaneous rebuilds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from threading import Barrier, Event
from typing import Any

import psycopg
import pytest

import eventstore.database.driver.sync_driver
from eventstore import ConnectionLost, EventStore, User
from eventstore.database.driver.pipeline import run_pipeline
from projections.rebuild.rebuild import Rebuilt
from tests.support.own_read_model import Boxed, project_box, project_done
from tests.support.waiting import until

USERS = ("alice", "bob", "carol", "dave")


class Interrupted(Exception):
    """The error that a progress callback raises."""


def spoil(admin: psycopg.Connection) -> None:
    """Spoil every row without deleting one, so that a reader with fewer rows proves an error."""
    admin.execute("update eventstore.message set content = 'spoilt'")
    admin.execute("update eventstore.task set title = 'spoilt'")
    admin.execute("update eventstore.conversation set activity_position = -1")


def progress_table(admin: psycopg.Connection) -> dict[str, bool]:
    """Say for each user of a rebuild whether it is finished."""
    return dict(
        admin.execute("select user_id, finished_at is not null from eventstore.rebuild_progress")
    )


def repeat_until(stop: Event, step: Callable[[], None]) -> None:
    while not stop.is_set():
        step()


def test_rebuilds_under_load_lose_nothing_and_no_reader_sees_fewer_rows(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    users = [sync_store.user(name) for name in USERS[:3]]
    chats = {user.user_id: user.conversations.start(key="chat").id for user in users}
    written = dict.fromkeys(chats, 0)
    last_read = dict.fromkeys(chats, (0, 0))
    stop = Event()

    def write(user: User) -> None:
        with user.transaction() as tx:
            tx.messages.post("chat", sender="user", content="hi")
            tx.tasks.create("walk")
        written[user.user_id] += 1

    def read(user: User) -> None:
        now = len(user.history("chat")), len(user.tasks.list(limit=10_000))
        assert now >= last_read[user.user_id], "a reader got a half-built state"
        assert now[0] <= now[1], "tasks are read later and can only be more"
        last_read[user.user_id] = now

    with ThreadPoolExecutor() as threads:
        work: list[Future[None]] = [
            threads.submit(repeat_until, stop, lambda user=user, step=step: step(user))  # type: ignore[misc]  # bound early
            for user in users
            for step in (write, read)
        ]
        repaired: list[int] = []
        try:
            until(lambda: min(written.values()) > 0)  # otherwise there is nothing to spoil
            # Enough rounds and writes that the rebuilds and the writers are sure to overlap.
            while len(repaired) < 8 or min(written.values()) < 20:
                spoil(admin)
                repaired.append(sync_store.rebuild(jobs=2).changed)
                assert not any(one.done() for one in work), "a writer or reader failed"
        finally:
            stop.set()
        for one in work:
            one.result()

    assert min(repaired) > 0
    assert sync_store.verify().problems == ()
    for user in users:
        assert len(user.history("chat")) == written[user.user_id]
        assert len(user.tasks.list(limit=10_000)) == written[user.user_id]


def test_an_interrupted_rebuild_continues_where_it_stopped(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    for name in USERS:
        sync_store.user(name).tasks.create("walk")
    spoil(admin)

    def interrupt(_: Rebuilt) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        sync_store.rebuild(progress=interrupt)
    done = progress_table(admin)
    left_spoilt = {problem.user_id for problem in sync_store.verify().problems}
    ((began,),) = admin.execute("select min(started_at) from eventstore.rebuild_progress")
    rest = sync_store.rebuild()
    again = sync_store.rebuild()

    assert sorted(done) == list(USERS)
    assert sorted(done.values()) == [False, False, False, True]
    assert left_spoilt == {name for name, finished in done.items() if not finished}
    assert rest == Rebuilt(3, 3, 3, changed=3, resumed=1, since=began)
    assert again == Rebuilt(users=4, events=4, rows=4, changed=0)
    assert sync_store.verify().ok


def test_another_release_and_a_restart_begin_anew(
    service_url: str, admin: psycopg.Connection
) -> None:
    def interrupt(_: Rebuilt) -> None:
        raise Interrupted

    with (
        EventStore.connect(service_url) as before,
        EventStore.connect(
            service_url, projectors=[project_box, project_done], events=[Boxed]
        ) as after,
    ):
        for name in USERS:
            after.user(name).tasks.complete(after.user(name).tasks.create("walk").id)
        admin.execute("delete from service.done")
        with pytest.raises(Interrupted):
            before.rebuild(progress=interrupt)

        release = after.rebuild()

        assert (release.users, release.changed, release.resumed) == (4, 4, 0)
        assert release.since is None
        assert after.verify().ok
        with pytest.raises(Interrupted):
            after.rebuild(progress=interrupt)
        assert after.rebuild(restart=True).users == 4
        assert after.rebuild().users == 4


SET_LITERAL = """
from projections.projector import Projections, projector
from projections.rebuild.fingerprint import fingerprint
from tests.support.own_read_model import Done

@projector(Done)
def project_done(event):
    return () if event.stream_id.hex in {"a", "b", "c", "d", "e"} else []

print(fingerprint(Projections(project_done)))
"""


def test_each_process_knows_an_interrupted_rebuild_of_one_release() -> None:
    """A set has another order in each process."""
    printed = {
        subprocess.run(
            [sys.executable, "-c", SET_LITERAL],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in range(3)
    }

    assert len(printed) == 1


def test_a_worker_does_not_look_again_at_the_users_that_are_done(
    sync_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed: list[object] = []

    def watch(connection: Any, statements: Any, unread: int = 0) -> Any:
        claimed.extend(
            params[0] for sql, params, _ in statements if "user_id > $1 and finished_at" in sql
        )
        return run_pipeline(connection, statements, unread)

    for name in USERS:
        sync_store.user(name).tasks.create("walk")
    monkeypatch.setattr(eventstore.database.driver.sync_driver, "run_pipeline", watch)

    assert sync_store.rebuild().users == len(USERS)

    assert claimed == ["", *sorted(USERS), ""]


def test_two_simultaneous_rebuilds_share_the_users(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    for name in USERS:
        sync_store.user(name).tasks.create("walk")
    spoil(admin)
    first_has_begun, both = Event(), Barrier(2, timeout=30)
    met: set[str] = set()

    def wait_for_the_other(name: str) -> Callable[[Rebuilt], None]:
        def progress(_: Rebuilt) -> None:
            first_has_begun.set()
            if name not in met:
                met.add(name)
                both.wait()  # each waits until the other has also rebuilt a user

        return progress

    with ThreadPoolExecutor() as threads:
        first = threads.submit(sync_store.rebuild, progress=wait_for_the_other("first"))
        assert first_has_begun.wait(30)
        second = threads.submit(sync_store.rebuild, progress=wait_for_the_other("second"))

    both_did = replace(first.result() + second.result(), resumed=0, since=None)
    assert both_did == Rebuilt(users=4, events=4, rows=4, changed=4)
    assert 1 <= first.result().users <= 3
    assert all(progress_table(admin).values())
    assert sync_store.verify().ok


def test_a_rebuild_skips_a_user_that_another_rebuild_is_working_on(
    sync_store: EventStore, admin: psycopg.Connection, direct_url: str
) -> None:
    for name in USERS:
        sync_store.user(name).tasks.create("walk")
    spoil(admin)

    with ThreadPoolExecutor() as threads, psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.task where user_id = 'alice' for update")
        first = threads.submit(sync_store.rebuild)  # locks the log of alice and waits for her row
        wait_for_lock_waits(admin, 1)
        second = threads.submit(sync_store.rebuild).result(30)
        holder.rollback()

    assert replace(second, since=None) == Rebuilt(users=3, events=3, rows=3, changed=3)
    assert first.result() == Rebuilt(users=1, events=1, rows=1, changed=1)
    assert sync_store.verify().ok


def test_a_user_whose_rebuild_lost_its_connection_is_rebuilt_by_the_next_one(
    sync_store: EventStore, admin: psycopg.Connection, direct_url: str
) -> None:
    for name in USERS:
        sync_store.user(name).tasks.create("walk")
    spoil(admin)

    with ThreadPoolExecutor() as threads, psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.user_log where user_id = 'bob' for update")
        rebuilding = threads.submit(sync_store.rebuild)
        terminate_waiting_sessions(admin)
        holder.rollback()
        with suppress(ConnectionLost):  # a rebuild may or may not retry
            rebuilding.result()
    done = progress_table(admin)
    right = set(USERS) - {problem.user_id for problem in sync_store.verify().problems}
    sync_store.rebuild()

    assert {name for name, finished in done.items() if finished} == right
    assert "alice" in right
    assert sync_store.verify().ok


def test_a_writer_waits_only_for_the_rebuild_of_the_same_users_log(
    sync_store: EventStore, admin: psycopg.Connection, direct_url: str
) -> None:
    alice, bob = sync_store.user("alice"), sync_store.user("bob")
    alice.tasks.create("walk")
    bob.tasks.create("fly")
    spoil(admin)

    with ThreadPoolExecutor() as threads, psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.task where user_id = 'alice' for update")
        rebuilding = threads.submit(
            sync_store.rebuild, "alice"
        )  # locks the log of alice and waits for her row
        wait_for_lock_waits(admin, 1)
        writing = threads.submit(alice.tasks.create, "swim")
        wait_for_lock_waits(admin, 2)
        titles = [task.title for task in alice.tasks.list()]
        bob.tasks.create("land")
        holder.rollback()

        assert rebuilding.result(30).changed == 1
        assert writing.result(30).position == 2
    assert titles == ["spoilt"]  # a reader gets the old state without waiting
    assert [task.title for task in alice.tasks.list()] == ["walk", "swim"]
    assert sync_store.verify("alice").ok


_WAITING = """
select pid from pg_stat_activity
where wait_event_type = 'Lock' and datname = current_database()
"""


def wait_for_lock_waits(admin: psycopg.Connection, count: int) -> list[int]:
    until(lambda: len(admin.execute(_WAITING).fetchall()) >= count)
    return [pid for (pid,) in admin.execute(_WAITING)]


def terminate_waiting_sessions(admin: psycopg.Connection) -> None:
    for pid in wait_for_lock_waits(admin, 1):
        admin.execute("select pg_terminate_backend(%s)", [pid])
