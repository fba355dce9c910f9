"""
Scope: as whom a transaction runs.

Every transaction begins by setting its role and its user, both transaction-local. So nothing
leaks through a pooler in transaction mode, nothing is inherited from whoever used the server
connection before, and row-level security holds even when the URL names the owner of the tables.

The limits on statement and lock time go with it, because poolers refuse or drop them at connect;
and so does the search path, with temporary objects last: none that somebody left on the server
connection can stand in for a table or type of ours. Until it is set, nothing is named without its
schema; and row security is on, whatever was left there, or every query would be refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import BaseConnection
from psycopg.sql import SQL

from eventstore.database.roles import Role
from eventstore.database.settings import Settings

__all__ = ["SET_SCOPE", "Scope", "operator", "scope_command", "scope_values", "user_scope"]

_NAMES = (
    "role",
    "eventstore.user_id",
    "statement_timeout",
    "lock_timeout",
    "search_path",
    "row_security",
)
SET_SCOPE = "select " + ", ".join(
    f"pg_catalog.set_config('{name}', ${number}, true)" for number, name in enumerate(_NAMES, 1)
)


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The role and user of a transaction.

    :ivar user_id: empty for nobody: row-level security then shows and accepts nothing.
    :ivar patient: long operator work (rebuild, verify): no statement time limit.
    """

    role: Role
    user_id: str
    patient: bool = False


operator = Scope(Role.OPERATOR, "", patient=True)


def user_scope(user_id: str, *, patient: bool = False) -> Scope:
    """Return the scope in which only `user_id`'s rows exist."""
    return Scope(Role.APPLICATION, user_id, patient)


def scope_values(scope: Scope, settings: Settings) -> tuple[str, ...]:
    """Return the parameters of `SET_SCOPE`."""
    statement_seconds = 0 if scope.patient else settings.statement_timeout_seconds
    return (
        settings.role_names[scope.role],
        scope.user_id,
        f"{statement_seconds * 1000:.0f}",
        f"{settings.lock_timeout_seconds * 1000:.0f}",
        f"pg_catalog, {settings.search_path}, pg_temp",
        "on",
    )


def scope_command(scope: Scope, settings: Settings, connection: BaseConnection[Any]) -> bytes:
    """Return `SET_SCOPE` with its parameters in it, to be sent in one message with BEGIN."""
    values = zip(_NAMES, scope_values(scope, settings), strict=True)
    calls = (SQL("pg_catalog.set_config({}, {}, true)").format(*pair) for pair in values)
    return (SQL("select ") + SQL(", ").join(calls)).as_bytes(connection)
