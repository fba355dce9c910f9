"""A service's own read model is projected, verified, rebuilt and protected like the built-in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import REAL, BigInteger, Column
from sqlalchemy.exc import ProgrammingError
from sqlmodel import Field, select

from eventstore import (
    AlreadyExists,
    ConfigurationError,
    EventEnvelope,
    EventStore,
    TaskCompleted,
    TaskCreated,
    UnsafeDatabase,
    User,
)
from eventstore.log.ids import uuid7
from projections import (
    RECORDED_AT,
    Delete,
    Increment,
    Insert,
    RowChange,
    Task,
    Update,
    project_task,
    projector,
)
from projections.protection import protection_sql
from tests.support.own_read_model import (
    DDL,
    STAMP,
    Box,
    Boxed,
    Done,
    ServiceModel,
    box_event,
    project_done,
    protect,
)


def stored_boxes(user: User) -> dict[str, tuple[int, str | None]]:
    """Return the counter and the note of each box, by its name."""
    with user.session() as session:
        return {one.name: (one.n, one.note) for one in session.exec(select(Box))}


def test_markers_become_the_values_that_the_database_gave_the_event(
    service_store: EventStore,
) -> None:
    alice, box = service_store.user("alice"), uuid7()
    alice.tasks.create("an event before those of the box")

    _, noted, _ = alice.append(
        [
            box_event(box, "made"),
            box_event(box, "noted", value="x"),
            box_event(box, "counted", value=1),
        ]
    )

    with alice.session() as session:
        row = session.exec(select(Box)).one()
    assert (row.position, row.version, row.recorded_at) == (3, 2, noted.recorded_at)
    assert (noted.position, noted.version) == (3, 2)
    assert service_store.verify().ok


def test_a_change_of_a_missing_row_does_nothing(service_store: EventStore) -> None:
    alice, box = service_store.user("alice"), uuid7()

    for done, value in [("noted", "x"), ("counted", 1), ("tagged", []), ("noted if", "x"),
                        ("gone", 0)]:  # fmt: skip
        alice.append([box_event(box, done, value=value)])

    assert stored_boxes(alice) == {}
    assert service_store.verify().ok


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Insert(Done, {"id": UUID(int=1), "when": RECORDED_AT}), "names when, which the table"),
        (Insert(Done, {"at": RECORDED_AT}), r"must name the key of a row: \(id\)"),
        (Update(Done, {}, {"at": RECORDED_AT}), r"must name the key of a row: \(id\)"),
        (
            Update(Done, {"id": UUID(int=1), "at": None}, {"at": RECORDED_AT}),
            r"must name the key of a row: \(id\), user_id aside and nothing else in its place",
        ),
        (Delete(Done, {"id": UUID(int=1), "at": None}), "and nothing else in its place"),
        (Delete(Done, {"id": UUID(int=1), "user_id": "bob"}), r"names user_id, which the table"),
        (
            Delete(Task, {"id": UUID(int=1)}),
            "yields Insert, Update and Delete of Done, and of no other table",
        ),
    ],
)
def test_an_invalid_row_change_is_refused_and_nothing_is_written(
    service_url: str, change: RowChange, message: str
) -> None:
    invalid = projector(Done)(lambda _: [change])
    with EventStore.connect(service_url, projectors=[invalid]) as store:
        alice = store.user("alice")

        with pytest.raises(ConfigurationError, match=message):
            alice.tasks.create("Buy milk")

        assert alice.events() == []


@pytest.mark.parametrize("one_append", [False, True])
def test_an_incremented_null_stays_null(service_url: str, *, one_append: bool) -> None:
    nulls = dict.fromkeys(("n", "note", "body", "tags"))

    @projector(Box)
    def project_nulls(event: EventEnvelope) -> Iterator[RowChange]:
        key = {"box": event.stream_id, "name": "box"}
        match event.data:
            case Boxed(done="made"):
                yield Insert(Box, key | nulls | STAMP)
            case Boxed():
                yield Update(Box, key, {"n": Increment(1), "note": "counted"})

    with EventStore.connect(service_url, projectors=[project_nulls], events=[Boxed]) as store:
        alice, box = store.user("alice"), uuid7()
        events = [box_event(box, "made"), box_event(box, "counted")]
        for appended in [events] if one_append else [[one] for one in events]:
            alice.append(appended)

        with alice.session() as session:
            (row,) = session.exec(select(Box)).all()
        assert [row.n, row.note] == [None, "counted"]
        assert store.verify().ok


@pytest.mark.parametrize("one_append", [False, True])
@pytest.mark.parametrize("made_with_it", [False, True])
def test_an_update_with_a_condition_changes_only_a_row_that_meets_it(
    service_store: EventStore, *, made_with_it: bool, one_append: bool
) -> None:
    """Each second update meets its condition, whichever of them are folded into one append."""
    alice, boxes = service_store.user("alice"), [uuid7() for _ in range(3)]
    events = [
        [box_event(box, "made"), box_event(box, "counted", value=number),
         box_event(box, "noted if", n=1, value="one"), box_event(box, "noted if", n=2, value="two")]
        for number, box in enumerate(boxes)
    ]  # fmt: skip
    if not made_with_it:
        alice.append([made for made, *_ in events])
    later = [one for some in events for one in (some if made_with_it else some[1:])]

    for appended in [later] if one_append else [[one] for one in later]:
        alice.append(appended)

    with alice.session() as session:
        notes = {row.box: row.note for row in session.exec(select(Box))}
    assert [notes[box] for box in boxes] == [None, "one", "two"]
    assert service_store.verify().ok
    assert service_store.rebuild(check=True).changed == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("note", "old"), ("n", 5), ("id", UUID(int=5)), ("open", False), ("day", date(2026, 1, 2)),
        ("note", None), ("n", None), ("id", None), ("open", None), ("day", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("one_append", [False, True])
def test_a_condition_compares_as_the_replay_does(
    database_url: str, admin: psycopg.Connection, column: str, value: Any, *, one_append: bool
) -> None:
    """A row of nulls and a row of values are updated on the condition that they have `value`."""
    values = {"note": "old", "n": 5, "id": UUID(int=5), "open": False, "day": date(2026, 1, 2)}

    @projector(Compared)
    def project_compared(event: EventEnvelope) -> Iterator[RowChange]:
        match event.data:
            case TaskCreated(title=title):
                yield Insert(Compared, {"name": title} | (values if title == "full" else {}))
            case TaskCompleted():
                for name in ("full", "empty"):
                    changes = {"met": True, column: None}
                    yield Update(Compared, {"name": name}, changes, only_where={column: value})

    admin.execute(
        "create table compared (user_id text, name text, note text, n bigint, id uuid,"
        " open boolean, day date, met boolean, primary key (user_id, name))"
    )
    protect(admin, Compared)
    with EventStore.connect(database_url, projectors=[project_compared]) as store:
        if one_append:
            with store.user("alice").transaction() as tx:
                task = tx.tasks.create("full")
                tx.tasks.create("empty")
                tx.tasks.complete(task.id)
        else:
            task_id = store.user("alice").tasks.create("full").id
            store.user("alice").tasks.create("empty")
            store.user("alice").tasks.complete(task_id)

        met = admin.execute("select name from compared where met").fetchall()
        assert met == [("empty" if value is None else "full",)]
        assert store.verify().problems == ()
        assert store.rebuild(check=True).changed == 0


def test_an_append_whose_row_already_exists_writes_nothing(service_store: EventStore) -> None:
    alice, box = service_store.user("alice"), uuid7()
    alice.append([box_event(box, "made")])

    with pytest.raises(AlreadyExists):
        alice.append([box_event(box, "noted", value="x"), box_event(box, "made")])

    assert len(alice.events()) == 1
    assert stored_boxes(alice) == {"box": (0, None)}
    assert service_store.verify().ok


def test_a_projector_receives_the_events_of_commands(service_store: EventStore) -> None:
    alice = service_store.user("alice")
    with alice.transaction() as tx:
        first, second = tx.tasks.create("walk"), tx.tasks.create("cook")
        tx.tasks.complete(first.id)
        tx.tasks.complete(second.id)
    with alice.transaction() as tx:
        tx.tasks.reopen(first.id)
        tx.tasks.complete(first.id)
        tx.tasks.reopen(second.id)

    with alice.session() as session:
        (done,) = session.exec(select(Done)).all()

    assert (done.id, done.at) == (first.id, alice.tasks.get(first.id).completed_at)
    assert service_store.verify().ok


def test_a_rebuild_fills_the_table_of_a_projector_that_was_added_later(service_url: str) -> None:
    with EventStore.connect(service_url) as older_store:
        done = older_store.user("alice").tasks.create("walk")
        older_store.user("alice").tasks.complete(done.id)
    with EventStore.connect(service_url, projectors=[project_done]) as store:
        alice = store.user("alice")
        (missing,) = store.verify().problems
        store.rebuild()
        alice.tasks.complete(alice.tasks.create("cook").id)

        with alice.session() as session:
            ids = [row.id for row in session.exec(select(Done).order_by("at"))]
        assert (missing.kind, missing.table, missing.key) == (
            "missing_row",
            "service.done",
            (str(done.id),),
        )
        assert [alice.tasks.get(one).title for one in ids] == ["walk", "cook"]
        assert store.verify().ok


def test_wrong_rows_of_a_services_own_table_are_reported_and_repaired(
    service_store: EventStore, admin: psycopg.Connection
) -> None:
    alice, bob, box = service_store.user("alice"), service_store.user("bob"), uuid7()
    for user in (alice, bob):
        user.append([box_event(box, "made", name=name) for name in "abc"])
    before = stored_boxes(alice), stored_boxes(bob)
    admin.execute(
        "update service.box set n = 7, note = 'wrong' where user_id = 'bob' and name = 'a'"
    )
    admin.execute("update service.box set name = 'd' where user_id = 'bob' and name = 'b'")

    problems = service_store.verify().problems

    assert {(one.kind, one.user_id, one.table, one.key) for one in problems} == {
        ("changed_row", "bob", "service.box", (str(box), "a")),
        ("missing_row", "bob", "service.box", (str(box), "b")),
        ("extra_row", "bob", "service.box", (str(box), "d")),
    }
    assert service_store.rebuild().changed == 3
    assert (stored_boxes(alice), stored_boxes(bob)) == before


def test_a_services_own_table_neither_shows_nor_accepts_rows_of_another_user(
    service_store: EventStore,
) -> None:
    alice, bob = service_store.user("alice"), service_store.user("bob")
    alice.append([box_event(uuid7(), "made")])

    with bob.session(read_only=False) as session:
        session.add(Done(user_id="alice", id=uuid7(), at=datetime.now(UTC)))
        with pytest.raises(ProgrammingError, match="policy"):
            session.commit()

    assert stored_boxes(bob) == {}
    assert service_store.verify().ok


def test_a_projector_whose_table_is_missing_or_unprotected_is_refused(
    database_url: str, direct_url: str
) -> None:
    def refused(message: str) -> None:
        with pytest.raises(UnsafeDatabase, match=message):
            EventStore.connect(database_url, projectors=[project_done])

    refused("service.done: does not exist")
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute(DDL)
        refused("service.done: row-level security is not enabled")
        protect(owner, Done)

    # Once the table is protected, the same call succeeds.
    EventStore.connect(database_url, projectors=[project_done]).close()


class Compared(ServiceModel, table=True):
    """A table with a column of each kind of type that a condition may be on."""

    user_id: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    note: str | None
    n: int | None = Field(sa_column=Column(BigInteger))
    id: UUID | None
    open: bool | None
    day: date | None
    met: bool | None


class Shared(ServiceModel, table=True):
    """A table of all users: its key does not begin with `user_id`."""

    id: UUID = Field(primary_key=True)
    user_id: str = Field(primary_key=True)


def test_a_table_whose_key_does_not_begin_with_the_user_is_refused(database_url: str) -> None:
    message = r"read model shared: its primary key is \(id, user_id\); it must begin with user_id"

    with pytest.raises(ConfigurationError, match=message):
        EventStore.connect(database_url, projectors=[projector(Shared)(lambda _: [])])
    with pytest.raises(ConfigurationError, match=message):
        protection_sql(Shared)


def test_two_projectors_for_one_table_are_refused(database_url: str) -> None:
    for twice in ([project_done, project_done], [project_task]):
        with pytest.raises(ConfigurationError, match="two projectors for one table"):
            EventStore.connect(database_url, projectors=twice)


class Rounded(ServiceModel, table=True):
    """A table with a column that rounds its values."""

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    n: float = Field(sa_column=Column(REAL))


def test_a_real_column_is_refused_because_it_would_change_values(database_url: str) -> None:
    message = "column n is real, which a projector cannot keep; make it double precision"

    with pytest.raises(ConfigurationError, match=message):
        EventStore.connect(database_url, projectors=[projector(Rounded)(lambda _: [])])


@pytest.mark.parametrize("value", [lambda _: [], None, "project_done", [project_done]])
def test_a_value_that_is_not_a_projector_is_refused(database_url: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no projector; decorate the function"):
        EventStore.connect(database_url, projectors=[value])


@pytest.mark.parametrize("events", [[Boxed], (Boxed,), Boxed])
def test_a_projector_names_one_class_of_events_or_several(events: Any) -> None:
    assert projector(Done, events=events)(lambda _: []).events == (Boxed,)


@pytest.mark.parametrize("events", [[object], ["Boxed"], object])
def test_a_projector_of_what_is_no_event_is_refused(events: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no event class"):
        projector(Done, events=events)


@pytest.mark.parametrize("value", [[object], ["Boxed"], [None], 5, object, None, "Boxed"])
def test_a_value_that_is_not_a_list_of_event_classes_is_refused(
    database_url: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"is no (event class|list)"):
        EventStore.connect(database_url, events=value)


def test_a_projector_for_a_class_without_a_table_is_refused(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no table that a projector can keep"):
        EventStore.connect(database_url, projectors=[projector(ServiceModel)(lambda _: [])])
