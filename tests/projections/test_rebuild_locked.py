"""What a user does between the comparison and the lock of a rebuild or an erasure is in it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import eventstore.database.driver
import projections.rebuild.locked_replay
from eventstore import Event, EventStore, NewEvent, User
from eventstore.database.pipeline import exchange
from projections.rebuild import compare as comparison
from tests.support.erasing import everything


class Noted(Event, type="Noted", stream_kind="conversation"):
    """An event that the store which erases does not know."""

    text: str


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with EventStore.connect(database_url) as opened:
        yield opened


@pytest.fixture
def other(database_url: str) -> Iterator[EventStore]:
    """Another process of the service."""
    with EventStore.connect(database_url, events=[Noted]) as opened:
        yield opened


type Meanwhile = Callable[[Callable[[], object]], None]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Do something after the first comparison, when nothing is locked yet."""
    compare = comparison.compare

    def arrange(work: Callable[[], object]) -> None:
        def compare_and_then(*arguments: Any) -> Any:
            monkeypatch.setattr(projections.rebuild.locked_replay, "compare", compare)
            found = yield from compare(*arguments)
            work()
            return found

        monkeypatch.setattr(projections.rebuild.locked_replay, "compare", compare_and_then)

    return arrange


@pytest.mark.parametrize("few", [0, 2_000])
def test_a_rebuild_mends_what_differed_and_keeps_what_came(
    store: EventStore, other: EventStore, admin: psycopg.Connection, meanwhile: Meanwhile,
    monkeypatch: pytest.MonkeyPatch, few: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(projections.rebuild.locked_replay, "_FEW", few)
    alice = store.user("alice")
    chat = alice.conversations.start(title="Groceries")
    spoilt, right, gone = (alice.tasks.create(title).id for title in ("a", "b", "c"))
    admin.execute("update eventstore.task set title = 'spoilt' where title = 'a'")
    admin.execute("delete from eventstore.task where title = 'c'")
    admin.execute("update eventstore.conversation set message_count = 7")

    def work() -> None:
        user = other.user("alice")
        user.tasks.complete(spoilt)
        user.tasks.delete(right)
        user.tasks.create("d")
        user.messages.post(chat.id, sender="user", content="hello")

    meanwhile(work)
    changed = store.rebuild("alice").changed

    assert changed == 3
    assert store.verify().ok
    assert {task.title for task in alice.tasks.list()} == {"a", "c", "d"}
    assert gone in {task.id for task in alice.tasks.list()}


def add_a_message(user: User, chat: Any) -> None:
    user.messages.post(chat, sender="user", content="zebra")


def add_what_is_unknown(user: User, chat: Any) -> None:
    add_a_message(user, chat)
    user.append([NewEvent(stream_id=chat, data=Noted(text="zebra"))])


@pytest.mark.parametrize("add", [add_a_message, add_what_is_unknown])
def test_an_erasure_takes_what_came_to_the_conversation_before_it_was_closed(
    store: EventStore, other: EventStore, admin: psycopg.Connection, meanwhile: Meanwhile,
    add: Callable[[User, Any], None],
) -> None:  # fmt: skip
    alice = store.user("alice")
    chat = alice.conversations.start(title="zebra")
    kept = alice.tasks.create("kept")

    def work() -> None:
        add(other.user("alice"), chat.id)
        other.user("alice").tasks.complete(kept.id)

    meanwhile(work)
    done = store.erase("alice", ordered_by="alice", conversation=chat.id)

    assert done.events == len(other.user("alice").events(stream_id=chat.id)) > 1
    assert [row for row in everything(admin) if "zebra" in row] == []
    assert [task.completed for task in alice.tasks.list()] == [True]
    assert other.verify().ok


def test_an_erasure_takes_what_a_rebuild_wrote_of_the_erased_meanwhile(
    store: EventStore, other: EventStore, admin: psycopg.Connection, meanwhile: Meanwhile
) -> None:
    """A table that is new, or has lost rows, has none yet that would differ from the replay."""
    alice = store.user("alice")
    chat = alice.conversations.start(title="zebra")
    for user_id in ("alice", "bob"):
        store.user(user_id).tasks.create("zebra")
    for table in ("task", "conversation"):
        admin.execute(f"delete from eventstore.{table}")

    for conversation in (chat.id, None):
        meanwhile(lambda: other.rebuild("alice"))
        assert store.erase("alice", ordered_by="alice", conversation=conversation).events == 1

        assert store.verify("alice").ok
    assert [row for row in everything(admin) if "zebra" in row and "bob" not in row] == []


def test_whole_tables_are_not_compared_while_the_users_writers_wait(
    store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = store.user("alice")
    chat = alice.conversations.start(title="zebra")
    for number in range(20):
        alice.tasks.create(f"task {number}")
    admin.execute("update eventstore.task set title = 'spoilt' where title = 'task 3'")
    sent: list[str] = []

    def listening(connection: Any, statements: Any) -> Any:
        sent.extend(one.sql for one in statements)
        return exchange(connection, statements)

    monkeypatch.setattr(eventstore.database.driver, "exchange", listening)
    for work in (
        lambda: store.rebuild("alice"),
        lambda: store.erase("alice", ordered_by="alice", conversation=chat.id),
    ):
        sent.clear()
        work()

        locked = next(at for at, sql in enumerate(sent) if "for update" in sql)
        before, after = "\n".join(sent[:locked]), "\n".join(sent[locked:])
        assert "from eventstore.task\n" in before
        assert "from eventstore.task\n" not in after
    assert store.verify().ok
