"""
What the read models hold of a user, a page at a time.

Read to be compared with a replay, and to be exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from eventstore.database.pages import page_of, page_query
from eventstore.database.plan import Rows, Statement
from eventstore.database.timestamps import readable
from projections.apply.replay import Row
from projections.apply.table_shape import TableShape

__all__ = ["StoredRow", "as_utc", "keys_predicate", "read_page", "select_by_keys", "select_page"]

_SMALL = ("bigint", "boolean", "date", "double", "integer", "interval", "smallint", "time",
          "uuid")  # fmt: skip


class StoredRow(NamedTuple):
    """
    A row of a read model.

    :ivar row: its columns without `user_id`; JSON as its text.
    :ivar key_text: its key without `user_id`, as text: exact where Python cannot hold the value.
    """

    row: Row
    key_text: list[str]


def select_page(shape: TableShape, user_id: str, after: Sequence[str] = ()) -> Statement:
    """
    Return the statement for the next page of a user's rows, in the order of their keys.

    :param after: where the page before ended, from `read_page`, which reads what comes back.
    """
    key = ", ".join(("user_id", *shape.key))
    where = "user_id = $1"
    if after:
        key_texts = (
            f"${number}::text::{shape.columns[name]}"
            for number, name in enumerate(shape.key, start=2)
        )
        where += f" and ({key}) > ({', '.join(('$1', *key_texts))})"
    large = [name for name, kind in shape.columns.items() if not kind.startswith(_SMALL)]
    sql = page_query(_columns(shape), shape.name, where, key, large)
    return Statement(sql, (user_id, *after))


def select_by_keys(
    shape: TableShape,
    user_id: str,
    key_texts: Sequence[Sequence[str]],
    keys: Sequence[tuple[Any, ...]],
) -> Statement:
    """Return the statement for some of a user's rows, to be read with `read_page`."""
    parameters: list[object] = [user_id]
    where = keys_predicate(shape, parameters, key_texts, keys)
    return Statement(
        f"select {_columns(shape)}, 0 from {shape.name} where {where}", parameters, prepared=False
    )


def keys_predicate(
    shape: TableShape,
    parameters: list[object],
    key_texts: Sequence[Sequence[str]],
    keys: Sequence[tuple[Any, ...]] = (),
) -> str:
    """
    Return the condition for some of the rows of the user who is `$1`.

    :param parameters: of the statement; those of the condition are added.
    :param key_texts: keys as text, as rows that were read have them.
    :param keys: keys as values, as a replay has them.
    """
    lines = []
    for cast, some in (("text::", key_texts), ("", keys)):
        for key in some:
            values = ["$1"]
            for name, value in zip(shape.key, key, strict=True):
                parameters.append(value)
                values.append(f"${len(parameters)}::{cast}{shape.columns[name]}")
            lines.append(f"({', '.join(values)})")
    names = ", ".join(("user_id", *shape.key))
    return f"user_id = $1 and ({names}) in (values {', '.join(lines)})"


def read_page(shape: TableShape, rows: Rows) -> tuple[list[StoredRow], list[str]]:
    """Return the rows that `select_page` asked for, and where the next page begins, if any does."""
    page, more = page_of(rows)
    return [
        StoredRow(dict(zip(shape.columns, map(as_utc, values), strict=True)), key_text)
        for *values, key_text in page
    ], page[-1][-1] if more else []


def _columns(shape: TableShape) -> str:
    # As text: not every key that can be put there can be held, or sent back, as a value of Python.
    key_text = f"array[{', '.join(f'{name}::text' for name in shape.key)}]::text[]"
    return ", ".join((*(_selected(shape, name) for name in shape.columns), key_text))


def _selected(shape: TableShape, column: str) -> str:
    if column in shape.json:
        return f"{column}::text"
    if column in shape.json_lists:
        # Bounds that do not begin at 1 are no list of ours, and '' is no JSON.
        first = f"coalesce(array_lower({column}, 1), 1)"
        return f"case when {first} = 1 then {column}::text[] else array[''] end"
    return readable(column, shape.columns[column])


def as_utc(value: Any) -> Any:
    """Return an instant in UTC, and any other value as it is."""
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value
