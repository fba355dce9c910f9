"""The logins that docs/isolation.md has an operator make, made with the SQL that stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.server import Server

__all__ = ["Logins", "make_logins"]

_PAGE = Path(__file__).parents[2] / "docs" / "isolation.md"


class Logins(NamedTuple):
    """The URLs of one database, one for each login."""

    service: str
    operations: str
    privacy: str


def make_logins(server: Server, database_url: str) -> Logins:
    """Make the logins, anew if another test has made them, and return their URLs."""
    names = [f"todo_{name}" for name in Logins._fields]
    sql = re.findall(r"^```sql\n((?:.*\n)*?)```$", _PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    (block,) = (one for one in sql if all(f"create role {name} " in one for name in names))
    for name in names:
        server.execute(f"drop role if exists {name}")
    for statement in block.split(";\n"):
        if statement.strip():
            server.execute(statement)
    return Logins(*(database_url.replace("postgres@", f"{name}@") for name in names))
