"""
What the read models hold, and how it differs from a replay.

Used by verify, which reports the differences, and by rebuild, which mends exactly those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from eventstore.database.plan import Rows, Statement
from eventstore.events.jsontext import check_json, dumps, loads
from projections.live import insert_rows
from projections.projector import Projections, TableShape
from projections.replay import Replay, Row

__all__ = ["Difference", "differences", "mending", "select_rows"]

type DifferenceKind = Literal["missing_row", "extra_row", "changed_row"]

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
    return tuple(
        Statement(
            f"select {', '.join(_selected(shape, name) for name in shape.columns)}"
            f" from {shape.name} where user_id = $1",
            (user_id,),
        )
        for shape in projections.shapes
    )


def _selected(shape: TableShape, column: str) -> str:
    if column in shape.json:
        return f"{column}::text"
    if column in shape.json_lists:
        return f"{column}::text[]"
    return column


def differences(
    projections: Projections, replay: Replay, results: Sequence[Rows]
) -> list[Difference]:
    """Compare the rows read by `select_rows` with those of the replay."""
    found: list[Difference] = []
    for shape, rows in zip(projections.shapes, results, strict=True):
        wanted = dict(replay.rows(shape.model))
        for values in rows:
            stored = _read(shape, values)
            key = shape.key_of(stored)
            row = wanted.pop(key, None)
            if row is None:
                found.append(Difference("extra_row", shape, key, (), None))
            elif columns := _differing(shape, row, stored):
                found.append(Difference("changed_row", shape, key, columns, row))
        found.extend(Difference("missing_row", shape, key, (), row) for key, row in wanted.items())
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
    if column in shape.json:
        return _same_json(right, stored, column)
    if column in shape.json_lists:
        return len(right) == len(stored) and all(
            _same_json(one, text, column) for one, text in zip(right, stored, strict=True)
        )
    return bool(_utc(right) == stored)


def _same_json(right: Any, stored: str | None, column: str) -> bool:
    """Compare as written, keys in their order: to Python, true, 1 and 1.0 are the same."""
    written = dumps(check_json(right, column))
    return stored is not None and (stored == written or dumps(loads(stored)) == written)


def _read(shape: TableShape, values: tuple[Any, ...]) -> Row:
    return {name: _utc(value) for name, value in zip(shape.columns, values, strict=True)}


def _utc(value: Any) -> Any:
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value
