"""A command without a key happens once, whether its request, its reply or both come too late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import psycopg
import pytest

from eventstore import Erased, EventStore, QuotaReached, TaskUpdated, User, WrongVersion
from tests.log.conftest import Network


def move_new_task(user: User, task: UUID) -> None:
    with user.transaction() as tx:
        tx.tasks.move(tx.tasks.create("Buy bread").id, before=task)


def run_transaction(user: User, task: UUID) -> UUID:
    with user.transaction() as tx:
        tx.tasks.create("Fly")
        tx.tasks.complete(task)
        message = tx.messages.post("chat", sender="user", content="both")
    assert [one.type for one in tx.recorded] == ["TaskCreated", "TaskCompleted", "MessagePosted"]
    return message.id


type Command = Callable[[User, UUID], Any]

# Each command on a task or the conversation `chat`, and the types of the events that it records.
COMMANDS: dict[str, tuple[Command, list[str]]] = {
    "a new task": (lambda user, _: user.tasks.create("Fly"), ["TaskCreated"]),
    "a new conversation": (lambda user, _: user.conversations.start(), ["ConversationStarted"]),
    "a message": (
        lambda user, _: user.messages.post("chat", sender="user", content="hi"),
        ["MessagePosted"],
    ),
    "a tool call": (
        lambda user, _: user.tool_calls.request("chat", name="f", arguments="{}"),
        ["MessagePosted", "ToolCallRequested"],
    ),
    "a task completed": (lambda user, task: user.tasks.complete(task), ["TaskCompleted"]),
    "a task updated": (lambda user, task: user.tasks.update(task, tags=["x"]), ["TaskUpdated"]),
    "a task moved": (move_new_task, ["TaskCreated", "TaskMoved"]),
    "a task deleted": (lambda user, task: user.tasks.delete(task), ["TaskDeleted"]),
    "a conversation deleted": (
        lambda user, _: user.conversations.delete("chat"),
        ["ConversationDeleted"],
    ),
    "a transaction": (run_transaction, ["TaskCreated", "TaskCompleted", "MessagePosted"]),
}
every_command = pytest.mark.parametrize(("command", "types"), COMMANDS.values(), ids=COMMANDS)


def run_undisturbed(store: EventStore, command: Command) -> tuple[Any, list[str]]:
    """Return what a command answers and what it leaves for a user whose network loses nothing."""
    user = store.user("undisturbed")
    user.conversations.start(key="chat")
    task = user.tasks.create("Buy milk").id
    return shape(command(user, task)), rows_of(user)


def shape(answer: Any) -> Any:
    """Return an answer without what differs from user to user: ids and times."""
    if not hasattr(type(answer), "__dataclass_fields__"):
        return type(answer)
    return {
        name: getattr(answer, name)
        for name in answer.__dataclass_fields__
        if not isinstance(getattr(answer, name), UUID)
        and not name.endswith("_at")
        and name not in {"call_id", "body", "tool_calls", "rank"}
    }


def rows_of(user: User) -> list[str]:
    """Return what the lists of a user show."""
    tasks = [shape(one) for one in user.tasks.list()]
    chats = [shape(one) for one in user.conversations.list()]
    messages = [shape(one) for chat in user.conversations.list() for one in user.history(chat.id)]
    return [str(one) for one in (*tasks, *chats, *messages)]


def retried_ids(admin: psycopg.Connection) -> list[UUID] | None:
    ((ids,),) = admin.execute(
        "select retried from eventstore.user_log where user_id = 'alice'"
    ).fetchall()
    return ids  # type: ignore[no-any-return]  # a column of any type


@pytest.fixture
def task(alice: User, chat: UUID) -> UUID:
    """The id of a task of alice's, who has the conversation `chat` too."""
    return alice.tasks.create("Buy milk").id


@pytest.fixture
def other_alice(database_url: str) -> Iterator[User]:
    """Alice, as another process sees her."""
    with EventStore.connect(database_url) as store:
        yield store.user("alice")


@every_command
def test_a_command_whose_reply_is_lost_is_done_once(
    store: EventStore,
    alice: User,
    task: UUID,
    network: Network,
    command: Command,
    types: list[str],
) -> None:
    expected = run_undisturbed(store, command)
    network.lose_reply()

    answer = command(alice, task)

    # A decision finds its event before it is appended once more.
    assert network.attempts in ([False], [False, True])
    assert [event.type for event in alice.events()[2:]] == types
    assert (shape(answer), rows_of(alice)) == expected
    assert store.verify().ok


@every_command
def test_a_command_whose_request_is_lost_is_done_by_its_retry(
    store: EventStore,
    alice: User,
    task: UUID,
    network: Network,
    command: Command,
    types: list[str],
) -> None:
    expected = run_undisturbed(store, command)
    network.hold_request()

    answer = command(alice, task)

    assert network.attempts == [False, True]
    assert [event.type for event in alice.events()[2:]] == types
    assert (shape(answer), rows_of(alice)) == expected
    assert store.verify().ok


@every_command
def test_a_request_that_arrives_after_its_retry_changes_nothing(
    store: EventStore,
    alice: User,
    task: UUID,
    network: Network,
    command: Command,
    types: list[str],
) -> None:
    network.hold_request()
    command(alice, task)
    before = alice.events()

    network.deliver_late()
    alice.tasks.create("meanwhile")

    after = alice.events()
    assert network.refused is True
    assert after[: len(before)] == before
    assert [event.type for event in after[2:]] == [*types, "TaskCreated"]
    assert store.verify().ok


def test_a_message_that_arrives_after_its_retry_is_not_doubled_by_the_function_for_one_event(
    alice: User, task: UUID, network: Network
) -> None:
    network.hold_request()
    alice.messages.post("chat", sender="user", content="hi")

    network.deliver_late()
    alice.messages.post("chat", sender="user", content="meanwhile")

    assert "append_event(" in network.late.statements[0].sql
    assert network.refused is True
    assert [message.content for message in alice.history("chat")] == ["hi", "meanwhile"]


@every_command
def test_the_answer_to_a_retry_is_that_of_the_first_attempt_whatever_came_in_between(
    store: EventStore,
    alice: User,
    other_alice: User,
    task: UUID,
    network: Network,
    command: Command,
    types: list[str],
) -> None:
    expected, _ = run_undisturbed(store, command)

    def meanwhile() -> None:
        other_alice.tasks.create("meanwhile")
        if types == ["TaskCompleted"]:
            other_alice.tasks.reopen(task)

    network.lose_reply(meanwhile)

    answer = command(alice, task)

    assert shape(answer) == expected
    recorded = [event.type for event in alice.events()[2:]]
    assert recorded[: len(types) + 1] == [*types, "TaskCreated"]
    assert len(recorded) == len(types) + 1 + (types == ["TaskCompleted"])
    assert store.verify().ok


@every_command
def test_a_retry_whose_first_attempt_was_erased_meanwhile_does_not_answer_what_was_erased(
    alice: User,
    database_url: str,
    task: UUID,
    network: Network,
    command: Command,
    types: list[str],
) -> None:
    def erase() -> None:
        with EventStore.connect(database_url) as other:
            other.erase("alice", ordered_by="alice")

    network.lose_reply(erase)

    with pytest.raises(Erased) as error:
        command(alice, task)

    assert error.value.key is None
    assert [event.type for event in alice.events()[2:]] == [*types, "ContentErased"]


def test_a_retry_that_finds_another_version_is_refused_and_nothing_is_noted(
    alice: User, other_alice: User, task: UUID, network: Network, admin: psycopg.Connection
) -> None:
    other_alice.tasks.update(task, title="Buy oat milk")
    network.hold_request()

    with pytest.raises(WrongVersion) as error, alice.transaction() as tx:
        tx.append(task, TaskUpdated(title="Fly"), expected=1)

    assert network.attempts == [False, True]
    assert (error.value.expected, error.value.actual) == (1, 2)
    assert alice.tasks.get(task).title == "Buy oat milk"
    assert retried_ids(admin) is None


def test_appends_after_a_retry_are_numbered_and_hashed_as_before(
    store: EventStore, alice: User, task: UUID, network: Network, admin: psycopg.Connection
) -> None:
    alice.messages.post("chat", sender="user", content="first")
    assert retried_ids(admin) is None
    network.hold_request()
    message = alice.messages.post("chat", sender="user", content="again")
    assert retried_ids(admin) == [message.id]

    alice.messages.post("chat", sender="user", content="one")
    run_transaction(alice, task)
    alice.keyed("key").tasks.create("Walk")

    assert [event.position for event in alice.events()] == list(range(1, 10))
    assert retried_ids(admin) == [message.id]
    assert store.verify().ok


def test_the_first_ids_of_each_append_that_was_retried_are_noted(
    alice: User, task: UUID, network: Network, admin: psycopg.Connection
) -> None:
    network.hold_request()
    with alice.transaction() as tx:
        many = [tx.messages.post("chat", sender="user", content=str(n)).id for n in range(150)]
    network.deliver_late()
    alice.tasks.create("meanwhile")
    assert network.refused is True
    assert retried_ids(admin) == many[:10]

    network.hold_request()
    last = alice.messages.post("chat", sender="user", content="last")

    assert retried_ids(admin) == [last.id, *many[:10]]
    assert len(alice.history("chat", limit=1_000)) == 151


def test_what_was_retried_is_forgotten_after_an_hour_without_an_append(
    alice: User, task: UUID, network: Network, admin: psycopg.Connection
) -> None:
    network.hold_request()
    alice.messages.post("chat", sender="user", content="hi")
    alice.messages.post("chat", sender="user", content="within the hour")
    assert retried_ids(admin) is not None

    admin.execute("alter table eventstore.user_log disable trigger all")
    admin.execute(
        "update eventstore.user_log set recorded_at = recorded_at - interval '61 minutes'"
    )
    alice.messages.post("chat", sender="user", content="an hour later")

    assert admin.execute("select retried from eventstore.user_log").fetchall() == [(None,)]


def test_what_was_retried_is_noted_for_its_user_only(
    alice: User, bob: User, task: UUID, network: Network, admin: psycopg.Connection
) -> None:
    bob.tasks.create("Bob's")
    network.hold_request()
    alice.tasks.create("Fly")

    noted = admin.execute("select user_id from eventstore.user_log where retried is not null")

    assert noted.fetchall() == [("alice",)]


@pytest.mark.parametrize("settled", [True, False])
def test_a_retry_at_the_quota_finds_what_was_written_or_is_refused(
    store: EventStore, alice: User, task: UUID, network: Network, *, settled: bool
) -> None:
    held = store.quota("alice").events
    store.set_quota("alice", held + settled)
    if settled:
        network.lose_reply()
    else:
        network.hold_request()

    with nullcontext() if settled else pytest.raises(QuotaReached):
        alice.tasks.create("Bread")

    assert store.quota("alice").events == held + settled
