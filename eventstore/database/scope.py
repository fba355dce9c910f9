"""
Scopes: the role and the user of a transaction.

Every transaction begins by setting its role and its user, both for that transaction only. So
nothing leaks through a pooler in transaction mode, nothing is inherited from an earlier client of
the server connection, and row-level security holds even if the URL names the owner of the tables.

The same statement sets four more values, because an earlier client may have changed them and a
pooler may drop what the URL asks for: two time limits, the search path and `row_security`.
"""

from __future__ import annotations

from typing import NamedTuple

from psycopg.sql import Literal

from eventstore.database.roles import Role
from eventstore.database.settings import Settings

__all__ = ["EnterScope", "Scope", "operator", "user_scope"]


class Scope(NamedTuple):
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

    :param user_id: any text; an empty one is nobody, who has no rows.
    :param patient: lift the time limit on statements.
    """
    return Scope(Role.APPLICATION, user_id, patient)


class EnterScope:
    """
    The SQL that enters a scope until the transaction ends; its parameter is the user.

    There is one text for each role and patience, with the names and limits of the settings in it,
    so that PostgreSQL prepares each of them once.
    """

    def __init__(self, settings: Settings) -> None:
        self._sql = {
            (role.value, patient): _sql(role, patient, settings)
            for role in Role
            for patient in (False, True)
        }

    def sql(self, scope: Scope) -> str:
        """Return the SQL for a scope, with `$1` for its user."""
        # `value` of an enum is a function of Python, and this runs in every transaction.
        return self._sql[scope.role._value_, scope.patient]

    def literal_sql(self, scope: Scope) -> str:
        """
        Return the SQL for a scope with its user as a literal.

        A message with several commands, such as BEGIN and this one, cannot carry parameters.
        """
        return self.sql(scope).replace("$1", Literal(scope.user_id).as_string())


def _sql(role: Role, patient: bool, settings: Settings) -> str:
    # PostgreSQL takes a limit of 0 for no limit.
    statement_seconds = 0 if patient else settings.statement_timeout_seconds
    values = {  # none of them can hold a quote
        "role": f"'{settings.role_names[role]}'",
        "eventstore.user_id": "$1",
        "statement_timeout": f"'{statement_seconds * 1000:.0f}'",
        "lock_timeout": f"'{settings.lock_timeout_seconds * 1000:.0f}'",
        # Unless they are named, temporary objects come first, and could stand in for a table.
        "search_path": f"'pg_catalog, {settings.search_path}, pg_temp'",
        # While it is off, PostgreSQL refuses every query to which a policy applies.
        "row_security": "'on'",
    }
    calls = (f"pg_catalog.set_config('{name}', {value}, true)" for name, value in values.items())
    return f"select {', '.join(calls)}"
