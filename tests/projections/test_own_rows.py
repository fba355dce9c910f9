"""Whatever rows a projector of a service's own gives: tables equal their replay, or it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
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
from sqlmodel import Field, SQLModel

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
    UnreadableEvent,
)
from projections import (
    POSITION,
    AppendItem,
    Delete,
    ExtendItem,
    Increment,
    Insert,
    RowChange,
    Update,
    projector,
)
from projections.projector import Projections
from tests.support.own_read_model import protect


class Theirs(SQLModel, registry=registry()):
    """The metadata of this service."""


class Note(Theirs, table=True):
    __tablename__ = "note"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: str = Field(sa_column=Column(Text, primary_key=True))
    text: str | None = Field(sa_column=Column(Text))
    n: int | None = Field(sa_column=Column(BigInteger))
    price: Any = Field(sa_column=Column(Float(53)))
    exact: Any = Field(sa_column=Column(Numeric))
    cents: Any = Field(sa_column=Column(Numeric(30, 2)))
    whole: Any = Field(sa_column=Column(Numeric(30)))
    body: Any = Field(sa_column=Column(JSON))
    items: Any = Field(sa_column=Column(ARRAY(JSON)))


type Project = Callable[[EventEnvelope], Iterator[RowChange]]
type Open = Callable[[Project], EventStore]


@pytest.fixture
def opened(database_url: str, direct_url: str) -> Iterator[Open]:
    """Open a store that keeps notes by any projector; all are closed at the end."""
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute("create schema service")
        owner.execute(
            "create table service.note (user_id text, id text, text text default 'by default',"
            " n bigint default 7, price double precision, exact numeric,"
            " cents numeric(30, 2), whole numeric(30), body json, items json[],"
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


def created(values: Callable[[EventEnvelope, TaskCreated], dict[str, Any]]) -> Project:
    """A projector that makes a note of each task that is created."""

    def project(fact: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(fact.data, TaskCreated):
            yield Insert(Note, {"id": str(fact.stream_id)} | values(fact, fact.data))

    return project


def partly(fact: EventEnvelope) -> Iterator[RowChange]:
    """Name only those columns of which the event says something, and work on the others later."""
    match fact.data:
        case TaskCreated(description=description):
            said = {} if description is None else {"text": description}
            yield Insert(Note, {"id": str(fact.stream_id)} | said)
        case TaskCompleted():
            more = {"n": Increment(1), "items": AppendItem({"a": 1})}
            yield Update(Note, {"id": str(fact.stream_id)}, more)
        case TaskReopened():
            yield Update(Note, {"id": str(fact.stream_id)}, {"items": ExtendItem(0, {"b": 2})})


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("said", [("words", None), (None, "words")])
def test_columns_that_an_insert_leaves_out_are_null_live_replayed_and_rebuilt(
    opened: Open, admin: psycopg.Connection, *, together: bool, said: tuple[str | None, str | None]
) -> None:
    store = opened(partly)
    alice = store.user("alice")
    if together:
        with alice.transaction() as tx:
            for one in said:
                made = tx.tasks.create("x", description=one)
                tx.tasks.complete(made.id)
                tx.tasks.reopen(made.id)
    else:
        for one in said:
            task = alice.tasks.create("x", description=one)
            alice.tasks.complete(task.id)
            alice.tasks.reopen(task.id)
    columns = "select text, n, items[1]::text from service.note order by text"
    live = admin.execute(columns).fetchall()

    assert store.verify().ok
    admin.execute("delete from service.note")
    assert store.rebuild().changed == 2

    item = '{"a":1,"b":2}'
    assert live == admin.execute(columns).fetchall() == [("words", None, item), (None, None, item)]
    assert store.verify().ok


@pytest.mark.parametrize("given", [lambda fact: fact.stream_id, lambda _: 7, lambda _: True])
def test_a_key_that_comes_back_as_something_else_is_refused(
    opened: Open, admin: psycopg.Connection, given: Callable[[EventEnvelope], object]
) -> None:
    """SQL would cast it, and a replay would never find the row again."""
    store = opened(created(lambda fact, _: {"id": given(fact)}))

    with pytest.raises(InvalidInput, match="the column takes str") as caught:
        store.user("alice").tasks.create("x")

    assert caught.value.path == "service.note.id"
    assert admin.execute("select count(*) from eventstore.event").fetchone() == (0,)


NUMBERS = [
    3, 1.5, 2.5, -2.5, 0.1, 0.1 + 0.2, 1e22, 1 / 3, 2.675, 2.6750000000000003, 1.005, -1.005,
    Decimal("0.1"), Decimal("1.500"), Decimal("2.675"), Decimal("-1.005"), Decimal("0.5"),
    Decimal(10) ** 22, float("nan"), Decimal("NaN"),
]  # fmt: skip


@pytest.mark.parametrize("column", ["price", "exact", "cents", "whole"])
def test_a_number_is_the_same_as_the_database_has_it(opened: Open, column: str) -> None:
    numbers = dict(zip(map(str, range(len(NUMBERS))), NUMBERS, strict=True))
    store = opened(created(lambda _, data: {"text": data.title, column: numbers[data.title]}))
    for title in numbers:
        store.user("alice").tasks.create(title)

    assert store.verify().problems == ()
    assert store.rebuild().changed == 0


def test_sums_are_those_of_the_database_however_many_at_once(opened: Open) -> None:
    start = {
        "n": 5, "price": 1e16, "exact": Decimal("123456789012345678901234567890.12"),
        "cents": Decimal("-0.005"), "whole": Decimal("0.4"),
    }  # fmt: skip

    def project(fact: EventEnvelope) -> Iterator[RowChange]:
        key = {"id": str(fact.stream_id)}
        match fact.data:
            case TaskCreated():
                yield Insert(Note, key | start)
            case TaskCompleted() | TaskReopened():
                yield Update(Note, key, dict.fromkeys(start, Increment(1)))

    store = opened(project)
    alice = store.user("alice")
    with alice.transaction() as tx:
        tasks = [tx.tasks.create("x") for _ in range(2)]
        tx.tasks.complete(tasks[0].id)
    with alice.transaction() as tx:
        for _ in range(2):
            tx.tasks.complete(tasks[1].id)
            tx.tasks.reopen(tasks[1].id)
    alice.tasks.reopen(tasks[0].id)

    assert store.verify().problems == ()
    assert store.rebuild().changed == 0


def test_a_column_is_counted_up_from_the_position_that_it_will_have(opened: Open) -> None:
    def project(fact: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(fact.data, TaskCreated):
            yield Insert(Note, {"id": fact.data.title, "n": POSITION})
            yield Update(Note, {"id": fact.data.title}, {"n": Increment(10)})

    store = opened(project)
    with store.user("alice").transaction() as tx:
        for title in ("a", "b"):
            tx.tasks.create(title)

    assert store.verify().problems == ()


def test_a_row_may_be_named_by_the_position_of_its_event(
    database_url: str, admin: psycopg.Connection
) -> None:
    """Two of them in one append are two rows, though neither has a number yet."""

    class Nobodys(SQLModel, registry=registry()):
        pass

    class Line(Nobodys, table=True):
        __tablename__ = "line"
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        at: int = Field(sa_column=Column(BigInteger, primary_key=True))
        title: str = Field(sa_column=Column(Text))

    @projector(Line)
    def project_line(fact: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(fact.data, TaskCreated):
            yield Insert(Line, {"at": POSITION, "title": fact.data.title})

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
    ("change", "told"),
    [
        (lambda key: Update(Note, key, {"id": "other"}), "part of the key; delete the row"),
        (lambda key: Update(Note, key, {"text": Increment(1)}), "gives Increment"),
        (lambda key: Update(Note, key, {"n": Increment(1.5)}), "gives Increment"),  # type: ignore[arg-type]  # on purpose
        (lambda key: Update(Note, key, {"n": Increment(True)}), "gives Increment"),
        (lambda key: Update(Note, key, {"price": Increment(10**400)}), "gives Increment"),
        (lambda key: Update(Note, key, {"body": AppendItem({"a": 1})}), "gives AppendItem"),
        (lambda key: Update(Note, key, {"items": AppendItem({"a": float("nan")})}), "nan"),
        (lambda key: Update(Note, key, {"items": AppendItem({"a": object()})}), "object"),
        (lambda key: Update(Note, key, {"items": AppendItem({1: 1})}), "name of a field"),  # type: ignore[dict-item]  # on purpose
        (lambda key: Update(Note, key, {"items": ExtendItem(-1, {"a": 1})}), "gives ExtendItem"),
        (lambda _: Update(Note, {"id": POSITION}, {"n": 1}), "gives Marker"),
        (lambda _: Delete(Note, {"id": POSITION}), "gives Marker"),
        (lambda _: None, "gives None; it yields Insert, Update and Delete"),
        (lambda _: "x", "gives 'x'; it yields Insert, Update and Delete"),
    ],
)
def test_a_change_that_cannot_be_made_alike_is_refused_and_nothing_is_written(
    opened: Open, admin: psycopg.Connection, change: Callable[[Any], Any], told: str
) -> None:
    store = opened(lambda fact: iter([change({"id": str(fact.stream_id)})]))

    with pytest.raises((InvalidInput, ConfigurationError), match=told):
        store.user("alice").tasks.create("x")

    assert admin.execute("select count(*) from eventstore.event").fetchone() == (0,)


def test_an_item_is_the_same_json_to_sql_and_to_the_replay(opened: Open) -> None:
    noon = datetime(2026, 11, 28, 12, tzinfo=timezone(timedelta(hours=2)))
    item = {
        "at": noon, "nested": [noon, {"day": noon.date()}], "id": UUID(int=7), "n": 2**70,
        "price": Decimal("1.50"), "view": MappingProxyType({"a": 1}), "text": "\0\ud800",
        "position": POSITION,
    }  # fmt: skip

    def project(fact: EventEnvelope) -> Iterator[RowChange]:
        key = {"id": str(fact.stream_id)}
        match fact.data:
            case TaskCreated():
                yield Insert(Note, key)
                yield Update(Note, key, {"items": AppendItem(item)})
            case TaskCompleted():
                yield Update(Note, key, {"items": AppendItem(item)})
                yield Update(Note, key, {"items": ExtendItem(1, {"more": [noon]})})

    store = opened(project)
    task = store.user("alice").tasks.create("x")
    store.user("alice").tasks.complete(task.id)

    assert store.verify().problems == ()
    assert store.rebuild().changed == 0


def test_rows_of_one_table_go_in_the_order_in_which_they_were_asked_for(
    database_url: str, admin: psycopg.Connection
) -> None:
    class Nobodys(SQLModel, registry=registry()):
        pass

    class Node(Nobodys, table=True):
        __tablename__ = "node"
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: str = Field(sa_column=Column(Text, primary_key=True))
        old: str | None = Field(sa_column=Column(Text))

    @projector(Node)
    def project_node(fact: EventEnvelope) -> Iterator[RowChange]:
        match fact.data:
            case TaskCreated():
                yield Insert(Node, {"id": "parent"})
                yield Insert(Node, {"id": "child", "old": "parent"})
            case TaskDeleted():
                yield Delete(Node, {"id": "child"})
                yield Delete(Node, {"id": "parent"})

    admin.execute("create table node (user_id text, id text, old text, primary key (user_id, id),"
                  " foreign key (user_id, old) references node deferrable)")  # fmt: skip
    protect(admin, Node)
    with EventStore.connect(database_url, projectors=[project_node]) as store:
        task = store.user("alice").tasks.create("x")
        store.user("alice").tasks.delete(task.id)

        assert store.verify().problems == ()


def test_a_number_that_equals_nothing_is_no_key(
    database_url: str, admin: psycopg.Connection
) -> None:
    class Nobodys(SQLModel, registry=registry()):
        pass

    class Price(Nobodys, table=True):
        __tablename__ = "price"
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        amount: Decimal = Field(sa_column=Column(Numeric, primary_key=True))

    @projector(Price)
    def project_price(fact: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(fact.data, TaskCreated):
            yield Insert(Price, {"amount": Decimal(fact.data.title)})

    admin.execute("create table price (user_id text, amount numeric, primary key (user_id,"
                  " amount))")  # fmt: skip
    protect(admin, Price)
    with EventStore.connect(database_url, projectors=[project_price]) as store:
        store.user("alice").tasks.create("1.50")
        with pytest.raises(InvalidInput, match=r"public\.price\.amount"):
            store.user("alice").tasks.create("NaN")

        assert store.verify().problems == ()


def test_a_value_that_is_refused_in_a_replay_is_told_with_its_event(
    opened: Open, admin: psycopg.Connection
) -> None:
    """A projector that was changed meets old events: verify and rebuild say which and why."""
    opened(created(lambda *_: {})).user("alice").tasks.create("x" * 7)

    after = opened(created(lambda _, data: {"n": data.title}))

    (problem,) = after.verify().problems
    assert (problem.kind, problem.position) == ("unreadable", 1)
    assert "service.note.n: str, the column takes int" in problem.detail
    with pytest.raises(UnreadableEvent, match=r"position 1 .*the column takes int"):
        after.rebuild("alice")


@pytest.mark.parametrize("projectors", [["tag", "label"], ["label", "tag"]])
def test_rows_that_refer_to_each_other_come_and_go_in_order(
    opened: Open, admin: psycopg.Connection, database_url: str, projectors: list[str]
) -> None:
    """A key to the task or to another own table, in whatever order projectors are registered."""

    class Nobodys(SQLModel, registry=registry()):
        pass

    class Tag(Nobodys, table=True):
        __tablename__ = "tag"
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: UUID = Field(primary_key=True)

    class Label(Nobodys, table=True):
        __tablename__ = "label"
        __table_args__ = (ForeignKeyConstraint(["user_id", "id"], ["tag.user_id", "tag.id"]),)
        user_id: str = Field(sa_column=Column(Text, primary_key=True))
        id: UUID = Field(primary_key=True)

    def project(table: type[SQLModel]) -> Project:
        def each(fact: EventEnvelope) -> Iterator[RowChange]:
            match fact.data:
                case TaskCreated():
                    yield Insert(table, {"id": fact.stream_id})
                case TaskDeleted():
                    yield Delete(table, {"id": fact.stream_id})

        return each

    admin.execute(
        "create table tag (user_id text, id uuid, primary key (user_id, id), foreign key"
        " (user_id, id) references eventstore.task deferrable);"
        "create table label (user_id text, id uuid, primary key (user_id, id), foreign key"
        " (user_id, id) references tag deferrable)"
    )
    protect(admin, Tag, Label)
    by_name = {"tag": Tag, "label": Label}
    chosen = [projector(by_name[one])(project(by_name[one])) for one in projectors]
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
        pytest.raises(InvalidInput, match=r"public\.label: breaks label_user_id_id_fkey"),
    ):
        store.user("alice").tasks.create("without a tag")


@pytest.mark.parametrize("body", [{"score": float("nan")}, {"said": object()}])
def test_a_changed_projector_that_gives_what_json_cannot_hold_stops_nobody_else(
    opened: Open, admin: psycopg.Connection, body: dict[str, Any]
) -> None:
    before = opened(created(lambda *_: {"body": {}}))
    before.user("alice").tasks.create("odd")
    before.user("bob").tasks.create("fine")
    admin.execute("update service.note set text = 'spoilt'")

    after = opened(created(lambda _, data: {"body": body if data.title == "odd" else {}}))

    problems = {(one.user_id, one.kind) for one in after.verify().problems}
    assert problems == {("alice", "unreadable"), ("bob", "changed_row")}
    assert any("service.note.body" in one.detail for one in after.verify().problems)
    for check in (True, False):
        with pytest.raises(Incomplete) as caught:
            after.rebuild(check=check)
        assert list(caught.value.failures) == ["alice"]
    texts = admin.execute("select user_id, text from service.note order by user_id").fetchall()
    assert texts == [("alice", "spoilt"), ("bob", None)]


def test_a_constraint_that_the_replay_breaks_is_named_and_stops_nobody_else(
    opened: Open, admin: psycopg.Connection
) -> None:
    store = opened(partly)
    alice = store.user("alice")
    chats = [alice.conversations.start(title=title) for title in ("gone", "kept")]
    for chat in chats:
        alice.messages.post(chat.id, sender="user", content="hello")
    for name in ("alice", "bob", "carol"):
        store.user(name).tasks.create("x")
    admin.execute("alter table eventstore.event disable trigger all")
    admin.execute("delete from eventstore.event where user_id = 'alice' and position = 1")
    admin.execute("update eventstore.task set title = 'spoilt'")

    with pytest.raises(Incomplete, match="'alice' was left as is") as caught:
        store.rebuild()
    with pytest.raises(DatabaseFault, match=r"eventstore\.message|message\.message_"):
        store.erase("alice", ordered_by="alice", conversation=chats[1].id)

    assert list(caught.value.failures) == ["alice"]
    titles = admin.execute("select user_id, title from eventstore.task order by user_id").fetchall()
    assert titles == [("alice", "spoilt"), ("bob", "x"), ("carol", "x")]
    assert store.erase("alice", ordered_by="alice").events > 0  # all of it leaves nothing to refer


def test_a_column_that_the_database_computes_stays_out_of_the_class(
    opened: Open, admin: psycopg.Connection
) -> None:
    class Nobodys(SQLModel, registry=registry()):
        pass

    class Computing(Nobodys, table=True):
        user_id: str = Field(primary_key=True)
        id: str = Field(primary_key=True)
        twice: int | None = Field(sa_column=Column(BigInteger, Computed("n * 2")))

    with pytest.raises(ConfigurationError, match="its column twice is computed by the database"):
        Projections(projector(Computing)(partly))

    admin.execute("alter table service.note add twice bigint generated always as (n * 2) stored")
    store = opened(created(lambda *_: {"n": 4}))
    store.user("alice").tasks.create("x")

    assert admin.execute("select n, twice from service.note").fetchall() == [(4, 8)]
    assert store.verify().ok


@pytest.mark.parametrize("name", ["order", "lateral", "Capital", "with space", "x" * 64])
@pytest.mark.parametrize("of", ["column", "table", "schema"])
def test_a_name_that_sql_would_have_to_quote_is_refused_before_anything_is_asked(
    name: str, of: str
) -> None:
    class Nobodys(SQLModel, registry=registry()):
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
    odd = cast("Any", type(Nobodys))("Odd", (Nobodys,), fields, table=True)

    with pytest.raises(ConfigurationError, match=f"the name {name} would need quotes"):
        Projections(projector(odd)(partly))
