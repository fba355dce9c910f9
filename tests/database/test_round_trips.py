"""Counted on the wire: an append is one round trip, so is a page of history."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore import AsyncEventStore, EventStore, Settings, User
from tests.support.both import blocked
from tests.support.proxy import Proxy, proxied
from tests.support.server import Server


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxied(server.socket) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def distant(
    request: pytest.FixtureRequest, database_url: str, proxy: Proxy
) -> Iterator[EventStore]:
    """A store that reaches its database through the proxy, on one connection that is warm."""
    name = conninfo_to_dict(database_url)["dbname"]
    settings = Settings(
        database_url=f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}",
        pool_max_size=1,
        answer_timeout_seconds=2.0,
    )
    if request.param == "sync":
        with EventStore.connect(settings=settings) as store:
            _warm(store)
            yield store
        return
    loop = asyncio.new_event_loop()

    async def opening() -> AsyncEventStore:
        return await AsyncEventStore.connect(settings=settings)

    inner = loop.run_until_complete(opening())
    store = blocked(inner, loop)
    _warm(store)
    yield store
    loop.run_until_complete(inner.close())
    loop.close()


def _warm(store: EventStore) -> None:
    for _ in range(7):  # past psycopg's threshold for prepared statements
        store.user("alice").tasks.create("warm up")


@pytest.fixture
def alice(distant: EventStore) -> User:
    return distant.user("alice")


def test_a_message_is_one_round_trip(alice: User, proxy: Proxy) -> None:
    chat = alice.conversations.start()
    proxy.count()

    alice.messages.post(chat.id, sender="user", content="Buy milk")

    assert proxy.count() == 1


def test_a_request_ends_with_its_sync_and_nothing_behind_it(alice: User, proxy: Proxy) -> None:
    # A Flush that comes late makes PgBouncer hold a server connection for a client that is idle.
    sent: list[bytes] = []

    def hear(data: bytes) -> bool:
        sent.append(data)
        return False

    proxy.lose_request = hear

    for _ in range(20):
        alice.tasks.list()
        alice.tasks.create("Buy milk")

    assert b"".join(sent).count(b"S\0\0\0\4") == 40
    assert b"H\0\0\0\4" not in b"".join(sent)


def test_an_agent_turn_of_five_events_is_one_round_trip(alice: User, proxy: Proxy) -> None:
    chat = alice.conversations.start()
    call = alice.tool_calls.request(chat.id, name="add_task", arguments="{}")
    proxy.count()

    with alice.transaction() as tx:
        task = tx.tasks.create("Buy milk", caused_by=call)
        tx.tool_calls.succeed(call, output={"id": task.id})
        tx.tool_calls.request(chat.id, name="list_tasks", arguments="{}")
        tx.messages.post(chat.id, sender="assistant", content="Done")

    assert len(tx.recorded) == 5
    assert proxy.count() == 1


def test_an_append_of_hundreds_of_events_is_one_round_trip(alice: User, proxy: Proxy) -> None:
    with alice.transaction() as tx:
        chat = tx.conversations.start()
        for number in range(300):  # the server sends early only past 8 KB of answer
            tx.messages.post(chat.id, sender="user", content=f"message {number}")
        proxy.count()

    assert proxy.count() == 1


@pytest.mark.parametrize("source", ["projection", "events"])
def test_a_page_of_history_is_one_round_trip(alice: User, proxy: Proxy, source: str) -> None:
    chat = alice.conversations.start()
    for number in range(3):
        alice.messages.post(chat.id, sender="user", content=f"message {number}")
    proxy.count()

    page = alice.history(chat.id, limit=2, source=source)  # type: ignore[arg-type]  # parametrised

    assert len(page) == 2
    assert proxy.count() == 1


def test_a_page_of_tasks_is_one_round_trip(alice: User, proxy: Proxy) -> None:
    proxy.count()

    alice.tasks.list()

    assert proxy.count() == 1


def test_a_command_that_looks_first_is_two_round_trips(alice: User, proxy: Proxy) -> None:
    task = alice.tasks.create("Buy milk")
    proxy.count()

    alice.tasks.complete(task.id)

    assert proxy.count() == 2


def test_a_lost_commit_reply_does_not_double_the_message(
    alice: User, distant: EventStore, proxy: Proxy
) -> None:
    chat = alice.conversations.start()
    lost: list[bytes] = []

    def lose_once(data: bytes) -> bool:
        lost.append(data)
        return len(lost) == 1

    proxy.lose_reply = lose_once

    message = alice.messages.post(chat.id, sender="user", content="once")

    proxy.lose_reply = lambda _: False
    assert lost
    assert [one.id for one in alice.history(chat.id)] == [message.id]
    assert distant.verify().ok


def test_a_server_that_goes_silent_is_given_up_and_the_message_is_not_doubled(
    alice: User, distant: EventStore, proxy: Proxy
) -> None:
    chat = alice.conversations.start()
    swallowed: list[bytes] = []

    def swallow_once(data: bytes) -> bool:
        swallowed.append(data)
        return len(swallowed) == 1

    proxy.silence = swallow_once

    message = alice.messages.post(chat.id, sender="user", content="once")

    assert swallowed
    assert [one.id for one in alice.history(chat.id)] == [message.id]


def test_a_request_that_never_arrived_is_sent_again(
    alice: User, distant: EventStore, proxy: Proxy
) -> None:
    chat = alice.conversations.start()
    lost: list[bytes] = []

    def lose_once(data: bytes) -> bool:
        lost.append(data)
        return len(lost) == 1

    proxy.lose_request = lose_once

    message = alice.messages.post(chat.id, sender="user", content="once")

    assert [one.id for one in alice.history(chat.id)] == [message.id]
    assert distant.verify().ok
