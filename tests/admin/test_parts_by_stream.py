"""Of a log too long for memory each part keeps to its streams, whatever was tampered with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, ForeignKeyConstraint, Text, Uuid
from sqlmodel import Field

import projections.rebuild.locked_replay
from eventstore import Event, EventEnvelope, EventStore, NewEvent, TaskCreated, TaskDeleted
from eventstore.database.plan import Statement
from eventstore.log.read import select_log_page
from projections import Delete, Insert, Message, RowChange, projector
from projections.apply.table_shape import TableShape
from projections.rebuild.compare import compare
from projections.rebuild.parts import Part
from tests.admin.test_verify_in_parts import pages
from tests.support.own_read_model import ServiceModel, protect
from tests.support.properties import examples
from tests.support.tampering import disarm

PARTS = 6
"""Of forty events and a little, if a part has eight."""


def part_of(stream: UUID) -> int:
    """Return the number of the part that a stream belongs to."""
    return next(n for n in range(PARTS) if Part(n, PARTS, by_stream=True).keeps((stream,)))


def write_chats(store: EventStore) -> dict[int, UUID]:
    """Write twenty conversations of one message each; return one for each part."""
    user = store.user("alice")
    for number in range(20):
        user.messages.extend(f"{number}", [{"role": "user", "content": "x"}], start=True)
    chats = {part_of(chat.id): chat.id for chat in user.conversations.list(limit=50)}
    return chats if {0, PARTS - 1} <= chats.keys() else write_chats(store)


def problems(store: EventStore) -> set[tuple[str, str | None, tuple[str, ...] | None]]:
    return {(one.kind, one.table, one.key) for one in store.verify("alice").problems}


@pytest.fixture
def sync_store(database_url: str) -> Iterator[EventStore]:
    with EventStore.connect(database_url) as store:
        yield store


def loosen(admin: psycopg.Connection) -> None:
    """Let neither a trigger nor a constraint stop what follows."""
    disarm(admin)
    admin.execute("alter table eventstore.stream drop constraint stream_pkey cascade")
    admin.execute("alter table eventstore.task drop constraint task_pkey cascade")
    admin.execute("alter table eventstore.event alter stream_id drop not null")


def test_a_row_that_was_moved_away_hides_no_row_that_was_added(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    store = sync_store
    chats = write_chats(store)
    loosen(admin)
    admin.execute(
        "update eventstore.message set conversation_id = %s, position = position + 1000"
        " where conversation_id = %s",
        (chats[PARTS - 1], chats[0]),
    )
    (added,) = admin.execute(
        "insert into eventstore.message (user_id, id, conversation_id, position, sender, content,"
        " body, tool_call_count, created_at) select user_id, gen_random_uuid(), %s, 7777, sender,"
        " 'added', body, tool_call_count, created_at from eventstore.message limit 1 returning id",
        (chats[0],),
    ).fetchall()

    complete = problems(store)
    with pages(events=8, rows=5):
        in_parts = problems(store)
        store.rebuild("alice")

    assert ("extra_row", "eventstore.message", (str(added[0]),)) in complete
    assert complete <= in_parts
    assert store.verify("alice").ok


class Slot(ServiceModel, table=True):
    """Who has a slot: its key is a name, which passes from one task to the next."""

    __tablename__ = "slot"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(primary_key=True)
    name: str = Field(sa_column=Column(Text, primary_key=True))
    task: UUID = Field(sa_column=Column(Uuid))


@projector(Slot, events=(TaskCreated, TaskDeleted), stream_column="task")
def project_slot(event: EventEnvelope) -> Iterator[RowChange]:
    match event.data:
        case TaskCreated(title="slot"):
            yield Insert(Slot, {"name": "slot", "task": event.stream_id})
        case TaskDeleted() if event.metadata.get("slot"):
            yield Delete(Slot, {"name": "slot"})


def test_a_key_that_passes_to_another_stream_meanwhile_is_left_to_that_streams_part(
    database_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.execute(
        "create schema service; create table service.slot"
        " (user_id text, name text, task uuid, primary key (user_id, name))"
    )
    protect(admin, Slot)
    with EventStore.connect(database_url, projectors=[project_slot]) as store:
        user = store.user("alice")
        for number in range(39):
            user.conversations.start(key=f"{number}")  # whose ids are the same in each run
        later = next(one for one in iter(uuid4, None) if part_of(one) == PARTS - 1)
        earlier = next(one for one in iter(uuid4, None) if part_of(one) == 0)
        user.append([NewEvent(stream_id=later, data=TaskCreated(title="slot"))])

        def pass_on(*arguments: Any) -> Any:
            found = yield from compare(*arguments)
            if arguments[3].number == PARTS - 1:
                gone = NewEvent(stream_id=later, data=TaskDeleted(), metadata={"slot": True})
                user.append([gone, NewEvent(stream_id=earlier, data=TaskCreated(title="slot"))])
            return found

        monkeypatch.setattr(projections.rebuild.locked_replay, "compare", pass_on)
        with pages(events=8, rows=5):
            store.rebuild("alice")

        assert admin.execute("select task from service.slot").fetchall() == [(earlier,)]
        assert store.verify("alice").ok


@examples(20)
@given(st.lists(st.none() | st.uuids(), max_size=20))
def test_the_database_and_python_put_each_stream_into_the_same_part(
    admin: psycopg.Connection, streams: list[UUID | None]
) -> None:
    for count in range(2, 5):
        for part in (Part(number, count, by_stream=True) for number in range(count)):
            rows = part.condition(TableShape(Message, stream_column="conversation_id"))
            conditions = [rows.replace("t.conversation_id", "t.stream_id")]
            conditions += [part.events] if part.number else []
            for condition in conditions:
                selected = admin.execute(
                    f"select stream_id from unnest(%s::uuid[]) as t (stream_id) where true"
                    f"{condition.replace('%', '%%')}".encode(),
                    (streams,),
                ).fetchall()
                retained = [one for one in streams if part.keeps((one,))]
                assert sorted(map(str, retained)) == sorted(str(one) for (one,) in selected)


def test_no_event_that_was_passed_over_is_read_again_under_the_lock(
    sync_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_chats(sync_store)
    head = sync_store.user("alice").events(backward=True, limit=1)[0].position
    read: list[tuple[str, int]] = []

    def note(columns: Any, user_id: str, after: int, condition: str = "") -> Statement:
        read.append((condition, after))
        return select_log_page(columns, user_id, after, condition)

    monkeypatch.setattr(projections.rebuild.locked_replay, "select_log_page", note)
    with pages(events=8, rows=5):
        sync_store.rebuild("alice")

    last = dict(read)
    assert len(last) >= PARTS
    assert set(last.values()) == {head}


def test_streams_of_other_parts_are_checked_behind_an_event_that_cannot_be_read(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    store = sync_store
    write_chats(store)
    loosen(admin)
    admin.execute("update eventstore.event set type = 'Unheard' where position = 1")
    admin.execute("update eventstore.stream set version = 7")

    complete = problems(store)
    with pages(events=8, rows=5):
        assert problems(store) == complete
    assert sum(kind == "stream" for kind, _, _ in complete) >= 20
    assert sum(kind == "unreadable" for kind, _, _ in complete) == 1


def test_an_event_without_a_stream_is_unreadable(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    store = sync_store
    store.user("alice").tasks.create("Milk")
    loosen(admin)
    admin.execute("update eventstore.event set stream_id = null")

    assert {kind for kind, _, _ in problems(store)} == {"hash", "head", "stream", "unreadable"}


@pytest.mark.parametrize("rows", [1, 2, 3, 1_000])
def test_a_stream_that_is_there_twice_is_found_wherever_a_page_ends(
    sync_store: EventStore, admin: psycopg.Connection, rows: int
) -> None:
    store = sync_store
    for number in range(6):
        store.user("alice").tasks.create(f"task {number}")
    loosen(admin)
    second = "(select stream_id from eventstore.stream order by stream_id offset 1 limit 1)"
    admin.execute(
        "insert into eventstore.stream select * from eventstore.stream where stream_id = " + second
    )

    with pages(events=1_000, rows=rows):
        assert {kind for kind, _, _ in problems(store)} == {"stream"}


def test_a_row_that_took_the_key_of_another_is_put_right_by_one_rebuild(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    store = sync_store
    first, second = (store.user("alice").tasks.create(title).id for title in ("Milk", "Bread"))
    loosen(admin)
    admin.execute("update eventstore.task set id = %s where id = %s", (first, second))
    assert not store.verify("alice").ok

    store.rebuild("alice")

    assert store.verify("alice").ok


class Child(ServiceModel, table=True):
    """A row that refers to the slot-like row of another task."""

    __tablename__ = "child"
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "parent"], ["service.parent.user_id", "service.parent.id"], deferrable=True
        ),
        {"schema": "service"},
    )

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    parent: UUID = Field(sa_column=Column(Uuid))


class Parent(ServiceModel, table=True):
    """What children refer to."""

    __tablename__ = "parent"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    name: str = Field(sa_column=Column(Text))


class Born(Event, type="Born", stream_kind="person"):
    """Somebody is there; a child has a parent, who is another stream."""

    parent: UUID | None = None


@projector(Parent, events=Born, stream_column="id")
def project_parent(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, Born) and event.data.parent is None:
        yield Insert(Parent, {"id": event.stream_id, "name": "x"})


@projector(Child, events=Born, stream_column="id")
def project_child(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, Born) and event.data.parent is not None:
        yield Insert(Child, {"id": event.stream_id, "parent": event.data.parent})


def empty(admin: psycopg.Connection) -> None:
    admin.execute("delete from service.child; delete from service.parent")


def change_parents(admin: psycopg.Connection) -> None:
    admin.execute("update service.parent set name = 'y'")


@pytest.mark.parametrize("tamper", [empty, change_parents])
def test_rows_that_refer_to_those_of_other_streams_are_rebuilt_together(
    database_url: str, admin: psycopg.Connection, tamper: Callable[[psycopg.Connection], None]
) -> None:
    admin.execute(
        "create schema service;"
        "create table service.parent (user_id text, id uuid, name text, primary key (user_id, id));"
        "create table service.child (user_id text, id uuid, parent uuid, primary key (user_id, id),"
        " foreign key (user_id, parent) references service.parent deferrable)"
    )
    protect(admin, Parent, Child)
    own = [project_parent, project_child]
    with EventStore.connect(database_url, projectors=own, events=[Born]) as store:
        for _ in range(20):
            parent = uuid4()
            child = NewEvent(stream_id=uuid4(), data=Born(parent=parent))
            store.user("alice").append([NewEvent(stream_id=parent, data=Born()), child])
        tamper(admin)

        with pages(events=8, rows=5):
            store.rebuild("alice")

        assert store.verify("alice").ok
