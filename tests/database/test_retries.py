"""
A first attempt whose connection is cut while it waits in the server is not doubled by its retry.

The server process of a cut connection goes on, because it does not look at its client before it has
to answer. So both attempts wait for the user's row, and the first one is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest

from eventstore import EventStore, Settings, User
from tests.support.drivers import open_store
from tests.support.proxy import Proxy, url_through
from tests.support.waiting import until


def use_transaction(user: User, task: UUID, chat: UUID) -> None:
    with user.transaction() as tx:
        tx.tasks.complete(task)
        tx.tasks.create("Buy bread")
        tx.messages.post(chat, sender="user", content="hi")


COMMANDS: dict[str, tuple[int, Callable[[User, UUID, UUID], object]]] = {
    "a new task": (1, lambda user, *_: user.tasks.create("Buy bread")),
    "a message": (1, lambda user, _, chat: user.messages.post(chat, sender="user", content="hi")),
    "a completion": (1, lambda user, task, _: user.tasks.complete(task)),
    "a deletion": (1, lambda user, task, _: user.tasks.delete(task)),
    "a transaction": (3, use_transaction),
}
"""Each command with how many events it appends."""

_WAITING = """
select count(*) from pg_stat_activity
where wait_event_type = 'Lock' and datname = current_database()
"""


@pytest.fixture(params=["sync", "async"])
def remote_store(
    request: pytest.FixtureRequest, database_url: str, proxy: Proxy
) -> Iterator[EventStore]:
    """A store that reaches its database through the proxy, and does not give up soon."""
    settings = Settings(database_url=url_through(proxy, database_url), deadline_seconds=60)
    with open_store(request.param, settings=settings) as store:
        yield store


@pytest.mark.parametrize("name", COMMANDS)
def test_a_first_attempt_that_still_waits_in_the_server_is_not_doubled_by_its_retry(
    remote_store: EventStore, proxy: Proxy, direct_url: str, admin: psycopg.Connection, name: str
) -> None:
    events, command = COMMANDS[name]
    alice = remote_store.user("alice")
    task, chat = alice.tasks.create("Buy milk").id, alice.conversations.start().id

    def cut_the_first_and_let_both_go_on() -> None:
        until(lambda: admin.execute(_WAITING).fetchone() == (1,))
        proxy.cut()
        until(lambda: admin.execute(_WAITING).fetchone() == (2,))
        holder.rollback()

    with psycopg.connect(direct_url) as holder, ThreadPoolExecutor() as threads:
        holder.execute("select from eventstore.user_log for update")
        cutting = threads.submit(cut_the_first_and_let_both_go_on)
        command(alice, task, chat)
        cutting.result()

    assert len(alice.events()) == 2 + events
    assert admin.execute("select retried from eventstore.user_log").fetchone() == (None,), (
        "the first attempt was committed, and nothing but it"
    )
    assert remote_store.verify().ok
