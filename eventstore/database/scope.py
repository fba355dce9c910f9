"""
Scope: as whom a transaction runs.

Every transaction begins by setting its role and its user, both transaction-local. So nothing
leaks through a pooler in transaction mode, nothing is inherited from whoever used the server
connection before, and row-level security holds even when the URL names the owner of the tables.

The limits on statement and lock time go with it, because poolers refuse or drop them at connect.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["APPLICATION_ROLE", "OPERATOR_ROLE", "SET_SCOPE", "Scope", "operator", "user_scope"]

APPLICATION_ROLE = "eventstore_app"
"""Reads and appends for one user at a time; owns nothing, bypasses nothing."""

OPERATOR_ROLE = "eventstore_operator"
"""Lists users and heads, for rebuild, verify and status; cannot read a single payload."""

SET_SCOPE = """
select set_config('role', $1, true),
       set_config('eventstore.user_id', $2, true),
       set_config('statement_timeout', $3, true),
       set_config('lock_timeout', $4, true)
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The role and user of a transaction.

    :ivar user_id: empty for nobody: row-level security then shows and accepts nothing.
    :ivar patient: long operator work (rebuild, verify): no statement time limit.
    """

    role: str
    user_id: str
    patient: bool = False


operator = Scope(OPERATOR_ROLE, "", patient=True)


def user_scope(user_id: str, *, patient: bool = False) -> Scope:
    """Return the scope in which only `user_id`'s rows exist."""
    return Scope(APPLICATION_ROLE, user_id, patient)
