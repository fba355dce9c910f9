"""A service's own tables: erased with the rest or refused, of any shape that keeps users apart."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import BigInteger, Column, DateTime, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore import (
    ConfigurationError,
    Event,
    EventEnvelope,
    EventRegistry,
    EventStore,
    TaskCreated,
)
from eventstore.database import pages
from eventstore.events.json_codec import loads
from projections import Increment, Insert, RowChange, Update, projector
from tests.support.own_read_model import protect


class Theirs(SQLModel, registry=registry()):
    """The metadata of this service."""


class Total(Theirs, table=True):
    """One row a user: the key is the user alone."""

    __tablename__ = "total"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    tasks: int = Field(sa_column=Column(BigInteger))
    last: str = Field(sa_column=Column(Text))


class Copy(Theirs, table=True):
    """What was said, in a column that keeps no order of keys; in partitions."""

    __tablename__ = "copy"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: Any = Field(sa_column=Column(Uuid, primary_key=True))
    said: Any = Field(sa_column=Column(JSONB))


class Moment(Theirs, table=True):
    """A row an instant."""

    __tablename__ = "moment"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    at: Any = Field(sa_column=Column(DateTime(timezone=True), primary_key=True))


@projector(Total)
def project_total(fact: EventEnvelope) -> Iterator[RowChange]:
    match fact.data:
        case TaskCreated(title="first"):
            yield Insert(Total, {"tasks": 1, "last": "first"})
        case TaskCreated(title=title):
            yield Update(Total, {}, {"tasks": Increment(1), "last": title})


@projector(Copy)
def project_copy(fact: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(fact.data, TaskCreated):
        yield Insert(Copy, {"id": fact.stream_id, "said": {"zzz": fact.data.title, "a": [1, 2.5]}})


@projector(Moment)
def project_moment(fact: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(fact.data, TaskCreated):
        yield Insert(Moment, {"at": datetime.fromisoformat(fact.data.title)})


@pytest.fixture
def own_url(database_url: str, direct_url: str) -> str:
    """A database with both tables, as a migration of the service's leaves them."""
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute("create schema service")
        owner.execute("create table service.total (user_id text primary key, tasks int, last text)")
        owner.execute(
            "create table service.copy (user_id text, id uuid, said jsonb, primary key"
            " (user_id, id)) partition by hash (user_id)"
        )
        for number in range(2):
            owner.execute(
                f"create table service.copy_{number} partition of service.copy"
                f" for values with (modulus 2, remainder {number})"
            )
        protect(owner, Total, Copy)
    return database_url


@pytest.fixture
def store(own_url: str) -> Iterator[EventStore]:
    with EventStore.connect(own_url, projectors=[project_total, project_copy]) as opened:
        for name in ("alice", "bob"):
            for title in ("first", "rhubarb"):
                opened.user(name).tasks.create(title)
        yield opened


def held(admin: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    return {
        table: admin.execute(f"select * from service.{table} as t order by t::text").fetchall()
        for table in ("total", "copy")
    }


def test_tables_of_any_shape_are_verified_rebuilt_and_exported(
    store: EventStore, admin: psycopg.Connection
) -> None:
    before, written = held(admin), list[str]()
    assert store.verify().ok
    assert (store.rebuild().changed, held(admin)) == (0, before)

    admin.execute("update service.total set tasks = 7 where user_id = 'alice'")
    admin.execute("""update service.copy set said = '{"a": 1}' where user_id = 'bob'""")

    assert [(one.kind, one.user_id, one.table) for one in store.verify().problems] == [
        ("changed_row", "alice", "service.total"),
        *[("changed_row", "bob", "service.copy")] * 2,
    ]
    assert (store.rebuild().changed, held(admin)) == (3, before)
    assert store.export("alice", written.append).unreached == ()
    assert '"last": "rhubarb"' in "".join(written)


def test_true_is_not_one_in_a_column_that_knows_both(
    store: EventStore, admin: psycopg.Connection
) -> None:
    admin.execute("""update service.copy set said = said || '{"a": [1.0, 2.50]}'""")
    assert store.verify().ok

    admin.execute(
        """update service.copy set said = said || '{"a": [true, 2.5]}' where user_id = 'bob'"""
    )

    problems = [(one.kind, one.user_id, one.table) for one in store.verify().problems]
    assert problems == [("changed_row", "bob", "service.copy")] * 2


@pytest.mark.parametrize("number", ["1e5000", "1e23", "1.10", "-0.0", "12345678901234567890.5"])
def test_numbers_of_any_size_are_the_same_in_a_column_that_writes_them_out(
    own_url: str, number: str
) -> None:
    @projector(Copy)
    def project_number(fact: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(fact.data, TaskCreated):
            yield Insert(Copy, {"id": fact.stream_id, "said": {"n": loads(number)}})

    with EventStore.connect(own_url, projectors=[project_number]) as store:
        for name in ("alice", "bob"):
            store.user(name).tasks.create("x")

        assert store.verify().ok
        assert store.rebuild(check=True).changed == 0


def test_rows_at_instants_that_python_cannot_hold_are_read_once_each(
    own_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.execute("create table service.moment (user_id text, at timestamptz, primary key"
                  " (user_id, at))")  # fmt: skip
    protect(admin, Moment)
    monkeypatch.setattr(pages, "PAGE_ROWS", 1)
    written: list[str] = []
    with EventStore.connect(own_url, projectors=[project_moment]) as store:
        alice = store.user("alice")
        alice.tasks.create("2026-11-22T17:45:29Z")
        admin.execute(
            "insert into service.moment select 'alice', at::timestamptz from"
            " unnest(array['infinity', '-infinity', '0044-03-15 BC', '20000-01-01']) as at"
        )
        alice.tasks.create("2026-11-23T17:45:29Z")

        problems = [(one.kind, one.table) for one in store.verify().problems]
        assert problems == [("extra_row", "service.moment")] * 4
        assert store.export("alice", written.append).rows >= 6
        assert store.rebuild("alice").changed == 4
        assert store.verify().ok
    assert "".join(written).count('"at": ') == 6


def test_what_a_projector_of_the_services_own_made_is_erased_too(
    store: EventStore, admin: psycopg.Connection
) -> None:
    before = held(admin)

    done = store.erase("alice", ordered_by="privacy desk")

    after = held(admin)
    assert (done.events, done.unreached) == (2, ())
    assert after == {
        table: [row for row in rows if row[0] == "bob"] for table, rows in before.items()
    }
    assert store.verify().ok


def test_what_no_projector_here_keeps_is_not_left_behind_in_silence(
    store: EventStore, own_url: str, admin: psycopg.Connection
) -> None:
    before, written = held(admin), list[str]()
    with EventStore.connect(own_url, projectors=[project_total]) as other:
        with pytest.raises(ConfigurationError, match=r"^service\.copy may hold rows of this user"):
            other.erase("alice", ordered_by="privacy desk")
        assert (held(admin), other.verify().erased) == (before, 0)
        assert other.export("alice", written.append).unreached == ("service.copy",)
        assert '"unreached": ["service.copy"]' in written[0]

        done = other.erase("alice", ordered_by="privacy desk", leave=["service.copy"])

    assert (done.events, done.unreached) == (2, ("service.copy",))
    assert held(admin)["copy"] == before["copy"]
    assert [one.table for one in store.verify().problems] == ["service.copy"] * 2


def test_a_protected_table_beside_the_stores_own_is_not_left_behind_either(
    store: EventStore, admin: psycopg.Connection
) -> None:
    admin.execute("create table eventstore.note (user_id text primary key, said text)")
    Note = type("Note", (Theirs,), {  # noqa: N806 - a class
        "__tablename__": "note", "__table_args__": {"schema": "eventstore"}, "__module__": __name__,
        "__annotations__": {"user_id": str}, "user_id": Field(primary_key=True),
    }, table=True)  # fmt: skip
    protect(admin, Note)
    written: list[str] = []

    with pytest.raises(ConfigurationError, match=r"^eventstore\.note may hold rows of this user"):
        store.erase("alice", ordered_by="privacy desk")
    assert store.export("alice", written.append).unreached == ("eventstore.note",)


def test_an_index_that_all_users_share_is_no_reason_not_to_connect(
    own_url: str, admin: psycopg.Connection
) -> None:
    admin.execute(
        "create index words on eventstore.message using gin (to_tsvector('simple', content))"
    )

    with EventStore.connect(own_url, projectors=[project_total, project_copy]) as store:
        (shared,) = [one for one in store.doctor() if one.check == "table"]

    assert (shared.severity, shared.location) == ("warning", "eventstore.message")
    assert "index eventstore.words does not begin with user_id" in shared.detail


def test_an_event_of_the_kind_that_is_kept_for_erasures_is_refused() -> None:
    class Removed(Event, type="Removed", stream_kind="erasure"):
        """Looks like the record of an erasure."""

    with pytest.raises(
        ConfigurationError, match="erasure is reserved for erasures"
    ):
        EventRegistry(Removed)
