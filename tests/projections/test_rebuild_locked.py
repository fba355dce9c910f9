"""A rebuild or an erasure includes events between its comparison and its lock of the user."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import eventstore.database.driver.sync_driver
import projections.rebuild.locked_replay
import projections.rebuild.parts
from eventstore import Event, EventStore, NewEvent, User
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Statement
from eventstore.events.json_codec import loads
from projections.projector import Projections
from projections.rebuild import compare as comparison
from tests.support.erasing import all_rows


class Noted(Event, type="Noted", stream_kind="conversation"):
    """An event whose class only `other_store` has."""

    text: str


@pytest.fixture
def other_store(database_url: str) -> Iterator[EventStore]:
    """A second store on the same database, like another process of the service."""
    with EventStore.connect(database_url, events=[Noted]) as store:
        yield store


type Meanwhile = Callable[[Callable[[], object]], None]


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Return a function that sets the work to do after the comparison and before the lock."""
    compare = comparison.compare

    def arrange(work: Callable[[], object]) -> None:
        def compare_and_then(*arguments: Any) -> Any:
            monkeypatch.setattr(projections.rebuild.locked_replay, "compare", compare)
            found = yield from compare(*arguments)
            work()
            return found

        monkeypatch.setattr(projections.rebuild.locked_replay, "compare", compare_and_then)

    return arrange


@pytest.fixture(params=["by stream", "by replay"])
def erasing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Erase rows of the built-in tables by their stream, and as a service's own that have none."""
    if request.param == "by replay":
        erase_by_replay(monkeypatch)


def erase_by_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no projector tell by which column its rows belong to a stream."""
    monkeypatch.setattr(Projections, "split_by_stream", lambda self: ({}, self))


# With a limit of 0 the rebuild compares complete tables under the lock, otherwise single rows.
@pytest.mark.parametrize("few", [0, 2_000])
def test_a_rebuild_repairs_wrong_rows_and_includes_events_since_the_comparison(
    sync_store: EventStore, other_store: EventStore, admin: psycopg.Connection,
    meanwhile: Meanwhile, monkeypatch: pytest.MonkeyPatch, few: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(projections.rebuild.locked_replay, "_FEW", few)
    alice = sync_store.user("alice")
    chat = alice.conversations.start(title="Groceries")
    changed, deleted, missing = (alice.tasks.create(title).id for title in ("a", "b", "c"))
    admin.execute("update eventstore.task set title = 'spoilt' where title = 'a'")
    admin.execute("delete from eventstore.task where title = 'c'")
    admin.execute("update eventstore.conversation set key = 'spoilt'")

    def work() -> None:
        user = other_store.user("alice")
        user.tasks.complete(changed)
        user.tasks.delete(deleted)
        user.tasks.create("d")
        user.messages.post(chat.id, sender="user", content="hello")

    meanwhile(work)
    rebuilt = sync_store.rebuild("alice")

    assert rebuilt.changed == 3
    assert sync_store.verify().ok
    assert {task.title for task in alice.tasks.list()} == {"a", "c", "d"}
    assert missing in {task.id for task in alice.tasks.list()}


def add_a_message(user: User, chat: Any) -> None:
    user.messages.post(chat, sender="user", content="zebra")


def add_an_unknown_event(user: User, chat: Any) -> None:
    add_a_message(user, chat)
    user.append([NewEvent(stream_id=chat, data=Noted(text="zebra"))])


@pytest.mark.usefixtures("erasing")
@pytest.mark.parametrize("add", [add_a_message, add_an_unknown_event])
def test_an_erasure_includes_events_appended_before_the_conversation_was_closed(
    sync_store: EventStore, other_store: EventStore, admin: psycopg.Connection,
    meanwhile: Meanwhile, add: Callable[[User, Any], None],
) -> None:  # fmt: skip
    alice = sync_store.user("alice")
    chat = alice.conversations.start(title="zebra")
    task = alice.tasks.create("not erased")

    def work() -> None:
        add(other_store.user("alice"), chat.id)
        other_store.user("alice").tasks.complete(task.id)

    meanwhile(work)
    done = sync_store.erase("alice", ordered_by="alice", conversation=chat.id)

    assert done.events == len(other_store.user("alice").events(stream_id=chat.id)) > 1
    assert [row for row in all_rows(admin) if "zebra" in row] == []
    assert [task.completed for task in alice.tasks.list()] == [True]
    assert other_store.verify().ok


@pytest.mark.usefixtures("erasing")
def test_an_erasure_removes_rows_that_a_rebuild_wrote_meanwhile(
    sync_store: EventStore, other_store: EventStore, admin: psycopg.Connection, meanwhile: Meanwhile
) -> None:
    """The comparison finds no row to erase, because the tables are still empty then."""
    alice = sync_store.user("alice")
    chat = alice.conversations.start(title="zebra")
    for user_id in ("alice", "bob"):
        sync_store.user(user_id).tasks.create("zebra")
    for table in ("task", "conversation"):
        admin.execute(f"delete from eventstore.{table}")

    for conversation in (chat.id, None):
        meanwhile(lambda: other_store.rebuild("alice"))
        assert sync_store.erase("alice", ordered_by="alice", conversation=conversation).events == 1

        assert sync_store.verify("alice").ok
    assert [row for row in all_rows(admin) if "zebra" in row and "bob" not in row] == []


def test_complete_tables_are_not_compared_while_the_user_is_locked(
    sync_store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = sync_store.user("alice")
    chat = alice.conversations.start(title="zebra")
    for number in range(20):
        alice.tasks.create(f"task {number}")
    admin.execute("update eventstore.task set title = 'spoilt' where title = 'task 3'")
    sent: list[Statement] = []

    def record(connection: Any, statements: Any, unread: int) -> Any:
        sent.extend(statements)
        return run_pipeline(connection, statements, unread)

    monkeypatch.setattr(eventstore.database.driver.sync_driver, "run_pipeline", record)
    erase_by_replay(monkeypatch)
    for work, suspects in (
        (lambda: sync_store.rebuild("alice"), 1),
        (lambda: sync_store.erase("alice", ordered_by="alice", conversation=chat.id), 0),
    ):
        sent.clear()
        work()

        locked = next(at for at, one in enumerate(sent) if "for no key update" in one.sql)
        before, after = sent[:locked], sent[locked:]
        assert rows_compared(before) == 20
        assert rows_compared(after) == suspects
        assert any("count(*) from eventstore.task as" in one.sql for one in before)
        assert not any("count(*) from eventstore.task as" in one.sql for one in after)
    assert sync_store.verify().ok


def rows_compared(statements: list[Statement]) -> int:
    """Return how many tasks of the replay statements compare with the table."""
    sent = [str(one.params[1]) for one in statements if "left join eventstore.task " in one.sql]
    return sum(len(loads(rows)) for rows in sent)


def test_a_rebuild_in_parts_leaves_rows_alone_that_belong_to_other_parts(
    sync_store: EventStore, other_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.rebuild.parts, "EVENTS_PER_PART", 20)
    alice = sync_store.user("alice")
    chat = alice.conversations.start().id
    ids = [alice.tasks.create(f"task {number}").id for number in range(30)]
    for number in range(10):
        alice.tool_calls.request(chat, name="f", arguments="{}", call_id=f"call_{number}")

    def work() -> None:
        user = other_store.user("alice")
        for one in ids:
            user.tasks.complete(one)
        for number in range(10):
            answer = {"role": "tool", "tool_call_id": f"call_{number}", "content": "ok"}
            user.messages.post(chat, body=answer)

    compare, compared = comparison.compare, list[Any]()

    def compare_and_then(*arguments: Any) -> Any:
        found = yield from compare(*arguments)
        compared.append(arguments)
        if len(compared) == 3:  # in the last part: no later one repairs what it does
            work()
        return found

    monkeypatch.setattr(projections.rebuild.locked_replay, "compare", compare_and_then)
    sync_store.rebuild("alice")

    assert len(compared) == 3
    assert len(alice.tasks.list(completed=True)) == 30
    assert alice.tool_calls.list(status=None, limit=100) == [
        one for one in alice.tool_calls.list(status="succeeded", limit=100) if one.output == "ok"
    ]
    assert sync_store.verify().ok
