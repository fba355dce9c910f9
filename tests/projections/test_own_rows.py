"""Rows of a service's own projector equal their replay, or their row change is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Computed,
    Float,
    ForeignKeyConstraint,
    Numeric,
    Text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select

from eventstore import (
    ConfigurationError,
    DatabaseFault,
    EventEnvelope,
    EventStore,
    Incomplete,
    InvalidInput,
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskReopened,
    TaskUpdated,
    UnreadableEvent,
)
from projections import (
    POSITION,
    Delete,
    Increment,
    Insert,
    RowChange,
    Update,
    projector,
)
from projections.projector import Projections
from projections.rebuild import locked_replay
from tests.support.own_read_model import protect


class Base(SQLModel, registry=registry()):
    """The base of the tables in this file, with metadata of its own."""


class Note(Base, table=True):
    __tablename__ = "note"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: str = Field(sa_column=Column(Text, primary_key=True))
    text: str | None = Field(sa_column=Column(Text))
    n: int | None = Field(sa_column=Column(BigInteger))
    price: Any = Field(sa_column=Column(Float(53)))
    exact: Any = Field(sa_column=Column(Numeric))
    cents: Any = Field(sa_column=Column(Numeric(30, 2)))
    integral: Any = Field(sa_column=Column(Numeric(30)))
    body: Any = Field(sa_column=Column(JSON))
    tags: Any = Field(sa_column=Column(ARRAY(Text)))


type Project = Callable[[EventEnvelope], Iterator[RowChange]]
type Open = Callable[[Project], EventStore]


@pytest.fixture
def open_notes(database_url: str, direct_url: str) -> Iterator[Open]:
    """Return a function that opens a store with a projector of notes; all are closed at the end."""
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute("create schema service")
        owner.execute(
            "create table service.note (user_id text, id text, text text default 'by default',"
            " n bigint default 7, price double precision, exact numeric,"
            " cents numeric(30, 2), integral numeric(30), body json, tags text[] default '{a}',"
            " primary key (user_id, id))"
        )
        protect(owner, Note)
    stores: list[EventStore] = []

    def open_with(project: Project) -> EventStore:
        stores.append(EventStore.connect(database_url, projectors=[projector(Note)(project)]))
        return stores[-1]

    yield open_with
    for store in stores:
        store.close()


def note_each_task(values: Callable[[EventEnvelope, TaskCreated], dict[str, Any]]) -> Project:
    """Return a projector that inserts a note with these values for each task."""

    def project(event: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(event.data, TaskCreated):
            yield Insert(Note, {"id": str(event.stream_id)} | values(event, event.data))

    return project


def project_parts(event: EventEnvelope) -> Iterator[RowChange]:
    """Insert a note without some of its columns, and change those columns with later events."""
    match event.data:
        case TaskCreated(description=description):
            text = {} if description is None else {"text": description}
            yield Insert(Note, {"id": str(event.stream_id)} | text)
        case TaskCompleted():
            yield Update(Note, {"id": str(event.stream_id)}, {"n": Increment(1)})
        case TaskReopened():
            changes, nothing = {"body": {"a": 1}}, {"n": None, "tags": None}
            yield Update(Note, {"id": str(event.stream_id)}, changes, only_where={"n": None})
            yield Update(Note, {"id": str(event.stream_id)}, nothing)


@pytest.mark.parametrize("one_append", [False, True])
@pytest.mark.parametrize("descriptions", [("words", None), (None, "words")])
def test_columns_that_an_insert_omits_are_null_live_and_after_a_rebuild(
    open_notes: Open,
    admin: psycopg.Connection,
    *,
    one_append: bool,
    descriptions: tuple[str | None, str | None],
) -> None:
    store = open_notes(project_parts)
    alice = store.user("alice")
    if one_append:
        with alice.transaction() as tx:
            for one in descriptions:
                made = tx.tasks.create("x", description=one)
                tx.tasks.complete(made.id)
                tx.tasks.reopen(made.id)
    else:
        for one in descriptions:
            task = alice.tasks.create("x", description=one)
            alice.tasks.complete(task.id)
            alice.tasks.reopen(task.id)
    columns = "select text, n, body::text, tags from service.note order by text"
    live = admin.execute(columns).fetchall()

    assert store.verify().ok
    admin.execute("delete from service.note")
    assert store.rebuild().changed == 2

    body = '{"a":1}'
    assert live == admin.execute(columns).fetchall()
    assert live == [("words", None, body, None), (None, None, body, None)]
    assert store.verify().ok


@pytest.mark.parametrize("key", [lambda event: event.stream_id, lambda _: 7, lambda _: True])
def test_a_key_of_another_type_than_its_column_is_refused(
    open_notes: Open, admin: psycopg.Connection, key: Callable[[EventEnvelope], object]
) -> None:
    """PostgreSQL would cast the key, and the replay would not find the row by it."""
    store = open_notes(note_each_task(lambda event, _: {"id": key(event)}))

    with pytest.raises(InvalidInput, match="the column takes str") as caught:
        store.user("alice").tasks.create("x")

    assert caught.value.path == "service.note.id"
    assert admin.execute("select count(*) from eventstore.event").fetchone() == (0,)


# Halves and numbers without an exact binary form are the ones that may be rounded differently.
NUMBERS = [
    3, 1.5, 2.5, -2.5, 0.1, 0.1 + 0.2, 1e22, 1 / 3, 2.675, 2.6750000000000003, 1.005, -1.005,
    Decimal("0.1"), Decimal("1.500"), Decimal("2.675"), Decimal("-1.005"), Decimal("0.5"),
    Decimal(10) ** 22, float("nan"), Decimal("NaN"),
]  # fmt: skip


@pytest.mark.parametrize("column", ["price", "exact", "cents", "integral"])
def test_a_number_is_replayed_as_the_database_stores_it(open_notes: Open, column: str) -> None:
    numbers = dict(zip(map(str, range(len(NUMBERS))), NUMBERS, strict=True))
    store = open_notes(
        note_each_task(lambda _, data: {"text": data.title, column: numbers[data.title]})
    )
    for title in numbers:
        store.user("alice").tasks.create(title)

    assert store.verify().problems == ()
    assert store.rebuild().changed == 0


def test_increments_in_one_or_many_appends_are_replayed_as_the_database_adds(
    open_notes: Open,
) -> None:
    def project(event: EventEnvelope) -> Iterator[RowChange]:
        key = {"id": str(event.stream_id)}
        match event.data:
            case TaskCreated():
                yield Insert(Note, key | {"n": 2**62})
            case TaskCompleted():
                yield Update(Note, key, {"n": Increment(2**61)})
            case TaskReopened():
                yield Update(Note, key, {"n": Increment(-(2**61) + 1), "text": "reopened"})
                yield Update(Note, key, {"n": Increment(3)}, only_where={"text": "reopened"})

    store = open_notes(project)
    alice = store.user("alice")
    with alice.transaction() as tx:
        tasks = [tx.tasks.create("x") for _ in range(2)]
        tx.tasks.complete(tasks[0].id)
    with alice.transaction() as tx:
        for _ in range(2):
            tx.tasks.complete(tasks[1].id)
            tx.tasks.reopen(tasks[1].id)
    alice.tasks.reopen(tasks[0].id)

    with alice.session() as session:
        assert sorted(one.n or 0 for one in session.exec(select(Note))) == [2**62 + 4, 2**62 + 8]
    assert store.verify().problems == ()
    assert store.rebuild().changed == 0


def test_an_increment_that_the_column_cannot_hold_is_refused(
    open_notes: Open, admin: psycopg.Connection
) -> None:
    def project(event: EventEnvelope) -> Iterator[RowChange]:
        key = {"id": str(event.stream_id)}
        match event.data:
            case TaskCreated():
                yield Insert(Note, key | {"n": 2**63 - 1})
            case TaskCompleted():
                yield Update(Note, key, {"n": Increment(1)})

    store = open_notes(project)
    alice = store.user("alice")
    task = alice.tasks.create("x")

    with pytest.raises(InvalidInput, match="out of range"):
        alice.tasks.complete(task.id)
    with pytest.raises(InvalidInput, match="out of range"), alice.transaction() as tx:
        tx.tasks.complete(tx.tasks.create("y").id)

    assert admin.execute("select count(*) from eventstore.event").fetchone() == (1,)
    assert store.verify().problems == ()


def test_an_update_that_replaces_another_keeps_its_turn_among_those_of_other_rows(
    open_notes: Open, admin: psycopg.Connection
) -> None:
    def project(event: EventEnvelope) -> Iterator[RowChange]:
        match event.data:
            case TaskCreated(title=title):
                yield Insert(Note, {"id": str(event.stream_id), "text": title})
            case TaskUpdated(title=title):
                yield Update(Note, {"id": str(event.stream_id)}, {"text": title, "n": POSITION})

    store = open_notes(project)
    admin.execute("create unique index on service.note (user_id, text)")
    alice = store.user("alice")
    one, other = alice.tasks.create("x").id, alice.tasks.create("q").id

    with alice.transaction() as tx:
        tx.tasks.update(one, title="y")
        tx.tasks.update(other, title="x")  # which is free only then
        tx.tasks.update(one, title="z")

    with alice.session() as session:
        assert {(note.text, note.n) for note in session.exec(select(Note))} == {("x", 4), ("z", 5)}
    assert store.verify().problems == ()


def test_a_column_that_was_inserted_as_the_position_can_be_incremented(open_notes: Open) -> None:
    def project(event: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(event.data, TaskCreated):
            yield Insert(Note, {"id": event.data.title, "n": POSITION})
            yield Update(Note, {"id": event.data.title}, {"n": Increment(10)})

    store = open_notes(project)
    with store.user("alice").transaction() as tx:
        for title in ("a", "b"):
            tx.tasks.create(title)

    assert store.verify().problems == ()


def test_the_position_of_an_event_can_be_the_key_of_its_row(
    database_url: str, admin: psycopg.Connection
) -> None:
    """Two such rows of one append are distinct, although their positions are not known yet."""

    class OtherBase(SQLModel, registry=registry()):
        pass

    class Line(OtherBase, table=True):
        __tablename__ = "line"
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        at: int = Field(sa_column=Column(BigInteger, primary_key=True))
        title: str = Field(sa_column=Column(Text))

    @projector(Line)
    def project_line(event: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(event.data, TaskCreated):
            yield Insert(Line, {"at": POSITION, "title": event.data.title})

    admin.execute("create table line (user_id text, at bigint, title text,"
                  " primary key (user_id, at))")  # fmt: skip
    protect(admin, Line)
    with EventStore.connect(database_url, projectors=[project_line]) as store:
        with store.user("alice").transaction() as tx:
            for title in ("a", "b"):
                tx.tasks.create(title)

        assert store.verify().problems == ()
    assert admin.execute("select at, title from line order by at").fetchall() == [
        (1, "a"),
        (2, "b"),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key: Update(Note, key, {"id": "other"}), "part of the key; delete the row"),
        (lambda key: Update(Note, key, {"text": Increment(1)}), "given Increment"),
        (lambda key: Update(Note, key, {"n": Increment(1.5)}), "given Increment"),  # type: ignore[arg-type]  # on purpose
        (lambda key: Update(Note, key, {"n": Increment(True)}), "given Increment"),
        *[
            (lambda key, name=name: Update(Note, key, {name: Increment(1)}), "given Increment")
            for name in ("price", "exact", "cents", "integral", "body", "tags")
        ],
        (lambda key: Insert(Note, {**key, "n": Increment(1)}), "given Increment"),
        (lambda key: Update(Note, key, {"body": {"a": float("nan")}}), "nan"),
        (lambda key: Update(Note, key, {"body": {"a": object()}}), "object"),
        (lambda key: Update(Note, key, {"body": {1: 1}}), "is not text"),
        (lambda key: Update(Note, key, {"tags": [POSITION]}), "is a Marker"),
        (lambda _: Update(Note, {"id": POSITION}, {"n": 1}), "given Marker"),
        (lambda _: Delete(Note, {"id": POSITION}), "given Marker"),
        (lambda key: Update(Note, key, {"n": 1}, {"n": POSITION}), "given Marker"),
        (lambda key: Update(Note, key, {"n": 1}, {"n": Increment(1)}), "given Increment"),
        (lambda key: Update(Note, key, {"n": 1}, {"n": "1"}), "the column takes int"),
        (lambda key: Update(Note, key, {"n": 1}, {"missing": 1}), "names missing"),
        *[
            (
                lambda key, name=name: Update(Note, key, {"n": 1}, {name: None}),
                f"has a condition on {name}",
            )
            for name in ("price", "exact", "cents", "integral", "body", "tags")
        ],
        (lambda _: None, "gives None; it yields Insert, Update and Delete"),
        (lambda _: "x", "gives 'x'; it yields Insert, Update and Delete"),
    ],
)
def test_a_row_change_that_sql_and_the_replay_would_not_apply_equally_is_refused(
    open_notes: Open, admin: psycopg.Connection, change: Callable[[Any], Any], message: str
) -> None:
    store = open_notes(lambda event: iter([change({"id": str(event.stream_id)})]))

    with pytest.raises((InvalidInput, ConfigurationError), match=message):
        store.user("alice").tasks.create("x")

    assert admin.execute("select count(*) from eventstore.event").fetchone() == (0,)


def test_rows_of_one_table_are_deleted_in_the_order_of_their_row_changes(
    database_url: str, admin: psycopg.Connection
) -> None:
    class OtherBase(SQLModel, registry=registry()):
        pass

    class Node(OtherBase, table=True):
        __tablename__ = "node"
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: str = Field(sa_column=Column(Text, primary_key=True))
        old: str | None = Field(sa_column=Column(Text))

    @projector(Node)
    def project_node(event: EventEnvelope) -> Iterator[RowChange]:
        match event.data:
            case TaskCreated():
                yield Insert(Node, {"id": "parent"})
                yield Insert(Node, {"id": "child", "old": "parent"})
            case TaskDeleted():
                yield Delete(Node, {"id": "child"})
                yield Delete(Node, {"id": "parent"})

    # The child refers to the parent in the same table, so it has to be deleted first.
    admin.execute("create table node (user_id text, id text, old text, primary key (user_id, id),"
                  " foreign key (user_id, old) references node deferrable)")  # fmt: skip
    protect(admin, Node)
    with EventStore.connect(database_url, projectors=[project_node]) as store:
        task = store.user("alice").tasks.create("x")
        store.user("alice").tasks.delete(task.id)

        assert store.verify().problems == ()


def test_a_value_that_a_replay_refuses_is_reported_with_its_event(
    open_notes: Open, admin: psycopg.Connection
) -> None:
    """A changed projector may refuse old events; verify and rebuild name the event and cause."""
    open_notes(note_each_task(lambda *_: {})).user("alice").tasks.create("x" * 7)

    after = open_notes(note_each_task(lambda _, data: {"n": data.title}))

    (problem,) = after.verify().problems
    assert (problem.kind, problem.position) == ("unreadable", 1)
    assert "service.note.n: is a str; the column takes int" in problem.detail
    with pytest.raises(UnreadableEvent, match=r"position 1 .*the column takes int"):
        after.rebuild("alice")


@pytest.mark.parametrize("projectors", [["tag", "label"], ["label", "tag"]])
def test_rows_with_foreign_keys_are_inserted_and_deleted_in_a_valid_order(
    open_notes: Open, admin: psycopg.Connection, database_url: str, projectors: list[str]
) -> None:
    """The foreign keys refer to a task or another table; projectors come in either order."""

    class OtherBase(SQLModel, registry=registry()):
        pass

    class Tag(OtherBase, table=True):
        __tablename__ = "tag"
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: UUID = Field(primary_key=True)

    class Label(OtherBase, table=True):
        __tablename__ = "label"
        __table_args__ = (ForeignKeyConstraint(["user_id", "id"], ["tag.user_id", "tag.id"]),)
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: UUID = Field(primary_key=True)

    def project_each_task(table: type[SQLModel]) -> Project:
        def project(event: EventEnvelope) -> Iterator[RowChange]:
            match event.data:
                case TaskCreated():
                    yield Insert(table, {"id": event.stream_id})
                case TaskDeleted():
                    yield Delete(table, {"id": event.stream_id})

        return project

    admin.execute(
        "create table tag (user_id text, id uuid, primary key (user_id, id), foreign key"
        " (user_id, id) references eventstore.task deferrable);"
        "create table label (user_id text, id uuid, primary key (user_id, id), foreign key"
        " (user_id, id) references tag deferrable)"
    )
    protect(admin, Tag, Label)
    by_name = {"tag": Tag, "label": Label}
    chosen = [projector(by_name[one])(project_each_task(by_name[one])) for one in projectors]
    with EventStore.connect(database_url, projectors=chosen) as store:
        alice = store.user("alice")
        task = alice.tasks.create("x")
        alice.tasks.delete(task.id)
        with alice.transaction() as tx:
            tx.tasks.create("y")
            made = tx.tasks.create("z")
            tx.tasks.delete(made.id)

        assert store.verify().problems == ()
    labels = [one for one in chosen if one.table is Label]
    with (
        EventStore.connect(database_url, projectors=labels) as store,
        pytest.raises(InvalidInput, match=r"public\.label: violates label_user_id_id_fkey"),
    ):
        store.user("alice").tasks.create("without a tag")


def test_a_rebuild_deletes_the_rows_of_a_child_before_those_of_its_parent(
    admin: psycopg.Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The foreign key cannot wait, and the child has the first difference that is found."""
    monkeypatch.setattr(locked_replay, "_FEW", 0)  # whole tables are compared again

    class OtherBase(SQLModel, registry=registry()):
        pass

    class Tag(OtherBase, table=True):
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: UUID = Field(primary_key=True)

    class Label(OtherBase, table=True):
        __table_args__ = (ForeignKeyConstraint(["user_id", "id"], ["tag.user_id", "tag.id"]),)
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: UUID = Field(primary_key=True)

    def project_into(table: type[SQLModel]) -> Project:
        def project(event: EventEnvelope) -> Iterator[RowChange]:
            if isinstance(event.data, TaskCreated):
                yield Insert(table, {"id": event.stream_id})

        return project

    admin.execute(
        "create table tag (user_id text, id uuid, primary key (user_id, id));"
        "create table label (user_id text, id uuid, primary key (user_id, id), foreign key"
        " (user_id, id) references tag)"
    )
    protect(admin, Tag, Label)
    projectors = [projector(table)(project_into(table)) for table in (Tag, Label)]
    with EventStore.connect(database_url, projectors=projectors) as store:
        store.user("alice").tasks.create("x")
        admin.execute("delete from label")
        for table in ("tag", "label"):
            admin.execute(f"insert into {table} values ('alice', %s)", (UUID(int=1),))

        assert store.rebuild("alice").changed == 3
        assert store.verify().ok


@pytest.mark.parametrize("body", [{"score": float("nan")}, {"object": object()}])
def test_a_changed_projector_that_gives_invalid_json_fails_only_for_its_user(
    open_notes: Open, admin: psycopg.Connection, body: dict[str, Any]
) -> None:
    before = open_notes(note_each_task(lambda *_: {"body": {}}))
    before.user("alice").tasks.create("odd")
    before.user("bob").tasks.create("fine")
    admin.execute("update service.note set text = 'spoilt'")

    after = open_notes(
        note_each_task(lambda _, data: {"body": body if data.title == "odd" else {}})
    )

    problems = {(one.user_id, one.kind) for one in after.verify().problems}
    assert problems == {("alice", "unreadable"), ("bob", "changed_row")}
    assert any("service.note.body" in one.detail for one in after.verify().problems)
    for check in (True, False):
        with pytest.raises(Incomplete) as caught:
            after.rebuild(check=check)
        assert list(caught.value.failures) == ["alice"]
    texts = admin.execute("select user_id, text from service.note order by user_id").fetchall()
    assert texts == [("alice", "spoilt"), ("bob", None)]


def test_a_constraint_that_the_replay_violates_is_named_and_fails_only_its_user(
    open_notes: Open, admin: psycopg.Connection
) -> None:
    store = open_notes(note_each_task(lambda _, data: {"text": data.title}))
    alice = store.user("alice")
    chat = alice.conversations.start(title="deleted")
    alice.tasks.create("odd")
    for name in ("alice", "bob", "carol"):
        store.user(name).tasks.create("x")
    # The foreign key is younger than the event that it forbids.
    admin.execute(
        "update service.note set text = 'spoilt';"
        "create table service.word (word text primary key);"
        "grant select on service.word to public;"
        "insert into service.word values ('spoilt'), ('x');"
        "alter table service.note add constraint note_word foreign key (text)"
        " references service.word deferrable"
    )

    with pytest.raises(Incomplete, match="'alice' was left as is") as caught:
        store.rebuild()
    for work in (
        lambda: store.rebuild("alice"),
        lambda: store.erase("alice", ordered_by="alice", conversation=chat.id),
    ):
        with pytest.raises(DatabaseFault, match=r"note\.note_word refuses the rows"):
            work()

    assert list(caught.value.failures) == ["alice"]
    texts = admin.execute("select user_id, text from service.note order by user_id").fetchall()
    assert texts == [("alice", "spoilt"), ("alice", "spoilt"), ("bob", "x"), ("carol", "x")]
    # A complete erasure leaves no row that a constraint could refuse.
    assert store.erase("alice", ordered_by="alice").events > 0
    assert store.verify().ok


def test_a_generated_column_is_refused_in_the_class_but_not_in_the_table(
    open_notes: Open, admin: psycopg.Connection
) -> None:
    class OtherBase(SQLModel, registry=registry()):
        pass

    class Computing(OtherBase, table=True):
        user_id: str = Field(primary_key=True)
        id: str = Field(primary_key=True)
        twice: int | None = Field(sa_column=Column(BigInteger, Computed("n * 2")))

    with pytest.raises(ConfigurationError, match="its column twice is computed by the database"):
        Projections(projector(Computing)(project_parts))

    admin.execute("alter table service.note add twice bigint generated always as (n * 2) stored")
    store = open_notes(note_each_task(lambda *_: {"n": 4}))
    store.user("alice").tasks.create("x")

    assert admin.execute("select n, twice from service.note").fetchall() == [(4, 8)]
    assert store.verify().ok


def test_a_table_of_user_ids_alone_is_refused_without_a_query() -> None:
    class OtherBase(SQLModel, registry=registry()):
        pass

    class Known(OtherBase, table=True):
        user_id: str = Field(sa_column=Column(Text, primary_key=True))

    with pytest.raises(ConfigurationError, match="known: it has no column but user_id; add one"):
        Projections(projector(Known)(project_parts))


@pytest.mark.parametrize(
    "name", ["order", "lateral", "Capital", "with space", "x" * 64, "\xe4" * 32]
)
@pytest.mark.parametrize("of", ["column", "table", "schema"])
def test_a_name_that_sql_would_have_to_quote_is_refused_without_a_query(name: str, of: str) -> None:
    class OtherBase(SQLModel, registry=registry()):
        pass

    fields = {
        "__tablename__": name if of == "table" else "fine",
        "__table_args__": {"schema": name if of == "schema" else "service"},
        "__module__": __name__,
        "__annotations__": {"user_id": str, "id": str, "more": str | None},
        "user_id": Field(primary_key=True),
        "id": Field(primary_key=True),
        "more": Field(sa_column=Column(name if of == "column" else "more", Text)),
    }
    odd = cast("Any", type(OtherBase))("Odd", (OtherBase,), fields, table=True)

    with pytest.raises(ConfigurationError, match=f"the name {name} would need quotes"):
        Projections(projector(odd)(project_parts))
