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

from eventstore.database.roles import Role
from eventstore.database.settings import Settings

__all__ = ["SET_SCOPE", "Scope", "operator", "scope_values", "user_scope"]

SET_SCOPE = """
select pg_catalog.set_config('role', $1, true),
       pg_catalog.set_config('eventstore.user_id', $2, true),
       pg_catalog.set_config('statement_timeout', $3, true),
       pg_catalog.set_config('lock_timeout', $4, true),
       pg_catalog.set_config('search_path', $5, true),
       pg_catalog.set_config('row_security', 'on', true)
"""


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


def scope_values(scope: Scope, settings: Settings) -> tuple[str, str, str, str, str]:
    """Return the parameters of `SET_SCOPE`."""
    statement_seconds = 0 if scope.patient else settings.statement_timeout_seconds
    return (
        settings.role_names[scope.role],
        scope.user_id,
        f"{statement_seconds * 1000:.0f}",
        f"{settings.lock_timeout_seconds * 1000:.0f}",
        f"pg_catalog, {settings.search_path}, pg_temp",
    )
