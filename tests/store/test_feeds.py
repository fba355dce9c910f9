"""A feed delivers every event at least once, in order within a user, from where it was."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from subprocess import PIPE, Popen
from threading import Event as Flag
from threading import Thread
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from eventstore import (
    AccessDenied,
    AsyncEventStore,
    ErasedEvent,
    EventStore,
    InvalidInput,
    NotFound,
    RecordedEvent,
    Settings,
    User,
)
from eventstore.store.subscription import _Worker
from tests.support.proxy import Proxy, url_through
from tests.support.tampering import disarm
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


class Delivered(list[tuple[str, int]]):
    """A handler that keeps what it was given: the user and the position of each event."""

    def __call__(self, event: RecordedEvent) -> None:
        self.append((event.user_id, event.position))

    def of(self, user_id: str) -> list[int]:
        return [position for user, position in self if user == user_id]


def failing(at: str, seen: Delivered) -> Callable[[RecordedEvent], None]:
    """Return a handler that fails at tasks with this title."""

    def handler(event: RecordedEvent) -> None:
        if getattr(event.data, "title", "") == at:
            raise ValueError(f"cannot send {at}")
        seen(event)

    return handler


def create(user: User, *titles: str) -> None:
    for title in titles:
        user.tasks.create(title)


def test_every_event_is_delivered_once_and_in_order_within_its_user(store: EventStore) -> None:
    seen = Delivered()
    for name in ("alice", "bob"):
        create(store.user(name), "1", "2", "3")
    feed = store.subscribe("search", seen, batch=2)

    first = feed.catch_up()
    create(store.user("alice"), "4")

    assert (first, feed.catch_up(), feed.catch_up()) == (6, 1, 0)
    assert seen.of("alice") == [1, 2, 3, 4]
    assert seen.of("bob") == [1, 2, 3]
    assert store.feeds()[0].users_behind == 0


def test_two_feeds_have_checkpoints_of_their_own(store: EventStore, alice: User) -> None:
    search, billing = Delivered(), Delivered()
    create(alice, "1")
    store.subscribe("search", search).catch_up()
    create(alice, "2")

    store.subscribe("billing", billing).catch_up()

    assert search.of("alice") == [1]
    assert billing.of("alice") == [1, 2]
    assert [(one.name, one.users_behind, one.events_behind) for one in store.feeds()] == [
        ("billing", 0, 0),
        ("search", 1, 1),
    ]


def test_a_feed_of_some_types_passes_the_others(store: EventStore, alice: User) -> None:
    seen = Delivered()
    task = alice.tasks.create("1")
    alice.tasks.complete(task.id)
    create(alice, "2")
    feed = store.subscribe("done", seen, types=["TaskCompleted"])

    assert feed.catch_up() == 1
    assert seen.of("alice") == [2]
    assert store.feeds()[0].events_behind == 0
    assert feed.catch_up() == 0


def test_a_feed_since_a_time_leaves_out_what_was_recorded_before(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    seen = Delivered()
    create(alice, "1")
    create(bob, "1")
    ((now,),) = admin.execute("select clock_timestamp()").fetchall()
    create(alice, "2")

    store.subscribe("mail", seen, since=now).catch_up()

    assert seen == [("alice", 2)]
    assert store.feeds()[0].users_behind == 0


def test_a_batch_ends_where_its_bytes_are_too_many(database_url: str) -> None:
    seen = Delivered()
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        alice.conversations.start(key="chat")
        # PostgreSQL finds no repetition that is as far away as this one's.
        content = ("".join(map(chr, range(0x4E00, 0x9E00))) * 140)[:2_800_000]
        for _ in range(2):
            alice.messages.post("chat", sender="user", content=content)
        feed = store.subscribe("search", seen)

        batch = store._driver.run(feed._feed.claim("alice", worker := uuid4()))

        assert batch is not None
        assert (batch.through, batch.more, len(batch.rows)) == (2, True, 2)
        store._driver.run(feed._feed.move("alice", worker, 0))
        assert feed.catch_up() == 3
    assert seen.of("alice") == [1, 2, 3]


def test_an_append_that_commits_late_is_not_skipped(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    seen = Delivered()
    feed = store.subscribe("search", seen)
    create(alice, "1")
    create(bob, "1")
    # Alice's next append has its time and its position, and waits at its commit for this lock.
    admin.execute(
        "create function late() returns trigger language plpgsql as"
        " 'begin perform pg_advisory_xact_lock(7); return null; end'"
    )
    admin.execute(
        "create constraint trigger late after insert on eventstore.event"
        " deferrable initially deferred for each row when (new.user_id = 'alice')"
        " execute function late()"
    )
    admin.execute("select pg_advisory_lock(7)")
    with (
        EventStore.connect(store._parts.settings.database_url) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        late = pool.submit(other.user("alice").tasks.create, "2")
        until(lambda: waiting(admin, "advisory"))
        create(bob, "2")
        feed.catch_up()
        before = [*seen]
        admin.execute("select pg_advisory_unlock(7)")
        late.result()

    feed.catch_up()

    assert sorted(before) == [("alice", 1), ("bob", 1), ("bob", 2)]
    assert (seen.of("alice"), seen.of("bob")) == ([1, 2], [1, 2])


def waiting(admin: psycopg.Connection, event: str) -> bool:
    rows = admin.execute(
        "select from pg_stat_activity where wait_event = %s and datname = current_database()",
        (event,),
    )
    return rows.fetchone() is not None


def test_running_it_finds_what_comes_and_stops(database_url: str) -> None:
    seen, other = Delivered(), Delivered()
    with EventStore.connect(database_url) as store:
        feed = store.subscribe("search", seen, poll_seconds=0.01)
        thread = Thread(target=feed.run, daemon=True)
        thread.start()
        create(store.user("alice"), "1", "2")
        until(lambda: len(seen) == 2)
        create(store.user("bob"), "1")
        until(lambda: len(seen) == 3)
        feed.stop()
        thread.join(30)

        assert store.subscribe("search", other).catch_up() == 0
    assert seen.of("alice") == [1, 2]


def test_a_search_between_complete_ones_finds_new_events(database_url: str) -> None:
    seen = Delivered()
    with EventStore.connect(database_url) as store:
        feed = store.subscribe("search", seen, poll_seconds=0.01)
        worker = _Worker(feed._feed, Flag(), None)
        worker._complete_at = float("inf")
        create(store.user("alice"), "1")
        worker._since = datetime.now(UTC).replace(year=2000)
        steps = worker.run(forever=True)
        step = next(steps)
        while not seen:
            step = steps.send(feed._do(step))
        assert worker._complete_at == float("inf")


def test_several_workers_share_the_users_and_keep_the_order_of_each(database_url: str) -> None:
    users, events = 8, 25
    seen = Delivered()
    with EventStore.connect(settings=Settings(database_url=database_url, pool_max_size=8)) as store:
        for number in range(users):
            create(store.user(f"user {number}"), *map(str, range(events)))
        feed = store.subscribe("search", seen, batch=3, poll_seconds=0.01)

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(feed.run) for _ in range(4)]
            until(lambda: len(seen) >= users * events)
            feed.stop()
            counts = [one.result() for one in workers]

    assert sum(counts) == len(seen) == users * events
    assert sum(count > 0 for count in counts) > 1
    for number in range(users):
        assert seen.of(f"user {number}") == [*range(1, events + 1)]


def test_a_user_who_is_claimed_is_claimed_by_no_other_worker(database_url: str) -> None:
    one, other = uuid4(), uuid4()
    with EventStore.connect(database_url) as store:
        create(store.user("alice"), "1")
        feed = store.subscribe("search", Delivered())._feed

        claims = [store._driver.run(feed.claim("alice", worker)) for worker in (one, other, one)]

        assert [claim is not None for claim in claims] == [True, False, True]
        assert not store._driver.run(feed.move("alice", other, 1))
        assert store._driver.run(feed.move("alice", one, 1))


WORKER = """
import sys
from eventstore import EventStore
def handler(event):
    print(event.position, flush=True)
    if event.position == 3:
        sys.stdin.read()  # until it is killed
with EventStore.connect(sys.argv[1]) as store:
    store.subscribe("search", handler, lease_seconds=float(sys.argv[2])).run()
"""


def test_after_a_worker_was_killed_another_one_goes_on(
    database_url: str, admin: psycopg.Connection
) -> None:
    seen = Delivered()
    with EventStore.connect(database_url) as store:
        create(store.user("alice"), *"12345")
        command = [sys.executable, "-c", WORKER, database_url, "60"]
        with Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT) as killed:
            assert killed.stdout is not None
            assert [killed.stdout.readline() for _ in range(3)] == ["1\n", "2\n", "3\n"]
            feed = store.subscribe("search", seen)
            while_it_has_the_user = feed.catch_up()
            killed.kill()
        # The lease of a minute is over.
        admin.execute("update eventstore.feed_checkpoint set free_at = now()")

        assert while_it_has_the_user == 0
        assert feed.catch_up() == 5
    assert seen.of("alice") == [1, 2, 3, 4, 5]


def test_a_slow_handler_keeps_its_user_and_one_that_is_too_slow_does_not_go_on(
    database_url: str, admin: psycopg.Connection
) -> None:
    seen = Delivered()
    with EventStore.connect(database_url) as store:
        create(store.user("alice"), *"1234")

        def slow(event: RecordedEvent) -> None:
            seen(event)
            began = time.monotonic()
            until(lambda: time.monotonic() > began + 0.02)
            if event.position == 3:  # another worker has batch over
                admin.execute(
                    "update eventstore.feed_checkpoint"
                    " set holder = gen_random_uuid(), free_at = now() + interval '1 hour'"
                )

        assert store.subscribe("search", slow, lease_seconds=0.02).catch_up() == 3

        ((position,),) = admin.execute("select position from eventstore.feed_checkpoint").fetchall()
    assert seen.of("alice") == [1, 2, 3]
    assert position == 2


def test_an_event_that_fails_is_parked_and_stops_its_user_only(
    store: EventStore, alice: User, bob: User
) -> None:
    seen = Delivered()
    create(alice, "1", "poison", "3")
    create(bob, "1", "2")
    feed = store.subscribe("mail", failing("poison", seen), attempts=1)

    feed.catch_up()
    feed.catch_up()

    assert (seen.of("alice"), seen.of("bob")) == ([1], [1, 2])
    (failed,) = store.failed_deliveries()
    assert (failed.feed, failed.user_id, failed.position, failed.type, failed.failures) == (
        "mail",
        "alice",
        2,
        "TaskCreated",
        1,
    )
    assert (failed.parked, failed.error) == (True, "ValueError: cannot send poison")
    assert [(one.parked, one.users_behind, one.events_behind) for one in store.feeds()] == [
        (1, 1, 2)
    ]


def test_a_parked_event_can_be_retried_or_skipped(
    store: EventStore, alice: User, bob: User
) -> None:
    seen = Delivered()
    for user in (alice, bob):
        create(user, "poison", "2")
    store.subscribe("mail", failing("poison", seen), attempts=1).catch_up()

    skipped = store.skip_failed("mail", "alice", 1)
    retried = store.retry_failed("mail")
    store.subscribe("mail", seen).catch_up()

    assert (skipped, retried) == (1, 1)
    assert (seen.of("alice"), seen.of("bob")) == ([2], [1, 2])
    assert store.failed_deliveries("mail") == []
    with pytest.raises(NotFound, match="failed event of mail for alice at position 1"):
        store.skip_failed("mail", "alice", 1)
    with pytest.raises(NotFound):
        store.retry_failed("mail", "nobody")


def test_a_skip_that_is_repeated_does_not_skip_the_next_event(
    store: EventStore, alice: User
) -> None:
    create(alice, "poison", "poison")
    feed = store.subscribe("mail", failing("poison", Delivered()), attempts=1)
    feed.catch_up()
    store.skip_failed("mail", "alice", 1)
    feed.catch_up()

    with pytest.raises(NotFound):
        store.skip_failed("mail", "alice", 1)

    (failed,) = store.failed_deliveries("mail")
    assert (failed.position, failed.parked) == (2, True)


def test_an_async_handler_in_a_sync_store_is_a_failure_and_loses_nothing(
    database_url: str,
) -> None:
    async def send(event: RecordedEvent) -> None:
        raise AssertionError("nobody awaits it")

    with EventStore.connect(database_url) as store:
        create(store.user("alice"), "1")
        assert store.subscribe("mail", lambda event: send(event)).catch_up() == 0  # noqa: PLW0108 - hides that it is async

        (failed,) = store.failed_deliveries("mail")
        assert failed.position == 1
        assert "is async; give it to an AsyncEventStore" in failed.error


def test_a_user_whose_events_cannot_be_read_keeps_nobody_else_waiting(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    create(alice, "1")
    create(bob, "1")
    # As PostgreSQL says of a damaged page.
    admin.execute(
        "create function public.damaged(text) returns bool language plpgsql as $$ begin"
        " if $1 = 'alice' then raise exception 'missing chunk' using errcode = 'XX001'; end if;"
        " return true; end $$;"
        " create policy damaged on eventstore.event as restrictive using (public.damaged(user_id))"
    )
    seen = Delivered()

    store.subscribe("mail", seen).catch_up()

    assert (seen.of("alice"), seen.of("bob")) == ([], [1])


def test_a_worker_does_not_wait_for_a_server_that_has_become_silent(
    database_url: str, proxy: Proxy
) -> None:
    url = url_through(proxy, database_url)
    seen = Delivered()

    def forgotten(event: RecordedEvent) -> None:
        proxy.forget()
        seen(event)
        feed.stop()

    settings = Settings(database_url=url, deadline_seconds=1)
    with EventStore.connect(settings=settings) as store:
        create(store.user("alice"), "1")
        feed = store.subscribe("mail", forgotten, lease_seconds=0.5)
        began = time.monotonic()
        feed.run()
        assert time.monotonic() - began < 5

    assert seen.of("alice") == [1]


@pytest.mark.parametrize("types", [[], ["TaskCreatd"], ["TaskCreated", ""]])
def test_types_that_nothing_has_are_refused(store: EventStore, types: list[str]) -> None:
    with pytest.raises(InvalidInput, match=r"types: .* give stored names of event classes"):
        store.subscribe("mail", Delivered(), types=types)


def test_an_event_is_tried_again_after_a_pause_before_it_is_parked(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    create(alice, "1", "poison")
    feed = store.subscribe("mail", failing("poison", Delivered()), attempts=3, pause_seconds=60)
    pauses = []
    for _ in range(2):
        feed.catch_up()
        pauses += admin.execute(
            "select extract(epoch from free_at - failed_at)::int from eventstore.feed_checkpoint"
        ).fetchall()
        assert feed.catch_up() == 0
        assert not store.failed_deliveries()[0].parked
        admin.execute("update eventstore.feed_checkpoint set free_at = now()")

    feed.catch_up()

    assert pauses == [(60,), (120,)]
    assert (store.failed_deliveries()[0].failures, store.feeds()[0].parked) == (3, 1)


def test_an_event_that_no_class_reads_is_parked_like_any_other(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    seen = Delivered()
    create(alice, "1", "2")
    create(bob, "1")
    disarm(admin)
    admin.execute("update eventstore.event set type = 'X' where (user_id, position) = ('alice', 2)")

    store.subscribe("mail", seen, attempts=1).catch_up()

    assert (seen.of("alice"), seen.of("bob")) == ([1], [1])
    assert store.failed_deliveries()[0].error.startswith("UnknownEventType: event type X")


def test_ctrl_c_gives_the_user_back_behind_what_was_delivered(
    store: EventStore, alice: User
) -> None:
    seen = Delivered()
    create(alice, "1", "2", "3")

    def handler(event: RecordedEvent) -> None:
        if event.position == 2:
            raise KeyboardInterrupt
        seen(event)

    with pytest.raises(KeyboardInterrupt):
        store.subscribe("mail", handler).catch_up()

    assert store.subscribe("mail", seen).catch_up() == 2
    assert seen.of("alice") == [1, 2, 3]


def test_a_cancelled_task_gives_the_user_back_too(database_url: str) -> None:
    seen = Delivered()

    async def scenario() -> None:
        async with AsyncEventStore.connect(database_url) as store:
            alice = store.user("alice")
            for title in "123":
                await alice.tasks.create(title)
            reached = asyncio.Event()

            async def handler(event: RecordedEvent) -> None:
                if event.position == 2:
                    reached.set()
                    await asyncio.Event().wait()
                seen(event)

            task = asyncio.create_task(store.subscribe("mail", handler).run())
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

            delivered = asyncio.Event()

            def and_then(event: RecordedEvent) -> None:
                seen(event)
                if event.position == 3:
                    delivered.set()

            feed = store.subscribe("mail", and_then, poll_seconds=60)
            running = asyncio.create_task(feed.run())
            await delivered.wait()
            feed.stop()
            assert await running == 2

    asyncio.run(asyncio.wait_for(scenario(), 30))
    assert seen.of("alice") == [1, 2, 3]


def test_an_erasure_erases_what_a_feed_knows_and_is_delivered_itself(
    store: EventStore, alice: User, bob: User
) -> None:
    create(alice, "1", "poison")
    create(bob, "poison")
    store.subscribe("mail", failing("poison", Delivered()), attempts=1).catch_up()

    store.erase("alice", ordered_by="alice")

    errors = {one.user_id: one.error for one in store.failed_deliveries()}
    assert errors == {"alice": "ValueError", "bob": "ValueError: cannot send poison"}
    delivered: list[RecordedEvent] = []
    store.retry_failed("mail", "alice")
    store.subscribe("mail", delivered.append).catch_up()
    assert [one.type for one in delivered] == ["TaskCreated", "ContentErased"]
    assert isinstance(delivered[0].data, ErasedEvent)


def test_an_error_that_comes_after_the_erasure_says_nothing(store: EventStore, alice: User) -> None:
    create(alice, "poison")

    def handler(event: RecordedEvent) -> None:
        assert not event.erased
        store_of_the_erasure(event)
        raise ValueError("cannot send poison")

    def store_of_the_erasure(event: RecordedEvent) -> None:
        with closing(EventStore.connect(store._parts.settings.database_url)) as other:
            other.erase(event.user_id, ordered_by="alice")

    store.subscribe("mail", handler, attempts=1).catch_up()

    assert store.failed_deliveries()[0].error == "ValueError"


def test_a_feed_that_was_removed_begins_anew(store: EventStore, alice: User) -> None:
    seen = Delivered()
    create(alice, "1")
    store.subscribe("search", seen).catch_up()
    store.subscribe("other", Delivered()).catch_up()

    store.remove_feed("search")

    assert [one.name for one in store.feeds()] == ["other"]
    assert store.subscribe("search", seen).catch_up() == 1


def test_a_worker_waits_while_the_server_is_away(
    database_url: str, admin: psycopg.Connection
) -> None:
    seen = Delivered()
    settings = Settings(database_url=database_url, deadline_seconds=1)
    with EventStore.connect(settings=settings) as store:
        create(store.user("alice"), "1", "2")

        def cutting(event: RecordedEvent) -> None:
            if not seen:
                admin.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where datname = current_database() and pid <> pg_backend_pid()"
                )
            seen(event)

        feed = store.subscribe("search", cutting, batch=1, poll_seconds=0.01, lease_seconds=0.5)
        thread = Thread(target=feed.run, daemon=True)
        thread.start()
        until(lambda: ("alice", 2) in seen)
        feed.stop()
        thread.join(30)

    assert sorted({*seen.of("alice")}) == [1, 2]


def test_a_login_without_the_operator_role_is_refused(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    create(alice, "1")
    admin.execute("revoke select on eventstore.user_log from eventstore_operator")
    admin.execute("revoke select (user_id) on eventstore.user_log from eventstore_operator")

    with pytest.raises(AccessDenied):
        store.subscribe("search", Delivered()).catch_up()


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("name", {"name": ""}),
        ("handler", {"handler": 7}),
        ("types", {"types": "TaskCreated"}),
        ("since", {"since": datetime(2026, 1, 1)}),  # noqa: DTZ001 - what is refused
        ("batch", {"batch": 0}),
        ("attempts", {"attempts": 0}),
        ("lease_seconds", {"lease_seconds": 0}),
        ("poll_seconds", {"poll_seconds": float("nan")}),
    ],
)
def test_a_wrong_argument_is_named(store: EventStore, path: str, wrong: dict[str, Any]) -> None:
    arguments = {"name": "search", "handler": Delivered()} | wrong

    with pytest.raises(InvalidInput) as refused:
        store.subscribe(**arguments)

    assert refused.value.path == path


def test_a_sync_store_refuses_an_async_handler(database_url: str) -> None:
    async def handler(_: RecordedEvent) -> None: ...

    with (
        EventStore.connect(database_url) as store,
        pytest.raises(InvalidInput, match="AsyncEventStore"),
    ):
        store.subscribe("search", handler)
