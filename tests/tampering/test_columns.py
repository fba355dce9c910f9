"""Any column of any table, made any other value of its type, is found, located and told."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import errors

from eventstore import EventStore
from eventstore.admin.verify import Problem
from tests.support.own_read_model import service_url
from tests.tampering.flips import LOG, READ_MODELS, Flip, every_column, is_located, values_of
from tests.tampering.given import armed, given_a_log

__all__ = ["armed", "service_url"]

KEYS = {"user_id", "id"}

# What the database itself refuses to hold, before anybody has to look for it.
_REFUSED = (errors.IntegrityError, errors.NumericValueOutOfRange, errors.DatetimeFieldOverflow)


def tried(admin: psycopg.Connection, flip: Flip, user_id: str) -> tuple[str, ...] | None:
    """Make one change of one user; return the row's key, or None if it could not be made."""
    place = f"{flip.table} where user_id = %(user)s and {flip.where()}"
    key = _key_of(admin, flip, place, user_id)
    value = flip.value.replace("{0}", flip.column)
    try:
        changed = admin.execute(
            f"update {flip.table} set {flip.column} = {value} where user_id = %(user)s"
            f" and {flip.where()} and {flip.column}::text is distinct from ({value})::text",
            {"user": user_id},
        )
    except _REFUSED:
        return None
    return key if changed.rowcount == 1 else None


def _key_of(admin: psycopg.Connection, flip: Flip, place: str, user_id: str) -> tuple[str, ...]:
    columns = {
        "eventstore.event": "position", "eventstore.user_log": "user_id",
        "eventstore.stream": "stream_id", "service.box": "box, name",
    }.get(flip.table, "id")  # fmt: skip
    row = admin.execute(f"select {columns} from {place}", {"user": user_id}).fetchone()
    assert row is not None, flip
    return tuple(str(part) for part in row)


def every_flip(store: EventStore, admin: psycopg.Connection, tables: tuple[str, ...]) -> list[Flip]:
    given_a_log(store, "sample")
    flips = []
    for table, column, kind in every_column(admin):
        if table in tables:
            stored = None
            if kind == "json":
                sample = Flip(table, column, "")
                row = admin.execute(
                    f"select {column}::text from {table} where user_id = %(user)s"
                    f" and {sample.where()}",
                    {"user": "sample"},
                ).fetchone()
                assert row is not None
                stored = row[0]
            flips += [Flip(table, column, value) for value in values_of(kind, stored)]
    return flips


def without_constraints(admin: psycopg.Connection) -> None:
    """Let the read models hold what their constraints keep out, as an owner can."""
    admin.execute("alter table eventstore.message drop constraint message_conversation_fkey")
    admin.execute("alter table eventstore.conversation drop constraint conversation_status_check")
    for table, column, _ in every_column(admin):
        if table.startswith("eventstore.") and table in READ_MODELS and column not in KEYS:
            admin.execute(f"alter table {table} alter column {column} drop not null")


@pytest.mark.parametrize("tables", [LOG, READ_MODELS], ids=["log", "read models"])
def test_a_flip_of_any_column_is_found_and_located(
    armed: EventStore,
    admin: psycopg.Connection,
    tables: tuple[str, ...],
    record_property: Callable[[str, object], None],
) -> None:
    without_constraints(admin)
    made: dict[Flip, bool] = {}
    strangers: dict[Flip, set[str]] = {}
    fresh: set[str] = set()
    for flip in every_flip(armed, admin, tables):
        user_id = f"user {len(made)}"
        if user_id not in fresh:
            given_a_log(armed, user_id)
            fresh.add(user_id)
        if (key := tried(admin, flip, user_id)) is None:
            continue
        problems: tuple[Problem, ...] = armed.verify(user_id).problems
        made[flip] = any(is_located(flip, key, one) for one in problems)
        strangers[flip] = {one.user_id for one in problems} - {user_id}

    found = sum(made.values())
    record_property("manipulations tried", len(made))
    record_property("manipulations found", found)
    assert [flip for flip, located in made.items() if not located] == []
    assert [flip for flip, users in strangers.items() if users] == []
    assert {(flip.table, flip.column) for flip in made} == {
        (table, column) for table, column, _ in every_column(admin) if table in tables
    }
    assert found == len(made) > 80
    assert armed.verify("sample").ok
