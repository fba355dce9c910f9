"""
Parts of a log that is too long to be replayed in memory at once.

A part is the rows of some streams, and is replayed and compared by itself, so memory is bounded
whatever the length of the log. The first part reads the whole log, and so finds what cannot be read
before anything is changed; each further one reads the events of its streams, which PostgreSQL picks
out of all.

Where streams are too long to spread evenly, or a projector does not tell of which stream its rows
are, a part is the rows whose keys have one remainder, and each part reads the whole log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import md5
from typing import Any, NamedTuple

from eventstore.database.pages import size_of
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope
from eventstore.log.stored_event import VARIABLE_SIZE_COLUMNS
from projections.apply.column_types import key_value_text
from projections.apply.table_shape import Key, Row, TableShape
from projections.projector import Projections

__all__ = [
    "BYTES_PER_PART",
    "EVENTS_PER_PART",
    "WHOLE",
    "Part",
    "parts_of",
    "select_references",
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


_FULLEST = f"""
select max(events), max(bytes)::bigint from (
    select count(*) as events, coalesce(sum({size_of(VARIABLE_SIZE_COLUMNS)}), 0) as bytes
    from eventstore.event where user_id = $1 group by {{part}}
) as part
"""


_REFERENCES = """
select 1 from pg_catalog.pg_constraint
where contype = 'f'
  and conrelid = any($1::text[]::regclass[])
  and confrelid = any($1::text[]::regclass[])
limit 1
"""


class Part(NamedTuple):
    """
    One of several parts; the first has the number 0.

    :ivar by_stream: a row belongs to the part of its stream, and not to the part of its key.
    """

    number: int = 0
    parts: int = 1
    by_stream: bool = False

    def spread_by(self, shape: TableShape) -> tuple[str, ...]:
        """Return the columns that decide to which part a row belongs."""
        if self.by_stream and shape.stream_column is not None:
            return (shape.stream_column,)
        # Rows among which an `UpdateFirst` seeks the first one must be replayed together.
        return shape.found_by or shape.key

    def keeps_row(self, shape: TableShape, row: Row) -> bool:
        """Tell whether a row belongs to the part."""
        return self.parts == 1 or self.keeps(tuple([row[name] for name in self.spread_by(shape)]))

    def keeps(self, spread_by: Key) -> bool:
        """
        Tell whether what has these values belongs to the part.

        :param spread_by: a row's values of the columns `spread_by`, or the id of a stream.
        """
        if self.parts == 1:
            return True
        # PostgreSQL computes md5 too, in `condition`; it cannot compute Python's own `hash`.
        text = "\n".join([key_value_text(one) for one in spread_by if one is not None])
        digest = md5(text.encode(), usedforsecurity=False).digest()
        return int.from_bytes(digest[:4]) % self.parts == self.number

    def condition(self, shape: TableShape) -> str:
        """
        Return the SQL condition for the rows of `shape.name as t` that belong to the part.

        :return: it begins with ` and`, and is empty where there is one part.
        """
        return self._condition(sql_key_text("t", name) for name in self.spread_by(shape))

    @property
    def events(self) -> str:
        """The SQL condition for the events that the part has to read, as `condition` gives it."""
        return self._condition(["stream_id::text"]) if self.by_stream and self.number else ""

    def _condition(self, texts: Iterable[str]) -> str:
        if self.parts == 1:
            return ""
        # Of a plain equality PostgreSQL expects one row in two hundred, and would rather read and
        # sort the whole log for each page than go along its key. Of this it expects every other.
        return f" and coalesce({_number_sql(texts, self.parts)} = {self.number}, false)"


def _number_sql(texts: Iterable[str], parts: int) -> str:
    """Return the SQL of the number of a part; nulls count as nothing, as in `Part.keeps`."""
    text = f"concat_ws(E'\\n', {', '.join(texts) or "''"})"
    return f"(('x' || left(md5({text}), 8))::bit(32)::bigint & 4294967295) % {parts}"


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


def select_references(tables: Sequence[str]) -> Statement:
    """
    Return the statement that finds a row if one of some tables has a foreign key to another.

    Rows of one part may refer to those of another along it.

    :param tables: schema-qualified names.
    """
    return Statement(_REFERENCES, (list(tables),))


def parts_of(scope: Scope, projections: Projections, size: tuple[Any, ...]) -> Plan[list[Part]]:
    """
    Return the parts of a log, and leave the transaction open; one part if it fits into memory.

    A log of several parts takes one round trip more.

    :param size: the number of events and of bytes, as `select_size` selects them.
    """
    events, total = size
    parts = 1 + max(events // EVENTS_PER_PART, total // BYTES_PER_PART)
    by_stream = False
    if parts > 1 and all(shape.stream_column for shape in projections.shapes):
        # Few long streams do not spread evenly.
        number = _number_sql(["stream_id::text"], parts)
        fullest = Statement(_FULLEST.format(part=number), (scope.user_id,), prepared=False)
        (((events, total),),) = yield Batch(scope, (fullest,), hold=True)
        by_stream = 2 * events <= 3 * EVENTS_PER_PART and 2 * total <= 3 * BYTES_PER_PART
    return [Part(number, parts, by_stream) for number in range(parts)]
