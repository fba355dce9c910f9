"""
The roles that the store's transactions enter, and the names they have on a server.

Roles belong to the whole server, so an operator may have to give them other names. Three settings
do that, and the migrations and every store on that database must agree on them.
"""

from __future__ import annotations

import re
from enum import StrEnum

__all__ = ["ROLE_NAME", "Role", "with_role_names"]

ROLE_NAME = r"[a-z_][a-z0-9_]{0,62}"
"""
A name that needs no quotes, neither as an SQL identifier nor inside a text literal.

PostgreSQL would cut it after 63 bytes.
"""


class Role(StrEnum):
    """The role of a transaction; the value is its name unless a setting gives another."""

    APPLICATION = "eventstore_app"
    """Reads and appends for one user at a time; owns nothing, bypasses nothing."""
    OPERATOR = "eventstore_operator"
    """Lists users and heads, for rebuild, verify and status; cannot read a single payload."""
    ERASER = "eventstore_eraser"
    """Removes the payloads of one user at a time; cannot read them, nor change anything else."""


_DEFAULT_NAMES = re.compile(rf"\b({'|'.join(Role)})\b")


def with_role_names(sql: str, names: dict[Role, str]) -> str:
    """
    Return SQL that uses the default names of the roles with the names in `names`.

    :param sql: the SQL of a migration, or of an object in the catalog as PostgreSQL prints it.
    :param names: the name of every role, as `Settings.role_names` has them.
    """
    # In one pass no name is replaced twice, though one role may have another's default name.
    return _DEFAULT_NAMES.sub(lambda found: names[Role(found[0])], sql)
