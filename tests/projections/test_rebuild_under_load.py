"""Rebuilds while users write, rebuilds that are interrupted, and several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, Event

import psycopg
import pytest

from eventstore import ConnectionLost, EventStore, User
from projections.rebuild.rebuild import Rebuilt
from tests.support.waiting import until as until_it_is

USERS = ("alice", "bob", "carol", "dave")


class Interrupted(Exception):
    """What the caller's progress callback raises."""


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    """Threads share the sync store; the async one belongs to one event loop."""
    with EventStore.connect(database_url) as opened:
        yield opened


def spoil(admin: psycopg.Connection) -> None:
    """Spoil every row without taking one away: a reader must never see fewer."""
    admin.execute("update eventstore.message set content = 'spoilt'")
    admin.execute("update eventstore.task set title = 'spoilt'")
    admin.execute("update eventstore.conversation set message_count = -1")


def progress_table(admin: psycopg.Connection) -> dict[str, bool]:
    """Return which users a rebuild has done."""
    return dict(
        admin.execute("select user_id, finished_at is not null from eventstore.rebuild_progress")
    )


def until(stop: Event, step: Callable[[], None]) -> None:
    while not stop.is_set():
        step()


def test_rebuilds_under_load_lose_nothing_and_nobody_sees_less_than_before(
    store: EventStore, admin: psycopg.Connection
) -> None:
    users = [store.user(name) for name in USERS[:3]]
    chats = {user.user_id: user.conversations.start(key="chat").id for user in users}
    written = dict.fromkeys(chats, 0)
    seen = dict.fromkeys(chats, (0, 0))
    stop = Event()

    def write(user: User) -> None:
        with user.transaction() as tx:
            tx.messages.post("chat", sender="user", content="hi")
            tx.tasks.create("walk")
        written[user.user_id] += 1

    def read(user: User) -> None:
        now = len(user.history("chat")), len(user.tasks.list(limit=10_000))
        assert now >= seen[user.user_id], "a reader saw a half-built state"
        assert now[0] <= now[1], "tasks are read later and can only be more"
        seen[user.user_id] = now

    with ThreadPoolExecutor() as threads:
        work: list[Future[None]] = [
            threads.submit(until, stop, lambda user=user, step=step: step(user))  # type: ignore[misc]  # bound early
            for user in users
            for step in (write, read)
        ]
        mended: list[int] = []
        try:
            while len(mended) < 8 or min(written.values()) < 20:
                spoil(admin)
                mended.append(store.rebuild(jobs=2).changed)
                assert not any(one.done() for one in work), "a writer or reader failed"
        finally:
            stop.set()
        for one in work:
            one.result()

    assert min(mended) > 0
    assert store.verify().problems == ()
    for user in users:
        assert len(user.history("chat")) == written[user.user_id]
        assert len(user.tasks.list(limit=10_000)) == written[user.user_id]


def test_an_interrupted_rebuild_goes_on_where_it_stopped(
    store: EventStore, admin: psycopg.Connection
) -> None:
    for name in USERS:
        store.user(name).tasks.create("walk")
    spoil(admin)

    def interrupt(_: Rebuilt) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        store.rebuild(progress=interrupt)
    done = progress_table(admin)
    left_spoilt = {problem.user_id for problem in store.verify().problems}
    rest = store.rebuild()
    again = store.rebuild()

    assert sorted(done) == list(USERS)
    assert sorted(done.values()) == [False, False, False, True]
    assert left_spoilt == {name for name, finished in done.items() if not finished}
    assert rest == Rebuilt(users=3, events=3, rows=3, changed=3)
    assert again == Rebuilt(users=4, events=4, rows=4, changed=0)
    assert store.verify().ok


def test_two_rebuilds_at_once_share_the_work(store: EventStore, admin: psycopg.Connection) -> None:
    for name in USERS:
        store.user(name).tasks.create("walk")
    spoil(admin)
    first_is_at_work, both = Event(), Barrier(2, timeout=30)
    met: set[str] = set()

    def meeting(name: str) -> Callable[[Rebuilt], None]:
        def progress(_: Rebuilt) -> None:
            first_is_at_work.set()
            if name not in met:
                met.add(name)
                both.wait()  # neither goes on before the other has done a user as well

        return progress

    with ThreadPoolExecutor() as threads:
        first = threads.submit(store.rebuild, progress=meeting("first"))
        assert first_is_at_work.wait(30)
        second = threads.submit(store.rebuild, progress=meeting("second"))

    assert first.result() + second.result() == Rebuilt(users=4, events=4, rows=4, changed=4)
    assert 1 <= first.result().users <= 3
    assert all(progress_table(admin).values())
    assert store.verify().ok


def test_a_rebuild_does_not_wait_for_a_user_that_another_is_at(
    store: EventStore, admin: psycopg.Connection, direct_url: str
) -> None:
    for name in USERS:
        store.user(name).tasks.create("walk")
    spoil(admin)

    with ThreadPoolExecutor() as threads, psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.task where user_id = 'alice' for update")
        first = threads.submit(store.rebuild)  # has taken alice, and waits for her row
        wait_for_waiting(admin, 1)
        second = threads.submit(store.rebuild).result(30)
        holder.rollback()

    assert second == Rebuilt(users=3, events=3, rows=3, changed=3)
    assert first.result() == Rebuilt(users=1, events=1, rows=1, changed=1)
    assert store.verify().ok


def test_a_rebuild_whose_connection_dies_leaves_its_user_to_the_next(
    store: EventStore, admin: psycopg.Connection, direct_url: str
) -> None:
    for name in USERS:
        store.user(name).tasks.create("walk")
    spoil(admin)

    with ThreadPoolExecutor() as threads, psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.user_log where user_id = 'bob' for update")
        rebuilding = threads.submit(store.rebuild)
        terminate_whoever_waits(admin)
        holder.rollback()
        with suppress(ConnectionLost):  # whether a rebuild tries again by itself is its affair
            rebuilding.result()
    done = progress_table(admin)
    right = set(USERS) - {problem.user_id for problem in store.verify().problems}
    store.rebuild()

    assert {name for name, finished in done.items() if finished} == right
    assert "alice" in right
    assert store.verify().ok


def test_writers_wait_for_the_rebuild_of_their_own_log_only(
    store: EventStore, admin: psycopg.Connection, direct_url: str
) -> None:
    alice, bob = store.user("alice"), store.user("bob")
    alice.tasks.create("walk")
    bob.tasks.create("fly")
    spoil(admin)

    with ThreadPoolExecutor() as threads, psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.task where user_id = 'alice' for update")
        rebuilding = threads.submit(store.rebuild, "alice")  # holds alice's log, waits for her row
        wait_for_waiting(admin, 1)
        writing = threads.submit(alice.tasks.create, "swim")
        wait_for_waiting(admin, 2)
        seen = [task.title for task in alice.tasks.list()]
        bob.tasks.create("land")
        holder.rollback()

        assert rebuilding.result(30).changed == 1
        assert writing.result(30).position == 2
    assert seen == ["spoilt"]  # the state before, whole, and without waiting
    assert [task.title for task in alice.tasks.list()] == ["walk", "swim"]
    assert store.verify("alice").ok


_WAITING = """
select pid from pg_stat_activity
where wait_event_type = 'Lock' and datname = current_database()
"""


def wait_for_waiting(admin: psycopg.Connection, count: int) -> list[int]:
    until_it_is(lambda: len(admin.execute(_WAITING).fetchall()) >= count)
    return [pid for (pid,) in admin.execute(_WAITING)]


def terminate_whoever_waits(admin: psycopg.Connection) -> None:
    for pid in wait_for_waiting(admin, 1):
        admin.execute("select pg_terminate_backend(%s)", [pid])
