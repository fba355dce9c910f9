"""Verify finds any other value in any column of any table, and reports where it is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

import psycopg
import pytest
from psycopg import errors

from eventstore import EventStore
from eventstore.admin.verify import Problem
from tests.tampering.flips import LOG, READ_MODELS, Flip, every_column, is_located, values_of
from tests.tampering.full_log import write_log, write_turn

KEYS = {"user_id", "id"}

# The errors with which the database itself refuses a value.
_REFUSED = (errors.IntegrityError, errors.NumericValueOutOfRange, errors.DatetimeFieldOverflow)


def apply_flip(admin: psycopg.Connection, flip: Flip, user_id: str) -> tuple[str, ...] | None:
    """Change one row of a user; return its key, or None if nothing could be changed."""
    source = f"{flip.table} where user_id = %(user)s and {flip.where()}"
    key = _key_of(admin, flip, source, user_id)
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


def _key_of(admin: psycopg.Connection, flip: Flip, source: str, user_id: str) -> tuple[str, ...]:
    columns = {
        "eventstore.event": "position", "eventstore.user_log": "user_id",
        "eventstore.stream": "stream_id", "service.box": "box, name",
    }.get(flip.table, "id")  # fmt: skip
    row = admin.execute(f"select {columns} from {source}", {"user": user_id}).fetchone()
    assert row is not None, flip
    return tuple(str(part) for part in row)


def list_flips(store: EventStore, admin: psycopg.Connection, tables: tuple[str, ...]) -> list[Flip]:
    write_log(store, "sample")
    write_turn(store, "sample")
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


def drop_constraints(admin: psycopg.Connection) -> None:
    """Let the columns of the read models be null, as an owner can, so that more values fit."""
    for table, column, _ in every_column(admin):
        if table.startswith("eventstore.") and table in READ_MODELS and column not in KEYS:
            admin.execute(f"alter table {table} alter column {column} drop not null")


@pytest.mark.parametrize("tables", [LOG, READ_MODELS], ids=["log", "read models"])
def test_a_change_of_any_column_is_found_and_located(
    disarmed_store: EventStore,
    admin: psycopg.Connection,
    tables: tuple[str, ...],
    record_property: Callable[[str, object], None],
) -> None:
    drop_constraints(admin)
    flips = list_flips(disarmed_store, admin, tables)
    by_table = [[flip for flip in flips if flip.table == table] for table in tables]
    # A break of the chain may hide another one, so a user's log is changed in one place. Rows of
    # read models are compared one by one, so a user can have a wrong one in each table.
    rounds = [[flip] for flip in flips] if tables == LOG else zip_longest(*by_table)
    located: dict[Flip, bool] = {}
    other_users: dict[Flip, set[str]] = {}
    written: set[str] = set()
    for together in rounds:
        # A user whose rows could not be changed is used again for the next changes.
        user_id = f"user {len(located)}"
        if user_id not in written:
            write_log(disarmed_store, user_id)
            write_turn(disarmed_store, user_id)
            written.add(user_id)
        keys = {flip: apply_flip(admin, flip, user_id) for flip in together if flip is not None}
        changed = {flip: key for flip, key in keys.items() if key is not None}
        if not changed:
            continue
        problems: tuple[Problem, ...] = disarmed_store.verify(user_id).problems
        for flip, key in changed.items():
            located[flip] = any(is_located(flip, key, one) for one in problems)
            other_users[flip] = {one.user_id for one in problems} - {user_id}

    found = sum(located.values())
    record_property("manipulations tried", len(located))
    record_property("manipulations found", found)
    assert [flip for flip, is_found in located.items() if not is_found] == []
    assert [flip for flip, users in other_users.items() if users] == []
    assert {(flip.table, flip.column) for flip in located} == {
        (table, column) for table, column, _ in every_column(admin) if table in tables
    }
    assert found == len(located) > 80
    assert disarmed_store.verify("sample").ok
