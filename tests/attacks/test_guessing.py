"""
An id of another user is answered like an absent one: with the same error, after the same work.

The tests compare the statements of every round trip instead of times: where the work is the same,
its duration reveals nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import pytest

import eventstore.database.driver.async_driver
import eventstore.database.driver.sync_driver
from eventstore import (
    EventStore,
    EventStoreError,
    Expected,
    MessagePosted,
    NewEvent,
    TaskCompleted,
    TaskCreated,
    User,
)
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Statement
from eventstore.store.commands.conversations import ConversationCommands, Conversations
from eventstore.store.commands.messages import MessageCommands, Messages
from eventstore.store.commands.tasks import TaskCommands, Tasks
from eventstore.store.commands.tool_calls import ToolCallCommands, ToolCalls
from eventstore.store.commands.turns import Turns
from eventstore.store.units.transaction import TransactionCommands


@dataclass(frozen=True)
class Call:
    """The fields that identify a tool call."""

    conversation_id: UUID
    message_id: UUID
    call_id: str
    event_id: UUID


@dataclass(frozen=True)
class Ids:
    """The ids that bob tries: those of alice, or ids that do not exist."""

    task: UUID
    chat: UUID
    message: UUID
    key: str
    event: UUID
    call: Call
    turn: UUID


@dataclass(frozen=True)
class Answer:
    """The error or value of a call with its ids masked, and the statements of each round trip."""

    error: str
    value: str
    round_trips: list[list[str]]


type Case = Callable[[Any, Ids], object]


def take_turn(user: User, ids: Ids, key: str) -> object:
    with user.turn(ids.chat, key=key, wait_seconds=0) as turn:
        return turn.messages


LATER = datetime(2100, 1, 1, tzinfo=UTC)
COMMANDS: dict[str, Case] = {
    "tasks.create": lambda user, ids: user.tasks.create("x", caused_by=ids.event),
    "tasks.update": lambda user, ids: user.tasks.update(ids.task, title="x"),
    "tasks.complete": lambda user, ids: user.tasks.complete(ids.task),
    "tasks.reopen": lambda user, ids: user.tasks.reopen(ids.task),
    "tasks.delete": lambda user, ids: user.tasks.delete(ids.task),
    "tasks.restore": lambda user, ids: user.tasks.restore(ids.task),
    "tasks.move": lambda user, ids: user.tasks.move(ids.task, before=uuid4()),
    "conversations.start": lambda user, ids: user.conversations.start(key=str(ids.chat)),
    "conversations.rename": lambda user, ids: user.conversations.rename(ids.chat, "x"),
    "conversations.archive": lambda user, ids: user.conversations.archive(ids.chat),
    "conversations.reopen": lambda user, ids: user.conversations.reopen(ids.chat),
    "conversations.delete": lambda user, ids: user.conversations.delete(ids.chat),
    "conversations.restore": lambda user, ids: user.conversations.restore(ids.chat),
    "conversations.rewind": lambda user, ids: user.conversations.rewind(ids.chat, to=ids.message),
    "messages.post": lambda user, ids: user.messages.post(ids.chat, sender="user", content="x"),
    "messages.extend": lambda user, ids: user.messages.extend(ids.chat, [{"role": "user"}]),
    "messages.retract": lambda user, ids: user.messages.retract(ids.chat, ids.message),
    "messages.edit": lambda user, ids: user.messages.edit(ids.chat, ids.message, content="x"),
    "messages.clear": lambda user, ids: user.messages.clear(ids.chat),
    "messages.replace_tail": lambda user, ids: user.messages.replace_tail(
        ids.chat, [{"role": "user"}], after=ids.message, expected_last=ids.message
    ),
    "tool_calls.request": lambda user, ids: user.tool_calls.request(
        ids.chat, name="f", arguments="{}"
    ),
    "tool_calls.succeed": lambda user, ids: user.tool_calls.succeed(ids.call, output=1),
    "tool_calls.fail": lambda user, ids: user.tool_calls.fail(ids.call, error=1),
    "tool_calls.abandon": lambda user, ids: user.tool_calls.abandon(ids.call),
    "tool_calls.claim": lambda user, ids: user.tool_calls.claim(ids.call, seconds=9),
}
QUERIES: dict[str, Case] = {
    "tasks.get": lambda user, ids: user.tasks.get(ids.task),
    "tasks.list": lambda user, _: user.tasks.list(),
    "tasks.counts": lambda user, _: user.tasks.counts(),
    "conversations.get": lambda user, ids: user.conversations.get(ids.chat),
    "conversations.list": lambda user, _: user.conversations.list(),
    "conversations.counts": lambda user, _: user.conversations.counts(),
    "conversations.fork": lambda user, ids: user.conversations.fork(ids.chat, at=ids.message),
    "messages.search": lambda user, ids: user.messages.search("e", conversation=ids.chat),
    "messages.pop": lambda user, ids: user.messages.pop(ids.chat),
    "messages.draft": lambda user, ids: user.messages.draft(ids.chat).write("x"),
    "tool_calls.find": lambda user, ids: user.tool_calls.find(ids.chat, ids.call.call_id),
    "tool_calls.get": lambda user, ids: user.tool_calls.get(ids.call.event_id),
    "tool_calls.list": lambda user, ids: user.tool_calls.list(conversation=ids.chat, status=None),
    "tool_calls.wait": lambda user, ids: user.tool_calls.wait(ids.call, seconds=0),
    "turns.get": lambda user, ids: user.turns.get(ids.turn),
    "turns.list": lambda user, ids: user.turns.list(ids.chat),
    "turns.usage": lambda user, _: user.turns.usage(by="conversation"),
    "turn": lambda user, ids: take_turn(user, ids, "other"),
    "history": lambda user, ids: user.history(ids.chat),
    "items": lambda user, ids: user.items(ids.chat),
    "model_input": lambda user, ids: user.model_input(ids.chat),
    "events": lambda user, ids: user.events(stream_id=ids.chat),
    "find_append": lambda user, ids: user.find_append([ids.message]),
    "audit": lambda user, ids: user.audit(conversation=ids.chat),
    "append": lambda user, ids: user.append(
        [NewEvent(stream_id=ids.task, data=TaskCompleted(), expected=1)]
    ),
}
VARIANTS: dict[str, Case] = {
    "a turn of hers": lambda user, ids: take_turn(user, ids, "request"),
    "items for a key of hers": lambda user, ids: user.messages.extend(ids.key, [{"role": "user"}]),
    "all pending calls": lambda user, _: user.tool_calls.list(),
    "a task as of a time": lambda user, ids: user.tasks.get(ids.task, as_of=LATER),
    "a task by text": lambda user, ids: user.tasks.complete(str(ids.task)),
    "a conversation by key": lambda user, ids: user.conversations.get(ids.key),
    "a conversation by text": lambda user, ids: user.conversations.get(str(ids.chat)),
    "a conversation as of a position": lambda user, ids: user.conversations.get(ids.chat, as_of=9),
    "starting a key of hers": lambda user, ids: user.conversations.start(key=ids.key),
    "a history of events": lambda user, ids: user.history(ids.chat, source="events"),
    "a history as of a time": lambda user, ids: user.history(ids.chat, as_of=LATER),
    "a history by key": lambda user, ids: user.history(ids.key),
    "a page before": lambda user, ids: user.history(ids.chat, limit=1),
    "a search everywhere": lambda user, _: user.messages.search("e"),
    "a search of tasks": lambda user, _: user.tasks.list(search="e"),
    "the newest of a model's input": lambda user, ids: user.model_input(ids.chat, limit=1),
    "an append that expects it": lambda user, ids: user.append(
        [NewEvent(stream_id=ids.task, data=TaskCompleted(), expected=Expected.EXISTS)]
    ),
    "an append that expects a new stream": lambda user, ids: user.append(
        [NewEvent(stream_id=ids.task, data=TaskCreated(title="Fly"), expected=Expected.NEW)]
    ),
    "a message with her id": lambda user, ids: user.append(
        [
            NewEvent(
                stream_id=user.conversations.start(key="own").id,
                data=MessagePosted(sender="user", body={"role": "user"}),
                event_id=ids.message,
            )
        ]
    ),
    "an append under a key of hers": lambda user, ids: user.find_append(ids.key),
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


IN_TRANSACTION = {
    f"transaction.{name}": in_transaction(case) for name, case in COMMANDS.items()
} | {
    "transaction.append": in_transaction(
        lambda tx, ids: tx.append(ids.task, TaskCompleted(), expected=Expected.EXISTS)
    )
}
CASES = COMMANDS | QUERIES | VARIANTS | IN_TRANSACTION
UUIDS = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")


def public_names(prefix: str, kind: type) -> set[str]:
    return {f"{prefix}{name}" for name in dir(kind) if not name.startswith("_")}


def test_every_public_method_has_a_case() -> None:
    methods = (
        public_names("", User)
        - {
            "transaction",
            "annotated",
            "keyed",
            "session",
            "within",
        }  # they take no id of alice's data
        | public_names("tasks.", Tasks)
        | public_names("conversations.", Conversations)
        | public_names("messages.", Messages)
        | public_names("tool_calls.", ToolCalls)
        | public_names("turns.", Turns)
    )
    recorders = (
        public_names("transaction.", TransactionCommands) - {"transaction.begin"}  # `with` calls it
        | public_names("transaction.tasks.", TaskCommands)
        | public_names("transaction.conversations.", ConversationCommands)
        | public_names("transaction.messages.", MessageCommands)
        | public_names("transaction.tool_calls.", ToolCallCommands)
    )

    assert set(COMMANDS | QUERIES) == methods
    assert set(IN_TRANSACTION) == recorders


numbers = count(1)


@pytest.fixture
def fresh_alice(shared_store: EventStore) -> User:
    return shared_store.user(f"alice{next(numbers)}")


@pytest.fixture
def fresh_bob(shared_store: EventStore) -> User:
    return shared_store.user(f"bob{next(numbers)}")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Every pipeline to the server, as the statements it was made of; nothing is replaced."""
    seen: list[list[str]] = []

    def listening(connection: Any, statements: Sequence[Statement], unread: int) -> Any:
        seen.append([one.sql for one in statements])
        return run_pipeline(connection, statements, unread)

    monkeypatch.setattr(eventstore.database.driver.sync_driver, "run_pipeline", listening)
    monkeypatch.setattr(eventstore.database.driver.async_driver, "run_pipeline", listening)
    return seen


def create_data(alice: User) -> Ids:
    task = alice.keyed("session-7").tasks.create("Buy milk")
    chat = alice.conversations.start(key="session-7")
    message = alice.messages.post(chat.id, sender="user", content="x")
    call = alice.tool_calls.request(chat.id, name="f", arguments="{}")
    assert call.message_id is not None
    handle = Call(chat.id, call.message_id, call.call_id, call.event_id)
    with alice.turn(chat.id, key="request", items=[{"role": "user", "content": "x"}]) as turn:
        turn.end(usage={"input_tokens": 5})
    return Ids(task.id, chat.id, message.id, "session-7", call.event_id, handle, turn.id)


def absent_ids() -> Ids:
    chat = uuid4()
    handle = Call(chat, uuid4(), f"call_{uuid4().hex}", uuid4())
    return Ids(uuid4(), chat, uuid4(), "session-8", uuid4(), handle, uuid4())


def ask(user: User, case: Case, ids: Ids, sent: list[list[str]]) -> Answer:
    sent.clear()
    error = value = ""
    try:
        value = str(case(user, ids))
    except EventStoreError as caught:
        error = f"{type(caught).__name__}: {caught}"
    return Answer(mask(error, user, ids), mask(value, user, ids), [*sent])


def mask(text: str, user: User, ids: Ids) -> str:
    """Replace what differs between any two users: the ids, the user's name and the time."""
    text = text.replace(ids.key, "KEY").replace(user.user_id, "ME")
    return re.sub(r"datetime\.datetime\([^)]*\)", "TIME", UUIDS.sub("ID", text))


@pytest.mark.parametrize("name", CASES)
def test_bob_cannot_distinguish_an_id_of_alice_from_an_absent_id(
    fresh_alice: User, fresh_bob: User, shared_store: EventStore, sent: list[list[str]], name: str
) -> None:
    hers, none = create_data(fresh_alice), absent_ids()
    before = fresh_alice.events()

    # Both users have an empty log, so that only the ids differ.
    for_hers = ask(fresh_bob, CASES[name], hers, sent)
    for_absent = ask(shared_store.user(f"eve{next(numbers)}"), CASES[name], none, sent)

    assert for_hers == for_absent
    assert for_hers.round_trips
    assert fresh_alice.events() == before
    assert shared_store.verify(fresh_alice.user_id).ok


def test_the_same_key_of_two_users_names_two_conversations(
    fresh_alice: User, fresh_bob: User
) -> None:
    hers = fresh_alice.conversations.start(key="session-7", title="hers")
    his = fresh_bob.conversations.start(key="session-7", title="his")
    fresh_alice.messages.post("session-7", sender="user", content="mine")

    assert hers.id != his.id
    assert fresh_bob.history("session-7") == []
    assert [one.title for one in fresh_bob.conversations.list()] == ["his"]


def test_a_conversation_that_bob_starts_under_an_id_of_alice_is_his_own(
    fresh_alice: User, fresh_bob: User
) -> None:
    hers = create_data(fresh_alice)
    his = fresh_bob.conversations.start(key=str(hers.chat), title="his")
    fresh_bob.messages.post(hers.chat, sender="user", content="to myself")

    assert his.id == hers.chat
    assert [one.content for one in fresh_bob.history(hers.chat)] == ["to myself"]
    assert len(fresh_alice.history(hers.chat)) == 3


def test_erasing_a_conversation_of_another_user_is_not_found_and_erases_nothing(
    shared_store: EventStore, fresh_alice: User, fresh_bob: User, sent: list[list[str]]
) -> None:
    hers, none = create_data(fresh_alice), absent_ids()
    fresh_bob.tasks.create("x")
    before = fresh_alice.events()

    def erase(_: User, ids: Ids) -> object:
        return shared_store.erase(fresh_bob.user_id, ordered_by="bob", conversation=ids.chat)

    for_hers, for_absent = (ask(fresh_alice, erase, ids, sent) for ids in (hers, none))

    assert for_hers == for_absent
    assert for_hers.error.startswith("NotFound")
    assert fresh_alice.events() == before
