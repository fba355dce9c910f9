"""
Round trips, counted by a proxy: an append costs one, and so does a page of history.

And Python calls, counted by the interpreter: they say what an append costs on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from benchmarks.measure import count_python_calls
from benchmarks.turns import agent_turn
from eventstore import EventStore, Settings, User
from tests.support.drivers import open_store
from tests.support.proxy import Proxy, url_through


@pytest.fixture(params=["sync", "async"])
def remote_store(
    request: pytest.FixtureRequest, database_url: str, proxy: Proxy
) -> Iterator[EventStore]:
    """A store that reaches its database through the proxy, on one connection that is warm."""
    settings = Settings(
        database_url=url_through(proxy, database_url),
        pool_max_size=1,
        deadline_seconds=4.0,
    )
    with open_store(request.param, settings=settings) as store:
        _warm(store)
        yield store


def _warm(store: EventStore) -> None:
    for _ in range(7):  # past psycopg's threshold for prepared statements
        store.user("alice").tasks.create("warm up")


@pytest.fixture
def remote_alice(remote_store: EventStore) -> User:
    return remote_store.user("alice")


def test_posting_a_message_is_one_round_trip(remote_alice: User, proxy: Proxy) -> None:
    chat = remote_alice.conversations.start()
    proxy.count()

    remote_alice.messages.post(chat.id, sender="user", content="Buy milk")

    assert proxy.count() == 1


def test_nothing_follows_the_sync_of_a_request(remote_alice: User, proxy: Proxy) -> None:
    # A Flush after the Sync makes PgBouncer hold a server connection for an idle client.
    sent: list[bytes] = []

    def record(data: bytes) -> bool:
        sent.append(data)
        return False

    proxy.lose_request = record

    for _ in range(20):
        remote_alice.tasks.list()
        remote_alice.tasks.create("Buy milk")

    assert b"".join(sent).count(b"S\0\0\0\4") == 40
    assert b"H\0\0\0\4" not in b"".join(sent)


def test_an_agent_turn_of_five_events_is_one_round_trip(remote_alice: User, proxy: Proxy) -> None:
    chat = remote_alice.conversations.start()
    call = remote_alice.tool_calls.request(chat.id, name="add_task", arguments="{}")
    proxy.count()

    with remote_alice.transaction() as tx:
        task = tx.tasks.create("Buy milk", caused_by=call)
        tx.tool_calls.succeed(call, output={"id": task.id})
        tx.tool_calls.request(chat.id, name="list_tasks", arguments="{}")
        tx.messages.post(chat.id, sender="assistant", content="Done")

    assert len(tx.recorded) == 5
    assert proxy.count() == 1


def test_an_append_of_hundreds_of_events_is_one_round_trip(
    remote_alice: User, proxy: Proxy
) -> None:
    with remote_alice.transaction() as tx:
        chat = tx.conversations.start()
        for number in range(300):  # PostgreSQL sends early once its answers fill 8 KB
            tx.messages.post(chat.id, sender="user", content=f"message {number}")
        proxy.count()

    assert proxy.count() == 1


@pytest.mark.parametrize("source", ["projection", "events"])
def test_a_page_of_history_is_one_round_trip(remote_alice: User, proxy: Proxy, source: str) -> None:
    chat = remote_alice.conversations.start()
    for number in range(3):
        remote_alice.messages.post(chat.id, sender="user", content=f"message {number}")
    proxy.count()

    page = remote_alice.history(chat.id, limit=2, source=source)  # type: ignore[arg-type]  # parametrised

    assert len(page) == 2
    assert proxy.count() == 1


@pytest.mark.parametrize("by_time", [False, True])
def test_what_was_there_at_a_moment_is_one_round_trip(
    remote_alice: User, proxy: Proxy, by_time: bool
) -> None:
    """A timestamp is found in the log in the round trip of the query."""
    chat = remote_alice.conversations.start()
    remote_alice.messages.post(chat.id, sender="user", content="Buy milk")
    last = remote_alice.events(backward=True, limit=1)[0]
    as_of = last.recorded_at if by_time else last.position
    proxy.count()

    for question in (
        lambda: remote_alice.history(chat.id, as_of=as_of),
        lambda: remote_alice.model_input(chat.id, limit=1, as_of=as_of),
        lambda: remote_alice.conversations.list(as_of=as_of),
        lambda: remote_alice.tasks.list(as_of=as_of),
    ):
        assert question()
        assert proxy.count() == 1


@pytest.mark.parametrize("limit", [None, 2])
def test_what_a_model_is_given_is_one_round_trip(
    remote_alice: User, proxy: Proxy, limit: int | None
) -> None:
    chat = remote_alice.conversations.start()
    call = remote_alice.tool_calls.request(chat.id, name="f", arguments="{}")
    for number in range(3):
        remote_alice.messages.post(chat.id, sender="user", content=f"message {number}")
    remote_alice.tool_calls.succeed(call, output="done")
    proxy.count()

    items = remote_alice.model_input(chat.id, limit=limit)

    assert len(items) == (5 if limit is None else 3)
    assert proxy.count() == 1


def test_a_page_of_tasks_is_one_round_trip(remote_alice: User, proxy: Proxy) -> None:
    proxy.count()

    remote_alice.tasks.list()

    assert proxy.count() == 1


def test_a_command_that_needs_no_version_is_one_round_trip(
    remote_alice: User, proxy: Proxy
) -> None:
    task = remote_alice.tasks.create("Buy milk")
    proxy.count()

    updated = remote_alice.tasks.update(task.id, title="Buy oat milk", tags=["shop"])
    assert (updated.title, proxy.count()) == ("Buy oat milk", 1)
    remote_alice.tasks.update(task.id, title="Buy milk", expected_version=updated.version)
    assert proxy.count() == 1
    remote_alice.tasks.delete(task.id)
    assert proxy.count() == 1


def test_a_move_is_two_round_trips_however_many_tasks_there_are(
    remote_alice: User, proxy: Proxy
) -> None:
    first, *_, last = [remote_alice.tasks.create("Buy milk").id for _ in range(10)]
    proxy.count()

    remote_alice.tasks.move(last, before=first)

    assert proxy.count() == 2


def test_a_command_that_reads_before_it_appends_is_two_round_trips(
    remote_alice: User, proxy: Proxy
) -> None:
    task = remote_alice.tasks.create("Buy milk")
    proxy.count()

    remote_alice.tasks.complete(task.id)

    assert proxy.count() == 2


def test_a_change_of_mind_is_one_round_trip_or_two_whatever_is_behind_it(
    remote_alice: User, proxy: Proxy
) -> None:
    chat = remote_alice.conversations.start(key="chat").id
    items = [{"role": "user", "content": str(number)} for number in range(500)]
    messages = remote_alice.messages.extend(chat, items)
    messages += remote_alice.messages.extend(chat, items)
    proxy.count()

    def cost(change: Callable[[], object]) -> int:
        change()
        return proxy.count()

    on, last = remote_alice.messages, messages[-1].id
    assert cost(lambda: on.edit(chat, last, content="x")) == 2
    assert cost(lambda: on.pop(chat)) == 2
    assert cost(lambda: on.pop(chat, 100)) == 2
    assert cost(lambda: remote_alice.conversations.rewind(chat, to=messages[700])) == 1
    assert cost(lambda: remote_alice.conversations.rewind(chat, to=messages[600].id)) == 2
    assert cost(lambda: on.replace_tail(chat, items[:2], after=messages[500])) == 1
    last = remote_alice.history(chat, limit=1)[0].id
    proxy.count()
    assert cost(lambda: on.extend(chat, items[:2], expected_last=last)) == 2
    assert cost(lambda: on.clear(chat)) == 1
    assert cost(lambda: remote_alice.conversations.fork(chat, as_of=900)) == 3
    assert cost(remote_alice.conversations.list) == 1
    remote_alice.conversations.delete(chat)
    proxy.count()
    assert cost(lambda: remote_alice.conversations.restore(chat)) == 2


def test_a_draft_is_one_round_trip_a_save(remote_alice: User, proxy: Proxy) -> None:
    chat = remote_alice.conversations.start().id
    proxy.count()

    with remote_alice.messages.draft(chat, seconds=3600) as draft:
        for token in ("Milk", " is", " on", " the", " list"):
            draft.write(token)

    assert proxy.count() == 2


def test_a_lost_reply_to_a_pop_takes_away_no_second_message(
    remote_alice: User, remote_store: EventStore, proxy: Proxy
) -> None:
    chat = remote_alice.conversations.start().id
    messages = remote_alice.messages.extend(chat, [{"role": "user", "content": c} for c in "abc"])
    lost: list[bytes] = []

    def lose_second(data: bytes) -> bool:
        lost.append(data)
        return len(lost) == 2  # the first reply is that of the read

    proxy.lose_reply = lose_second

    popped = remote_alice.messages.pop(chat)

    proxy.lose_reply = lambda _: False
    assert len(lost) >= 2
    assert popped == messages[2:]
    assert remote_alice.history(chat) == messages[:2]
    assert remote_store.verify().ok


def test_a_lost_commit_reply_does_not_double_the_message(
    remote_alice: User, remote_store: EventStore, proxy: Proxy
) -> None:
    chat = remote_alice.conversations.start()
    lost: list[bytes] = []

    def lose_once(data: bytes) -> bool:
        lost.append(data)
        return len(lost) == 1

    proxy.lose_reply = lose_once

    message = remote_alice.messages.post(chat.id, sender="user", content="once")

    proxy.lose_reply = lambda _: False
    assert lost
    assert [one.id for one in remote_alice.history(chat.id)] == [message.id]
    assert remote_store.verify().ok


def test_a_message_is_not_doubled_when_the_server_goes_silent(
    remote_alice: User, remote_store: EventStore, proxy: Proxy
) -> None:
    chat = remote_alice.conversations.start()
    swallowed: list[bytes] = []

    def swallow_once(data: bytes) -> bool:
        swallowed.append(data)
        return len(swallowed) == 1

    proxy.silence = swallow_once

    message = remote_alice.messages.post(chat.id, sender="user", content="once")

    assert swallowed
    assert [one.id for one in remote_alice.history(chat.id)] == [message.id]


def test_a_lost_request_is_sent_again(
    remote_alice: User, remote_store: EventStore, proxy: Proxy
) -> None:
    chat = remote_alice.conversations.start()
    lost: list[bytes] = []

    def lose_once(data: bytes) -> bool:
        lost.append(data)
        return len(lost) == 1

    proxy.lose_request = lose_once

    message = remote_alice.messages.post(chat.id, sender="user", content="once")

    assert [one.id for one in remote_alice.history(chat.id)] == [message.id]
    assert remote_store.verify().ok


# A little more than it is, for other versions of psycopg's pool and of pydantic.
@pytest.mark.parametrize(("append", "limit"), [("post", 160), ("turn", 600)])
def test_an_append_enters_few_functions_of_python(
    database_url: str, append: str, limit: int
) -> None:
    with EventStore.connect(database_url) as store:
        _warm(store)
        alice = store.user("alice")
        chat = alice.conversations.start().id

        def post() -> None:
            alice.messages.post(chat, sender="user", content="Buy milk")

        def turn() -> None:
            with alice.transaction() as record:
                agent_turn(record, chat, 1)

        operation = {"post": post, "turn": turn}[append]
        operation()

        assert count_python_calls(operation) <= limit
