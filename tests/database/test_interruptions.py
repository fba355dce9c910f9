"""Whatever stops a request in the middle, it is written whole or not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import RawCursor

from eventstore import (
    AsyncEventStore,
    ConfigurationError,
    ConversationRenamed,
    EventStore,
    EventStoreError,
    IdempotencyConflict,
    InvalidInput,
    NewEvent,
    NotFound,
    Settings,
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskReopened,
    TaskUpdated,
    User,
    WrongVersion,
)
from tests.support.proxy import Proxy, proxied
from tests.support.server import Server


class Stop(BaseException):
    """What a signal handler may raise at any moment."""


@pytest.mark.parametrize("statement", [1, 2])
def test_an_interrupted_append_is_not_half_written(
    database_url: str, monkeypatch: pytest.MonkeyPatch, statement: int
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("before")
        sent = 0
        execute = RawCursor.execute

        def interrupted(self: RawCursor, *args: Any, **kwargs: Any) -> object:
            nonlocal sent
            sent += 1
            if sent == statement + 1:
                raise Stop
            return execute(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(RawCursor, "execute", interrupted)
            with pytest.raises(Stop):
                store.user("alice").conversations.start(title="during")

        assert [event.type for event in store.user("alice").events()] == ["TaskCreated"]
        assert store.verify().ok
        store.user("alice").tasks.create("after")


def test_a_value_without_an_sql_form_leaves_nothing(store: EventStore, alice: User) -> None:
    event = TaskCreated(title="a").model_copy(update={"title": "a\0b"})

    with pytest.raises(EventStoreError):
        alice.append([NewEvent(stream_id=alice.tasks.create("x").id, data=event)])

    assert [one.type for one in alice.events()] == ["TaskCreated"]
    assert store.verify().ok


def test_cancelled_appends_are_whole_or_not_there(database_url: str) -> None:
    async def story() -> tuple[int, int]:
        async with AsyncEventStore.connect(database_url) as store:
            alice, acknowledged, cancelled = store.user("alice"), 0, 0
            await alice.conversations.start(key="c")
            while not (acknowledged and cancelled) or acknowledged + cancelled < 60:
                post = asyncio.create_task(
                    alice.messages.post("c", sender="user", content="x" * 100_000)
                )
                try:
                    await asyncio.wait_for(post, (acknowledged + cancelled) / 10_000)
                except TimeoutError:
                    cancelled += 1
                else:
                    acknowledged += 1
            assert (await store.verify()).ok
            return acknowledged, len(await alice.history("c", limit=10_000))

    acknowledged, written = asyncio.run(story())
    assert written >= acknowledged  # one whose cancellation came after its COMMIT is there too


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_store_connected_before_a_fork_is_refused_after_it(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("x")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                store.user("bob").tasks.list()
                told = b"it answered"
            except ConfigurationError as error:
                told = str(error).encode()
            os.write(writing, told)
            os._exit(0)
        os.waitpid(child, 0)
        told = os.read(reading, 1000)

        assert b"call EventStore.connect() in each worker process" in told
        assert len(store.user("alice").tasks.list()) == 1


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxied(server.socket) as running:
        yield running


@pytest.fixture
def distant(database_url: str, proxy: Proxy) -> Iterator[EventStore]:
    name = database_url.split("@/", maxsplit=1)[1].split("?", maxsplit=1)[0]
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
    with EventStore.connect(settings=Settings(database_url=url, pool_max_size=1)) as store:
        yield store


def lose_the_second_reply(proxy: Proxy) -> None:
    """Let the look come back and lose the answer to the append."""
    heard: list[bytes] = []

    def lose(data: bytes) -> bool:
        heard.append(data)
        return len(heard) == 2

    proxy.lose_reply = lose


def test_a_lost_reply_to_a_deletion_is_settled(distant: EventStore, proxy: Proxy) -> None:
    alice = distant.user("alice")
    task = alice.tasks.create("x")
    lose_the_second_reply(proxy)

    alice.tasks.delete(task.id)

    assert [event.type for event in alice.events()] == ["TaskCreated", "TaskDeleted"]


def test_a_lost_reply_to_mixed_commands_doubles_none_of_them(
    distant: EventStore, proxy: Proxy
) -> None:
    alice = distant.user("alice")
    task, chat = alice.tasks.create("x"), alice.conversations.start()
    lose_the_second_reply(proxy)

    with alice.transaction() as tx:
        tx.tasks.complete(task.id)
        tx.append(chat.id, ConversationRenamed(title="new"))
        tx.messages.post(chat.id, sender="user", content="hi")

    assert len(tx.recorded) == 3
    assert len(alice.events()) == 5
    assert distant.verify().ok


def test_a_version_that_the_caller_asked_for_is_checked_beside_a_decision(alice: User) -> None:
    task = alice.tasks.create("x")
    alice.tasks.update(task.id, title="y")

    with pytest.raises(WrongVersion) as error, alice.transaction() as tx:  # noqa: PT012 - its end
        tx.append(task.id, TaskUpdated(title="stale"), expected=1)
        tx.tasks.complete(task.id)

    assert error.value.actual == 2
    assert alice.tasks.get(task.id).title == "y"


@pytest.mark.parametrize("key", ["", " ", "\ud800", "a\0b", 7])
def test_a_key_that_cannot_tell_requests_apart_is_refused(alice: User, key: Any) -> None:
    chat = alice.conversations.start()

    with pytest.raises(InvalidInput, match="idempotency_key"):
        alice.keyed(key).messages.post(chat.id, sender="user", content="hello")


def test_events_in_any_order_leave_what_their_replay_says(store: EventStore, alice: User) -> None:
    def to(stream: object, *events: object) -> list[NewEvent]:
        return [NewEvent(stream_id=stream, data=one) for one in events]  # type: ignore[arg-type]  # events only

    task = alice.tasks.create("x").id
    other = alice.tasks.create("y").id
    alice.append(to(task, TaskCompleted(), TaskReopened(), TaskUpdated(title="z")))
    alice.append(to(other, TaskCreated(title="again"), TaskDeleted()))
    third = alice.conversations.start().id
    alice.append(to(third, ConversationRenamed(title="a"), ConversationRenamed(title="b")))

    assert store.verify().ok


def test_a_row_is_not_created_twice_in_one_append(alice: User) -> None:
    task = alice.tasks.create("x").id

    with pytest.raises(InvalidInput, match="created twice"):
        alice.append(
            [NewEvent(stream_id=task, data=TaskCreated(title=title)) for title in ("a", "b")]
        )


def test_a_deleted_task_is_not_found_by_a_second_deletion(alice: User) -> None:
    task = alice.tasks.create("x")
    alice.keyed("k").tasks.delete(task.id)

    alice.keyed("k").tasks.delete(task.id)
    with pytest.raises(NotFound):
        alice.tasks.delete(task.id)
    with pytest.raises(IdempotencyConflict):
        alice.keyed("k").tasks.complete(task.id)
