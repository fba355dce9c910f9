"""Read models that were spoiled: verify names each row, rebuild mends exactly those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import pytest

import eventstore.database.driver
import projections.apply.live
import projections.rebuild.repair
from eventstore import (
    Event,
    EventEnvelope,
    EventStore,
    Incomplete,
    NewEvent,
    Settings,
    TaskCreated,
    TimedOut,
    UnknownEventType,
    User,
)
from eventstore.admin.verify import Problem, Verified
from eventstore.database.pipeline import exchange
from eventstore.log.ids import uuid7
from projections import RECORDED_AT, Insert, RowChange, projector
from projections.rebuild.rebuild import Rebuilt
from tests.support.own_read_model import Done, service_url

__all__ = ["service_url"]

TABLES = ("task", "conversation", "message")
LABELS = {"task": "title", "conversation": "title", "message": "content"}
EXTRA = "'00000000-0000-0000-0000-000000000009'"

SPOILS: dict[str, set[str]] = {
    "update eventstore.task set title = 'walked' where title = 'walk'": {
        "changed_row of alice: task walk differs in title"
    },
    "update eventstore.task set completed = not completed, completed_at = null": {
        "changed_row of alice: task walk differs in completed, completed_at",
        "changed_row of alice: task cook differs in completed",
    },
    "delete from eventstore.task where title = 'cook'": {"missing_row of alice: task cook"},
    f"""
    insert into eventstore.task
    select user_id, {EXTRA}, 'extra', null, false, created_at, updated_at, null, 99
    from eventstore.task limit 1
    """: {"extra_row of alice: task extra"},
    """
    insert into eventstore.task
    select 'nobody', id, 'extra', null, false, created_at, updated_at, null, 99
    from eventstore.task where title = 'walk'
    """: {"extra_row of nobody: task walk"},
    "update eventstore.task set user_id = 'bob' where title = 'walk'": {
        "missing_row of alice: task walk",
        "extra_row of bob: task walk",
    },
    """
    update eventstore.conversation set message_count = 7, last_position = 1, key = 'key'
    where title = 'chat'
    """: {"changed_row of alice: conversation chat differs in key, last_position, message_count"},
    """
    update eventstore.conversation set status = 'active', deleted_at = null
    where status = 'deleted'
    """: {"changed_row of alice: conversation gone differs in status, deleted_at"},
    """
    update eventstore.message set content = 'bye', body = '{"role": "user", "content": "bye"}'
    where content = 'hello'
    """: {"changed_row of alice: message hello differs in content, body"},
    """
    update eventstore.message set tool_calls = tool_calls || '{"id": "another"}'::json
    where tool_calls is not null
    """: {"changed_row of alice: message asking differs in tool_calls"},
    "update eventstore.message set retracted_at = null, retracted_position = null": {
        "changed_row of alice: message slip differs in retracted_at, retracted_position"
    },
    # Positions swapped, past a unique constraint.
    """
    create temporary table place on commit drop as
    select id, position from eventstore.message where content in ('hello', 'asking');
    update eventstore.message set position = -position where id in (select id from place);
    update eventstore.message as m set position = other.position
    from place join place as other on other.id <> place.id where m.id = place.id
    """: {
        "changed_row of alice: message hello differs in position",
        "changed_row of alice: message asking differs in position",
    },
    # Messages that point to a conversation that should not be.
    f"""
    insert into eventstore.conversation
    select user_id, {EXTRA}, null, 'extra', 'active', created_at, updated_at, 98, 98, 0
    from eventstore.conversation where title = 'gone';
    update eventstore.message set conversation_id = {EXTRA} where content in ('hello', 'farewell')
    """: {
        "extra_row of alice: conversation extra",
        "changed_row of alice: message hello differs in conversation_id",
        "changed_row of alice: message farewell differs in conversation_id",
    },
    f"update eventstore.message set id = {EXTRA} where content = 'hello'": {
        "extra_row of alice: message hello",
        "missing_row of alice: message hello",
    },
    # A conversation gone from under its messages, past their foreign key.
    """
    set local session_replication_role = replica;
    delete from eventstore.conversation where title = 'gone'
    """: {"missing_row of alice: conversation gone"},
}


class TaskSnoozed(Event, type="TaskSnoozed", stream_kind="task"):
    """An event that only some stores can read."""


def a_bit_of_everything(user: User) -> None:
    walk, _ = user.tasks.create("walk", description="uphill"), user.tasks.create("cook")
    user.tasks.complete(walk.id)
    chat = user.conversations.start(title="chat")
    user.messages.post(chat.id, sender="user", content="hello")
    call = user.tool_calls.request(chat.id, name="look", arguments="{}", content="asking")
    user.tool_calls.succeed(call, output={"found": [1, None, "\0"]})
    slip = user.messages.post(chat.id, sender="user", content="slip")
    user.messages.retract(chat.id, slip.id)
    gone = user.conversations.start(title="gone")
    user.messages.post(gone.id, sender="user", content="farewell")
    user.conversations.delete(gone.id)


def every_row(admin: psycopg.Connection, user_id: str = "%") -> set[tuple[str, ...]]:
    """Return every read-model row, with the transaction that wrote it and its place on disk."""
    return {
        (table, *row)
        for table in TABLES
        for row in admin.execute(
            f"select t::text, xmin::text, ctid::text from eventstore.{table} as t"
            f" where user_id like '{user_id}'"
        )
    }


def contents(rows: set[tuple[str, ...]]) -> set[tuple[str, str]]:
    return {(table, row) for table, row, *_ in rows}


def names(admin: psycopg.Connection) -> dict[tuple[str, str], str]:
    """Return what each row is called in `SPOILS`, by table and key."""
    return {
        (f"eventstore.{table}", key): f"{table} {label}"
        for table in TABLES
        for key, label in admin.execute(f"select id::text, {LABELS[table]} from eventstore.{table}")
    }


def told(problem: Problem, known: dict[tuple[str, str], str]) -> str:
    assert problem.table is not None
    assert problem.key is not None
    name = f"{problem.kind} of {problem.user_id}: {known[problem.table, problem.key[0]]}"
    if problem.kind == "changed_row":
        return name + problem.detail.replace("differs from the replay in", " differs in")
    return name


def test_verify_names_exactly_the_spoiled_rows_and_rebuild_mends_exactly_those(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    a_bit_of_everything(alice)
    right, called = every_row(admin), names(admin)

    for spoil, wanted in SPOILS.items():
        with admin.transaction():
            admin.execute(f"{spoil}")
        spoiled = every_row(admin)
        verified = store.verify()
        checked = store.rebuild(check=True)
        assert {told(one, names(admin) | called) for one in verified.problems} == wanted
        assert len(verified.problems) == checked.changed == len(wanted)
        assert every_row(admin) == spoiled  # verify and a check write nothing

        rebuilt = store.rebuild()
        mended = every_row(admin)

        assert rebuilt.changed == len(wanted)
        assert contents(mended) == contents(right)
        assert spoiled & right <= mended  # what was right was not even written again
        assert store.verify().ok
        right = mended


def test_a_rebuild_from_nothing_makes_every_row_again(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    a_bit_of_everything(alice)
    right = every_row(admin)
    history = alice.history(alice.conversations.list()[0].id)
    admin.execute("truncate eventstore.task, eventstore.conversation, eventstore.message")

    checked = store.rebuild(check=True)
    rebuilt = store.rebuild()

    assert checked == rebuilt == Rebuilt(users=1, events=13, rows=len(right), changed=len(right))
    assert contents(every_row(admin)) == contents(right)
    assert alice.history(alice.conversations.list()[0].id) == history
    assert store.rebuild().changed == 0


def test_a_rebuild_of_one_user_leaves_every_other_row_as_it_is_on_disk(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    for user in (alice, bob):
        a_bit_of_everything(user)
    admin.execute("update eventstore.task set title = 'spoilt'")
    right, spoilt = every_row(admin, "alice"), every_row(admin, "bob")

    rebuilt = store.rebuild("alice")

    assert rebuilt.changed == 2
    assert every_row(admin, "bob") == spoilt
    assert len(every_row(admin, "alice") - right) == 2
    assert store.verify("alice").ok
    assert {problem.user_id for problem in store.verify().problems} == {"bob"}


def test_progress_is_told_once_a_user_and_adds_up(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    a_bit_of_everything(alice)
    bob.tasks.create("fly")
    admin.execute("update eventstore.task set title = 'spoilt'")

    for how in ({"check": True}, {"check": True, "jobs": 2}, {}, {"jobs": 2}):
        steps: list[Rebuilt] = []
        total = store.rebuild(progress=steps.append, **how)
        assert sum(steps, start=Rebuilt()) == total
        assert sorted((step.users, step.events) for step in steps) == [(1, 1), (1, 13)]
        assert total.rows == 9 + 1
        assert total.changed == (3 if how != {"jobs": 2} else 0)


def test_an_event_nobody_can_read_stops_the_rebuild_of_that_user_and_changes_nothing(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection, database_url: str
) -> None:
    for user in (alice, bob):
        a_bit_of_everything(user)
    (task, _) = alice.tasks.list()
    with EventStore.connect(database_url, events=[TaskSnoozed]) as newer:
        newer.user("alice").append([NewEvent(stream_id=task.id, data=TaskSnoozed())])
        admin.execute("update eventstore.task set title = 'spoilt'")
        spoilt = every_row(admin, "alice")

        for check in (True, False):
            with pytest.raises(UnknownEventType) as unknown:
                store.rebuild("alice", check=check)
            assert (unknown.value.type, unknown.value.position) == ("TaskSnoozed", 14)
        (problem,) = store.verify("alice").problems

        assert (problem.kind, problem.position) == ("unreadable", 14)
        assert every_row(admin, "alice") == spoilt
        assert store.rebuild("bob").changed == 2
        assert newer.rebuild("alice").changed == 2
        assert newer.verify().ok


def test_a_rebuild_of_all_goes_on_past_a_log_nobody_can_read_and_names_its_user(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection, database_url: str
) -> None:
    for user in (alice, bob, store.user("carol")):
        a_bit_of_everything(user)
    (task, _) = bob.tasks.list()
    with EventStore.connect(database_url, events=[TaskSnoozed]) as newer:
        newer.user("bob").append([NewEvent(stream_id=task.id, data=TaskSnoozed())])
    admin.execute("update eventstore.task set title = 'spoilt'")
    spoilt = every_row(admin, "bob")

    for _ in range(2):
        with pytest.raises(Incomplete, match="user 'bob' was left as is, all") as left:
            store.rebuild(jobs=2)
        assert isinstance(left.value.failures["bob"], UnknownEventType)

        assert {problem.user_id for problem in store.verify().problems} == {"bob"}
        assert every_row(admin, "bob") == spoilt


def test_a_rebuild_of_all_goes_on_past_an_event_that_a_projector_cannot_take(
    service_url: str, admin: psycopg.Connection
) -> None:
    with EventStore.connect(service_url) as older:
        for name in ("alice", "bob", "carol"):
            older.user(name).tasks.create("secret" if name == "bob" else "Buy milk")

    @projector(Done)
    def project_choosy(fact: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(fact.data, TaskCreated):
            yield Insert(Done, {"id": fact.stream_id, "at": RECORDED_AT})
            if fact.data.title == "secret":
                raise ValueError(fact.data.title)

    with EventStore.connect(service_url, projectors=[project_choosy]) as store:
        with pytest.raises(Incomplete) as left:
            store.rebuild()
        problems = store.verify().problems

    assert list(left.value.failures) == ["bob"]
    assert "position 1 cannot be read: a projector raises ValueError" in str(left.value)
    assert "secret" not in str(left.value)
    assert [(one.kind, one.user_id, one.position) for one in problems] == [("unreadable", "bob", 1)]
    rows = admin.execute("select user_id from service.done order by 1").fetchall()
    assert rows == [("alice",), ("carol",)]


def test_a_rebuild_of_all_goes_on_past_a_user_whose_log_is_held_too_long(
    store: EventStore, alice: User, bob: User, direct_url: str, database_url: str
) -> None:
    for user in (alice, bob):
        a_bit_of_everything(user)
    settings = Settings(database_url=database_url, lock_timeout_seconds=0.3)
    with (
        psycopg.connect(direct_url) as holder,
        EventStore.connect(settings=settings) as impatient,
    ):
        holder.execute("update eventstore.task set title = 'spoilt' where user_id = 'bob'")
        holder.commit()
        holder.execute("select from eventstore.user_log where user_id = 'alice' for update")

        with pytest.raises(Incomplete) as left:
            impatient.rebuild()

    assert isinstance(left.value.failures["alice"], TimedOut)
    assert store.verify("bob").ok
    assert store.rebuild().users == 2


def test_a_worker_who_gives_a_user_up_does_not_wait_for_one_who_has_taken_that_user_since(
    database_url: str, direct_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=database_url, lock_timeout_seconds=0.3)
    with (
        EventStore.connect(settings=settings) as store,
        psycopg.connect(direct_url) as holder,
        psycopg.connect(direct_url) as worker,
    ):
        for name in ("alice", "bob", "carol"):
            store.user(name).tasks.create("x")
        holder.execute("update eventstore.task set title = 'spoilt'")
        holder.commit()
        holder.execute("select from eventstore.user_log where user_id = 'alice' for update")

        def taken_at_once(connection: Any, statements: Any) -> Any:
            if any("finished_at = now()" in sql and "alice" in who for sql, who, _ in statements):
                worker.execute("select from eventstore.rebuild_progress"
                               " where user_id = 'alice' for update")  # fmt: skip
            return exchange(connection, statements)

        monkeypatch.setattr(eventstore.database.driver, "exchange", taken_at_once)
        with pytest.raises(Incomplete) as left:
            store.rebuild()

        assert list(left.value.failures) == ["alice"]
        assert {one.user_id for one in store.verify().problems} == {"alice"}


def test_a_user_without_a_log_has_nothing_to_rebuild(store: EventStore) -> None:
    assert store.rebuild("nobody") == store.rebuild("nobody", check=True) == Rebuilt()
    assert store.verify("nobody") == Verified()
    assert store.rebuild() == Rebuilt()
    assert store.users() == []


def test_a_rebuild_finds_events_that_are_many_pages(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    for _ in range(11):
        alice.append([NewEvent(stream_id=uuid7(), data=TaskCreated(title="x")) for _ in range(500)])
    admin.execute("delete from eventstore.task")

    rebuilt = store.rebuild()

    assert rebuilt == Rebuilt(users=1, events=5_500, rows=5_500, changed=5_500)
    assert store.verify().ok


def test_a_rebuild_of_large_rows_is_many_statements_and_round_trips(
    store: EventStore, alice: User, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.apply.live, "_SIZE_PER_INSERT", 2_000)
    monkeypatch.setattr(projections.rebuild.repair, "_SIZE_TOGETHER", 5_000)
    sizes: list[int] = []
    delivered = projections.rebuild.repair._together

    def watched(steps: Iterable[Any]) -> Iterator[list[Any]]:
        for some in delivered(steps):
            sizes.append(sum(step.size for step in some))
            yield some

    monkeypatch.setattr(projections.rebuild.repair, "_together", watched)
    chat = alice.conversations.start()
    for _ in range(30):
        alice.messages.post(chat.id, sender="tool", content="x" * 1_000)
    admin.execute("delete from eventstore.message")

    assert store.rebuild("alice").changed == 30
    assert store.verify().ok
    assert len(sizes) > 5
    assert max(sizes) < 5_000 + 2_000 + 2_500  # one statement more, which ends with one row more
