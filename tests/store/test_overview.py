"""The main features of the store in three examples, as a new user would try them."""

from __future__ import annotations

import pytest
from sqlmodel import select

from eventstore import EventStore, NotFound, User
from projections import Task


def test_an_agent_turn_is_stored_replayed_rebuilt_and_audited(
    store: EventStore, alice: User
) -> None:
    chat = alice.conversations.start(title="Groceries")
    alice.messages.post(chat.id, sender="user", content="Buy milk, please")
    call = alice.tool_calls.request(chat.id, name="add_task", arguments='{"title": "Buy milk"}')
    with alice.transaction(idempotency_key=str(call.id)) as tx:
        task = tx.tasks.create(title="Buy milk", caused_by=call)
        tx.tool_calls.succeed(call, output={"task_id": task.id})
        tx.messages.post(chat.id, sender="assistant", content="Done.")

    history = alice.history(chat.id)

    assert [message.sender for message in history] == ["user", "assistant", "tool", "assistant"]
    assert history == alice.history(chat.id, source="events")
    assert [one.title for one in alice.tasks.list(completed=False)] == ["Buy milk"]
    assert store.verify().ok
    assert store.rebuild().changed == 0
    (entry,) = alice.audit()
    assert entry.status == "succeeded"
    assert entry.output == {"task_id": str(task.id)}
    assert [caused.type for caused in entry.caused] == ["TaskCreated", "ToolCallSucceeded"]


def test_a_session_reads_only_the_rows_of_its_user(
    store: EventStore, alice: User, bob: User, database_url: str
) -> None:
    alice.tasks.create("Buy milk")
    bob.tasks.create("Fly")

    with EventStore.connect(database_url) as sync, sync.user("alice").session() as session:
        titles = [task.title for task in session.exec(select(Task))]

    assert titles == ["Buy milk"]


def test_another_users_conversation_raises_the_same_error_as_an_unknown_one(
    alice: User, bob: User
) -> None:
    chat = alice.conversations.start()

    with pytest.raises(NotFound) as error:
        bob.history(chat.id)

    assert str(error.value) == f"conversation {chat.id} not found"
