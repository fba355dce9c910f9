"""
The roles that the store's transactions enter, and what they are called on a server.

Roles belong to the whole server, so an operator may have to name them: by three settings, which
the migrations and every store on that database must agree on.
"""

from __future__ import annotations

import re
from enum import StrEnum

__all__ = ["ROLE_NAME", "Role", "named"]

ROLE_NAME = r"[a-z_][a-z0-9_]{0,62}"
"""What is an SQL identifier and a text literal without quoting."""


class Role(StrEnum):
    """As what a transaction runs; the value is the name it has unless a setting says otherwise."""

    APPLICATION = "eventstore_app"
    """Reads and appends for one user at a time; owns nothing, bypasses nothing."""
    OPERATOR = "eventstore_operator"
    """Lists users and heads, for rebuild, verify and status; cannot read a single payload."""
    ERASER = "eventstore_eraser"
    """Removes the payloads of one user at a time; cannot read them, nor change anything else."""


_WORDS = re.compile(rf"\b({'|'.join(Role)})\b")


def named(sql: str, names: dict[Role, str]) -> str:
    """Return `sql`, written with the usual names of the roles, with the names they have here."""
    return _WORDS.sub(lambda word: names[Role(word[0])], sql)
