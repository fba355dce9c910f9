"""The statements that make exactly the differing rows of a read model what they must be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eventstore.database.plan import Statement
from projections.comparison import Difference
from projections.live import insert_rows
from projections.projector import TableShape

__all__ = ["mending"]

_KEYS_PER_DELETE = 500


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
