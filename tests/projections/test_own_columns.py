"""Values in a service's own columns that Python cannot represent are repaired and erased."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from sqlalchemy import Column, Date, DateTime, Numeric, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

import projections.rebuild.locked_replay
from eventstore import DatabaseFault, EventEnvelope, EventStore, Incomplete, TaskCreated
from projections import Insert, RowChange, projector
from tests.support.own_read_model import protect


class Base(SQLModel, registry=registry()):
    """The base of the table in this file, with metadata of its own."""


class Reminder(Base, table=True):
    """A reminder, with a column of each type whose values Python may be unable to represent."""

    __tablename__ = "reminder"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(sa_column=Column(Text, primary_key=True))
    id: Any = Field(sa_column=Column(Uuid, primary_key=True))
    day: Any = Field(sa_column=Column(Date, primary_key=True))
    days: Any = Field(sa_column=Column(ARRAY(Date)))
    at: Any = Field(sa_column=Column(DateTime(timezone=True)))
    price: Any = Field(sa_column=Column(Numeric))


@projector(Reminder)
def project_reminder(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, TaskCreated):
        at = datetime(2026, 11, 28, 12, tzinfo=UTC)
        yield Insert(
            Reminder,
            {
                "id": event.stream_id,
                "day": date(2026, 11, 28),
                "days": [date(2026, 11, 28)],
                "at": at,
                "price": Decimal(12),
            },
        )


@pytest.fixture
def reminder_store(database_url: str, direct_url: str) -> Iterator[EventStore]:
    """A store with a reminder for each of two users."""
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute("create schema service")
        owner.execute(
            "create table service.reminder (user_id text, id uuid, day date, days date[],"
            " at timestamptz, price numeric, primary key (user_id, id, day))"
        )
        protect(owner, Reminder)
    with EventStore.connect(database_url, projectors=[project_reminder]) as store:
        for name in ("alice", "bob"):
            store.user(name).tasks.create("Buy milk")
        yield store


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("day", "infinity"),
        ("day", "0044-03-15 BC"),
        ("days", "{infinity,-infinity}"),
        ("days", "{{20000-01-01},{2026-11-28}}"),
        ("days", "[0:0]={2026-11-28}"),
        ("at", "infinity"),
        ("at", "-infinity"),
        ("at", "20000-01-01"),
        ("at", "0044-03-15 BC"),
        ("price", "infinity"),
        ("price", "NaN"),
        ("price", "1e131071"),
    ],
)
def test_a_value_that_python_cannot_represent_is_reported_and_repaired(
    reminder_store: EventStore, admin: psycopg.Connection, column: str, value: str
) -> None:
    admin.execute(f"update service.reminder set {column} = %s where user_id = 'alice'", (value,))
    written: list[str] = []

    problems = reminder_store.verify().problems
    reminder_store.export("alice", written.append)
    repaired = reminder_store.rebuild()

    assert {(one.user_id, one.table) for one in problems} == {("alice", "service.reminder")}
    if column != "day":  # a change of the key makes another row
        assert [one.detail for one in problems] == [f"differs from the replay in {column}"]
    assert "Buy milk" in "".join(written)
    assert (repaired.changed, reminder_store.verify().ok) == (len(problems), True)


def test_a_row_whose_key_python_cannot_represent_is_erased_too(
    reminder_store: EventStore, admin: psycopg.Connection
) -> None:
    admin.execute("insert into service.reminder select user_id, id, 'infinity' from"
                  " service.reminder")  # fmt: skip

    assert reminder_store.erase("alice", ordered_by="alice").events == 1

    left = admin.execute("select user_id, count(*) from service.reminder group by 1").fetchall()
    assert left == [("bob", 2)]


def test_a_rebuild_that_cannot_delete_a_wrong_row_raises_an_error(
    reminder_store: EventStore, admin: psycopg.Connection
) -> None:
    admin.execute(
        "create function public.skip() returns trigger language plpgsql"
        " as 'begin return null; end';"
        "create trigger skip before delete on service.reminder"
        " for each row execute function public.skip()"
    )
    admin.execute("insert into service.reminder select user_id, gen_random_uuid(), day from"
                  " service.reminder")  # fmt: skip

    admin.execute("update service.reminder set day = '2027-01-01' where user_id = 'alice'")
    problems = reminder_store.verify().problems

    message = r"2 of 2 wrong rows of service\.reminder could not be deleted"
    with pytest.raises(DatabaseFault, match=message):
        reminder_store.rebuild("alice")
    with pytest.raises(Incomplete, match=message):
        reminder_store.rebuild()

    assert {one.kind for one in problems} == {"missing_row", "extra_row"}
    assert reminder_store.verify().problems == problems  # the failed rebuild changed nothing


def test_an_erasure_of_many_rows_that_cannot_all_be_deleted_changes_nothing(
    reminder_store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections.rebuild.locked_replay, "_FEW", 0)  # all rows of a table go
    admin.execute(
        "create function public.skip() returns trigger language plpgsql"
        " as 'begin return null; end';"
        "create trigger skip before delete on service.reminder"
        " for each row execute function public.skip()"
    )

    with pytest.raises(DatabaseFault, match=r"rows of service\.reminder could not be deleted"):
        reminder_store.erase("alice", ordered_by="alice")

    assert [one.title for one in reminder_store.user("alice").tasks.list()]
    assert reminder_store.verify().ok


def test_a_rebuild_names_a_constraint_that_cannot_be_deferred(
    reminder_store: EventStore, admin: psycopg.Connection
) -> None:
    """The log gives both rows the same price, which the unique index refuses."""
    reminder_store.user("alice").tasks.create("Buy bread")
    admin.execute("update service.reminder set price = 13 where user_id = 'alice'")
    admin.execute("create unique index once on service.reminder (user_id, price)"
                  " where user_id <> 'bob' and price < 12.5")  # fmt: skip

    with pytest.raises(DatabaseFault, match=r"reminder\.once refuses the rows that the log gives"):
        reminder_store.rebuild("alice")
