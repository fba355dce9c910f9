"""A read model of a service's own: filled, followed, spoiled, mended, protected, refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import REAL, Column
from sqlalchemy.exc import ProgrammingError
from sqlmodel import Field, select

from eventstore import (
    AlreadyExists,
    ConfigurationError,
    EventEnvelope,
    EventStore,
    UnsafeDatabase,
    User,
)
from eventstore.database.timestamps import timestamp_text
from eventstore.log.ids import uuid7
from projections import (
    RECORDED_AT,
    AppendItem,
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
    Own,
    boxed,
    project_done,
    protect,
    service_url,
    store,
)

__all__ = ["service_url", "store"]  # fixtures


def stored(user: User) -> dict[str, tuple[int, str | None]]:
    with user.session() as session:
        return {one.name: (one.n, one.note) for one in session.exec(select(Box))}


def test_markers_are_what_the_database_gave_the_event(store: EventStore) -> None:
    alice, box = store.user("alice"), uuid7()
    alice.tasks.create("positions do not begin with the box")

    _, noted, put, marked = alice.append(
        [
            boxed(box, "made"),
            boxed(box, "noted", value="x"),
            boxed(box, "put", value={"p": "$position", "v": "$version"}),
            boxed(box, "marked", value={"m": "$position", "at": "$recorded_at"}),
        ]
    )

    with alice.session() as session:
        row = session.exec(select(Box)).one()
    assert (row.position, row.version, row.recorded_at) == (3, 2, noted.recorded_at)
    assert row.items == [
        {
            "p": put.position,
            "v": put.version,
            "m": marked.position,
            "at": timestamp_text(marked.recorded_at),
        }
    ]
    assert (marked.position, put.version) == (5, 3)
    assert store.verify().ok


def test_a_change_of_a_row_that_is_not_there_does_nothing(store: EventStore) -> None:
    alice, box = store.user("alice"), uuid7()

    for done, value in [("noted", "x"), ("counted", 1), ("put", {}), ("marked", {}), ("gone", 0)]:
        alice.append([boxed(box, done, value=value)])

    assert stored(alice) == {}
    assert store.verify().ok


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (Insert(Done, {"id": UUID(int=1), "when": RECORDED_AT}), "names when, which the table"),
        (Insert(Done, {"at": RECORDED_AT}), r"must name the key of a row: \(id\)"),
        (Update(Done, {}, {"at": RECORDED_AT}), r"must name the key of a row: \(id\)"),
        (Delete(Done, {"id": UUID(int=1), "user_id": "bob"}), r"names user_id, which the table"),
        (
            Delete(Task, {"id": UUID(int=1)}),
            "yields Insert, Update and Delete of Done, and of no other table",
        ),
    ],
)
def test_a_projector_that_is_wrong_is_told_so_and_nothing_is_written(
    service_url: str, change: RowChange, said: str
) -> None:
    mistaken = projector(Done)(lambda _: [change])
    with EventStore.connect(service_url, projectors=[mistaken]) as store:
        alice = store.user("alice")

        with pytest.raises(ConfigurationError, match=said):
            alice.tasks.create("Buy milk")

        assert alice.events() == []


def test_a_count_of_nothing_stays_nothing_and_instants_in_items_read_the_same(
    service_url: str,
) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    nothing = dict.fromkeys(("n", "note", "body", "items"))

    @projector(Box)
    def project_nothing(fact: EventEnvelope) -> Iterator[RowChange]:
        key = {"box": fact.stream_id, "name": "box"}
        match fact.data:
            case Boxed(done="made"):
                yield Insert(Box, key | nothing | STAMP)
            case Boxed():
                yield Update(Box, key, {"n": Increment(1), "items": AppendItem({"at": when})})

    with EventStore.connect(service_url, projectors=[project_nothing], events=[Boxed]) as store:
        alice, box = store.user("alice"), uuid7()
        alice.append([boxed(box, "made")])
        alice.append([boxed(box, "counted")])

        with alice.session() as session:
            (row,) = session.exec(select(Box)).all()
        assert [row.n, row.items] == [None, [{"at": timestamp_text(when)}]]
        assert store.verify().ok


def test_an_append_whose_row_is_there_already_is_refused_whole(store: EventStore) -> None:
    alice, box = store.user("alice"), uuid7()
    alice.append([boxed(box, "made")])

    with pytest.raises(AlreadyExists):
        alice.append([boxed(box, "noted", value="x"), boxed(box, "made")])

    assert len(alice.events()) == 1
    assert stored(alice) == {"box": (0, None)}
    assert store.verify().ok


def test_a_projector_follows_the_commands_of_the_facade(store: EventStore) -> None:
    alice = store.user("alice")
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
    assert store.verify().ok


def test_a_projector_added_later_is_filled_by_a_rebuild(service_url: str) -> None:
    with EventStore.connect(service_url) as before:
        done = before.user("alice").tasks.create("walk")
        before.user("alice").tasks.complete(done.id)
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


def test_spoiled_rows_of_an_own_table_are_named_and_mended(
    store: EventStore, admin: psycopg.Connection
) -> None:
    alice, bob, box = store.user("alice"), store.user("bob"), uuid7()
    for user in (alice, bob):
        user.append([boxed(box, "made", name=name) for name in "abc"])
    before = stored(alice), stored(bob)
    admin.execute("update service.box set n = 7, note = 'lie' where user_id = 'bob' and name = 'a'")
    admin.execute("update service.box set name = 'd' where user_id = 'bob' and name = 'b'")

    problems = store.verify().problems

    assert {(one.kind, one.user_id, one.table, one.key) for one in problems} == {
        ("changed_row", "bob", "service.box", (str(box), "a")),
        ("missing_row", "bob", "service.box", (str(box), "b")),
        ("extra_row", "bob", "service.box", (str(box), "d")),
    }
    assert store.rebuild().changed == 3
    assert (stored(alice), stored(bob)) == before


def test_an_own_table_shows_and_takes_nothing_of_another_user(store: EventStore) -> None:
    alice, bob = store.user("alice"), store.user("bob")
    alice.append([boxed(uuid7(), "made")])

    with bob.session(read_only=False) as session:
        session.add(Done(user_id="alice", id=uuid7(), at=datetime.now(UTC)))
        with pytest.raises(ProgrammingError, match="policy"):
            session.commit()

    assert stored(bob) == {}
    assert store.verify().ok


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

    EventStore.connect(database_url, projectors=[project_done]).close()


class Shared(Own, table=True):
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


class Rounded(Own, table=True):
    """A table whose columns change what is written to them."""

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    n: float = Field(sa_column=Column(REAL))


def test_a_column_that_would_change_what_is_written_is_refused(database_url: str) -> None:
    message = "column n is real, which changes what is written.*; make it double precision"

    with pytest.raises(ConfigurationError, match=message):
        EventStore.connect(database_url, projectors=[projector(Rounded)(lambda _: [])])


@pytest.mark.parametrize("given", [lambda _: [], None, "project_done", [project_done]])
def test_what_is_no_projector_is_refused_by_name(database_url: str, given: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no projector; decorate the function"):
        EventStore.connect(database_url, projectors=[given])


@pytest.mark.parametrize("given", [[object], ["Boxed"], [None], 5, object, None, "Boxed"])
def test_what_are_no_event_classes_is_refused_by_name(database_url: str, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"is no (event class|list)"):
        EventStore.connect(database_url, events=given)


def test_a_class_that_is_no_table_is_refused_by_name(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no table that a projector can keep"):
        EventStore.connect(database_url, projectors=[projector(Own)(lambda _: [])])
