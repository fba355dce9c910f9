"""When something happened, beside when it was recorded: shown everywhere, and never a cut."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from eventstore import (
    EventStore,
    InvalidInput,
    MessagePosted,
    NewEvent,
    RecordedEvent,
    TaskCompleted,
    TaskCreated,
    TaskUpdated,
    User,
)
from tests.support.properties import examples

THEN = datetime(2024, 1, 5, 8, tzinfo=UTC)
LATER = THEN + timedelta(days=1, microseconds=1)
FUTURE = datetime(2199, 1, 1, tzinfo=UTC)


def new_task(occurred_at: Any = None, title: str = "Buy milk", **options: Any) -> NewEvent:
    data = TaskCreated(title=title)
    return NewEvent(stream_id=uuid4(), data=data, occurred_at=occurred_at, **options)


def test_an_event_without_a_time_happened_when_it_was_recorded(
    alice: User, admin: psycopg.Connection
) -> None:
    task = alice.tasks.create("Buy milk")
    (event,) = alice.events()

    assert event.occurred_at == event.recorded_at == task.created_at
    assert admin.execute("select occurred_at from eventstore.event").fetchall() == [(None,)]


def test_a_task_shows_when_things_happened(store: EventStore, alice: User) -> None:
    task = alice.annotated(occurred_at=THEN).tasks.create("Buy milk")
    done = alice.annotated(occurred_at=LATER).tasks.complete(task.id)
    changed = alice.tasks.update(task.id, title="Buy oat milk")

    events = alice.events()
    assert [one.occurred_at for one in events] == [THEN, LATER, events[2].recorded_at]
    assert all(one.recorded_at > LATER for one in events)
    assert (task.created_at, task.updated_at) == (THEN, THEN)
    assert (done.created_at, done.updated_at, done.completed_at) == (THEN, LATER, LATER)
    assert changed.updated_at == events[2].recorded_at
    assert alice.tasks.get(task.id) == changed
    assert store.verify().ok


def test_one_append_records_many_times(store: EventStore, alice: User) -> None:
    """Their row changes are folded, also those of one task with other times and without any."""
    first, second = new_task(THEN), new_task(LATER, "Fly")
    stream = first.stream_id
    changes = [
        NewEvent(stream_id=stream, data=TaskUpdated(title="Buy beer"), occurred_at=LATER),
        NewEvent(stream_id=stream, data=TaskCompleted()),
        NewEvent(stream_id=second.stream_id, data=TaskUpdated(title="Walk")),
        new_task(None, "Sleep"),
    ]

    recorded = alice.append([first, second, *changes])
    now = recorded[0].recorded_at
    tasks = alice.tasks.list()

    assert [one.occurred_at for one in recorded] == [THEN, LATER, LATER, now, now, now]
    assert alice.events() == recorded
    assert [(one.created_at, one.updated_at, one.completed_at) for one in tasks] == [
        (THEN, now, now),
        (LATER, now, None),
        (now, now, None),
    ]
    assert store.verify().ok


def test_updates_of_one_append_keep_their_times(store: EventStore, alice: User) -> None:
    """Of rows that were there before, so that SQL has to work the updates out."""
    one, two = alice.tasks.create("one"), alice.tasks.create("two")
    alice.append(
        [
            NewEvent(stream_id=one.id, data=TaskCompleted(), occurred_at=THEN),
            NewEvent(stream_id=one.id, data=TaskUpdated(title="uno")),
            NewEvent(stream_id=two.id, data=TaskCompleted()),
            NewEvent(stream_id=two.id, data=TaskUpdated(title="dos"), occurred_at=THEN),
        ]
    )
    now = alice.events()[-1].recorded_at

    assert [(task.completed_at, task.updated_at) for task in alice.tasks.list()] == [
        (THEN, now),
        (now, THEN),
    ]
    assert store.verify().ok


def test_everything_of_a_conversation_shows_when_it_happened(
    store: EventStore, alice: User
) -> None:
    said, later = alice.annotated(occurred_at=THEN), alice.annotated(occurred_at=LATER)
    chat = said.conversations.start(title="Groceries")
    milk = said.messages.post(chat.id, sender="user", content="Buy milk")
    beer = said.messages.post(chat.id, sender="user", content="Buy beer")
    call = said.tool_calls.request(chat.id, name="add", call_id="1", arguments="{}")
    later.tool_calls.succeed(call, output="done")
    later.messages.edit(chat.id, milk.id, content="Buy oat milk")
    later.messages.retract(chat.id, beer.id)

    from_tables, from_log = (alice.history(chat.id, source=one) for one in ("projection", "events"))
    (audited,) = alice.audit()
    requested = alice.events(types=["ToolCallRequested"])[0]
    view = alice.conversations.get(chat.id)

    assert [(one.sender, one.created_at, one.edited_at) for one in from_tables] == [
        ("user", THEN, LATER),
        ("assistant", THEN, None),
        ("tool", LATER, None),
    ]
    assert from_log == from_tables
    for found in (alice.tool_calls.get(call.id), audited):
        assert (found.requested_at, found.finished_at) == (THEN, LATER)
        assert found.duration_ms == (LATER - THEN).total_seconds() * 1000
    assert (audited.position, audited.recorded_at) == (requested.position, requested.recorded_at)
    assert (view.created_at, view.updated_at, view.last_activity_at) == (THEN, LATER, LATER)
    assert store.verify().ok


def test_a_transaction_and_a_decision_record_when_it_happened(alice: User) -> None:
    task = alice.tasks.create("Buy milk")

    with alice.annotated(occurred_at=THEN).transaction() as tx:
        tx.tasks.complete(task.id)
        tx.tasks.create("Fly")

    assert [one.occurred_at for one in alice.events(after=1)] == [THEN, THEN]


def test_claims_and_leases_run_by_the_clock_of_the_server(alice: User) -> None:
    """A lease that began in 2024 would be over, and one of 2199 would never end."""
    for said in (alice.annotated(occurred_at=THEN), alice.annotated(occurred_at=FUTURE)):
        chat = alice.conversations.start()
        call = said.tool_calls.request(chat.id, name="add", call_id="1", arguments="{}")
        said.tool_calls.claim(call, seconds=60)
        with said.turn(chat.id, key="r") as turn:
            running = alice.turns.get(turn.id)
            turn.end([{"role": "assistant", "content": "Done."}])
        (ended,) = alice.turns.list(conversation=chat.id)

        claimed_at = alice.tool_calls.get(call.id).claimed_at
        at = running.started_at
        assert claimed_at is not None
        for begun in (claimed_at, running.leased_at):
            assert abs(begun - datetime.now(UTC)) < timedelta(minutes=10)
        assert at in {THEN, FUTURE}
        assert (ended.started_at, ended.ended_at) == (at, at)


def test_a_fork_shows_when_it_was_said(store: EventStore, alice: User) -> None:
    said = alice.annotated(occurred_at=THEN)
    chat = said.conversations.start()
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    body = {"role": "assistant", "content": None, "tool_calls": [call]}
    said.messages.post(chat.id, sender="assistant", body=body)
    answered = alice.annotated(occurred_at=LATER)
    answered.messages.post(
        chat.id, sender="tool", body={"role": "tool", "tool_call_id": "1", "content": "3"}
    )

    fork = alice.conversations.fork(chat.id)
    copies = alice.history(fork.id)

    assert fork.created_at > LATER
    assert [one.created_at for one in copies] == [THEN, LATER]
    assert [(one.requested_at, one.finished_at) for one in copies[0].tool_calls] == [(THEN, LATER)]
    assert store.verify().ok


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (datetime(2024, 1, 5, 8), "is no timestamp with time zone"),  # noqa: DTZ001
        ("2024-01-05", "is no timestamp with time zone"),
        (THEN.date(), "is no timestamp with time zone"),
        (datetime.min.replace(tzinfo=UTC), "give 0001-01-04 to 9999-12-28"),
        (datetime.max.replace(tzinfo=UTC), "give 0001-01-04 to 9999-12-28"),
        (
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
            "give 0001-01-04 to 9999-12-28",
        ),
    ],
)
def test_a_time_that_is_none_is_refused(alice: User, value: Any, reason: str) -> None:
    refused: list[tuple[str, Callable[[], object]]] = [
        ("events[1].occurred_at", lambda: alice.append([new_task(), new_task(value)])),
        ("occurred_at", lambda: alice.annotated(occurred_at=value)),
    ]

    for path, attempt in refused:
        with pytest.raises(InvalidInput, match=reason) as error:
            attempt()
        assert error.value.path == path
    assert alice.events() == []


@pytest.mark.parametrize(
    "value",
    [
        datetime(1, 1, 4, tzinfo=UTC),
        datetime(9999, 12, 28, tzinfo=UTC),
        FUTURE,
        datetime(2024, 1, 5, 8, 0, 0, 1, timezone(timedelta(hours=5, minutes=30, seconds=15))),
    ],
)
def test_any_time_that_can_be_read_back_is_stored(
    store: EventStore, alice: User, value: datetime
) -> None:
    """Also one in the future: nothing is ordered or cut by it, and clocks differ."""
    single = alice.annotated(occurred_at=value).tasks.create("Buy milk")
    alice.append([new_task(value), new_task()])

    events = alice.events()
    assert [one.occurred_at for one in events[:2]] == [value, value]
    assert {one.occurred_at.tzinfo for one in events} == {UTC}
    assert single.created_at == alice.tasks.list()[1].created_at == value
    assert store.verify().ok


def test_a_retry_is_known_whatever_time_it_says(store: EventStore, alice: User) -> None:
    """A caller who says `now` says another time in each attempt, and the first one counts."""
    event = new_task(THEN)
    retry = NewEvent(
        stream_id=event.stream_id, data=event.data, event_id=event.event_id, occurred_at=LATER
    )
    first = alice.append([event], idempotency_key="r1")
    again = alice.append([retry], idempotency_key="r1")
    task = alice.keyed("r2").annotated(occurred_at=THEN).tasks.create("Fly")
    repeated = alice.keyed("r2").annotated(occurred_at=LATER).tasks.create("Fly")
    done = alice.keyed("r3").annotated(occurred_at=THEN).tasks.complete(task.id)
    done_again = alice.keyed("r3").annotated(occurred_at=LATER).tasks.complete(task.id)

    assert again == first
    assert (repeated, done_again) == (task, done)
    assert done_again.completed_at == THEN
    assert len(alice.events()) == 3
    assert store.verify().ok


def test_lists_are_in_the_order_of_recording(alice: User) -> None:
    for occurred_at in (LATER, FUTURE, THEN):
        said = alice.annotated(occurred_at=occurred_at)
        said.tasks.create("Buy milk")
        said.conversations.start()

    times = [LATER, FUTURE, THEN]
    assert [one.created_at for one in alice.tasks.list()] == times
    assert [one.created_at for one in alice.conversations.list()] == times[::-1]


def written(alice: User) -> tuple[Any, list[RecordedEvent]]:
    """Write a conversation and tasks at times that run backward; return its id and the log."""
    times = iter(FUTURE - timedelta(days=9_000 * number) for number in range(20))

    def said() -> User:
        return alice.annotated(occurred_at=next(times))

    chat = said().conversations.start(title="Groceries")
    task = said().tasks.create("Buy milk")
    first = said().messages.post(chat.id, sender="user", content="Buy milk")
    call = said().tool_calls.request(chat.id, name="add", call_id="1", arguments="{}")
    said().tasks.complete(task.id)
    said().messages.post(chat.id, sender="user", content="And bread")
    said().messages.edit(chat.id, first.id, content="Buy oat milk")
    said().tool_calls.succeed(call, output="done")
    second = said().messages.post(chat.id, sender="user", content="And beer")
    said().messages.retract(chat.id, second.id)
    said().tasks.delete(task.id)
    said().conversations.rename(chat.id, title="Shopping")
    said().conversations.delete(chat.id)
    said().conversations.restore(chat.id)
    said().tasks.restore(task.id)
    return chat.id, alice.events()


def answers(alice: User, chat: Any, as_of: Any) -> list[Any]:
    """Return all that can be asked of an earlier moment."""

    def ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except LookupError as error:
            return type(error).__name__

    return [
        ask(lambda: alice.history(chat, as_of=as_of)),
        ask(lambda: alice.history(chat, as_of=as_of, source="events")),
        ask(lambda: alice.history(chat, as_of=as_of, limit=1)),
        ask(lambda: alice.model_input(chat, as_of=as_of)),
        ask(lambda: alice.model_input(chat, as_of=as_of, limit=1)),
        ask(lambda: alice.conversations.get(chat, as_of=as_of)),
        ask(lambda: alice.conversations.list(as_of=as_of)),
        ask(lambda: alice.tasks.list(as_of=as_of)),
        ask(lambda: alice.audit(as_of=as_of)),
        ask(lambda: alice.events(as_of=as_of)),
    ]


def test_an_earlier_moment_shows_when_things_had_happened_by_then(alice: User) -> None:
    said = alice.annotated(occurred_at=THEN)
    chat, task = said.conversations.start(title="Groceries"), said.tasks.create("Buy milk")
    alice.annotated(occurred_at=LATER).messages.post(chat.id, sender="user", content="Buy milk")
    said.conversations.rename(chat.id, title="Shopping")
    now = (alice.conversations.get(chat.id), alice.tasks.get(task.id), alice.history(chat.id))
    moment = alice.events(backward=True, limit=1)[0].position
    alice.messages.post(chat.id, sender="user", content="And bread")
    alice.tasks.complete(task.id)

    by_then = (
        alice.conversations.get(chat.id, as_of=moment),
        alice.tasks.get(task.id, as_of=moment),
        alice.history(chat.id, as_of=moment),
    )

    assert by_then == now
    assert (now[0].updated_at, now[0].last_activity_at) == (THEN, LATER)


def test_a_moment_by_time_is_one_of_recording_and_not_of_happening(
    store: EventStore, alice: User
) -> None:
    chat, log = written(alice)

    # The events of one append have one time; the moment is that after the last of them.
    last_ones = {one.recorded_at: one for one in log}
    assert len(last_ones) == len(log) - 1
    for event in last_ones.values():
        by_position = answers(alice, chat, event.position)
        assert answers(alice, chat, event.recorded_at) == by_position
        assert by_position[0] == by_position[1]
    nothing = answers(alice, chat, log[0].recorded_at - timedelta(microseconds=1))
    assert nothing == answers(alice, chat, 0)
    assert store.verify().ok


@examples(10)
@given(sizes=st.lists(st.integers(1, 5), max_size=6))
def test_the_position_of_any_timestamp_is_found(store: EventStore, sizes: list[int]) -> None:
    """Several events of one append have one time, and the moment has all of them or none."""
    user = store.user(uuid4().hex)
    for size in sizes:
        user.append([new_task() for _ in range(size)])
    log = user.events()
    tick = timedelta(microseconds=1)

    for event in log:
        for moment in (event.recorded_at - tick, event.recorded_at, event.recorded_at + tick):
            expected = [one.position for one in log if one.recorded_at <= moment]
            found = [one.position for one in user.tasks.list(as_of=moment)]
            assert found == expected
    assert user.tasks.list(as_of=THEN) == []
    assert len(user.tasks.list(as_of=FUTURE)) == len(log)


def test_a_message_of_the_past_after_one_of_today_counts_as_the_newest(alice: User) -> None:
    """What was recorded last is the newest, and its time is shown; none is worked out."""
    chat = alice.conversations.start()
    alice.messages.post(chat.id, sender="user", content="today")
    data = MessagePosted(sender="user", body={"role": "user", "content": "then"})
    alice.append([NewEvent(stream_id=chat.id, data=data, occurred_at=THEN)])

    view = alice.conversations.get(chat.id)

    assert [one.content for one in alice.history(chat.id)] == ["today", "then"]
    assert (view.last_activity_at, view.updated_at) == (THEN, THEN)


@pytest.mark.parametrize("store", ["sync"], indirect=True)
def test_where_another_log_was_at_a_time_cannot_be_learnt(store: EventStore, alice: User) -> None:
    alice.tasks.create("Buy milk")
    ask = text(
        "select eventstore.position_at('alice', now()), eventstore.position_at('eve', now())"
    )

    found = []
    for user_id in ("alice", "eve"):
        with store.user(user_id).session() as session:
            found.append(tuple(session.connection().execute(ask).one()))

    assert found == [(1, 0), (0, 0)]
