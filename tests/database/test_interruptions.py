"""A request that is stopped in the middle is written completely or not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from eventstore import (
    AlreadyExists,
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
from eventstore.database.driver.interpreter import interpret
from eventstore.database.plan import Batch, Plan, Statement
from tests.database.stopping import stopped_after
from tests.support.proxy import Proxy, url_through


class Stop(BaseException):
    """An exception that a signal handler may raise at any moment."""


@pytest.mark.parametrize("statement", [1, 2])
def test_an_interrupted_append_is_not_half_written(database_url: str, statement: int) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("before")
        with stopped_after(statement, Stop), pytest.raises(Stop):
            store.user("alice").conversations.start(title="during")

        assert [event.type for event in store.user("alice").events()] == ["TaskCreated"]
        assert store.verify().ok
        store.user("alice").tasks.create("after")


def holding_plan() -> Plan[None]:
    yield Batch(None, (Statement("select pg_backend_pid()"),), hold=True)
    yield Batch(None, ())


def test_a_plan_closed_in_its_transaction_gives_its_connection_back(database_url: str) -> None:
    settings = Settings(database_url=database_url, pool_max_size=1, deadline_seconds=5)
    with EventStore.connect(settings=settings) as store:
        driver = store._driver
        steps = interpret(holding_plan(), driver, driver._enter_scope)
        steps.send(steps.send(None))

        steps.close()

        store.user("alice").tasks.create("Milk")
        assert store.verify().ok


def test_an_async_plan_closed_in_its_transaction_cuts_its_connection(database_url: str) -> None:
    async def run() -> None:
        async with AsyncEventStore.connect(database_url) as store:
            driver = store._driver
            steps = interpret(holding_plan(), driver, driver._enter_scope)
            connection = await steps.send(None)
            await steps.send(connection)

            steps.close()

            assert connection.closed

    asyncio.run(run())


def test_a_value_that_sql_cannot_hold_is_refused_and_writes_nothing(
    store: EventStore, alice: User
) -> None:
    event = TaskCreated(title="a").model_copy(update={"title": "a\0b"})

    with pytest.raises(EventStoreError):
        alice.append([NewEvent(stream_id=alice.tasks.create("x").id, data=event)])

    assert [one.type for one in alice.events()] == ["TaskCreated"]
    assert store.verify().ok


def test_a_cancelled_append_is_written_completely_or_not_at_all(database_url: str) -> None:
    async def run() -> tuple[int, int]:
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

    acknowledged, written = asyncio.run(run())
    assert written >= acknowledged  # a cancellation may come after the COMMIT


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork")
def test_a_store_connected_before_a_fork_is_refused_in_the_child(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("x")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                store.user("bob").tasks.list()
                reply = b"no error"
            except ConfigurationError as error:
                reply = str(error).encode()
            os.write(writing, reply)
            os._exit(0)
        os.waitpid(child, 0)
        reply = os.read(reading, 1000)

        assert b"call EventStore.connect() in each worker process" in reply
        assert len(store.user("alice").tasks.list()) == 1


@pytest.fixture
def proxied_store(database_url: str, proxy: Proxy) -> Iterator[EventStore]:
    url = url_through(proxy, database_url)
    with EventStore.connect(settings=Settings(database_url=url, pool_max_size=1)) as store:
        yield store


def lose_the_second_reply(proxy: Proxy) -> None:
    """Deliver the reply to the command's query and lose the reply to its append."""
    replies: list[bytes] = []

    def lose(data: bytes) -> bool:
        replies.append(data)
        return len(replies) == 2

    proxy.lose_reply = lose


def test_a_deletion_whose_reply_was_lost_is_not_repeated(
    proxied_store: EventStore, proxy: Proxy
) -> None:
    alice = proxied_store.user("alice")
    task = alice.tasks.create("x")
    lose_the_second_reply(proxy)

    alice.tasks.delete(task.id)

    assert [event.type for event in alice.events()] == ["TaskCreated", "TaskDeleted"]


def test_a_claim_whose_reply_was_lost_is_granted(proxied_store: EventStore, proxy: Proxy) -> None:
    alice = proxied_store.user("alice")
    call = alice.tool_calls.request(alice.conversations.start().id, name="look", arguments="{}")
    lose_the_second_reply(proxy)

    claim = alice.tool_calls.claim(call, seconds=60)

    assert claim.granted
    assert claim.call == alice.tool_calls.get(call.id)
    assert not alice.tool_calls.claim(call, seconds=60).granted


def test_commands_whose_reply_was_lost_are_not_doubled(
    proxied_store: EventStore, proxy: Proxy
) -> None:
    alice = proxied_store.user("alice")
    task, chat = alice.tasks.create("x"), alice.conversations.start()
    lose_the_second_reply(proxy)

    with alice.transaction() as tx:
        tx.tasks.complete(task.id)
        tx.append(chat.id, ConversationRenamed(title="new"))
        tx.messages.post(chat.id, sender="user", content="hi")

    assert len(tx.recorded) == 3
    assert len(alice.events()) == 5
    assert proxied_store.verify().ok


def test_an_expected_version_is_checked_in_an_append_with_other_commands(alice: User) -> None:
    task = alice.tasks.create("x")
    alice.tasks.update(task.id, title="y")

    with pytest.raises(WrongVersion) as error, alice.transaction() as tx:  # noqa: PT012 - its end raises
        tx.append(task.id, TaskUpdated(title="stale"), expected=1)
        tx.tasks.complete(task.id)

    assert error.value.actual == 2
    assert alice.tasks.get(task.id).title == "y"


@pytest.mark.parametrize("key", ["", " ", "\ud800", "a\0b", 7])
def test_an_invalid_idempotency_key_is_refused(alice: User, key: Any) -> None:
    chat = alice.conversations.start()

    with pytest.raises(InvalidInput, match="idempotency_key"):
        alice.keyed(key).messages.post(chat.id, sender="user", content="hello")


def test_read_models_equal_the_replay_whatever_the_order_of_events(
    store: EventStore, alice: User
) -> None:
    def new_events(stream: object, *events: object) -> list[NewEvent]:
        return [NewEvent(stream_id=stream, data=one) for one in events]  # type: ignore[arg-type]  # events only

    task = alice.tasks.create("x").id
    other = alice.tasks.create("y").id
    alice.append(new_events(task, TaskCompleted(), TaskReopened(), TaskUpdated(title="z")))
    alice.append(new_events(other, TaskUpdated(title="again"), TaskDeleted()))
    third = alice.conversations.start().id
    alice.append(new_events(third, ConversationRenamed(title="a"), ConversationRenamed(title="b")))

    assert store.verify().ok


def test_a_task_that_exists_is_not_created_again(store: EventStore, alice: User) -> None:
    task = alice.tasks.create("x").id

    for events in ([TaskCreated(title="y")], [TaskCreated(title="y"), TaskDeleted()]):
        with pytest.raises(AlreadyExists):
            alice.append([NewEvent(stream_id=task, data=event) for event in events])

    assert [one.title for one in alice.tasks.list()] == ["x"]
    assert store.verify().ok


def test_an_append_that_creates_a_row_twice_is_refused(alice: User) -> None:
    task = alice.tasks.create("x").id

    with pytest.raises(InvalidInput, match="created twice"):
        alice.append(
            [NewEvent(stream_id=task, data=TaskCreated(title=title)) for title in ("a", "b")]
        )


def test_a_second_deletion_raises_not_found_unless_it_repeats_the_key(alice: User) -> None:
    task = alice.tasks.create("x")
    alice.keyed("k").tasks.delete(task.id)

    alice.keyed("k").tasks.delete(task.id)
    with pytest.raises(NotFound):
        alice.tasks.delete(task.id)
    with pytest.raises(IdempotencyConflict):
        alice.keyed("k").tasks.complete(task.id)
