"""A turn happens once, has its conversation to itself, and goes on where its process died."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest

from eventstore import (
    ActiveTurn,
    ConversationBusy,
    EventStore,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    Settings,
    TurnTakenOver,
    User,
)
from projections.models.tool_call import ToolCallView
from tests.support.proxy import Proxy, url_through

ASK = {"role": "user", "content": "Buy milk"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    ],
}
DONE = {"role": "assistant", "content": "Done"}


def run_turn(
    user: User,
    key: str = "request 1",
    *,
    ran: Callable[[], object] = lambda: "ok",
    **how: Any,
) -> str | None:
    """Answer one request as an agent does: one call, then the answer."""
    with user.turn("chat", key=key, items=[ASK], **how) as turn:
        while not turn.ended:
            for call in turn.pending_calls:
                turn.succeed(call, output=ran())
            if len(turn.own_messages) == 1:
                turn.extend([CALL])
            else:
                turn.end([DONE], model="gpt", usage={"prompt_tokens": 7, "completion_tokens": 2})
    answer = turn.answer
    return None if answer is None else str(answer.content)


@pytest.mark.usefixtures("chat")
def test_a_turn_records_its_messages_calls_and_cost(store: EventStore, alice: User) -> None:
    assert run_turn(alice) == "Done"

    messages = alice.history("chat")
    assert [one.sender for one in messages] == ["user", "assistant", "tool", "assistant"]
    (turn,) = alice.turns.list("chat")
    assert {one.correlation_id for one in messages} == {turn.id}
    assert messages[1].tool_calls[0].correlation_id == turn.id
    assert (turn.status, turn.model, turn.input_tokens, turn.output_tokens, turn.attempt) == (
        "completed",
        "gpt",
        7,
        2,
        1,
    )
    assert turn.usage == {"prompt_tokens": 7, "completion_tokens": 2}
    assert alice.turns.get(turn.id) == turn
    assert alice.history("chat", source="events") == messages
    assert store.verify().ok


@pytest.mark.usefixtures("chat")
def test_a_turn_knows_its_conversation_as_the_store_does(alice: User) -> None:
    alice.messages.post("chat", sender="user", content="before")
    with alice.turn("chat", key="1", items=[ASK]) as turn:
        turn.extend([CALL, {**CALL, "content": "and another"}])
        first, second = turn.pending_calls
        turn.fail(first, error="no")
        turn.extend([{"role": "tool", "tool_call_id": "call_1", "content": "yes"}])

        assert turn.messages == alice.history("chat")
        assert turn.pending_calls == []
        assert turn.own_messages[0].content == "Buy milk"
    assert second.status == "pending"
    assert alice.turns.list("chat")[0].status == "completed"


@pytest.mark.usefixtures("chat")
def test_the_key_of_a_completed_turn_gives_its_answer_whoever_asks_and_whenever(
    store: EventStore, alice: User
) -> None:
    runs: list[int] = []
    run_turn(alice, ran=lambda: runs.append(1))
    for number in range(3):
        run_turn(alice, f"later {number}")
    events = len(alice.events())

    assert run_turn(alice, ran=lambda: runs.append(1)) == "Done"
    assert run_turn(alice, history_limit=1) == "Done"

    assert runs == [1]
    assert len(alice.events()) == events
    assert store.verify().ok


@pytest.mark.usefixtures("chat")
def test_a_key_that_is_sent_with_another_request_is_refused(alice: User) -> None:
    alice.messages.post("chat", sender="user", content="before")
    run_turn(alice)

    with (
        pytest.raises(IdempotencyConflict),
        alice.turn("chat", key="request 1", items=[DONE]),
    ):
        pass


@pytest.mark.usefixtures("chat")
def test_a_turn_has_its_conversation_to_itself(alice: User, bob: User) -> None:
    bob.conversations.start(key="chat")
    other = alice.conversations.start(key="other").id
    with alice.turn("chat", key="1") as turn:
        for key in ("1", "2"):
            with (
                pytest.raises(ConversationBusy) as busy,
                alice.turn("chat", key=key, wait_seconds=0.1),
            ):
                pass
            assert busy.value.turn_id == turn.id
        with alice.turn(other, key="1"), bob.turn("chat", key="1"):
            pass


def test_a_conversation_that_is_absent_or_anothers_starts_no_turn(alice: User, bob: User) -> None:
    chat = alice.conversations.start(key="chat").id

    for name in ("chat", chat):
        with pytest.raises(NotFound, match=str(name)), bob.turn(name, key="1"):
            pass
    assert bob.events() == []


@pytest.mark.usefixtures("chat")
def test_a_turn_whose_process_died_is_continued_by_its_key_after_the_lease(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    dead = alice.turn("chat", key="request 1", items=[ASK])
    turn = dead.__enter__()
    turn.extend([CALL])
    turn.succeed(turn.pending_calls[0], output="ran once")
    end_lease(admin)

    def never() -> object:
        raise AssertionError

    assert run_turn(alice, ran=never) == "Done"

    (known,) = alice.turns.list("chat")
    assert (known.attempt, known.status) == (2, "completed")
    assert [one.content for one in alice.history("chat")] == ["Buy milk", None, "ran once", "Done"]
    with pytest.raises(TurnTakenOver):
        turn.extend([DONE])
    assert store.verify().ok


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("elsewhere", ["item", "key"])
def test_an_outcome_that_was_recorded_outside_of_the_turn_is_the_turns(
    alice: User, elsewhere: str
) -> None:
    with alice.turn("chat", key="request 1", items=[ASK]) as turn:
        turn.extend([CALL])
        (call,) = turn.pending_calls
        if elsewhere == "item":
            answer = {"role": "tool", "tool_call_id": call.call_id, "content": "ok"}
            alice.messages.extend("chat", [answer])
        else:
            alice.keyed("k").tool_calls.succeed(call, output="ok")
        first = alice.history("chat")[-1]

        assert turn.succeed(call, output="ok") == first
        with pytest.raises(IdempotencyConflict, match=f"the tool call {call.id} ended"):
            turn.fail(call, error="ok")
        assert list(turn.pending_calls) == []


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("output", ["ok", "another"])
def test_an_outcome_of_a_turn_that_was_taken_over_is_not_its_own(
    alice: User, admin: psycopg.Connection, output: str
) -> None:
    slow = alice.turn("chat", key="request 1", items=[ASK]).__enter__()
    slow.extend([CALL])
    (call,) = slow.pending_calls
    end_lease(admin)
    with alice.turn("chat", key="request 1", items=[ASK]) as turn:
        answer = {"role": "tool", "tool_call_id": call.call_id, "content": "ok"}
        turn.extend([answer])

        with pytest.raises(TurnTakenOver):
            slow.succeed(call, output=output)


@pytest.mark.usefixtures("chat")
def test_a_dead_turn_gives_way_to_another_request_and_can_be_continued_then(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    dead = alice.turn("chat", key="request 1", items=[ASK])
    dead.__enter__()
    end_lease(admin)

    assert run_turn(alice, "request 2") == "Done"
    assert [one.status for one in alice.turns.list("chat")] == ["completed", "abandoned"]
    assert run_turn(alice, "request 1") == "Done"

    assert [one.status for one in alice.turns.list("chat")] == ["completed", "completed"]
    assert store.rebuild().changed == 0
    assert store.verify().ok


@pytest.mark.usefixtures("chat")
def test_an_exception_fails_the_turn_and_its_key_continues_it_at_once(
    store: EventStore, alice: User
) -> None:
    def broken() -> object:
        raise ValueError("no such list")

    with pytest.raises(ValueError, match="no such list"):
        run_turn(alice, ran=broken)
    (failed,) = alice.turns.list("chat")
    assert (failed.status, failed.error) == ("failed", "ValueError: no such list")

    assert run_turn(alice) == "Done"
    (known,) = alice.turns.list("chat")
    assert (known.status, known.attempt, known.error) == ("completed", 2, None)
    assert store.verify().ok


@pytest.mark.usefixtures("chat")
def test_a_turn_goes_on_when_others_write_to_its_conversation(
    store: EventStore, alice: User
) -> None:
    with alice.turn("chat", key="1", items=[ASK]) as turn:
        alice.conversations.rename("chat", "Groceries")
        turn.extend([CALL])
        late = alice.tool_calls.find("chat", "call_1")
        alice.tool_calls.succeed(late, output="from elsewhere")
        with turn.transaction() as tx:
            task = tx.tasks.create("Buy milk", caused_by=turn)

        turn.end([DONE])

    assert [one.content for one in turn.messages] == ["Buy milk", None, "from elsewhere", "Done"]
    created = alice.events(stream_id=task.id)[0]
    assert (created.correlation_id, created.causation_id) == (turn.id, turn.id)
    assert store.verify().ok


@pytest.mark.usefixtures("chat")
def test_a_renewed_lease_lasts(alice: User, admin: psycopg.Connection) -> None:
    with alice.turn("chat", key="1") as turn:
        end_lease(admin)
        turn.renew(lease_seconds=600)

        with (
            pytest.raises(ConversationBusy),
            alice.turn("chat", key="2", wait_seconds=0),
        ):
            pass
        assert turn.attempt == 1


def end_lease(admin: psycopg.Connection) -> None:
    """Let the time of every lease pass, as far as the table knows."""
    admin.execute("update eventstore.turn set leased_at = leased_at - interval '1 day'")


def test_requests_at_once_on_one_conversation_get_each_their_own_answer(database_url: str) -> None:
    settings = Settings(database_url=database_url, pool_max_size=10)
    together = Barrier(8, timeout=60)
    with EventStore.connect(settings=settings) as store:
        alice = store.user("alice")
        alice.conversations.start(key="chat")

        def ask(number: int) -> str:
            text = f"request {number // 2}"  # each is sent twice
            together.wait()
            with alice.turn(
                "chat", key=text, items=[{"role": "user", "content": text}], wait_seconds=60
            ) as turn:
                if not turn.ended:
                    turn.end([{"role": "assistant", "content": f"answer to {text}"}])
            assert turn.answer is not None
            return str(turn.answer.content)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))

        assert answers == [f"answer to request {number // 2}" for number in range(8)]
        senders = [one.sender for one in alice.history("chat")]
        assert senders == ["user", "assistant"] * 4
        assert store.verify().ok


@pytest.mark.usefixtures("chat")
def test_usage_is_summed_by_day_conversation_and_model(alice: User) -> None:
    other = alice.conversations.start(key="other").id
    run_turn(alice, "1")
    run_turn(alice, "2")
    with alice.turn(other, key="1") as turn:
        turn.end(model="claude", usage={"input_tokens": 100, "output_tokens": 1})

    (total,) = alice.turns.usage()
    assert (total.of, total.turns, total.input_tokens, total.output_tokens) == (None, 3, 114, 5)
    by_model = {one.of: one.input_tokens for one in alice.turns.usage(by="model")}
    assert by_model == {"gpt": 14, "claude": 100}
    by_chat = {one.of: one.turns for one in alice.turns.usage(by="conversation")}
    assert by_chat[other] == 1
    (day,) = alice.turns.usage(by="day", zone="Europe/Berlin")
    started_at = alice.turns.list("chat")[0].started_at.astimezone(ZoneInfo("Europe/Berlin"))
    assert (day.of, day.turns) == (started_at.date(), 3)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert alice.turns.usage(since=tomorrow)[0:] in ([], [type(total)(None, 0, 0, 0)])
    for wrong in ({"zone": "Mars/Olympus"}, {"by": "week"}, {"since": datetime(2026, 1, 1)}):  # noqa: DTZ001 - wrong
        with pytest.raises(InvalidInput):
            alice.turns.usage(**wrong)


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    "wrong", [{"key": ""}, {"key": "1", "lease_seconds": 0}, {"key": "1", "history_limit": -1}]
)
def test_a_turn_with_a_wrong_parameter_is_refused(alice: User, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput), alice.turn("chat", **wrong):
        pass


@contextmanager
def far_store(database_url: str, proxy: Proxy) -> Iterator[EventStore]:
    """A store behind a proxy, on one connection, in which alice has a conversation."""
    settings = Settings(database_url=url_through(proxy, database_url), pool_max_size=1)
    with EventStore.connect(settings=settings) as store:
        store.user("alice").conversations.start(key="chat")
        yield store


def lose_one_reply(proxy: Proxy, seen: list[bytes]) -> None:
    """Have the next reply lost; all that follow are seen too."""

    def lose(data: bytes) -> bool:
        seen.append(data)
        return len(seen) == 1

    proxy.lose_reply = lose


def test_a_turn_with_one_tool_call_takes_four_round_trips(database_url: str, proxy: Proxy) -> None:
    with far_store(database_url, proxy) as store:
        alice = store.user("alice")
        for number in range(7):
            run_turn(alice, f"warm {number}")
        proxy.count()

        assert run_turn(alice, "counted") == "Done"

        assert proxy.count() <= 4


def test_a_lost_reply_to_the_start_does_not_lock_a_turn_out_of_itself(
    database_url: str, proxy: Proxy
) -> None:
    with far_store(database_url, proxy) as store:
        alice = store.user("alice")
        block = alice.turn("chat", key="1", items=[ASK], wait_seconds=0.5)
        lose_one_reply(proxy, [])
        with block as turn:
            turn.end([DONE])

        assert [one.content for one in alice.history("chat")] == ["Buy milk", "Done"]
        assert alice.turns.list("chat")[0].attempt == 1


@pytest.mark.parametrize("at", ["the call", "the outcome", "the end"])
def test_a_lost_reply_within_a_turn_neither_doubles_nor_loses_what_it_records(
    database_url: str, proxy: Proxy, at: str
) -> None:
    with far_store(database_url, proxy) as store:
        alice = store.user("alice")

        lost: list[bytes] = []

        def losing(step: str) -> None:
            if step == at:
                lose_one_reply(proxy, lost)

        with alice.turn("chat", key="1", items=[ASK]) as turn:
            losing("the call")
            turn.extend([CALL])
            (call,) = turn.pending_calls
            losing("the outcome")
            turn.succeed(call, output="ok")
            assert turn.pending_calls == []
            losing("the end")
            turn.end([DONE], usage={"input_tokens": 1, "output_tokens": 2})

        assert lost
        said = [one.body["role"] for one in alice.history("chat")]
        assert said == ["user", "assistant", "tool", "assistant"]
        assert [one.status for one in alice.tool_calls.list(status=None)] == ["succeeded"]
        (recorded,) = alice.turns.list("chat")
        assert (recorded.status, recorded.attempt, recorded.output_tokens) == ("completed", 1, 2)
        assert store.verify().ok


def test_a_turn_writes_nothing_into_a_conversation_that_began_anew(
    store: EventStore, alice: User
) -> None:
    alice.conversations.start(key="anew")
    with alice.turn("anew", key="completed", items=[ASK]) as turn:
        turn.end([DONE])
    # Left by an exception, as a process is that died or lost its turn.
    with suppress(TurnTakenOver), alice.turn("anew", key="dead", items=[ASK]) as turn:
        turn.extend([CALL])
        (call,) = turn.pending_calls
        alice.conversations.delete("anew")
        alice.conversations.start(key="anew")
        for write in (
            lambda: turn.extend([DONE]),
            lambda: turn.succeed(call, output="ok"),
            lambda: turn.end([DONE]),
        ):
            with pytest.raises(TurnTakenOver):
                write()

        assert alice.history("anew") == []
        with alice.turn("anew", key="new", items=[ASK], wait_seconds=0) as fresh:
            assert [one.content for one in fresh.messages] == ["Buy milk"]
            fresh.end([DONE])
        turn.extend([DONE])

    with alice.turn("anew", key="completed", items=[ASK]) as again:
        assert (again.ended, again.answer) == (True, None)
    with pytest.raises(TurnTakenOver), alice.turn("anew", key="dead", items=[ASK]):
        pass
    assert [one.content for one in alice.history("anew")] == ["Buy milk", "Done"]
    assert store.verify().ok


def test_a_turn_gives_the_model_what_its_api_accepts(alice: User, chat: UUID) -> None:
    with alice.turn("chat", key="request 1", items=[ASK]) as turn:
        turn.extend([CALL, {**ASK, "content": "and hurry"}])
        assert len(turn.model_input()) == 2
        assert len(turn.model_input(pending="answer")) == 4
        (call,) = turn.pending_calls
        turn.succeed(call, output="ok")

        roles = [item["role"] for item in turn.model_input()]

        assert roles == ["user", "assistant", "tool", "user"]
        assert turn.model_input() == alice.model_input(chat)
        blocks = turn.model_input(format="anthropic")
        assert blocks == alice.model_input(chat, format="anthropic")
        with pytest.raises(InvalidInput):
            turn.model_input(format="other")  # type: ignore[arg-type]  # on purpose


type Late = Callable[[Any, Any], object]

LATE: dict[str, Late] = {
    "an item": lambda turn, _: turn.extend([DONE]),
    "the end": lambda turn, _: turn.end([DONE]),
    "a lease": lambda turn, _: turn.renew(),
    "an outcome": lambda turn, call: turn.succeed(call, output="ok"),
    "a task": lambda turn, _: in_transaction(turn, lambda tx: tx.tasks.create("Milk")),
    "a retraction": lambda turn, _: in_transaction(
        turn, lambda tx: tx.messages.retract("chat", turn.own_messages[0].id)
    ),
}


def in_transaction(turn: Any, command: Callable[[Any], object]) -> None:
    with turn.transaction() as tx:
        command(tx)


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize("end", ["continued", "abandoned", "completed"])
@pytest.mark.parametrize("write", LATE.values(), ids=LATE)
def test_a_process_that_was_only_slow_writes_nothing_into_a_turn_that_it_lost(
    store: EventStore, alice: User, admin: psycopg.Connection, end: str, write: Late
) -> None:
    slow = alice.turn("chat", key="1", items=[ASK]).__enter__()
    slow.extend([CALL])
    (call,) = slow.pending_calls
    end_lease(admin)
    key = "2" if end == "abandoned" else "1"
    with alice.turn("chat", key=key, items=[ASK]) as turn:
        if end != "abandoned":
            turn.succeed(turn.pending_calls[0], output="ok")
        if end == "completed":
            turn.end([DONE])
        before = alice.events()

        for _ in range(2):  # the second time it knows
            with pytest.raises(TurnTakenOver):
                write(slow, call)
        block = alice.turn("chat", key="3", wait_seconds=0)
        with (
            pytest.raises(ConversationBusy) if end != "completed" else pytest.raises(KeyError),
            block,
        ):
            raise KeyError

        assert [one for one in alice.events() if one.correlation_id == slow.id] == [
            one for one in before if one.correlation_id == slow.id
        ]
        if end != "completed":
            turn.end([DONE])
    store.rebuild()  # the test itself moved the time of a lease
    assert store.verify().ok


@pytest.mark.usefixtures("chat")
def test_another_request_under_a_used_key_is_refused_wherever_the_turn_stands(alice: User) -> None:
    run_turn(alice)

    for other in ([DONE], [ASK, ASK], []):
        with pytest.raises(IdempotencyConflict), alice.turn("chat", key="request 1", items=other):
            pass


@pytest.mark.usefixtures("chat")
def test_an_edit_of_the_question_costs_neither_the_answer_nor_the_retry(alice: User) -> None:
    with alice.turn("chat", key="request 1", items=[ASK]) as turn:
        alice.messages.edit("chat", turn.own_messages[0].id, content="Buy oat milk")
        turn.extend([CALL])
        alice.tool_calls.abandon(turn.pending_calls[0])
        turn.end([DONE])

    assert run_turn(alice) == "Done"


@pytest.mark.usefixtures("chat")
def test_a_turn_sees_what_its_transactions_and_others_did(alice: User) -> None:
    with alice.turn("chat", key="1", items=[ASK], history_limit=4) as turn:
        alice.messages.post("chat", sender="system", content="foreign")
        with turn.transaction() as tx:
            tx.messages.retract("chat", turn.own_messages[0].id)
        assert [one.content for one in turn.messages] == ["foreign"]

        turn.extend([CALL, {**CALL, "content": "again"}])
        with turn.transaction() as tx:
            tx.conversations.rewind("chat", to=turn.messages[0])
        assert (turn.pending_calls, len(turn.messages)) == ([], 1)

        alone = alice.annotated(correlation_id=turn.id).tool_calls.request(
            "chat", name="f", arguments="{}", in_history=False
        )
        turn.extend([{"role": "assistant", "content": str(number)} for number in range(6)])
        assert [one.id for one in turn.pending_calls] == [alone.id]
        assert len(turn.own_messages) == 6
        turn.succeed(alone, output=1)


@pytest.mark.usefixtures("chat")
def test_a_turn_that_is_continued_long_after_knows_its_own_messages(alice: User) -> None:
    def fail_after_a_call() -> None:
        with alice.turn("chat", key="1", items=[ASK]) as turn:
            turn.extend([CALL])
            raise KeyError

    with pytest.raises(KeyError):
        fail_after_a_call()
    for number in range(3):
        run_turn(alice, f"later {number}")

    with alice.turn("chat", key="1", items=[ASK], history_limit=2) as turn:
        assert [one.content for one in turn.own_messages] == ["Buy milk", None]
        assert len(turn.pending_calls) == 1


@pytest.mark.usefixtures("chat")
@pytest.mark.parametrize(
    "usage",
    [{"input_tokens": -1}, {"input_tokens": 2**70}, {"prompt_tokens": True}, {"input_tokens": 0.5}],
)
def test_an_odd_usage_costs_no_answer(alice: User, usage: dict[str, Any]) -> None:
    with alice.turn("chat", key="1") as turn:
        turn.end([DONE], usage=usage)

    assert alice.turns.list("chat")[0].usage == usage
    assert alice.turns.usage()[0].input_tokens == 0


@pytest.mark.usefixtures("chat")
def test_an_item_that_json_cannot_hold_is_named_whatever_is_in_it(alice: User) -> None:
    nested: list[Any] = []
    for _ in range(5_000):
        nested = [nested]
    for odd in ({1}, 10**5_000, nested, b"\xff"):
        item = {"type": "function_call", "call_id": "1", "name": "f", "arguments": odd}
        with pytest.raises(InvalidInput, match=r"items\[0\]"):
            alice.messages.extend("chat", [item])
        with pytest.raises(InvalidInput), alice.turn("chat", key="1", items=[item]):
            pass


def _answer_of(call: ToolCallView, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call.call_id, "content": text}


def _look(call_id: str) -> dict[str, Any]:
    function = {"name": "look", "arguments": "{}"}
    call = {"id": call_id, "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


WHAT_HAPPENS: dict[str, Callable[[User, ActiveTurn, ToolCallView], object]] = {
    "nothing": lambda user, turn, early: None,
    "somebody posts": lambda user, turn, early: user.messages.post(
        "chat", sender="user", content="and hurry"
    ),
    "somebody edits": lambda user, turn, early: user.messages.edit(
        "chat", turn.messages[0].id, content="edited"
    ),
    "somebody retracts": lambda user, turn, early: user.messages.retract(
        "chat", turn.messages[0].id
    ),
    "somebody ends a call of the turn": lambda user, turn, early: [
        user.tool_calls.succeed(call, output="theirs") for call in turn.pending_calls
    ],
    "an earlier call is answered": lambda user, turn, early: turn.extend(
        [_answer_of(early, "at last")]
    ),
    "an earlier call ends": lambda user, turn, early: turn.succeed(early, output="at last"),
    "a call with the name of an earlier one is answered": lambda user, turn, early: [
        turn.extend([_look(early.call_id)]),
        turn.extend([_answer_of(early, "the earlier one's")]),
        turn.extend([_answer_of(early, "the later one's")]),
    ],
    "an answer belongs to no call": lambda user, turn, early: turn.extend(
        [{"role": "tool", "tool_call_id": "unheard of", "content": "what?"}]
    ),
    "the lease is renewed": lambda user, turn, early: turn.renew(),
    "the conversation is renamed": lambda user, turn, early: user.conversations.rename(
        "chat", "Groceries"
    ),
}


@pytest.mark.parametrize("happens", WHAT_HAPPENS.values(), ids=WHAT_HAPPENS)
def test_a_turn_knows_what_a_history_shows_whatever_happens_meanwhile(
    store: EventStore, alice: User, happens: Callable[[User, ActiveTurn, ToolCallView], object]
) -> None:
    alice.conversations.start(key="chat")
    alice.messages.post("chat", sender="user", content="earlier")
    early = alice.tool_calls.request("chat", name="look", arguments="{}", call_id="call_0")

    with alice.turn("chat", key="1", items=[ASK]) as turn:
        for number in range(3):
            turn.extend([_look(f"call_{number + 1}")])
            assert turn.messages == alice.history("chat")
            happens(alice, turn, early) if number == 1 else None
            for call in turn.pending_calls:
                with suppress(IdempotencyConflict):
                    turn.succeed(call, output=number)
            turn.extend([{"role": "assistant", "content": f"step {number}"}])
            assert turn.messages == alice.history("chat")
        with turn.transaction() as tx:
            tx.messages.edit("chat", turn.messages[-1].id, content="in the end")
            tx.messages.post("chat", sender="assistant", content="one more")
        assert turn.messages == alice.history("chat")
        turn.end([DONE])

    assert turn.messages == alice.history("chat")
    assert turn.model_input() == alice.model_input("chat")
    assert store.verify().ok
