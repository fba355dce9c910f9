"""Everything of a user with very many events is erased in parts, each whole and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Column, Text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore import (
    ContentErased,
    ConversationStarted,
    EventEnvelope,
    EventStore,
    NewEvent,
    StreamClosed,
    TaskCreated,
    User,
)
from eventstore.admin import erase as erasing
from eventstore.database.plan import Plan
from eventstore.log.ids import conversation_id
from projections import Insert, RowChange, projector
from tests.support.erasing import WORDS, all_rows, lose_reply_of_record, write_words
from tests.support.own_read_model import protect
from tests.support.proxy import Proxy, url_through
from tests.support.tampering import disarm


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take few events and streams for very many."""
    monkeypatch.setattr(erasing, "_AT_ONCE", 5)
    monkeypatch.setattr(erasing, "_MOST_STREAMS", 3)


uses_small_parts = pytest.mark.usefixtures("small_parts")


def records(user: User) -> list[ContentErased]:
    found = user.events(types=["ContentErased"])
    return [one.data for one in found if isinstance(one.data, ContentErased)]


@contextmanager
def refused_records(admin: psycopg.Connection, when: str) -> Iterator[None]:
    """Have PostgreSQL refuse records of erasures under a condition, in SQL."""
    admin.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin"
        f" if {when} then raise exception 'no more'; end if; return new; end $$;"
        "create trigger refuse before insert on eventstore.event for each row"
        " when (new.type = 'ContentErased') execute function refuse()"
    )
    try:
        yield
    finally:
        admin.execute("drop function refuse cascade")


def words_left(admin: psycopg.Connection) -> list[str]:
    return [row for row in all_rows(admin) if any(word in row for word in WORDS)]


def write_much(user: User) -> int:
    """Write the words, a long conversation and many tasks; return how many events that is."""
    write_words(user)
    chat = user.conversations.start(key="long")
    user.messages.extend(chat.id, [{"role": "user", "content": "xylem"}] * 20)
    for _ in range(10):
        user.tasks.create("sorrel")
    return len(user.events())


@uses_small_parts
def test_the_parts_leave_nothing_and_the_last_record_is_of_everything(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    bob = store.user("bob")
    bob.tasks.create("stays")
    events = write_much(alice)

    seen: list[int] = []

    done = store.erase("alice", ordered_by="desk", reason="asked", seen=seen.append)

    assert done.events == events == store.verify("alice").erased
    assert words_left(admin) == []
    assert store.verify().ok
    assert [task.title for task in bob.tasks.list()] == ["stays"]
    *parts, last = records(alice)
    assert len(parts) > 5
    assert seen == [one.events for one in parts]
    assert sum(one.events for one in (*parts, last)) == events
    assert all(one.streams and len(one.streams) <= 3 for one in parts)
    assert last.streams is None
    assert last.through + 1 == done.position
    assert {(one.ordered_by, one.reason) for one in (*parts, last)} == {("desk", "asked")}
    assert done.position == events + len(parts) + 1


@uses_small_parts
def test_a_conversation_is_erased_at_once_however_long_it_is(
    store: EventStore, alice: User
) -> None:
    write_much(alice)

    store.erase("alice", ordered_by="desk", conversation="long")

    (record,) = records(alice)
    assert record.streams == [conversation_id("alice", "long")]
    assert record.events == 21


@uses_small_parts
def test_an_error_leaves_whole_parts_and_the_next_erasure_goes_on(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    events = write_much(alice)
    recorded = "(select count(*) from eventstore.event where type = 'ContentErased')"

    with refused_records(admin, f"{recorded} = 3"), pytest.raises(Exception, match="no more"):
        store.erase("alice", ordered_by="desk")

    before = records(alice)
    assert len(before) == 3
    assert store.verify("alice").erased == sum(one.events for one in before)
    assert store.verify().ok
    rest = store.erase("alice", ordered_by="desk")
    assert rest.events == events - sum(one.events for one in before)
    assert words_left(admin) == []
    assert store.verify().ok


@uses_small_parts
def test_what_is_written_between_two_parts_is_erased_by_the_last(
    database_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        write_much(alice)
        chats: list[UUID] = []
        erase_part = erasing._erase

        def write_first(*arguments: Any) -> Plan[erasing.Erasure]:
            chats.append(alice.conversations.start(title="teasel").id)
            return erase_part(*arguments)

        monkeypatch.setattr(erasing, "_erase", write_first)
        store.erase("alice", ordered_by="desk")

        assert len(chats) > 5
        assert words_left(admin) == []
        assert store.verify().ok
        with pytest.raises(StreamClosed):
            alice.messages.post(chats[-1], sender="user", content="too late")


@uses_small_parts
def test_a_part_whose_reply_is_lost_is_recorded_once(
    database_url: str, proxy: Proxy, admin: psycopg.Connection
) -> None:
    with EventStore.connect(url_through(proxy, database_url)) as store:
        alice = store.user("alice")
        events = write_much(alice)
        lost = lose_reply_of_record(proxy, admin, 2)

        done = store.erase("alice", ordered_by="desk")

        assert lost
        assert done.events == events == sum(one.events for one in records(alice))
        assert store.verify().ok


class Base(SQLModel, registry=registry()):
    """Has metadata of its own."""


class Chat(Base, table=True):
    """Of each conversation."""

    __tablename__ = "chat"
    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: UUID = Field(primary_key=True)


class ChatTask(Base, table=True):
    """Of each task, with the conversation that it belongs to: a key that only the database has."""

    __tablename__ = "chat_task"
    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: UUID = Field(primary_key=True)
    chat: UUID | None


@projector(Chat, events=ConversationStarted, stream_column="id")
def project_chat(event: EventEnvelope) -> Iterator[RowChange]:
    yield Insert(Chat, {"id": event.stream_id})


@projector(ChatTask, events=TaskCreated, stream_column="id")
def project_chat_task(event: EventEnvelope) -> Iterator[RowChange]:
    yield Insert(ChatTask, {"id": event.stream_id, "chat": event.correlation_id})


@uses_small_parts
def test_rows_that_refer_to_those_of_other_streams_are_erased_with_them(
    database_url: str, admin: psycopg.Connection
) -> None:
    admin.execute(
        "create table chat (user_id text, id uuid, primary key (user_id, id));"
        "create table chat_task (user_id text, id uuid, chat uuid, primary key (user_id, id),"
        " foreign key (user_id, chat) references chat)"
    )
    protect(admin, Chat, ChatTask)
    with EventStore.connect(database_url, projectors=[project_chat, project_chat_task]) as store:
        alice = store.user("alice")
        for _ in range(6):
            chat = alice.conversations.start().id
            alice.annotated(correlation_id=chat).tasks.create("sorrel")

        store.erase("alice", ordered_by="desk")

        assert len(records(alice)) == 1
        assert admin.execute("select count(*) from chat_task").fetchone() == (0,)
        assert store.verify().ok


def test_the_record_of_the_largest_part_is_read_by_verify(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    for _ in range(6):
        alice.append(
            [NewEvent(stream_id=uuid4(), data=TaskCreated(title="sorrel")) for _ in range(1000)]
        )
    # Of everything, which would cover the part too.
    last = "new.payload->>'streams' is null"

    with refused_records(admin, last), pytest.raises(Exception, match="no more"):
        store.erase("alice", ordered_by="desk")

    (part,) = records(alice)
    assert part.events == 5000
    assert store.verify("alice").ok


@uses_small_parts
def test_a_stream_whose_version_is_gone_is_erased(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_much(alice)
    disarm(admin)
    admin.execute("alter table eventstore.stream alter version drop not null")
    admin.execute("update eventstore.stream set version = null where kind = 'task'")

    store.erase("alice", ordered_by="desk")

    assert words_left(admin) == []
