"""Tasks: fields that several writers change, restoring, and the user's own order."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from eventstore import (
    Event,
    EventStore,
    IdempotencyConflict,
    InvalidInput,
    NewEvent,
    NotFound,
    Settings,
    StreamClosed,
    TaskCreated,
    TaskMoved,
    TaskRestored,
    TaskUpdated,
    TimedOut,
    User,
    WrongVersion,
)
from eventstore.events.ranks import key_of, rank_between

NINE = datetime(2026, 11, 30, 8, tzinfo=UTC)


class TaskNoted(Event, type="TaskNoted", stream_kind="task", starts=False):
    """An event of a service's own in a task's stream."""

    note: str


def titles(user: User, **wanted: Any) -> list[str]:
    return [task.title for task in user.tasks.list(**wanted)]


def events_of(user: User, task: UUID) -> list[str]:
    return [event.type for event in user.events(stream_id=task)]


# Fields.


def test_a_task_keeps_all_that_is_said_of_it(store: EventStore, alice: User) -> None:
    task = alice.tasks.create(
        "Call",
        description="The bank",
        due_at="2026-11-30T09:00",
        due_zone="Europe/Berlin",
        priority="high",
        tags=["money", "phone", "money"],
    )

    assert (task.due_on, task.due_at, task.due_zone) == (None, NINE, "Europe/Berlin")
    assert (task.priority, task.tags, task.version) == ("high", ("money", "phone"), 1)
    assert alice.tasks.get(task.id) == alice.tasks.get(task.id, as_of=1) == task
    plain = alice.tasks.create("Plain")
    assert (plain.priority, plain.tags, plain.due_on) == ("normal", (), None)
    assert store.verify().ok


def test_a_task_is_due_on_a_day_or_at_a_time_and_never_both(alice: User) -> None:
    task = alice.tasks.create("Call", due_at=NINE, due_zone="Europe/Berlin")

    on_a_day = alice.tasks.update(task.id, due_on=date(2026, 12, 1))
    at_a_time = alice.tasks.update(task.id, due_at=NINE)
    never = alice.tasks.update(task.id, due_on=None)

    dues = [(one.due_on, one.due_at, one.due_zone) for one in (on_a_day, at_a_time, never)]
    assert dues == [(date(2026, 12, 1), None, None), (None, NINE, None), (None, None, None)]


# Writers.


def test_eight_threads_with_ten_updates_of_one_task_each_all_succeed(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        task = alice.tasks.create("Call").id

        def update(thread: int) -> None:
            for number in range(10):
                alice.tasks.update(task, title=f"{thread} {number}")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(update, range(8)))

        assert alice.tasks.get(task).version == 81
        assert alice.tasks.get(task).title == alice.events(stream_id=task)[-1].data.title  # type: ignore[attr-defined]  # of an update
        assert store.verify().ok


def test_eight_threads_whose_decisions_overtake_each_other_all_succeed(database_url: str) -> None:
    settings = Settings(database_url=database_url, deadline_seconds=60)
    with EventStore.connect(settings=settings) as store:
        alice = store.user("alice")
        chat = alice.conversations.start().id

        def rename(thread: int) -> None:
            for number in range(10):
                alice.conversations.rename(chat, f"{thread} {number}")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(rename, range(8)))

        assert len(alice.events(stream_id=chat)) == 81


def test_a_decision_that_was_overtaken_keeps_others_waiting_the_second_time(
    database_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=database_url, deadline_seconds=1)
    with (
        EventStore.connect(database_url) as store,
        EventStore.connect(settings=settings) as other,
    ):
        alice = store.user("alice")
        chat = alice.conversations.start(key="chat").id
        from eventstore.events import conversations

        decide = conversations.rename
        outcomes: list[str] = []

        def overtaken(state: Any, title: str | None) -> Event | None:
            renamed = NewEvent(stream_id=chat, data=conversations.ConversationRenamed(title="x"))
            try:
                other.user("alice").append([renamed])
                outcomes.append("overtaken")
            except TimedOut:
                outcomes.append("waited")
            return decide(state, title)

        monkeypatch.setattr(conversations, "rename", overtaken)

        assert alice.conversations.rename("chat", "y").title == "y"
        assert outcomes == ["overtaken", "waited"]

        # One that finds nothing to change, or nothing at all, ends its transaction too.
        monkeypatch.setattr(conversations, "rename", decide)
        other.user("alice").conversations.rename("chat", "z")
        assert [one.data.type for one in alice.events(stream_id=chat)] == [
            "ConversationStarted",
            *["ConversationRenamed"] * 3,
        ]


def test_writers_of_different_fields_both_succeed(alice: User) -> None:
    task = alice.tasks.create("Call", tags=["phone"])

    alice.tasks.update(task.id, title="Write")
    answer = alice.tasks.update(task.id, tags=["mail"])

    assert (answer.title, answer.tags, answer.version) == ("Write", ("mail",), 3)


def test_an_update_to_the_same_value_is_recorded_and_one_of_nothing_is_not(alice: User) -> None:
    task = alice.tasks.create("Call")

    same = alice.tasks.update(task.id, title="Call")
    nothing = alice.tasks.update(task.id)

    assert events_of(alice, task.id) == ["TaskCreated", "TaskUpdated"]
    assert same == nothing


def test_an_update_for_a_version_is_refused_once_the_task_has_moved_on(alice: User) -> None:
    task = alice.tasks.create("Call")

    answer = alice.tasks.update(task.id, title="Write", expected_version=task.version)
    with pytest.raises(WrongVersion) as conflict:
        alice.tasks.update(task.id, title="Fly", expected_version=task.version)

    assert (answer.title, answer.version) == ("Write", 2)
    assert (conflict.value.expected, conflict.value.actual) == (1, 2)
    assert titles(alice) == ["Write"]


def test_an_event_of_a_service_counts_in_the_version_of_its_task(database_url: str) -> None:
    with EventStore.connect(database_url, events=[TaskNoted]) as store:
        alice = store.user("alice")
        task = alice.tasks.create("Call")
        alice.append([NewEvent(stream_id=task.id, data=TaskNoted(note="busy"))])

        noted = alice.tasks.get(task.id)
        alice.tasks.update(task.id, title="Write", expected_version=noted.version)

        assert noted.version == 2
        assert alice.tasks.list(as_of=2) == [noted]
        assert store.verify().ok
        assert store.rebuild(check=True).changed == 0


@pytest.mark.parametrize("expected_version", [None, 7])
def test_an_update_of_what_is_no_task_of_the_user_finds_none(
    alice: User, bob: User, chat: UUID, expected_version: int | None
) -> None:
    others = bob.tasks.create("Call").id
    deleted = alice.tasks.create("Deleted").id
    alice.tasks.delete(deleted)
    before = len(alice.events())

    for task in (uuid4(), others, deleted, chat):
        for command in (
            lambda key: alice.tasks.update(key, title="x", expected_version=expected_version),
            alice.tasks.delete,
            alice.tasks.complete,
        ):
            with pytest.raises(NotFound, match=f"task {task}"):
                command(task)

    assert len(alice.events()) == before


def test_a_retry_of_an_update_is_answered_as_the_first_attempt_was(alice: User) -> None:
    task = alice.tasks.create("Call")
    first = alice.keyed("k").tasks.update(task.id, title="Write")
    alice.tasks.update(task.id, title="Fly", tags=["later"])
    alice.tasks.delete(task.id)

    again = alice.keyed("k").tasks.update(task.id, title="Write")

    assert again == first
    assert len(alice.events()) == 4
    with pytest.raises(IdempotencyConflict):
        alice.keyed("k").tasks.update(task.id, title="Walk")


# Restoring.


def test_a_deleted_task_comes_back_as_it_was(store: EventStore, alice: User) -> None:
    task = alice.tasks.create("Call", tags=["phone"])
    completed = alice.tasks.complete(task.id)
    alice.tasks.delete(task.id)

    restored = alice.tasks.restore(task.id)

    assert (restored.title, restored.tags) == ("Call", ("phone",))
    assert (restored.completed_at, restored.version) == (completed.completed_at, 4)
    assert alice.tasks.restore(task.id) == restored, "it is not deleted, so nothing is recorded"
    assert [titles(alice, as_of=n) for n in range(5)] == [[], ["Call"], ["Call"], [], ["Call"]]
    with pytest.raises(NotFound):
        alice.tasks.get(task.id, as_of=3)
    assert store.verify().ok
    assert store.rebuild(check=True).changed == 0


def test_a_transaction_may_delete_restore_and_go_on(store: EventStore, alice: User) -> None:
    task = alice.tasks.create("Call").id

    with alice.transaction() as tx:
        tx.tasks.delete(task)
        tx.tasks.restore(task)
        tx.tasks.update(task, title="Write")
    with alice.transaction() as tx:
        tx.tasks.restore(task)
        tx.tasks.delete(task)
    with alice.transaction() as tx:
        tx.tasks.restore(task)
        tx.tasks.complete(task)

    assert [(one.title, one.completed) for one in alice.tasks.list()] == [("Write", True)]
    assert events_of(alice, task)[1:] == [
        "TaskDeleted",
        "TaskRestored",
        "TaskUpdated",
        "TaskDeleted",
        "TaskRestored",
        "TaskCompleted",
    ]
    transaction = alice.transaction()
    tx = transaction.__enter__()
    tx.tasks.delete(task)
    tx.tasks.update(task, title="Fly")
    with pytest.raises(NotFound):
        transaction.__exit__(None, None, None)
    assert store.verify().ok


def test_a_closed_stream_takes_nothing_but_a_restoration(alice: User) -> None:
    task = alice.tasks.create("Call").id
    alice.tasks.delete(task)

    for events in (
        [TaskUpdated(title="x")],
        [TaskUpdated(title="x"), TaskRestored()],
        [TaskCreated(title="x")],
    ):
        with pytest.raises(StreamClosed):
            alice.append([NewEvent(stream_id=task, data=data) for data in events])
    with pytest.raises(WrongVersion):
        alice.append([NewEvent(stream_id=task, data=TaskRestored(), expected=1)])
    alice.append([NewEvent(stream_id=task, data=TaskRestored(), expected=2)])

    assert titles(alice) == ["Call"]


def test_what_was_erased_is_not_restored(store: EventStore, alice: User) -> None:
    task = alice.tasks.create("Call").id
    alice.tasks.delete(task)
    store.erase("alice", ordered_by="support")

    with pytest.raises(NotFound):
        alice.tasks.restore(task)
    with pytest.raises(StreamClosed):
        alice.append([NewEvent(stream_id=task, data=TaskRestored())])

    assert store.verify().ok


def test_an_owner_reopens_no_stream_without_an_event(
    alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.delete(alice.tasks.create("Call").id)

    with pytest.raises(psycopg.errors.RestrictViolation, match="append-only"):
        admin.execute("update eventstore.stream set closed = false")


# The user's own order.


def test_tasks_stand_where_they_were_moved_and_new_ones_at_the_end(
    store: EventStore, alice: User
) -> None:
    a, b, c = (alice.tasks.create(title).id for title in "abc")

    alice.tasks.move(c, before=a)
    alice.tasks.move(b, after=str(c))
    alice.tasks.create("d")
    alice.tasks.move(c, after=a)
    alice.tasks.create("e")

    assert titles(alice, order="manual") == list("bacde")
    assert titles(alice, order="manual", newest_first=True) == list("edcab")
    assert [titles(alice, order="manual", as_of=n) for n in range(3, 9)] == [
        list(text) for text in ("abc", "cab", "cba", "cbad", "bacd", "bacde")
    ]
    assert store.verify().ok
    assert store.rebuild(check=True).changed == 0


def test_a_task_that_stands_there_already_stays_there(alice: User) -> None:
    a, b, c = (alice.tasks.create(title).id for title in "abc")

    alice.tasks.move(a, before=b)
    alice.tasks.move(b, after=a)
    alice.tasks.move(c, after=b)

    assert titles(alice, order="manual") == list("abc")
    assert len(alice.events()) == 6


def test_the_order_is_that_of_a_list_after_any_moves(store: EventStore, alice: User) -> None:
    draw = random.Random(7)
    expected = [alice.tasks.create(str(number)).id for number in range(8)]
    for _ in range(120):
        task, anchor = draw.sample(expected, 2)
        after = draw.random() < 0.5
        alice.tasks.move(task, **{"after" if after else "before": anchor})
        expected.remove(task)
        expected.insert(expected.index(anchor) + after, task)
        if draw.random() < 0.1:
            gone = draw.choice(expected)
            alice.tasks.delete(gone)
            alice.tasks.restore(gone)

    assert [task.id for task in alice.tasks.list(order="manual")] == expected
    assert store.verify().ok


def test_moves_in_one_transaction_see_each_other(alice: User) -> None:
    a, b, c, d = (alice.tasks.create(title).id for title in "abcd")

    with alice.transaction() as tx:
        tx.tasks.move(a, after=d)
        tx.tasks.move(b, after=a)
        tx.tasks.move(c, after=b)
        tx.tasks.move(d, after=c)
        tx.tasks.complete(d)
    assert titles(alice, order="manual") == list("abcd")

    with alice.transaction() as tx:  # each sees where those before it went
        tx.tasks.move(c, after=a)
        tx.tasks.move(b, before=d)
        tx.tasks.move(c, after=b)
        tx.tasks.move(c, before=b)
        tx.tasks.move(b, before=c)
    assert titles(alice, order="manual") == list("abcd")

    with alice.transaction() as tx:
        new = tx.tasks.create("e")
        tx.tasks.move(new.id, before=b)
        tx.tasks.move(d, before=new.id)
        tx.tasks.move(c, before=b)

    assert titles(alice, order="manual") == list("adecb")


def test_a_move_is_refused_where_it_has_no_meaning(alice: User, bob: User) -> None:
    a, b, gone = (alice.tasks.create(title).id for title in "abc")
    alice.tasks.delete(gone)
    others = bob.tasks.create("x").id

    for wrong in ({}, {"before": b, "after": b}, {"after": a}):
        with pytest.raises(InvalidInput):
            alice.tasks.move(a, **wrong)
    for task, anchor in ((a, gone), (a, others), (a, uuid4()), (gone, a), (others, a)):
        with pytest.raises(NotFound):
            alice.tasks.move(task, before=anchor)
    with pytest.raises(NotFound), alice.transaction() as tx:
        tx.tasks.move(a, before=tx.tasks.create("new").id)

    assert len(alice.events()) == 4


def test_a_retry_of_a_move_does_not_look_for_another_place(alice: User) -> None:
    a, b, c = (alice.tasks.create(title).id for title in "abc")
    first = alice.keyed("k").tasks.move(c, before=b)
    alice.tasks.move(a, after=c)
    alice.tasks.move(b, before=c)

    assert alice.keyed("k").tasks.move(c, before=b) == first
    with pytest.raises(IdempotencyConflict):
        alice.keyed("k").tasks.move(c, before=a)
    with pytest.raises(IdempotencyConflict):
        alice.keyed("k").tasks.complete(c)
    assert titles(alice, order="manual") == list("bca")


def test_moves_to_one_place_at_the_same_time_all_succeed(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        a, b = (alice.tasks.create(title).id for title in "ab")
        moved = [alice.tasks.create(str(number)).id for number in range(16)]

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda task: alice.tasks.move(task, before=b), moved))

        order = [task.id for task in alice.tasks.list(order="manual")]
        assert (order[0], order[-1]) == (a, b)
        ranks = [task.rank for task in alice.tasks.list() if task.rank is not None]
        assert len(set(ranks)) == 16
        alice.tasks.move(moved[0], after=order[1] if order[1] != moved[0] else order[2])
        assert store.verify().ok


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("where", ["start", "end", "middle"])
def test_a_thousand_moves_to_one_place_make_no_long_rank(where: str, after: bool) -> None:
    keys = [key_of(None, position) for position in (5, 6)]
    at = {"start": 0, "end": 2, "middle": 1}[where]
    for _ in range(1_000):
        low = keys[at - 1] if at else None
        high = keys[at] if at < len(keys) else None
        rank = rank_between(low, high, uuid4())
        assert low is None or low < rank
        assert high is None or rank < high
        keys.insert(at, rank)
        at += (after and where != "start") or where == "end"

    assert max(map(len, keys)) < 70


def test_a_place_to_which_too_many_were_moved_is_refused() -> None:
    low, high = key_of(None, 1) + "a", key_of(None, 1) + "b"

    def halve() -> None:
        nonlocal low, high
        while True:
            middle = rank_between(low, high, uuid4())
            low, high = (middle, high) if len(middle) % 2 else (low, middle)

    with pytest.raises(InvalidInput, match="too many"):
        halve()


@pytest.mark.parametrize("rank", ["", "abc", "1" * 18, "1" * 19 + "-", "1" * 1_001, None, 5])
def test_a_rank_of_another_form_is_no_rank(alice: User, rank: Any) -> None:
    with pytest.raises(ValueError, match="rank"):
        TaskMoved(rank=rank)


def test_a_moved_task_is_where_the_tables_say_whatever_else_happens(
    store: EventStore, alice: User
) -> None:
    a, b, c = (alice.tasks.create(title).id for title in "abc")
    commands: list[Callable[[], object]] = [
        lambda: alice.tasks.move(c, before=a),
        lambda: alice.tasks.delete(c),
        lambda: alice.tasks.move(b, before=a),
        lambda: alice.tasks.restore(c),
    ]
    for command in commands:
        command()

    assert titles(alice, order="manual") == list("cba")
    assert store.verify().ok
