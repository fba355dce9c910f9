"""
Someone else's id is answered as one that does not exist: the same error, after the same work.

No clock is looked at: what is compared is every statement on the wire and every round trip, so
there is nothing left that could take another time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest

import eventstore.database.driver
import eventstore.database.driver_async
import eventstore.database.pipeline as exchange_module
from eventstore import (
    EventStore,
    EventStoreError,
    Expected,
    MessagePosted,
    NewEvent,
    TaskCompleted,
    User,
)
from eventstore.store.conversations import ConversationCommands, Conversations
from eventstore.store.messages import MessageCommands, Messages
from eventstore.store.tasks import TaskCommands, Tasks
from eventstore.store.tool_calls import ToolCallCommands, ToolCalls
from eventstore.store.transaction import TransactionCommands


@dataclass(frozen=True)
class Call:
    """What identifies a tool call."""

    conversation_id: UUID
    message_id: UUID
    index: int
    id: str
    event_id: UUID


@dataclass(frozen=True)
class Ids:
    """What bob has heard of: all of alice's, or nothing that exists."""

    task: UUID
    chat: UUID
    message: UUID
    key: str
    event: UUID
    call: Call


@dataclass(frozen=True)
class Answer:
    """What came back, with ids taken out of it, and each round trip's statements."""

    error: str
    value: str
    exchanges: list[list[str]]


type Case = Callable[[Any, Ids], object]

LATER = datetime(2100, 1, 1, tzinfo=UTC)
COMMANDS: dict[str, Case] = {
    "tasks.create": lambda user, ids: user.tasks.create("x", caused_by=ids.event),
    "tasks.update": lambda user, ids: user.tasks.update(ids.task, title="x"),
    "tasks.complete": lambda user, ids: user.tasks.complete(ids.task),
    "tasks.reopen": lambda user, ids: user.tasks.reopen(ids.task),
    "tasks.delete": lambda user, ids: user.tasks.delete(ids.task),
    "conversations.start": lambda user, ids: user.conversations.start(key=str(ids.chat)),
    "conversations.rename": lambda user, ids: user.conversations.rename(ids.chat, "x"),
    "conversations.archive": lambda user, ids: user.conversations.archive(ids.chat),
    "conversations.reopen": lambda user, ids: user.conversations.reopen(ids.chat),
    "conversations.delete": lambda user, ids: user.conversations.delete(ids.chat),
    "messages.post": lambda user, ids: user.messages.post(ids.chat, sender="user", content="x"),
    "messages.retract": lambda user, ids: user.messages.retract(ids.chat, ids.message),
    "tool_calls.request": lambda user, ids: user.tool_calls.request(
        ids.chat, name="f", arguments="{}"
    ),
    "tool_calls.succeed": lambda user, ids: user.tool_calls.succeed(ids.call, output=1),
    "tool_calls.fail": lambda user, ids: user.tool_calls.fail(ids.call, error=1),
}
QUESTIONS: dict[str, Case] = {
    "tasks.get": lambda user, ids: user.tasks.get(ids.task),
    "tasks.list": lambda user, _: user.tasks.list(),
    "conversations.get": lambda user, ids: user.conversations.get(ids.chat),
    "conversations.list": lambda user, _: user.conversations.list(),
    "tool_calls.find": lambda user, ids: user.tool_calls.find(ids.chat, ids.call.id),
    "history": lambda user, ids: user.history(ids.chat),
    "events": lambda user, ids: user.events(stream_id=ids.chat),
    "audit": lambda user, ids: user.audit(conversation=ids.chat),
    "append": lambda user, ids: user.append(
        [NewEvent(stream_id=ids.task, data=TaskCompleted(), expected=1)]
    ),
}
VARIANTS: dict[str, Case] = {
    "a task of then": lambda user, ids: user.tasks.get(ids.task, as_of=LATER),
    "a task by text": lambda user, ids: user.tasks.complete(str(ids.task)),
    "a conversation by key": lambda user, ids: user.conversations.get(ids.key),
    "a conversation by text": lambda user, ids: user.conversations.get(str(ids.chat)),
    "a conversation of then": lambda user, ids: user.conversations.get(ids.chat, as_of=9),
    "starting a key of hers": lambda user, ids: user.conversations.start(key=ids.key),
    "a history of events": lambda user, ids: user.history(ids.chat, source="events"),
    "a history of then": lambda user, ids: user.history(ids.chat, as_of=LATER),
    "a history by key": lambda user, ids: user.history(ids.key),
    "a page before": lambda user, ids: user.history(ids.chat, before=9, limit=1),
    "an append that expects it": lambda user, ids: user.append(
        [NewEvent(stream_id=ids.task, data=TaskCompleted(), expected=Expected.EXISTS)]
    ),
    "an append that expects nothing there": lambda user, ids: user.append(
        [NewEvent(stream_id=ids.task, data=TaskCompleted(), expected=Expected.NEW)]
    ),
    "a message with her id": lambda user, ids: user.append(
        [
            NewEvent(
                stream_id=user.conversations.start(key="own").id,
                data=MessagePosted(message_id=ids.message, sender="user", body={"role": "user"}),
            )
        ]
    ),
    "an idempotency key of hers": lambda user, ids: user.keyed(ids.key).tasks.create("x"),
    "a cause of hers": lambda user, ids: user.messages.post(
        ids.chat, sender="user", caused_by=ids.call
    ),
    "a correlation of hers": lambda user, ids: user.annotated(
        correlation_id=ids.event
    ).tasks.create("x"),
}


def in_transaction(command: Case) -> Case:
    def run(user: User, ids: Ids) -> object:
        with user.transaction() as tx:
            tx.tasks.create("before")
            command(tx, ids)
        return len(tx.recorded)

    return run


RECORDED = {f"transaction.{name}": in_transaction(case) for name, case in COMMANDS.items()} | {
    "transaction.append": in_transaction(
        lambda tx, ids: tx.append(ids.task, TaskCompleted(), expected=Expected.EXISTS)
    )
}
CASES = COMMANDS | QUESTIONS | VARIANTS | RECORDED
UUIDS = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def public(prefix: str, kind: type) -> set[str]:
    return {f"{prefix}{name}" for name in vars(kind) if not name.startswith("_")}


def test_no_method_is_without_a_case() -> None:
    methods = (
        public("", User)
        - {"transaction", "annotated", "keyed", "session"}  # below, no id, own tests
        | public("tasks.", Tasks)
        | public("conversations.", Conversations)
        | public("messages.", Messages)
        | public("tool_calls.", ToolCalls)
    )
    recorders = (
        public("transaction.", TransactionCommands) - {"transaction.begin"}  # what `with` calls
        | public("transaction.tasks.", TaskCommands)
        | public("transaction.conversations.", ConversationCommands)
        | public("transaction.messages.", MessageCommands)
        | public("transaction.tool_calls.", ToolCallCommands)
    )

    assert set(COMMANDS | QUESTIONS) == methods
    assert set(RECORDED) == recorders


numbers = count(1)


@pytest.fixture
def store(shared: EventStore) -> EventStore:
    return shared


@pytest.fixture
def alice(shared: EventStore) -> User:
    return shared.user(f"alice{next(numbers)}")


@pytest.fixture
def bob(shared: EventStore) -> User:
    return shared.user(f"bob{next(numbers)}")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every exchange with the server, as the statements it was made of; nothing is replaced."""
    seen: list[list[str]] = []
    exchange, exchange_async = exchange_module.exchange, exchange_module.exchange_async

    def listening(connection: Any, statements: Any) -> Any:
        seen.append([one.sql for one in statements])
        return exchange(connection, statements)

    async def listening_async(connection: Any, statements: Any) -> Any:
        seen.append([one.sql for one in statements])
        return await exchange_async(connection, statements)

    monkeypatch.setattr(eventstore.database.driver, "exchange", listening)
    monkeypatch.setattr(eventstore.database.driver_async, "exchange_async", listening_async)
    return seen


def alices(alice: User) -> Ids:
    task = alice.keyed("session-7").tasks.create("Buy milk")
    chat = alice.conversations.start(key="session-7")
    message = alice.messages.post(chat.id, sender="user", content="x")
    call = alice.tool_calls.request(chat.id, name="f", arguments="{}")
    handle = Call(chat.id, call.message_id, call.index, call.id, call.event_id)
    return Ids(task.id, chat.id, message.id, "session-7", call.event_id, handle)


def nobodys() -> Ids:
    chat = uuid4()
    handle = Call(chat, uuid4(), 0, f"call_{uuid4().hex}", uuid4())
    return Ids(uuid4(), chat, uuid4(), "session-8", uuid4(), handle)


def answer(user: User, case: Case, ids: Ids, sent: list[list[str]]) -> Answer:
    sent.clear()
    error = value = ""
    try:
        value = str(case(user, ids))
    except EventStoreError as caught:
        error = f"{type(caught).__name__}: {caught}"
    return Answer(masked(error, user, ids), masked(value, user, ids), [*sent])


def masked(said: str, user: User, ids: Ids) -> str:
    """Take out what is bound to differ: the ids, the asker's own name, the time."""
    said = said.replace(ids.key, "KEY").replace(user.user_id, "ME")
    return re.sub(r"datetime\.datetime\([^)]*\)", "TIME", UUIDS.sub("ID", said))


@pytest.mark.parametrize("name", CASES)
def test_bob_cannot_tell_alices_id_from_one_that_does_not_exist(
    alice: User, bob: User, store: EventStore, sent: list[list[str]], name: str
) -> None:
    hers, none = alices(alice), nobodys()
    before = alice.events()

    # Two who have no past of their own, so that nothing but the ids differs.
    heard = answer(bob, CASES[name], hers, sent)
    guessed = answer(store.user(f"eve{next(numbers)}"), CASES[name], none, sent)

    assert heard == guessed
    assert heard.exchanges
    assert alice.events() == before
    assert store.verify(alice.user_id).ok


def test_the_same_key_of_two_users_is_two_conversations(alice: User, bob: User) -> None:
    hers = alice.conversations.start(key="session-7", title="hers")
    his = bob.conversations.start(key="session-7", title="his")
    alice.messages.post("session-7", sender="user", content="mine")

    assert hers.id != his.id
    assert bob.history("session-7") == []
    assert [one.title for one in bob.conversations.list()] == ["his"]


def test_a_conversation_under_anothers_id_is_ones_own(alice: User, bob: User) -> None:
    hers = alices(alice)
    his = bob.conversations.start(key=str(hers.chat), title="his")
    bob.messages.post(hers.chat, sender="user", content="to myself")

    assert his.id == hers.chat
    assert [one.content for one in bob.history(hers.chat)] == ["to myself"]
    assert len(alice.history(hers.chat)) == 2


def test_erasing_anothers_conversation_is_not_found_and_erases_nothing(
    store: EventStore, alice: User, bob: User, sent: list[list[str]]
) -> None:
    hers, none = alices(alice), nobodys()
    bob.tasks.create("x")
    before = alice.events()

    def erase(_: User, ids: Ids) -> object:
        return store.erase(bob.user_id, ordered_by="bob", conversation=ids.chat)

    heard, guessed = (answer(alice, erase, ids, sent) for ids in (hers, none))

    assert heard == guessed
    assert heard.error.startswith("NotFound")
    assert alice.events() == before
