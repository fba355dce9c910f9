"""Verify reports every wrong row of the read models, and a rebuild repairs exactly those."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import eventstore.database.driver.sync_driver
import projections.rebuild.compare
import projections.rebuild.parts
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
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.events.json_codec import loads
from eventstore.log.ids import uuid7
from projections import RECORDED_AT, Insert, RowChange, projector
from projections.rebuild.rebuild import Rebuilt
from tests.support.own_read_model import Done

TABLES = ("task", "conversation", "message", "tool_call")
LABELS = {"task": "title", "conversation": "title", "message": "content", "tool_call": "name"}
EXTRA = "'00000000-0000-0000-0000-000000000009'"

# SQL that spoils the read models, and the problems that verify must report.
SPOILS: dict[str, set[str]] = {
    "update eventstore.task set title = 'walked' where title = 'walk'": {
        "changed_row of alice: task walk differs in title"
    },
    "update eventstore.task set completed = not completed, completed_at = null"
    " where deleted_at is null": {
        "changed_row of alice: task walk differs in completed, completed_at",
        "changed_row of alice: task cook differs in completed",
    },
    "delete from eventstore.task where title = 'cook'": {"missing_row of alice: task cook"},
    "update eventstore.task set tags = array['x'], rank = 'x', due_on = 'today', version = 9"
    " where title = 'cook'": {
        "changed_row of alice: task cook differs in due_on, tags, rank, version"
    },
    "update eventstore.task set deleted_at = null, last_position = 99 where title = 'dropped'": {
        "changed_row of alice: task dropped differs in last_position, deleted_at"
    },
    f"""
    insert into eventstore.task
        (user_id, id, title, priority, tags, completed, created_at, updated_at, event_id,
         position, version, last_position)
    select user_id, {EXTRA}, 'extra', 'low', '{{}}', false, created_at, updated_at,
        event_id, 99, 1, 99
    from eventstore.task limit 1
    """: {"extra_row of alice: task extra"},
    """
    insert into eventstore.task
        (user_id, id, title, priority, tags, completed, created_at, updated_at, event_id,
         position, version, last_position)
    select 'nobody', id, 'extra', 'low', '{}', false, created_at, updated_at, event_id, 99, 1, 99
    from eventstore.task where title = 'walk'
    """: {"extra_row of nobody: task walk"},
    "update eventstore.task set user_id = 'bob' where title = 'walk'": {
        "missing_row of alice: task walk",
        "extra_row of bob: task walk",
    },
    """
    update eventstore.conversation set activity_position = 7, last_position = 1, key = 'key'
    where title = 'chat'
    """: {
        "changed_row of alice: conversation chat differs in key, last_position, activity_position"
    },
    """
    update eventstore.conversation set status = 'active', deleted_at = null
    where status = 'deleted'
    """: {"changed_row of alice: conversation gone differs in status, deleted_at"},
    """
    update eventstore.message set content = 'bye', body = '{"role": "user", "content": "bye"}'
    where content = 'hello'
    """: {"changed_row of alice: message hello differs in content, body"},
    "update eventstore.message set tool_call_count = 2 where tool_call_count = 1": {
        "changed_row of alice: message asking differs in tool_call_count"
    },
    "update eventstore.tool_call set arguments = '\"{ }\"' where name = 'look'": {
        "changed_row of alice: tool_call look differs in arguments"
    },
    """
    update eventstore.tool_call set status = 'pending', finished_at = null, output = 'null'
    where name = 'look'
    """: {"changed_row of alice: tool_call look differs in status, output, finished_at"},
    "delete from eventstore.tool_call": {"missing_row of alice: tool_call look"},
    f"update eventstore.tool_call set id = {EXTRA}": {
        "missing_row of alice: tool_call look",
        "extra_row of alice: tool_call look",
    },
    "update eventstore.message set retracted_at = null, retracted_position = null": {
        "changed_row of alice: message slip differs in retracted_at, retracted_position"
    },
    # Two positions are swapped; negative positions avoid the unique constraint meanwhile.
    """
    create temporary table swapped on commit drop as
    select id, position from eventstore.message where content in ('hello', 'asking');
    update eventstore.message set position = -position where id in (select id from swapped);
    update eventstore.message as m set position = other.position
    from swapped join swapped as other on other.id <> swapped.id where m.id = swapped.id
    """: {
        "changed_row of alice: message hello differs in position",
        "changed_row of alice: message asking differs in position",
    },
    # Messages are moved to a conversation that the log does not have.
    f"""
    insert into eventstore.conversation
        (user_id, id, title, status, created_at, updated_at, last_activity_at, event_id,
         position, last_position, activity_position)
    select user_id, {EXTRA}, 'extra', 'active', created_at, updated_at, updated_at, event_id, 98,
        98, 98
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
    "delete from eventstore.conversation where title = 'gone'": {
        "missing_row of alice: conversation gone"
    },
}


class TaskSnoozed(Event, type="TaskSnoozed", stream_kind="task"):
    """An event whose class only some stores have."""


def write_sample(user: User) -> None:
    """Write events that fill every built-in read model."""
    walk, _ = user.tasks.create("walk", description="uphill"), user.tasks.create("cook")
    user.tasks.complete(walk.id)
    user.tasks.delete(user.tasks.create("dropped").id)
    chat = user.conversations.start(title="chat")
    user.messages.post(chat.id, sender="user", content="hello")
    call = user.tool_calls.request(chat.id, name="look", arguments="{}", content="asking")
    user.tool_calls.succeed(call, output={"found": [1, None, "\0"]})
    slip = user.messages.post(chat.id, sender="user", content="slip")
    user.messages.retract(chat.id, slip.id)
    gone = user.conversations.start(title="gone")
    user.messages.post(gone.id, sender="user", content="farewell")
    user.conversations.delete(gone.id)


def read_rows(admin: psycopg.Connection, user_id: str = "%") -> set[tuple[str, ...]]:
    """Return all read-model rows with the transaction that wrote each and its location on disk."""
    return {
        (table, *row)
        for table in TABLES
        for row in admin.execute(
            f"select t::text, xmin::text, ctid::text from eventstore.{table} as t"
            f" where user_id like '{user_id}'"
        )
    }


def contents(rows: set[tuple[str, ...]]) -> set[tuple[str, str]]:
    """Return the rows of `read_rows` without transactions and locations."""
    return {(table, row) for table, row, *_ in rows}


def row_names(admin: psycopg.Connection) -> dict[tuple[str, str], str]:
    """Return the name of each row in `SPOILS`, by table and key."""
    return {
        (f"eventstore.{table}", key): f"{table} {label}"
        for table in TABLES
        for key, label in admin.execute(f"select id::text, {LABELS[table]} from eventstore.{table}")
    }


def describe(problem: Problem, known: dict[tuple[str, str], str]) -> str:
    """Return a problem in the words of `SPOILS`."""
    assert problem.table is not None
    assert problem.key is not None
    name = f"{problem.kind} of {problem.user_id}: {known[problem.table, problem.key[0]]}"
    if problem.kind == "changed_row":
        return name + problem.detail.replace("differs from the replay in", " differs in")
    return name


def test_verify_reports_and_rebuild_repairs_exactly_the_wrong_rows(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_sample(alice)
    right, known = read_rows(admin), row_names(admin)

    for spoil, expected in SPOILS.items():
        with admin.transaction():
            admin.execute(f"{spoil}")
        spoiled = read_rows(admin)
        verified = store.verify()
        checked = store.rebuild(check=True)
        assert {describe(one, row_names(admin) | known) for one in verified.problems} == expected
        assert len(verified.problems) == checked.changed == len(expected)
        assert read_rows(admin) == spoiled  # verify and a check write nothing

        rebuilt = store.rebuild()
        repaired = read_rows(admin)

        assert rebuilt.changed == len(expected)
        assert contents(repaired) == contents(right)
        assert spoiled & right <= repaired  # correct rows were not written again
        assert store.verify().ok
        right = repaired


def test_a_rebuild_of_empty_tables_restores_every_row(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_sample(alice)
    right = read_rows(admin)
    history = alice.history(alice.conversations.list()[0].id)
    for table in TABLES:
        admin.execute(f"truncate eventstore.{table}")

    checked = store.rebuild(check=True)
    rebuilt = store.rebuild()

    assert checked == rebuilt == Rebuilt(users=1, events=15, rows=len(right), changed=len(right))
    assert contents(read_rows(admin)) == contents(right)
    assert alice.history(alice.conversations.list()[0].id) == history
    assert store.rebuild().changed == 0


def test_a_rebuild_of_one_user_does_not_write_a_row_of_another(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    for user in (alice, bob):
        write_sample(user)
    admin.execute("update eventstore.task set title = 'spoilt'")
    right, spoilt = read_rows(admin, "alice"), read_rows(admin, "bob")

    rebuilt = store.rebuild("alice")

    assert rebuilt.changed == 3
    assert read_rows(admin, "bob") == spoilt
    assert len(read_rows(admin, "alice") - right) == 3
    assert store.verify("alice").ok
    assert {problem.user_id for problem in store.verify().problems} == {"bob"}


def test_progress_is_reported_once_for_each_user_and_adds_up(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    write_sample(alice)
    bob.tasks.create("fly")
    admin.execute("update eventstore.task set title = 'spoilt'")

    for options in ({"check": True}, {"check": True, "jobs": 2}, {}, {"jobs": 2}):
        steps: list[Rebuilt] = []
        total = store.rebuild(progress=steps.append, **options)
        assert sum(steps, start=Rebuilt()) == total
        assert sorted((step.users, step.events) for step in steps) == [(1, 1), (1, 15)]
        assert total.rows == 11 + 1
        assert total.changed == (4 if options != {"jobs": 2} else 0)


def test_an_event_of_an_unknown_type_fails_the_rebuild_of_its_user_without_a_change(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection, database_url: str
) -> None:
    for user in (alice, bob):
        write_sample(user)
    (task, _) = alice.tasks.list()
    with EventStore.connect(database_url, events=[TaskSnoozed]) as newer_store:
        newer_store.user("alice").append([NewEvent(stream_id=task.id, data=TaskSnoozed())])
        admin.execute("update eventstore.task set title = 'spoilt'")
        spoilt = read_rows(admin, "alice")

        for check in (True, False):
            with pytest.raises(UnknownEventType) as unknown:
                store.rebuild("alice", check=check)
            assert (unknown.value.type, unknown.value.position) == ("TaskSnoozed", 16)
        (problem,) = store.verify("alice").problems

        assert (problem.kind, problem.position) == ("unreadable", 16)
        assert read_rows(admin, "alice") == spoilt
        assert store.rebuild("bob").changed == 3
        assert newer_store.rebuild("alice").changed == 3
        assert newer_store.verify().ok


def test_a_rebuild_of_all_skips_an_unreadable_log_and_names_its_user(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection, database_url: str
) -> None:
    for user in (alice, bob, store.user("carol")):
        write_sample(user)
    (task, _) = bob.tasks.list()
    with EventStore.connect(database_url, events=[TaskSnoozed]) as newer_store:
        newer_store.user("bob").append([NewEvent(stream_id=task.id, data=TaskSnoozed())])
    admin.execute("update eventstore.task set title = 'spoilt'")
    spoilt = read_rows(admin, "bob")

    for _ in range(2):
        with pytest.raises(Incomplete, match="user 'bob' was left as is, all") as left:
            store.rebuild(jobs=2)
        assert isinstance(left.value.failures["bob"], UnknownEventType)

        assert {problem.user_id for problem in store.verify().problems} == {"bob"}
        assert read_rows(admin, "bob") == spoilt


def test_a_rebuild_of_all_skips_a_user_whose_event_a_projector_cannot_apply(
    service_url: str, admin: psycopg.Connection
) -> None:
    with EventStore.connect(service_url) as older_store:
        for name in ("alice", "bob", "carol"):
            older_store.user(name).tasks.create("secret" if name == "bob" else "Buy milk")

    @projector(Done)
    def project_choosy(event: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(event.data, TaskCreated):
            yield Insert(Done, {"id": event.stream_id, "at": RECORDED_AT})
            if event.data.title == "secret":
                raise ValueError(event.data.title)

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


def test_a_rebuild_of_all_skips_a_user_whose_log_stays_locked(
    store: EventStore, alice: User, bob: User, direct_url: str, database_url: str
) -> None:
    for user in (alice, bob):
        write_sample(user)
    settings = Settings(database_url=database_url, deadline_seconds=1)
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


def test_a_worker_that_skips_a_user_does_not_wait_for_the_next_worker_of_that_user(
    database_url: str, direct_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(database_url=database_url, deadline_seconds=1)
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

        # A second worker locks the progress of alice just before the first records its failure.
        def lock_progress_first(connection: Any, statements: Any, unread: int) -> Any:
            if any("finished_at = now()" in sql and "alice" in who for sql, who, _ in statements):
                worker.execute("select from eventstore.rebuild_progress"
                               " where user_id = 'alice' for update")  # fmt: skip
            return run_pipeline(connection, statements, unread)

        monkeypatch.setattr(
            eventstore.database.driver.sync_driver, "run_pipeline", lock_progress_first
        )
        with pytest.raises(Incomplete) as left:
            store.rebuild()

        assert list(left.value.failures) == ["alice"]
        assert {one.user_id for one in store.verify().problems} == {"alice"}


def test_a_user_without_a_log_has_nothing_to_rebuild(store: EventStore) -> None:
    assert store.rebuild("nobody") == store.rebuild("nobody", check=True) == Rebuilt()
    assert store.verify("nobody") == Verified()
    assert store.rebuild() == Rebuilt()
    assert store.users() == []


def test_a_rebuild_reads_a_log_of_many_pages(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    for _ in range(11):
        alice.append([NewEvent(stream_id=uuid7(), data=TaskCreated(title="x")) for _ in range(500)])
    admin.execute("delete from eventstore.task")

    rebuilt = store.rebuild()

    assert rebuilt == Rebuilt(users=1, events=5_500, rows=5_500, changed=5_500)
    assert store.verify().ok


def test_a_rebuild_of_many_rows_is_split_into_statements_and_round_trips(
    database_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.rebuild.repair, "_ROWS_TOGETHER", 3)
    sent: list[list[int]] = []

    def record(connection: Any, statements: Any, unread: int) -> Any:
        repairs = [
            len(loads(one.params[1]))
            for one in statements
            if one.sql.startswith(("insert into eventstore.message", "delete from eventstore.mess"))
        ]
        sent.append(repairs)
        return run_pipeline(connection, statements, unread)

    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        chat = alice.conversations.start()
        for number in range(30):
            alice.messages.post(chat.id, sender="tool", content=f"{number} " + "x" * 1_000)
        admin.execute("update eventstore.message set content = 'spoilt'")
        monkeypatch.setattr(eventstore.database.driver.sync_driver, "run_pipeline", record)

        assert store.rebuild("alice").changed == 30
        assert store.verify().ok
    assert [rows for repairs in sent for rows in repairs] == [3] * 20
    assert max(map(len, sent)) == 4


def test_the_comparison_of_large_rows_is_split_into_statements_and_round_trips(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.rebuild.compare, "_SIZE_TOGETHER", 5_000)
    sizes: list[list[int]] = []

    def record(connection: Any, statements: Any, unread: int) -> Any:
        sizes.append([len(one.params[1]) for one in statements if "json_to_recordset" in one.sql])
        return run_pipeline(connection, statements, unread)

    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        chat = alice.conversations.start()
        for number in range(12):
            alice.messages.post(chat.id, sender="tool", content=f"{number} " + "x" * 1_000)
        monkeypatch.setattr(eventstore.database.driver.sync_driver, "run_pipeline", record)

        assert store.rebuild("alice", check=True).changed == 0

    assert all(sum(batch) <= 5_100 for batch in sizes)
    assert sum(map(sum, sizes)) > 12_000


def test_no_other_worker_takes_a_user_whose_log_is_rebuilt_in_parts(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.rebuild.parts, "EVENTS_PER_PART", 20)
    with EventStore.connect(database_url) as store:
        for user, tasks in (("alice", 400), ("bob", 20), ("carol", 20)):
            with store.user(user).transaction() as tx:
                for number in range(tasks):
                    tx.tasks.create(f"task {number}")

        done = [store.rebuild(jobs=3) for _ in range(3)]

    assert {(one.users, one.events, one.rows) for one in done} == {(3, 440, 440)}
