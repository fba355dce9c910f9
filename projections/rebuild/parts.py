"""
Parts of a log that is too long to be replayed in memory at once.

A part is the rows whose keys have one remainder. Each part takes a pass over the whole log, and is
replayed and compared by itself, so memory is bounded whatever the length of the log.
"""

from __future__ import annotations

from hashlib import md5
from typing import Any, NamedTuple

from eventstore.database.pages import size_of
from eventstore.database.plan import Statement
from eventstore.log.stored_event import VARIABLE_SIZE_COLUMNS
from projections.apply.column_types import key_value_text
from projections.apply.table_shape import Key, TableShape

__all__ = [
    "BYTES_PER_PART",
    "EVENTS_PER_PART",
    "WHOLE",
    "Part",
    "parts_of",
    "select_size",
    "sql_key_text",
]

EVENTS_PER_PART = 200_000
BYTES_PER_PART = 96 * 1024 * 1024
"""Of events and their texts: what one part may hold in memory, whichever limit comes first."""

_SIZE = f"""
select count(*), coalesce(sum({size_of(VARIABLE_SIZE_COLUMNS)}), 0)::bigint
from eventstore.event where user_id = $1
"""


class Part(NamedTuple):
    """One of several parts; the first has the number 0."""

    number: int = 0
    parts: int = 1

    def keeps(self, key: Key) -> bool:
        """Tell whether the row with a key belongs to the part."""
        if self.parts == 1:
            return True
        digest = md5("\n".join(map(key_value_text, key)).encode(), usedforsecurity=False).digest()
        return int.from_bytes(digest[:4]) % self.parts == self.number

    def condition(self, shape: TableShape) -> str:
        """Return the SQL condition for the rows of `shape.name as t` that belong to the part."""
        if self.parts == 1:
            return ""
        text = ", ".join(sql_key_text("t", name) for name in shape.key) or "''"
        number = f"('x' || left(md5(concat_ws(E'\\n', {text})), 8))::bit(32)::bigint"
        return f" and ({number} & 4294967295) % {self.parts} = {self.number}"


WHOLE = Part()
"""All rows."""


def sql_key_text(alias: str, name: str) -> str:
    """Return the SQL of a key's column as text, of a date in ISO form whatever the session says."""
    return f"(to_json({alias}.{name}) #>> '{{}}')"


def select_size(user_id: str) -> Statement:
    """Return the statement for the number of a user's events, and of their bytes."""
    return Statement(_SIZE, (user_id,))


def parts_of(row: tuple[Any, ...]) -> list[Part]:
    """Return the parts of a log whose size `select_size` selected."""
    events, size = row
    parts = 1 + max(events // EVENTS_PER_PART, size // BYTES_PER_PART)
    return [Part(number, parts) for number in range(parts)]
