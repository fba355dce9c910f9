"""A table that shall have no row of a user is emptied at once, whatever refers to it."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Column, Text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

import projections.rebuild.locked_replay
from eventstore import (
    ConversationStarted,
    DatabaseFault,
    EventEnvelope,
    EventStore,
    NewEvent,
    TaskCreated,
)
from projections import Insert, RowChange, Update, projector
from tests.support.own_read_model import protect


class Base(SQLModel, registry=registry()):
    """Has metadata of its own."""


class Chat(Base, table=True):
    """Of each conversation."""

    __tablename__ = "chat"
    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: UUID = Field(primary_key=True)


class Errand(Base, table=True):
    """Of each task, with the newest conversation; its table comes before the other."""

    __tablename__ = "a_errand"
    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: UUID = Field(primary_key=True)
    chat: UUID | None = None


TASK = uuid4()


@projector(Chat)
def project_chat(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, ConversationStarted):
        yield Insert(Chat, {"id": event.stream_id})


@projector(Errand)
def project_errand(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, TaskCreated):
        yield Insert(Errand, {"id": event.stream_id})
    if isinstance(event.data, ConversationStarted):
        yield Update(Errand, {"id": TASK}, {"chat": event.stream_id})


@pytest.fixture
def errand_store(database_url: str, admin: psycopg.Connection) -> Iterator[EventStore]:
    admin.execute(
        "create table chat (user_id text, id uuid, primary key (user_id, id));"
        " create table a_errand (user_id text, id uuid, chat uuid, primary key (user_id, id))"
    )
    protect(admin, Chat, Errand)
    with EventStore.connect(database_url, projectors=[project_chat, project_errand]) as store:
        alice = store.user("alice")
        alice.append([NewEvent(stream_id=TASK, data=TaskCreated(title="Buy milk"))])
        alice.conversations.start(key="chat")
        yield store


@pytest.mark.parametrize("few", [0, 2000], ids=["at once", "by keys"])
def test_an_erasure_waits_with_a_deferrable_constraint_until_all_rows_are_right(
    errand_store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(projections.rebuild.locked_replay, "_FEW", few)
    admin.execute("alter table a_errand add foreign key (user_id, chat) references chat deferrable")

    assert errand_store.erase("alice", ordered_by="alice", conversation="chat").events == 1

    assert errand_store.verify().ok
    assert admin.execute("select chat from a_errand").fetchall() == [(None,)]


@pytest.mark.parametrize("few", [0, 2000], ids=["at once", "by keys"])
def test_an_erasure_names_a_constraint_that_the_rows_of_another_table_keep(
    errand_store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(projections.rebuild.locked_replay, "_FEW", few)
    admin.execute(
        "create table mine (user_id text, chat uuid, foreign key (user_id, chat) references chat)"
    )
    admin.execute("insert into mine select user_id, id from chat")

    with pytest.raises(DatabaseFault, match=r"mine\.mine_user_id_chat_fkey refuses the rows"):
        errand_store.erase("alice", ordered_by="alice", conversation="chat")

    assert errand_store.verify().ok


def test_a_rebuild_empties_a_table_whose_rows_are_all_too_many(
    errand_store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.rebuild.locked_replay, "_FEW", 0)
    errand_store.erase("alice", ordered_by="alice", conversation="chat")
    for _ in range(3):
        admin.execute("insert into chat values ('alice', gen_random_uuid())")

    assert errand_store.rebuild("alice").changed == 3

    assert admin.execute("select count(*) from chat").fetchone() == (0,)
    assert errand_store.verify().ok
