"""
Parts of a log that is too long to be replayed in memory at once.

A part is the rows whose keys, or the columns that stand for them, have one remainder. Each part
takes a pass over the whole log, and is replayed and compared by itself, so memory is bounded
whatever the length of the log.
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

# A part of this size takes some 300 megabytes of memory in Python (docs/how-it-works.md).
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

    def keeps(self, spread_by: Key) -> bool:
        """
        Tell whether a row belongs to the part.

        :param spread_by: its values of the columns `TableShape.spread_by`: the key, in most tables.
        """
        if self.parts == 1:
            return True
        # PostgreSQL computes md5 too, in `condition`; it cannot compute Python's own `hash`.
        text = "\n".join(map(key_value_text, spread_by))
        digest = md5(text.encode(), usedforsecurity=False).digest()
        return int.from_bytes(digest[:4]) % self.parts == self.number

    def condition(self, shape: TableShape) -> str:
        """
        Return the SQL condition for the rows of `shape.name as t` that belong to the part.

        :return: it begins with ` and`, and is empty where there is one part.
        """
        if self.parts == 1:
            return ""
        text = ", ".join(sql_key_text("t", name) for name in shape.spread_by) or "''"
        number = f"('x' || left(md5(concat_ws(E'\\n', {text})), 8))::bit(32)::bigint"
        return f" and ({number} & 4294967295) % {self.parts} = {self.number}"


WHOLE = Part()
"""All rows."""


def sql_key_text(alias: str, name: str) -> str:
    """
    Return the SQL of a key's column as text, equal to what `key_value_text` makes of it in Python.

    :param alias: of the table or record in the query.
    """
    # A cast of a date to text would follow the session's DateStyle; JSON has the ISO form alone.
    return f"(to_json({alias}.{name}) #>> '{{}}')"


def select_size(user_id: str) -> Statement:
    """
    Return the statement for the number of a user's events and of their bytes.

    Index: `event_pkey`.
    """
    return Statement(_SIZE, (user_id,))


def parts_of(row: tuple[Any, ...]) -> list[Part]:
    """
    Return the parts of a log; one part if it fits into memory.

    :param row: the number of events and of bytes, as `select_size` selects them.
    """
    events, size = row
    parts = 1 + max(events // EVENTS_PER_PART, size // BYTES_PER_PART)
    return [Part(number, parts) for number in range(parts)]
