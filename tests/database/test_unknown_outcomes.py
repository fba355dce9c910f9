"""A commit whose reply was lost, and a server that cannot be asked: the error says what is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest

from eventstore import (
    ConnectionLost,
    EventStore,
    InvalidInput,
    NewEvent,
    OutcomeUnknown,
    TaskCreated,
    TimedOut,
    User,
)
from tests.database.test_outages import through
from tests.support.drivers import open_store
from tests.support.proxy import Proxy


@pytest.fixture(params=["sync", "async"])
def far(request: pytest.FixtureRequest, database_url: str, proxy: Proxy) -> Iterator[User]:
    """Alice, through a proxy, with a second for each call."""
    settings = through(proxy, database_url, deadline_seconds=1)
    with open_store(request.param, settings=settings) as store:
        yield store.user("alice")


def lose_first_reply(proxy: Proxy, then: Callable[[], object]) -> None:
    lost: list[bytes] = []

    def lose(data: bytes) -> bool:
        lost.append(data)
        if len(lost) > 1:
            return False
        then()
        return True

    proxy.lose_reply = lose


COMMANDS: dict[str, Callable[[User], object]] = {
    "a command": lambda user: user.tasks.create("Buy milk"),
    "a command with a key": lambda user: user.keyed("buy").tasks.create("Buy milk"),
    "events": lambda user: user.append(
        [NewEvent(stream_id=uuid4(), data=TaskCreated(title="Buy milk"))]
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commit_that_no_retry_can_settle_is_unknown_and_is_found_later(
    far: User, proxy: Proxy, database_url: str, name: str
) -> None:
    far.tasks.list()
    lose_first_reply(proxy, then=proxy.close)

    with pytest.raises(OutcomeUnknown) as unknown:
        COMMANDS[name](far)

    error = unknown.value
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        assert len(alice.tasks.list()) == 1
        (found,) = alice.find_append(error)
        assert found.event_id in error.event_ids
        assert alice.find_append(error.event_ids) == [found] == alice.find_append(found.event_id)
        assert store.user("bob").find_append(error) == []
        if error.idempotency_key is not None:
            assert alice.find_append(error.idempotency_key) == [found]
            assert error.idempotency_key in str(error)


def test_what_a_locked_log_says_to_a_retry_settles_nothing(
    far: User, proxy: Proxy, admin: psycopg.Connection
) -> None:
    far.tasks.list()

    def lock() -> None:
        admin.execute("begin")
        admin.execute("select from eventstore.user_log for update")

    lose_first_reply(proxy, then=lock)
    with pytest.raises(OutcomeUnknown) as unknown:
        far.tasks.create("Buy milk")
    admin.execute("rollback")

    assert isinstance(unknown.value.__cause__, TimedOut | ConnectionLost)
    assert len(far.find_append(unknown.value)) == len(far.tasks.list()) == 1


def test_an_append_that_never_arrived_is_not_found(
    far: User, proxy: Proxy, database_url: str
) -> None:
    far.tasks.list()

    def lose(_: bytes) -> bool:
        proxy.close()
        return True

    proxy.lose_request = lose

    with pytest.raises(OutcomeUnknown) as unknown:
        far.tasks.create("Buy milk")

    with EventStore.connect(database_url) as store:
        assert store.user("alice").find_append(unknown.value) == []
        assert store.user("alice").tasks.list() == []


def test_an_append_is_found_by_a_key_or_by_ids(alice: User) -> None:
    alice.keyed("buy").tasks.create("Buy milk")
    with alice.keyed("two").transaction() as tx:
        tx.tasks.create("Bread")
        tx.tasks.create("Butter")

    assert [one.data.title for one in alice.find_append("two")] == ["Bread", "Butter"]  # type: ignore[attr-defined]
    assert [one.position for one in alice.find_append("buy")] == [1]
    bought, bread, butter = (one.event_id for one in alice.events())
    for ids in ([bread, butter], [butter], [bought, butter]):
        assert [one.event_id for one in alice.find_append(ids)] == ids
    assert alice.find_append("another") == alice.find_append([uuid4()]) == []
    for wrong in (7, [7], "", None):
        with pytest.raises(InvalidInput, match="append"):
            alice.find_append(wrong)  # type: ignore[arg-type]


def test_the_error_of_an_outcome_has_the_key_that_the_store_made(far: User, proxy: Proxy) -> None:
    chat = far.conversations.start().id
    call = far.tool_calls.request(chat, name="add_task", arguments="{}")
    lose_first_reply(proxy, then=lambda: setattr(proxy, "lose_request", lambda _: True))

    with pytest.raises(OutcomeUnknown) as unknown:
        far.tool_calls.succeed(call, output={})
    proxy.lose_request = lambda _: False

    assert unknown.value.idempotency_key == f"outcome:{call.event_id}"
    found = far.within(10).find_append(unknown.value)
    assert [one.event_id for one in found] == [*unknown.value.event_ids]
