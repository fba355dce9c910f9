"""A service's own tables of any shape are verified, rebuilt, exported and erased with the rest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest
from sqlalchemy import BigInteger, Column, Date, Text, Uuid
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore import (
    ConfigurationError,
    Event,
    EventEnvelope,
    EventRegistry,
    EventStore,
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
)
from eventstore.database import pages
from eventstore.events.json_codec import loads
from projections import Delete, Increment, Insert, RowChange, Update, projector
from projections.rebuild import parts
from tests.support.own_read_model import protect


class Base(SQLModel, registry=registry()):
    """The base of the tables in this file, with metadata of its own."""


class Total(Base, table=True):
    """One row for each user: the key is the user id alone."""

    __tablename__ = "total"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    tasks: int = Field(sa_column=Column(BigInteger))
    last: str = Field(sa_column=Column(Text))


class Copy(Base, table=True):
    """A partitioned table with a jsonb column, which does not preserve the order of keys."""

    __tablename__ = "copy"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: Any = Field(sa_column=Column(Uuid, primary_key=True))
    body: Any = Field(sa_column=Column(JSONB))


class Day(Base, table=True):
    """One row for each day."""

    __tablename__ = "day"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    on_day: Any = Field(sa_column=Column(Date, primary_key=True))


@projector(Total)
def project_total(event: EventEnvelope) -> Iterator[RowChange]:
    match event.data:
        case TaskCreated(title="first"):
            yield Insert(Total, {"tasks": 1, "last": "first"})
        case TaskCreated(title=title):
            yield Update(Total, {}, {"tasks": Increment(1), "last": title})
        case TaskCompleted():
            yield Update(Total, {}, {"last": "completed"}, only_where={"last": "rhubarb"})
        case TaskDeleted():
            yield Delete(Total, {})


@projector(Copy)
def project_copy(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, TaskCreated):
        yield Insert(
            Copy, {"id": event.stream_id, "body": {"zzz": event.data.title, "a": [1, 2.5]}}
        )


@projector(Day)
def project_day(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, TaskCreated):
        yield Insert(Day, {"on_day": date.fromisoformat(event.data.title)})


@pytest.fixture
def own_tables_url(database_url: str, direct_url: str) -> str:
    """The URL of a database with `Total` and `Copy`, as a migration would create them."""
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute("create schema service")
        owner.execute("create table service.total (user_id text primary key, tasks int, last text)")
        owner.execute(
            "create table service.copy (user_id text, id uuid, body jsonb, primary key"
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
def own_tables_store(own_tables_url: str) -> Iterator[EventStore]:
    """A store with rows of two users in both tables."""
    with EventStore.connect(own_tables_url, projectors=[project_total, project_copy]) as store:
        for name in ("alice", "bob"):
            for title in ("first", "rhubarb"):
                store.user(name).tasks.create(title)
        yield store


def read_tables(admin: psycopg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Return the rows of both tables."""
    return {
        table: admin.execute(f"select * from service.{table} as t order by t::text").fetchall()
        for table in ("total", "copy")
    }


def test_tables_of_any_shape_are_verified_rebuilt_and_exported(
    own_tables_store: EventStore, admin: psycopg.Connection
) -> None:
    before, written = read_tables(admin), list[str]()
    assert own_tables_store.verify().ok
    assert (own_tables_store.rebuild().changed, read_tables(admin)) == (0, before)

    admin.execute("update service.total set tasks = 7 where user_id = 'alice'")
    admin.execute("""update service.copy set body = '{"a": 1}' where user_id = 'bob'""")

    assert [(one.kind, one.user_id, one.table) for one in own_tables_store.verify().problems] == [
        ("changed_row", "alice", "service.total"),
        *[("changed_row", "bob", "service.copy")] * 2,
    ]
    assert (own_tables_store.rebuild().changed, read_tables(admin)) == (3, before)
    assert own_tables_store.export("alice", written.append).unreached == ()
    assert '"last":"rhubarb"' in "".join(written)


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_table_with_one_row_for_each_user_is_verified_and_repaired(
    own_tables_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, *,
    in_parts: bool,
) -> None:  # fmt: skip
    """Its key is the user id alone, so nothing of the key stands in its row changes."""
    if in_parts:
        monkeypatch.setattr(parts, "EVENTS_PER_PART", 1)
    with EventStore.connect(own_tables_url, projectors=[project_total]) as store:
        for name in ("alice", "bob", "carol"):
            user = store.user(name)
            user.tasks.create("first")
            task = user.tasks.create("rhubarb")
            if name == "alice":
                user.tasks.complete(task.id)
            if name == "carol":
                user.tasks.delete(task.id)
        right = admin.execute("select * from service.total order by user_id").fetchall()
        assert right == [("alice", 2, "completed"), ("bob", 2, "rhubarb")]
        assert store.verify().ok
        admin.execute(
            "delete from service.total where user_id = 'alice';"
            "update service.total set tasks = 7;"
            "insert into service.total values ('carol', 1, 'extra'), ('dave', 1, 'extra')"
        )

        problems = {(one.kind, one.user_id, one.key) for one in store.verify().problems}
        repaired = store.rebuild()

        assert problems == {
            ("missing_row", "alice", ()), ("changed_row", "bob", ()), ("extra_row", "carol", ()),
            ("extra_row", "dave", ()),
        }  # fmt: skip
        assert repaired.changed == 4
        assert admin.execute("select * from service.total order by user_id").fetchall() == right


def test_the_only_row_of_a_user_is_exported_once(
    own_tables_store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_ROWS", 1)
    written: list[str] = []

    own_tables_store.export("alice", written.append)

    assert "".join(written).count('"last":"rhubarb"') == 1


def test_true_differs_from_one_in_a_jsonb_column(
    own_tables_store: EventStore, admin: psycopg.Connection
) -> None:
    # Numbers in jsonb are equal whatever zeros they end with, so nothing differs yet.
    admin.execute("""update service.copy set body = body || '{"a": [1.0, 2.50]}'""")
    assert own_tables_store.verify().ok

    admin.execute(
        """update service.copy set body = body || '{"a": [true, 2.5]}' where user_id = 'bob'"""
    )

    problems = [(one.kind, one.user_id, one.table) for one in own_tables_store.verify().problems]
    assert problems == [("changed_row", "bob", "service.copy")] * 2


@pytest.mark.parametrize("number", ["1e5000", "1e23", "1.10", "-0.0", "12345678901234567890.5"])
def test_numbers_of_any_size_equal_their_replay_in_a_jsonb_column(
    own_tables_url: str, number: str
) -> None:
    @projector(Copy)
    def project_number(event: EventEnvelope) -> Iterator[RowChange]:
        if isinstance(event.data, TaskCreated):
            yield Insert(Copy, {"id": event.stream_id, "body": {"n": loads(number)}})

    with EventStore.connect(own_tables_url, projectors=[project_number]) as store:
        for name in ("alice", "bob"):
            store.user(name).tasks.create("x")

        assert store.verify().ok
        assert store.rebuild(check=True).changed == 0


def test_rows_with_dates_that_python_cannot_represent_are_read_once_each(
    own_tables_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.execute("create table service.day (user_id text, on_day date, primary key"
                  " (user_id, on_day))")  # fmt: skip
    protect(admin, Day)
    # The page after such a date has to begin behind it, although Python cannot hold it.
    monkeypatch.setattr(pages, "PAGE_ROWS", 1)
    written: list[str] = []
    with EventStore.connect(own_tables_url, projectors=[project_day]) as store:
        alice = store.user("alice")
        alice.tasks.create("2026-11-22")
        admin.execute(
            "insert into service.day select 'alice', day::date from"
            " unnest(array['infinity', '-infinity', '0044-03-15 BC', '20000-01-01']) as day"
        )
        alice.tasks.create("2026-11-23")

        problems = [(one.kind, one.table) for one in store.verify().problems]
        assert problems == [("extra_row", "service.day")] * 4
        assert store.export("alice", written.append).rows >= 6
        assert store.rebuild("alice").changed == 4
        assert store.verify().ok
    assert "".join(written).count('"on_day":') == 6


def test_the_rows_of_a_services_own_projectors_are_erased_too(
    own_tables_store: EventStore, admin: psycopg.Connection
) -> None:
    before = read_tables(admin)

    done = own_tables_store.erase("alice", ordered_by="privacy desk")

    after = read_tables(admin)
    assert (done.events, done.unreached) == (2, ())
    assert after == {
        table: [row for row in rows if row[0] == "bob"] for table, rows in before.items()
    }
    assert own_tables_store.verify().ok


def test_an_erasure_is_refused_while_a_table_without_a_projector_may_hold_rows(
    own_tables_store: EventStore, own_tables_url: str, admin: psycopg.Connection
) -> None:
    before, written = read_tables(admin), list[str]()
    with EventStore.connect(own_tables_url, projectors=[project_total]) as other_store:
        with pytest.raises(ConfigurationError, match=r"^service\.copy may hold rows of this user"):
            other_store.erase("alice", ordered_by="privacy desk")
        assert (read_tables(admin), other_store.verify().erased) == (before, 0)
        assert other_store.export("alice", written.append).unreached == ("service.copy",)
        assert '"unreached":["service.copy"]' in written[0]

        done = other_store.erase("alice", ordered_by="privacy desk", leave=["service.copy"])

    assert (done.events, done.unreached) == (2, ("service.copy",))
    assert read_tables(admin)["copy"] == before["copy"]
    assert [one.table for one in own_tables_store.verify().problems] == ["service.copy"] * 2


def test_an_erasure_is_refused_for_an_unknown_table_in_the_schema_of_the_store(
    own_tables_store: EventStore, admin: psycopg.Connection
) -> None:
    admin.execute("create table eventstore.note (user_id text primary key, body text)")
    Note = type("Note", (Base,), {  # noqa: N806 - the name of a class
        "__tablename__": "note", "__table_args__": {"schema": "eventstore"}, "__module__": __name__,
        "__annotations__": {"user_id": str, "body": str}, "user_id": Field(primary_key=True),
    }, table=True)  # fmt: skip
    protect(admin, Note)
    written: list[str] = []

    with pytest.raises(ConfigurationError, match=r"^eventstore\.note may hold rows of this user"):
        own_tables_store.erase("alice", ordered_by="privacy desk")
    assert own_tables_store.export("alice", written.append).unreached == ("eventstore.note",)


def test_an_index_that_does_not_begin_with_user_id_is_only_a_warning(
    own_tables_url: str, admin: psycopg.Connection
) -> None:
    admin.execute(
        "create index words on eventstore.message using gin (to_tsvector('simple', content))"
    )

    with EventStore.connect(own_tables_url, projectors=[project_total, project_copy]) as store:
        (finding,) = [one for one in store.doctor() if one.check == "table"]

    assert (finding.severity, finding.location) == ("warning", "eventstore.message")
    assert "index eventstore.words does not begin with user_id" in finding.detail


def test_an_event_class_with_the_stream_kind_of_erasures_is_refused() -> None:
    class Removed(Event, type="Removed", stream_kind="erasure"):
        """An event that looks like the record of an erasure."""

    with pytest.raises(ConfigurationError, match="erasure is reserved for erasures"):
        EventRegistry(Removed)
