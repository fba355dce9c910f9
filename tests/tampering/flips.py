"""Changes of single columns: other values for each type, and how verify must report them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import Table

import projections  # noqa: F401 - puts the read models into the metadata
from eventstore.admin.verify import Problem
from eventstore.log.tables import metadata
from tests.support.own_read_model import ServiceModel
from tests.tampering.full_log import MIDDLE

__all__ = ["LOG", "NO_EVIDENCE", "READ_MODELS", "Flip", "every_column", "is_located", "values_of"]

READ_MODELS = (
    "eventstore.task", "eventstore.conversation", "eventstore.message", "eventstore.tool_call",
    "eventstore.turn", "service.box", "service.done",
)  # fmt: skip
LOG = ("eventstore.event", "eventstore.user_log", "eventstore.stream")
NO_EVIDENCE = ("eventstore.user_log", {"retried", "quota"})
"""
The columns that say nothing of what was recorded, only of connections that were lost and of what an
administrator allows.
"""

_TABLES: dict[str, Table] = {
    table.fullname: table
    for table in (*metadata.sorted_tables, *ServiceModel.metadata.sorted_tables)
}
_COLUMNS = """
select c.oid::regclass::text, a.attname, format_type(a.atttypid, null)
from pg_attribute as a join pg_class as c on c.oid = a.attrelid
where c.oid::regclass::text = any(%s) and a.attnum > 0 and not a.attisdropped
order by c.oid, a.attnum
"""
_TIMESTAMPS = ("'-infinity'", "'infinity'", "'4713-01-01 BC'", "'0001-12-31 BC'", "'294276-12-31'")
_VALUES: dict[str, tuple[str, ...]] = {
    "text": ("{0} || 'x'", "''", "upper({0})", "' ' || {0}", "null"),
    "bigint": ("{0} + 1", "-{0}", "-1", "0", "9223372036854775807", "null"),
    "integer": ("{0} + 1", "-{0}", "0", "2147483647", "-2147483648", "-1", "null"),
    "boolean": ("not {0}", "null"),
    "uuid": ("gen_random_uuid()", "'00000000-0000-0000-0000-000000000000'", "null"),
    "bytea": ("sha256({0})", "''", "{0} || '\\x00'", "null"),
    "timestamp with time zone": (
        "{0} + interval '1 microsecond'", "{0} - interval '1 day'", *_TIMESTAMPS, "null",
    ),
    "date": ("'2026-12-01'", "'infinity'", "'4713-01-01 BC'", "null"),
    "text[]": (
        "'{}'", "array[null]::text[]", "array[{0}]", "{0} || {0}", "{0}[2:]", "'[2:3]={a,b}'",
        "array[upper({0}[1]), {0}[2]]", "null",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Flip:
    """A column and the SQL of another value for it, in which `{0}` stands for the column."""

    table: str
    column: str
    value: str

    def where(self) -> str:
        """Return the condition that selects the changed row of its user."""
        if self.table == "eventstore.event":
            return f"position = {MIDDLE}"
        key = [column.name for column in _TABLES[self.table].primary_key.columns]
        first = f"select {', '.join(key)} from {self.table} where user_id = %(user)s"
        return f"({', '.join(key)}) = ({first} order by {', '.join(key)} limit 1)"


def every_column(admin: psycopg.Connection) -> list[tuple[str, str, str]]:
    """Return the table, column and type of each column; the catalog also names new columns."""
    tables = [*LOG, *READ_MODELS]
    columns = [(str(row[0]), row[1], row[2]) for row in admin.execute(_COLUMNS, (tables,))]
    table, without = NO_EVIDENCE
    return [one for one in columns if one[0] != table or one[1] not in without]


def values_of(kind: str, stored: str | None) -> Iterator[str]:
    """Yield the SQL of other values of a type; for json they depend on the stored value."""
    if kind != "json":
        yield from _VALUES[kind]
        return
    for text in ("null", "5", "[]", '"x"', '{"done":"gone"}', "{}"):
        yield f"'{text}'"
    yield "null"
    for other in _variants(json.loads(stored or "{}")):
        yield psycopg.sql.Literal(json.dumps(other)).as_string(None)


def _variants(value: Any) -> Iterator[Any]:
    """Yield values that Python compares as equal: reordered keys, 1 for true, 1.0 for 1."""
    if not isinstance(value, dict):
        return
    if len(value) > 1:
        yield dict(reversed(value.items()))
    for name, inner in value.items():
        if inner is True:
            yield value | {name: 1}
        elif isinstance(inner, int):
            yield value | {name: float(inner)}
        for other in _variants(inner):
            yield value | {name: other}


def is_located(flip: Flip, key: tuple[str, ...], problem: Problem) -> bool:
    """Say whether a problem names the changed position, or the changed table, key and column."""
    if flip.table == "eventstore.event":
        return problem.position in {MIDDLE, MIDDLE + 1}
    if flip.table == "eventstore.user_log":
        return problem.kind == "head"
    if (problem.table, problem.key) != (flip.table, key):
        return False
    if problem.kind != "changed_row":
        return problem.kind in {"stream", "missing_row"}
    return flip.column in problem.detail.replace(",", "").split()
