"""
Scopes: the role and the user of a transaction.

Every transaction begins by setting its role and its user, both for that transaction only. So
nothing leaks through a pooler in transaction mode, nothing is inherited from an earlier client of
the server connection, and row-level security holds even if the URL names the owner of the tables.

The same statement sets four more values, because an earlier client may have changed them and a
pooler may drop what the URL asks for: two time limits, the search path and `row_security`.
"""

from __future__ import annotations

from functools import lru_cache
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
    """

    role: Role
    user_id: str


operator = Scope(Role.OPERATOR, "")
"""The scope of work that lists the users of all logs."""


@lru_cache(maxsize=4096)
def user_scope(user_id: str) -> Scope:
    """
    Return the scope in which only the rows of one user exist.

    :param user_id: any text; an empty one is nobody, who has no rows.
    """
    return Scope(Role.APPLICATION, user_id)


class EnterScope:
    """
    The SQL that enters a scope until the transaction ends, and its parameters.

    There are two texts for each role, with the names of the settings in them, so that PostgreSQL
    prepares each of them once. The parameters are the user and the limits of a lock and of a
    statement, in milliseconds: what is left of a call is another time in each transaction.
    """

    def __init__(self, settings: Settings) -> None:
        self._sql = {
            (role.value, planned_once): _sql(role, settings, planned_once=planned_once)
            for role in Role
            for planned_once in (False, True)
        }

    def sql(
        self,
        scope: Scope,
        lock_seconds: float,
        statement_seconds: float,
        *,
        planned_once: bool = False,
    ) -> tuple[str, tuple[str, ...]]:
        """
        Return the SQL that enters a scope, and its parameters.

        :param statement_seconds: 0 for no limit.
        :param planned_once: as of `Batch`.
        """
        # PostgreSQL takes 0 for no limit, and what is left of a call may round to it.
        statement = f"{statement_seconds * 1000 + 1:.0f}" if statement_seconds else "0"
        # `value` of an enum is a function of Python, and this runs in every transaction.
        params = (scope.user_id, f"{lock_seconds * 1000 + 1:.0f}", statement)
        return self._sql[scope.role._value_, planned_once], params

    def literal_sql(self, scope: Scope, seconds: float) -> str:
        """
        Return the SQL for a scope with literals in place of parameters.

        A message with several commands, such as BEGIN and this one, cannot carry parameters.

        :param seconds: how long a lock and a statement may take.
        """
        sql, (user_id, *limits) = self.sql(scope, seconds, seconds)
        for number, limit in enumerate(limits, 2):
            sql = sql.replace(f"${number}", f"'{limit}'")
        return sql.replace("$1", Literal(user_id).as_string())  # the last: it may hold a $2


def _sql(role: Role, settings: Settings, *, planned_once: bool) -> str:
    values = {  # none of them can hold a quote
        "role": f"'{settings.role_names[role]}'",
        "eventstore.user_id": "$1",
        "lock_timeout": "$2",
        "statement_timeout": "$3",
        # Unless they are named, temporary objects come first, and could stand in for a table.
        "search_path": f"'pg_catalog, {settings.search_path}, pg_temp'",
        # While it is off, PostgreSQL refuses every query to which a policy applies.
        "row_security": "'on'",
    }
    if planned_once:
        values["plan_cache_mode"] = "'force_generic_plan'"
    calls = (f"pg_catalog.set_config('{name}', {value}, true)" for name, value in values.items())
    return f"select {', '.join(calls)}"
