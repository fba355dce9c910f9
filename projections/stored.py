"""
What the read models hold, and how it differs from a replay.

Used by verify, which reports the differences, and by rebuild, which mends exactly those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from eventstore.database.instants import readable_instant
from eventstore.database.plan import Rows, Statement
from eventstore.events.jsontext import check_json, dumps, loads, repeats_keys
from projections.live import insert_rows
from projections.projector import Projections, TableShape
from projections.replay import Replay, Row

__all__ = [
    "ROWS",
    "Comparison",
    "Difference",
    "differences",
    "mending",
    "page_of",
    "read_row",
    "select_page",
    "select_rows",
]

type DifferenceKind = Literal["missing_row", "extra_row", "changed_row"]

ROWS = 5_000
"""Rows of one page, where not all are read at once."""

_KEYS_PER_DELETE = 500


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One row that is not what the replay says.

    :ivar columns: those that differ, for a changed row; never their values.
    :ivar row: what the row must be; None if there must be none.
    """

    kind: DifferenceKind
    shape: TableShape
    key: tuple[Any, ...]
    columns: tuple[str, ...]
    row: Row | None


def select_rows(projections: Projections, user_id: str) -> tuple[Statement, ...]:
    """Return one statement per table, reading all of a user's rows."""
    return tuple(Statement(_select(shape), (user_id,)) for shape in projections.shapes)


def select_page(shape: TableShape, user_id: str, after: Sequence[str] | None) -> Statement:
    """
    Return the statement for the next `ROWS` of a user's rows, in the order of their keys.

    :param after: where the page before ended, from `page_of`, which reads what comes back.
    """
    names = ", ".join(shape.key)
    # As text: not every key that can be put there can be held, or sent back, as a value of Python.
    place = f"array[{', '.join(f'{name}::text' for name in shape.key)}]::text[]"
    if not names:  # one row a user
        return Statement(_select(shape, place), (user_id,))
    follows = ""
    if after is not None:
        places = (
            f"${number}::text::{shape.columns[name]}"
            for number, name in enumerate(shape.key, start=2)
        )
        follows = f" and ({names}) > ({', '.join(places)})"
    return Statement(
        f"{_select(shape, place)}{follows} order by {names} limit {ROWS}", (user_id, *(after or ()))
    )


def page_of(rows: Rows) -> tuple[Rows, list[str] | None]:
    """Return the rows that `select_page` asked for, and where the next page begins, if any does."""
    return [row[:-1] for row in rows], rows[-1][-1] if len(rows) == ROWS else None


def _select(shape: TableShape, *more: str) -> str:
    columns = ", ".join((*(_selected(shape, name) for name in shape.columns), *more))
    return f"select {columns} from {shape.name} where user_id = $1"


def _selected(shape: TableShape, column: str) -> str:
    if column in shape.json:
        return f"{column}::text"
    if column in shape.json_lists:
        # Bounds that do not begin at 1 are no list of ours, and '' is no JSON.
        first = f"coalesce(array_lower({column}, 1), 1)"
        return f"case when {first} = 1 then {column}::text[] else array[''] end"
    if shape.columns[column] == "timestamp with time zone":
        return readable_instant(column)
    return column


class Comparison:
    """
    Rows of one table, as they are read, against those of a replay.

    :param wanted: by key; emptied on the way.
    :param keep: of which keys the replay is; see `Replay`.
    """

    def __init__(
        self,
        shape: TableShape,
        wanted: dict[tuple[Any, ...], Row],
        keep: Callable[[tuple[Any, ...]], bool] | None = None,
    ) -> None:
        self._shape = shape
        self._wanted = wanted
        self._keep = keep

    def see(self, rows: Rows) -> Iterator[Difference]:
        """Compare some rows of the table; each is one too many, different, or right."""
        shape = self._shape
        for values in rows:
            stored = read_row(shape, values)
            key = shape.key_of(stored)
            if self._keep is not None and not self._keep(key):
                continue
            row = self._wanted.pop(key, None)
            if row is None:
                yield Difference("extra_row", shape, key, (), None)
            elif columns := _differing(shape, row, stored):
                yield Difference("changed_row", shape, key, columns, row)

    def end(self) -> Iterator[Difference]:
        """Name the rows that the table did not have."""
        for key, row in self._wanted.items():
            yield Difference("missing_row", self._shape, key, (), row)


def differences(
    projections: Projections, replay: Replay, results: Sequence[Rows]
) -> list[Difference]:
    """Compare the rows read by `select_rows` with those of the replay."""
    found: list[Difference] = []
    for shape, rows in zip(projections.shapes, results, strict=True):
        comparison = Comparison(shape, dict(replay.rows(shape.model)))
        found.extend(comparison.see(rows))
        found.extend(comparison.end())
    return found


def mending(user_id: str, found: Sequence[Difference]) -> list[Statement]:
    """
    Return the statements that make exactly the differing rows what they must be.

    Wrong rows go before right ones come, with foreign keys checked at the end: rows swapped by
    hand would otherwise be in each other's way.
    """
    by_table: dict[TableShape, list[Difference]] = {}
    for one in found:
        by_table.setdefault(one.shape, []).append(one)
    statements = [Statement("set constraints all deferred", prepared=False)]
    for shape, group in by_table.items():
        wrong = [one.key for one in group if one.kind != "missing_row"]
        statements.extend(
            _delete_keys(shape, user_id, wrong[start : start + _KEYS_PER_DELETE])
            for start in range(0, len(wrong), _KEYS_PER_DELETE)
        )
    for shape, group in by_table.items():
        right = [one.row for one in group if one.row is not None]
        statements.extend(insert_rows(shape, user_id, right))
    return statements


def _delete_keys(shape: TableShape, user_id: str, keys: Sequence[tuple[Any, ...]]) -> Statement:
    if not shape.key:
        return Statement(f"delete from {shape.name} where user_id = $1", (user_id,))
    parameters: list[object] = [user_id]
    lines = []
    for key in keys:
        places = []
        for name, value in zip(shape.key, key, strict=True):
            parameters.append(value)
            places.append(f"${len(parameters)}::{shape.columns[name]}")
        lines.append(f"({', '.join(places)})")
    names = ", ".join(f"t.{name}" for name in shape.key)
    return Statement(
        f"delete from {shape.name} as t where t.user_id = $1"
        f" and ({names}) in (values {', '.join(lines)})",
        parameters,
        prepared=False,
    )


def _differing(shape: TableShape, row: Row, stored: Row) -> tuple[str, ...]:
    return tuple(
        name for name in shape.columns if not _same(shape, name, row.get(name), stored[name])
    )


def _same(shape: TableShape, column: str, right: Any, stored: Any) -> bool:
    if right is None or stored is None:
        return right is stored
    if column in shape.jsonb:
        return _alike(loads(dumps(check_json(right, column))), loads(stored))
    if column in shape.json:
        return _same_json(right, stored, column)
    if column in shape.json_lists:
        return len(right) == len(stored) and all(
            # An array of arrays has lists where texts must be.
            isinstance(text, str) and _same_json(one, text, column)
            for one, text in zip(right, stored, strict=True)
        )
    return _alike(_utc(right), stored)


def _alike(right: Any, stored: Any) -> bool:
    """Compare values as PostgreSQL does: 1 is 1.0, and neither of them is true."""
    match right, stored:
        case bool(), _:
            return right is stored
        case _, bool():
            return False
        case dict(), dict():
            return right.keys() == stored.keys() and all(
                _alike(value, stored[name]) for name, value in right.items()
            )
        case list(), list():
            return len(right) == len(stored) and all(map(_alike, right, stored))
    return bool(right == stored)


def _same_json(right: Any, stored: str | None, column: str) -> bool:
    """Compare as written, keys in their order: to Python, true, 1 and 1.0 are the same."""
    written = dumps(check_json(right, column))
    if stored == written:
        return True
    try:
        return stored is not None and dumps(loads(stored)) == written and not repeats_keys(stored)
    except (ValueError, RecursionError):  # nothing of ours: too deep, or a number too long to read
        return False


def read_row(shape: TableShape, values: tuple[Any, ...]) -> Row:
    """Return a row as it was selected: JSON columns as their text."""
    return {name: _utc(value) for name, value in zip(shape.columns, values, strict=True)}


def _utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value
