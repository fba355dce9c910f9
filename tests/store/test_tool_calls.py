"""A tool call is stored before it runs, and ends once, whatever id a model gave it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from eventstore import (
    EventStore,
    IdempotencyConflict,
    InvalidInput,
    NewEvent,
    NotFound,
    RequestedCall,
    StreamClosed,
    ToolCallFailed,
    ToolCallSucceeded,
    User,
)
from eventstore.events.json_codec import dumps
from eventstore.store.units.transaction import TransactionCommands
from projections.models.tool_call import ToolCallView

# Arguments that are not JSON objects, as models produce them.
ODD = [
    "",
    "{not json",
    "[1, 2]",
    '{"a": 1, "a": 2}',
    '{"n": NaN}',
    "a\0b",
    "\ud800",
    " {} ",
    "null",
]


def call_of(user: User, message: int = -1, index: int = 0) -> ToolCallView:
    """Return a tool call of a message in the history of the conversation `chat`."""
    return user.history("chat")[message].tool_calls[index]


def test_a_call_is_stored_before_it_runs_and_again_when_it_ends(alice: User, chat: UUID) -> None:
    call = alice.tool_calls.request(
        chat, name="look", arguments={"for": "milk"}, call_id="call_1", content="I shall look"
    )
    pending = call_of(alice)
    reply = alice.tool_calls.succeed(call, output={"found": 2})

    request, answer = alice.history(chat)
    ended = request.tool_calls[0]

    assert pending == call
    assert (call.call_id, call.name, call.arguments, call.status) == (
        "call_1",
        "look",
        '{"for":"milk"}',
        "pending",
    )
    assert (request.sender, request.content) == ("assistant", "I shall look")
    assert answer == reply
    assert answer.body == {"role": "tool", "tool_call_id": "call_1", "content": '{"found":2}'}
    assert (ended.status, ended.output, ended.error) == ("succeeded", {"found": 2}, None)
    assert (ended.event_id, ended.finished_at) == (call.event_id, reply.created_at)


def test_a_failed_call_stores_its_error(alice: User, chat: UUID) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    reply = alice.tool_calls.fail(call, error={"code": 500})
    assert reply is not None

    ended = call_of(alice, 0)
    (entry,) = alice.audit()

    assert (ended.status, ended.output, ended.error) == ("failed", None, {"code": 500})
    assert reply.content == '{"code":500}'
    assert (entry.status, entry.output, entry.error) == ("failed", None, {"code": 500})


def test_parallel_calls_of_one_message_end_independently(alice: User, chat: UUID) -> None:
    requests = [RequestedCall(f"call_{n}", "look", f'{{"n": {n}}}') for n in range(4)]
    first, second, third, fourth = alice.messages.post(
        chat, sender="assistant", tool_calls=requests
    ).tool_calls

    alice.tool_calls.succeed(third, output="third")
    alice.tool_calls.fail(first, error="first")
    alice.tool_calls.succeed(second, output="second")

    message, *replies = alice.history(chat)
    assert [(c.index, c.call_id, c.status, c.output or c.error) for c in message.tool_calls] == [
        (0, "call_0", "failed", "first"),
        (1, "call_1", "succeeded", "second"),
        (2, "call_2", "succeeded", "third"),
        (3, "call_3", "pending", None),
    ]
    assert [reply.body["tool_call_id"] for reply in replies] == ["call_2", "call_0", "call_1"]
    assert message.tool_calls[3] == fourth
    assert [message] == alice.history(chat, source="events")[:1]


def test_calls_with_the_same_id_are_distinguished(
    store: EventStore, alice: User, chat: UUID
) -> None:
    same_id_calls = [RequestedCall("call_0", "look", text) for text in ("1", "2")]
    alice.messages.post(chat, sender="assistant", tool_calls=same_id_calls)
    alice.tool_calls.request(chat, name="look", arguments="3", call_id="call_0")
    calls = [call_of(alice, 0, 0), call_of(alice, 0, 1), call_of(alice, 1, 0)]

    # In reverse, so that matching calls and outcomes by their order would be wrong.
    for call in reversed(calls):
        alice.tool_calls.succeed(call, output=f"of {call.arguments}")

    assert [(entry.arguments, entry.output) for entry in alice.audit()] == [
        ("1", "of 1"),
        ("2", "of 2"),
        ("3", "of 3"),
    ]
    assert [(c.arguments, c.output) for m in alice.history(chat) for c in m.tool_calls] == [
        ("1", "of 1"),
        ("2", "of 2"),
        ("3", "of 3"),
    ]
    assert store.verify().ok


def test_find_returns_the_newest_call_with_an_id(alice: User, bob: User, chat: UUID) -> None:
    older = alice.tool_calls.request(chat, name="look", arguments="1", call_id="call_0")
    same_id_calls = [RequestedCall("call_0", "look", text) for text in ("2", "3")]
    posted = alice.messages.post(chat, sender="assistant", tool_calls=same_id_calls)
    other = alice.conversations.start().id
    bob.conversations.start(key="chat")

    newest = alice.tool_calls.find("chat", "call_0")
    alice.tool_calls.succeed(newest, output="found by its id")
    alice.messages.retract(chat, posted.id)

    assert newest == posted.tool_calls[1]
    assert alice.tool_calls.find(chat, "call_0") == older
    for user, where, call_id in ((alice, chat, "call_1"), (alice, other, "call_0")):
        with pytest.raises(NotFound):
            user.tool_calls.find(where, call_id)
    for name in (chat, "chat"):
        with pytest.raises(NotFound):
            bob.tool_calls.find(name, "call_0")


def test_a_call_ends_once(store: EventStore, alice: User, chat: UUID) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    first = alice.tool_calls.succeed(call, output={"found": 1})
    before = alice.events()

    again = alice.tool_calls.succeed(call, output={"found": 1})
    for another in ({"found": 2}, '{"found": 1}', None):
        with pytest.raises(IdempotencyConflict):
            alice.tool_calls.succeed(call, output=another)
    with pytest.raises(IdempotencyConflict):
        alice.tool_calls.fail(call, error={"found": 1})

    assert again == first
    assert alice.events() == before
    assert call_of(alice, 0).output == {"found": 1}
    assert store.verify().ok


def succeed_beside_a_task(user: User, call: ToolCallView) -> None:
    with user.transaction() as tx:
        tx.tasks.create("never")
        tx.tool_calls.succeed(call, output="found")


def succeed_two(user: User, call: ToolCallView) -> None:
    other = user.tool_calls.request(call.conversation_id, name="look", arguments="{}")
    with user.transaction() as tx:
        tx.tool_calls.succeed(other, output="first")
        tx.tool_calls.succeed(call, output="found")


@pytest.mark.parametrize("in_history", [True, False])
@pytest.mark.parametrize(
    "first",
    [
        succeed_beside_a_task,
        succeed_two,
        lambda user, call: user.keyed("first").tool_calls.succeed(call, output="found"),
    ],
    ids=["beside a task", "beside another outcome", "under a key"],
)
def test_an_outcome_again_is_the_first_one_whatever_append_recorded_that(
    store: EventStore,
    alice: User,
    chat: UUID,
    first: Callable[[User, ToolCallView], object],
    *,
    in_history: bool,
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}", in_history=in_history)
    first(alice, call)
    before = alice.events()
    ended = alice.tool_calls.get(call.id).finished_position

    for user in (alice, alice.keyed("second")):
        again = user.tool_calls.succeed(call, output="found")
        assert (again.position if again else None) == (ended if in_history else None)
        refused = f"the tool call {call.id} ended at position {ended}"
        with pytest.raises(IdempotencyConflict, match=refused):
            user.tool_calls.succeed(call, output="another")
        with pytest.raises(IdempotencyConflict, match=refused):
            user.tool_calls.fail(call, error="found")
        with pytest.raises(IdempotencyConflict, match=refused):
            succeed_beside_a_task(user, call)
        if in_history:
            with pytest.raises(IdempotencyConflict, match=refused):
                user.tool_calls.succeed(call, output="found", content="shown otherwise")

    assert alice.events() == before
    assert store.verify().ok


def test_an_outcome_of_a_call_that_an_item_answered_is_the_items_or_refused(
    store: EventStore, alice: User, chat: UUID
) -> None:
    call, hidden = (
        alice.tool_calls.request(chat, name="look", arguments="{}", in_history=shown)
        for shown in (True, False)
    )
    items = [
        {"role": "tool", "tool_call_id": one.call_id, "content": "found"} for one in (call, hidden)
    ]
    answer, _ = alice.messages.extend(chat, items)
    before = alice.events()

    assert alice.tool_calls.succeed(call, output="found") == answer
    assert alice.tool_calls.succeed(hidden, output="found") is None
    for one in (call, hidden):
        for user in (alice, alice.keyed(f"late {one.id}")):
            with pytest.raises(IdempotencyConflict, match=f"the tool call {one.id} ended at"):
                user.tool_calls.succeed(one, output="another")
            with pytest.raises(IdempotencyConflict):
                user.tool_calls.fail(one, error="found")
        with pytest.raises(IdempotencyConflict):
            alice.tool_calls.abandon(one)
        with pytest.raises(IdempotencyConflict):
            succeed_beside_a_task(alice, one)

    assert alice.events() == before
    assert alice.tasks.list() == []
    assert store.verify().ok


def test_an_outcome_of_a_call_that_came_with_its_answer_has_no_message(
    alice: User, chat: UUID
) -> None:
    item = {"type": "mcp_call", "id": "mcp_1", "name": "look", "arguments": "{}", "output": "found"}
    ((call,),) = [one.tool_calls for one in alice.messages.extend(chat, [item])]

    assert alice.tool_calls.succeed(call, output="found") is None
    with pytest.raises(IdempotencyConflict):
        alice.tool_calls.succeed(call, output="another")
    assert [one.body for one in alice.history(chat)] == [item]


def test_an_item_and_an_outcome_in_one_append_do_not_both_end_a_call(
    alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    answer = {"role": "tool", "tool_call_id": call.call_id, "content": "found"}

    def answer_and_succeed() -> None:
        with alice.transaction() as tx:
            tx.messages.extend(chat, [answer])
            tx.tool_calls.succeed(call, output="another")

    with pytest.raises(InvalidInput, match="is ended, or taken away, by what comes before it"):
        answer_and_succeed()

    assert call_of(alice, 0) == call
    with alice.transaction() as tx:
        tx.tool_calls.succeed(call, output="first", content="first")
        tx.messages.extend(chat, [answer])
    assert call_of(alice, 0).output == "first"


def test_an_outcome_whose_message_has_no_place_is_refused(
    store: EventStore, alice: User, chat: UUID
) -> None:
    """A tool's message without the one that asks for its call is an orphan."""
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    assert call.message_id is not None
    alice.messages.retract(chat, call.message_id)
    before = alice.events()

    for end in (alice.tool_calls.succeed, alice.keyed("k").tool_calls.succeed):
        with pytest.raises(NotFound, match=f"message {call.message_id} not found"):
            end(call, output="late")
    with pytest.raises(NotFound):
        alice.tool_calls.fail(call, error="late")

    assert alice.history(chat) == []
    assert alice.events() == before
    alice.tool_calls.abandon(call, reason="its message was taken back")
    assert alice.tool_calls.get(call.id).status == "abandoned"
    assert store.verify().ok


@pytest.mark.parametrize("away", ["retract", "clear"])
def test_in_one_append_a_call_may_end_and_then_be_taken_away(
    store: EventStore, alice: User, chat: UUID, away: str
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")

    def take_away(tx: TransactionCommands) -> None:
        if away == "clear":
            tx.messages.clear(chat)
        else:
            tx.messages.retract(chat, str(call.message_id))

    def take_away_and_succeed() -> None:
        with alice.transaction() as tx:
            take_away(tx)
            tx.tool_calls.succeed(call, output="found")

    with pytest.raises(InvalidInput, match="taken away, by what comes before it"):
        take_away_and_succeed()
    with alice.transaction() as tx:
        tx.tool_calls.succeed(call, output="found")
        take_away(tx)

    assert alice.tool_calls.get(call.id).output == "found"
    assert alice.history(chat, source="events") == alice.history(chat)
    assert store.verify().ok


def test_an_outcome_again_does_not_return_an_answer_that_was_taken_away(
    alice: User, chat: UUID
) -> None:
    calls = [alice.tool_calls.request(chat, name="look", arguments="{}") for _ in range(2)]
    item = {"role": "tool", "tool_call_id": calls[1].call_id, "content": "found"}
    answers = [
        alice.tool_calls.succeed(calls[0], output="found"),
        *alice.messages.extend(chat, [item]),
    ]
    for answer in answers:
        assert answer is not None
        alice.messages.retract(chat, answer.id)

    for call in calls:
        with pytest.raises(NotFound, match=f"answer to the tool call {call.id} not found"):
            alice.tool_calls.succeed(call, output="found")
        # What the model is to be given instead is a message like any other.
        alice.messages.extend(chat, [{**item, "tool_call_id": call.call_id, "content": "again"}])

    assert [one.content for one in alice.history(chat)] == [None, None, "again", "again"]
    assert [one["content"] for one in alice.model_input(chat)] == [None, "again", None, "again"]


def test_a_call_that_does_not_exist_has_no_outcome(alice: User, bob: User, chat: UUID) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    bobs = bob.conversations.start().id
    moved = replace(call, conversation_id=bobs)
    before = bob.events()

    for end in (bob.tool_calls.abandon, lambda one: bob.tool_calls.succeed(one, output="his")):
        with pytest.raises(NotFound, match=f"tool call {call.id} not found"):
            end(moved)
    assert bob.events() == before
    with pytest.raises(NotFound, match=f"tool call {call.id} not found"):
        alice.tool_calls.abandon(replace(call, conversation_id=alice.conversations.start().id))


def outcome_event(call: ToolCallView, kind: str, result: str, chat: UUID | None = None) -> NewEvent:
    """Return an outcome as somebody appends it who does not use the commands."""
    about = {"call_id": call.call_id, "request_event_id": call.id}
    reply = {"role": "tool", "tool_call_id": call.call_id, "content": result}
    return NewEvent(
        stream_id=chat or call.conversation_id,
        data=ToolCallSucceeded(**about, reply=reply)
        if kind == "succeeded"
        else ToolCallFailed(**about, reply=reply, error=result),
    )


@pytest.mark.parametrize("one_append", [False, True])
@pytest.mark.parametrize("first", ["succeeded", "failed"])
def test_the_first_outcome_counts_whoever_appends_the_second(
    store: EventStore, alice: User, chat: UUID, first: str, *, one_append: bool
) -> None:
    """What comes later stays in the log, and its message in the conversation."""
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    other = alice.tool_calls.request(chat, name="look", arguments="{}")
    kinds = [first, "succeeded", "failed"]
    outcomes = [outcome_event(call, kind, f"{n}") for n, kind in enumerate(kinds)]
    for appended in [outcomes] if one_append else [[one] for one in outcomes]:
        recorded = alice.append(appended)

    for source in ("projection", "events"):
        request, _, *replies = alice.history(chat, source=source)
        (ended,) = request.tool_calls
        assert (ended.status, ended.output or ended.error) == (first, "0")
        assert [reply.content for reply in replies] == ["0", "1", "2"]
    assert [one.status for one in alice.audit()] == [first, "pending"]
    assert ended.finished_at is not None
    assert ended.finished_position == recorded[0].position - (0 if one_append else 2)
    assert call_of(alice, 1) == other
    assert store.verify().ok
    assert store.rebuild(check=True).changed == 0


def test_an_outcome_in_another_conversation_does_not_end_a_call(
    store: EventStore, alice: User, bob: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    other = alice.conversations.start().id
    bobs = bob.conversations.start().id

    alice.append([outcome_event(call, "succeeded", "elsewhere", other)])
    bob.append([outcome_event(call, "succeeded", "not his", bobs)])

    assert call_of(alice) == call
    assert [message.tool_calls for message in alice.history(chat, source="events")] == [(call,)]
    assert [one.status for one in alice.audit()] == ["pending"]
    assert [message.content for message in alice.history(other)] == ["elsewhere"]
    assert store.verify().ok
    alice.tool_calls.succeed(call, output="here")
    assert call_of(alice, 0).output == "here"


def test_of_many_simultaneous_outcomes_exactly_one_is_recorded(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        alice.conversations.start(key="chat")
        call = alice.tool_calls.request("chat", name="look", arguments="{}")
        together = Barrier(8, timeout=30)

        def end(number: int) -> str | None:
            together.wait()
            try:
                reply = alice.tool_calls.succeed(call, output=str(number))
                return None if reply is None else str(reply.content)
            except IdempotencyConflict:
                return None

        with ThreadPoolExecutor(8) as threads:
            won = [content for content in threads.map(end, range(8)) if content is not None]

        assert won == [call_of(alice, 0).output]
        assert len(alice.history("chat")) == 2
        assert store.verify().ok


def test_a_call_needs_an_open_conversation_of_its_user(alice: User, bob: User, chat: UUID) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")

    with pytest.raises(NotFound):
        bob.tool_calls.request(chat, name="look", arguments="{}")
    with pytest.raises(NotFound):
        bob.tool_calls.succeed(call, output="not his")
    alice.conversations.delete(chat)
    with pytest.raises(StreamClosed):
        alice.tool_calls.request(chat, name="look", arguments="{}")
    with pytest.raises(StreamClosed):
        alice.tool_calls.succeed(call, output="too late")

    assert [(one.call_id, one.status) for one in alice.audit()] == [(call.call_id, "pending")]


def test_arguments_and_outputs_are_returned_verbatim(
    store: EventStore, alice: User, chat: UUID
) -> None:
    outputs: list[Any] = [*ODD, None, True, 10**30, 1.5, [], {"b": {"\0": "\ud800"}, "a": [None]}]

    for number, output in enumerate(outputs):
        call = alice.tool_calls.request(chat, name="look", arguments=ODD[number % len(ODD)])
        alice.tool_calls.succeed(call, output=output)

    calls = [call for message in alice.history(chat) for call in message.tool_calls]
    again = [call for m in alice.history(chat, source="events") for call in m.tool_calls]
    assert [call.arguments for call in calls] == (ODD * 2)[: len(outputs)]
    assert [call.output for call in calls] == outputs
    assert list(calls[-1].output) == ["b", "a"]
    assert calls == again
    assert [(e.arguments, e.output) for e in alice.audit()] == [
        (call.arguments, call.output) for call in calls
    ]
    assert store.verify().ok


class Shopping(BaseModel):
    title: str
    due: date


@dataclass
class Counted:
    number: int


@pytest.mark.parametrize(
    ("output", "stored"),
    [
        (Shopping(title="Milch für Jürgen", due=date(2026, 1, 2)), '"due":"2026-01-02"'),
        (Counted(3), '{"number":3}'),
        ({3}, "[3]"),
        ({1: timedelta(seconds=5)}, '{"1":"PT5S"}'),
        (b"\xff\x00", '"_wA="'),
        (float("nan"), '"nan"'),
        (datetime(2026, 1, 2, 3, 4), '"2026-01-02T03:04:00"'),  # noqa: DTZ001 - tools return such
        (object, '"repr":"<class \'object\'>"'),
    ],
    ids=["model", "dataclass", "set", "integer keys", "bytes", "NaN", "no zone", "a class"],
)
def test_the_outcome_of_a_tool_that_has_run_is_stored_whatever_it_is(
    alice: User, chat: UUID, output: object, stored: str
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")

    alice.tool_calls.succeed(call, output=output)

    (entry,) = alice.audit()
    assert entry.status == "succeeded"
    assert stored in dumps(entry.output)


def test_a_call_of_a_deleted_conversation_is_not_found(alice: User) -> None:
    chat = alice.conversations.start(key="c1")
    call = alice.tool_calls.request(chat.id, name="f", arguments="{}", call_id="call_1")
    assert alice.tool_calls.find("c1", "call_1") == call

    alice.conversations.delete("c1")

    with pytest.raises(NotFound, match="tool call call_1 not found"):
        alice.tool_calls.find("c1", "call_1")


@pytest.mark.parametrize("other", [Decimal("1.10"), 2**70, "cut: \ud83e"], ids=ascii)
def test_what_a_tool_got_and_said_is_text_that_a_person_reads(
    alice: User, chat: UUID, other: object
) -> None:
    said = {"title": "Milch für Jürgen", "other": other}

    call = alice.tool_calls.request(chat, name="look", arguments=said)
    answer = alice.tool_calls.succeed(call, output=said)

    assert call.arguments.startswith('{"title":"Milch für Jürgen","other":')
    assert answer is not None
    assert str(answer.content).startswith('{"title":"Milch für Jürgen","other":')
    ended = call_of(alice, 0)
    assert (ended.status, ended.output) == ("succeeded", said)
