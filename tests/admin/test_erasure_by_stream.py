"""Rows that are each of one stream are erased by its id, and the log is not replayed for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Column, ForeignKeyConstraint, Text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore import ConfigurationError, EventEnvelope, EventStore, MessagePosted, User
from eventstore.admin import erase
from eventstore.events.erasure import ContentErased
from eventstore.log import stored_event
from projections import BUILT_IN, Insert, Projector, RowChange, Update, projector
from projections.projector import Projections
from tests.support.erasing import WORDS, all_rows, write_words
from tests.support.own_read_model import protect


class Base(SQLModel, registry=registry()):
    """Has metadata of its own."""


class Topic(Base, table=True):
    """Of each message."""

    __tablename__ = "topic"
    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: UUID = Field(primary_key=True)


class Remark(Base, table=True):
    """Of each message, with the conversation that it is in."""

    __tablename__ = "remark"
    __table_args__ = (ForeignKeyConstraint(["user_id", "id"], ["topic.user_id", "topic.id"]),)
    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: UUID = Field(primary_key=True)
    chat: UUID


class Note(Base, table=True):
    """Of each message, and of each record of an erasure."""

    __tablename__ = "note"
    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: UUID = Field(primary_key=True)
    chat: UUID
    text: str = Field(sa_column=Column(Text))


def note(event: EventEnvelope) -> Iterator[RowChange]:
    match event.data:
        case ContentErased(reason=reason):
            text = reason or ""
        case MessagePosted(body=body):
            text = str(body["content"])
        case _:
            raise AssertionError
    yield Insert(Note, {"id": event.event_id, "chat": event.stream_id, "text": text})


OF_MESSAGES = projector(Note, events=MessagePosted, stream_column="chat")(note)
OF_ERASURES_TOO = projector(Note, events=(MessagePosted, ContentErased), stream_column="chat")(note)
REPLAYED = projector(Note, events=MessagePosted)(note)


@projector(Topic, events=MessagePosted)
def project_topic(event: EventEnvelope) -> Iterator[RowChange]:
    yield Insert(Topic, {"id": event.event_id})


@projector(Remark, events=MessagePosted, stream_column="chat")
def project_remark(event: EventEnvelope) -> Iterator[RowChange]:
    yield Insert(Remark, {"id": event.event_id, "chat": event.stream_id})


type Open = Callable[..., EventStore]


@pytest.fixture
def open_store(database_url: str, admin: psycopg.Connection) -> Iterator[Open]:
    """Return what opens a store with some projectors, whose table exists."""
    stores: list[EventStore] = []

    def open_one(*projectors: Projector) -> EventStore:
        admin.execute(
            "create table note (user_id text, id uuid, chat uuid, text text,"
            " primary key (user_id, id))"
        )
        protect(admin, Note)
        stores.append(EventStore.connect(database_url, projectors=projectors))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def notes(admin: psycopg.Connection) -> list[str]:
    return [text for (text,) in admin.execute("select text from note order by text").fetchall()]


def two_chats(store: EventStore) -> tuple[UUID, UUID]:
    """Write some words into one conversation, and others into another and of another user."""
    alice, bob = store.user("alice"), store.user("bob")
    erased = write_words(alice)
    staying = alice.conversations.start(title="stays").id
    alice.messages.post(staying, sender="user", content="stays too")
    bob.messages.post(bob.conversations.start().id, sender="user", content="of bob")
    return erased, staying


@pytest.mark.parametrize("own", [OF_MESSAGES, REPLAYED], ids=["by stream", "by replay"])
def test_of_an_erased_conversation_no_row_stays_and_of_others_all(
    open_store: Open, admin: psycopg.Connection, own: Projector
) -> None:
    store = open_store(own)
    erased, staying = two_chats(store)

    store.erase("alice", ordered_by="op", conversation=erased)

    assert notes(admin) == ["of bob", "stays too"]
    assert [one.content for one in store.user("alice").history(staying)] == ["stays too"]
    assert [row for row in all_rows(admin) if "xylem" in row or "teasel" in row] == []
    assert [task.title for task in store.user("alice").tasks.list()] == ["sorrel", "quince"]
    assert store.verify().ok


@pytest.mark.parametrize("own", [OF_MESSAGES, REPLAYED], ids=["by stream", "by replay"])
def test_of_an_erased_user_no_row_stays_and_of_others_all(
    open_store: Open, admin: psycopg.Connection, own: Projector
) -> None:
    store = open_store(own)
    two_chats(store)

    store.erase("alice", ordered_by="op")

    assert notes(admin) == ["of bob"]
    assert [row for row in all_rows(admin) if any(word in row for word in WORDS)] == []
    assert store.verify().ok


@pytest.mark.parametrize(
    ("own", "in_parts"), [(OF_MESSAGES, True), (REPLAYED, False)], ids=["by stream", "by replay"]
)
def test_only_what_needs_no_replay_is_erased_in_parts(
    open_store: Open,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    own: Projector,
    in_parts: bool,
) -> None:
    monkeypatch.setattr(erase, "_MOST_STREAMS", 1)
    store = open_store(own)
    two_chats(store)

    store.erase("alice", ordered_by="op")

    records = store.user("alice").events(types=["ContentErased"])
    assert (len(records) > 1) is in_parts
    assert notes(admin) == ["of bob"]
    assert store.verify().ok


def test_what_a_projector_makes_of_the_records_of_erasures_stays(
    open_store: Open, admin: psycopg.Connection
) -> None:
    store = open_store(OF_ERASURES_TOO)
    erased, _ = two_chats(store)

    store.erase("alice", ordered_by="op", conversation=erased, reason="first")
    store.erase("alice", ordered_by="op", reason="second")

    assert notes(admin) == ["first", "of bob", "second"]
    assert store.verify().ok


def test_a_row_that_no_event_made_in_an_erased_conversation_goes_with_it(
    store: EventStore, admin: psycopg.Connection
) -> None:
    erased, _ = two_chats(store)
    admin.execute("update eventstore.message set id = gen_random_uuid() where content = 'xylem'")

    store.erase("alice", ordered_by="op", conversation=erased)

    assert [row for row in all_rows(admin) if "xylem" in row] == []
    assert store.verify().ok


@pytest.mark.parametrize("everything", [False, True], ids=["a conversation", "the user"])
def test_an_erasure_reads_no_event_if_all_projectors_tell_the_stream(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    erased, _ = two_chats(store)
    read: list[int] = []
    event = stored_event.recorded_event

    def recorded(user_id: str, row: Any, registry: Any) -> Any:
        read.append(row[0])
        return event(user_id, row, registry)

    monkeypatch.setattr("projections.rebuild.locked_replay.recorded_event", recorded)
    store.erase("alice", ordered_by="op", conversation=None if everything else erased)
    assert read == []

    monkeypatch.setattr(Projections, "split_by_stream", lambda self: ({}, self))
    store.erase("bob", ordered_by="op")
    assert read == [1, 2, 3]  # the last one is the record of the erasure


@pytest.mark.parametrize("everything", [False, True], ids=["a conversation", "the user"])
@pytest.mark.parametrize("deferrable", ["", "deferrable"])
def test_rows_that_refer_to_replayed_ones_are_replayed_with_them(
    database_url: str, admin: psycopg.Connection, everything: bool, deferrable: str
) -> None:
    admin.execute(
        "create table topic (user_id text, id uuid, primary key (user_id, id));"
        "create table remark (user_id text, id uuid, chat uuid, primary key (user_id, id),"
        f" foreign key (user_id, id) references topic {deferrable})"
    )
    protect(admin, Topic, Remark)
    with EventStore.connect(database_url, projectors=[project_topic, project_remark]) as store:
        erased, _ = two_chats(store)

        store.erase("alice", ordered_by="op", conversation=None if everything else erased)

        assert store.verify().ok
        left = admin.execute("select count(*) from remark").fetchone()
        assert left == (1 if everything else 2,)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda _: Insert(Note, {"id": uuid4(), "chat": uuid4()}), "inserts a row of another"),
        (lambda _: Insert(Note, {"id": uuid4()}), "inserts a row of another stream"),
        (
            lambda event: Update(Note, {"id": uuid4()}, {"chat": event.stream_id}),
            "moves a row to another stream",
        ),
    ],
    ids=["another", "none", "update"],
)
def test_a_row_of_another_stream_than_its_stream_column_tells_is_refused(
    open_store: Open, change: Callable[[EventEnvelope], RowChange], problem: str
) -> None:
    own = projector(Note, events=MessagePosted, stream_column="chat")(lambda one: [change(one)])
    alice = open_store(own).user("alice")
    chat = alice.conversations.start().id

    with pytest.raises(ConfigurationError, match=problem):
        alice.messages.post(chat, sender="user", content="hello")

    assert len(alice.events()) == 1


def test_a_stream_column_that_holds_no_id_of_a_stream_is_refused() -> None:
    for name in ("text", "nothing"):
        with pytest.raises(ConfigurationError, match=f"stream_column {name} is no column of type"):
            Projections(projector(Note, stream_column=name)(note))


def test_every_row_change_of_the_built_in_tables_is_bound_to_the_stream_of_its_event(
    alice: User,
) -> None:
    chat = write_words(alice)
    alice.messages.edit(chat, alice.history(chat)[0].id, content="edited")
    alice.conversations.rewind(chat, to=3)
    alice.conversations.delete(chat)
    projections = Projections(*BUILT_IN)
    columns, others = projections.split_by_stream()
    seen = set()

    for event in alice.events(limit=100):
        for change in projections.project(event):
            bound: dict[str, Any] = {}
            for name in ("values", "key", "only_where", "found_by", "group"):
                bound |= getattr(change, name, {})
            column = columns[projections.shapes_by_model[change.table]]
            assert bound[column] == event.stream_id
            seen.add((change.table.__name__, type(change).__name__))

    assert others.projectors == ()
    assert len(columns) == len(BUILT_IN)
    assert len(seen) >= 11
