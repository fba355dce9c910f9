"""
Scopes: the role and the user of a transaction.

Every transaction begins by setting its role and its user, both for that transaction only. So
nothing leaks through a pooler in transaction mode, nothing is inherited from an earlier client of
the server connection, and row-level security holds even if the URL names the owner of the tables.

The same statement sets four more values, because an earlier client may have changed them and a
pooler may drop what the URL asks for:

- the limits on the time of a statement and on the wait for a lock;
- the search path, with temporary objects last, so that a temporary table that is left on the server
  connection cannot stand in for a table or type of the store (until the path is set, SQL names the
  schema of everything it uses);
- `row_security`, because PostgreSQL refuses every query with a policy while it is off.
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

    :ivar user_id: the user whose rows exist in the transaction; if it is empty, row-level security
        shows and accepts no user's rows.
    :ivar patient: True for long work such as a rebuild or a verification, whose statements have no
        time limit.
    """

    role: Role
    user_id: str
    patient: bool = False


operator = Scope(Role.OPERATOR, "", patient=True)
"""The scope of work that lists the users of all logs."""


def user_scope(user_id: str, *, patient: bool = False) -> Scope:
    """
    Return the scope in which only the rows of one user exist.

    :param patient: lift the time limit on statements.
    """
    return Scope(Role.APPLICATION, user_id, patient)


def scope_values(scope: Scope, settings: Settings) -> tuple[str, ...]:
    """Return the parameters of `SET_SCOPE`, in its order; time limits are milliseconds as text."""
    # PostgreSQL takes a limit of 0 for no limit.
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
    """
    Return `SET_SCOPE` with its parameters as literals.

    A message with several commands, such as BEGIN and this one, cannot carry parameters.
    """
    values = zip(_NAMES, scope_values(scope, settings), strict=True)
    calls = (SQL("pg_catalog.set_config({}, {}, true)").format(*pair) for pair in values)
    return (SQL("select ") + SQL(", ").join(calls)).as_bytes(connection)
