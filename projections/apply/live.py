"""
Write row changes by SQL, in the append's own transaction.

Changes of one append are folded first: an insert and its later updates are one row, updates of one
row are one statement, rows of one shape are one statement. What the database gives an event is
read from the locked head of the user's log: the last event of the append has the head's position,
the one before it one less, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import UUID

from eventstore.database.plan import Statement
from eventstore.errors import InvalidInput
from eventstore.log.envelope import EventEnvelope
from projections.apply.sql_values import Bound, Sql
from projections.apply.table_shape import TableShape
from projections.changes import (
    RESOLVABLE,
    AppendItem,
    Delete,
    ExtendItem,
    Increment,
    Insert,
    Marker,
    RowChange,
    Update,
    apply_changes,
)
from projections.projector import Projections

__all__ = ["insert_rows", "live_statements"]

_HEAD = "eventstore.user_log as head"
_ROWS_PER_INSERT = 500
_SIZE_PER_INSERT = 4 * 1024 * 1024


@dataclass(slots=True)
class _Row:
    """All that one append does to one row."""

    shape: TableShape
    key: tuple[Any, ...]
    insert: dict[str, Any] | None = None
    updates: list[dict[str, Any]] = field(default_factory=list)
    delete: bool = False


def live_statements(
    projections: Projections, envelopes: Sequence[EventEnvelope]
) -> list[Statement]:
    """Return the statements that write the row changes of events which are appended together."""
    rows: dict[tuple[TableShape, tuple[Any, ...]], _Row] = {}
    in_stream: dict[UUID, int] = {}
    for event in envelopes:
        in_stream[event.stream_id] = in_stream.get(event.stream_id, 0) + 1
    for index, event in enumerate(envelopes):
        in_stream[event.stream_id] -= 1
        place = (len(envelopes) - 1 - index, event.stream_id, in_stream[event.stream_id])
        for change in projections.project(event):
            shape = projections.shape(change.table)
            bound = _bound(_values(change, shape), place)
            key = shape.key_of(bound if isinstance(change, Insert) else change.key)
            row = rows.get((shape, key))
            if row is None:
                row = rows[shape, key] = _Row(shape, key)
            _fold(row, change, bound)
    user_id = envelopes[0].user_id

    def order(row: _Row) -> int:
        return projections.order[row.shape]

    touched = sorted(rows.values(), key=order)  # of one table they stay as they were asked for
    return [
        *(_delete(row, user_id) for row in sorted(touched, key=order, reverse=True) if row.delete),
        *_inserts(user_id, touched),
        *(_update(row, changes, user_id) for row in touched for changes in row.updates),
    ]


def insert_rows(
    shape: TableShape, user_id: str, rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[Statement, int]]:
    """
    Yield statements that insert rows with all their columns, and how large each is.

    A message of PostgreSQL's protocol has a gigabyte at most, and both sides hold it in memory.
    """
    sql, lines = Sql(user_id), list[str]()
    for row in rows:
        values = ["$1::text", *(sql.value(shape, name, row[name]) for name in shape.columns)]
        lines.append(f"({', '.join(values)})")
        if len(lines) == _ROWS_PER_INSERT or sql.size > _SIZE_PER_INSERT:
            yield _insert(shape, lines, sql), sql.size
            sql, lines = Sql(user_id), []
    if lines:
        yield _insert(shape, lines, sql), sql.size


def _values(change: RowChange, shape: TableShape) -> Mapping[str, Any]:
    match change:
        case Insert(values=values):
            return shape.with_nulls(values)
        case Update(changes=changes):
            return changes
        case Delete():
            return {}
        case _:
            assert_never(change)


def _fold(row: _Row, change: RowChange, bound: dict[str, Any]) -> None:
    match change:
        case Insert():
            if row.insert is not None:
                raise InvalidInput("events", f"{row.shape.name} {row.key} is created twice")
            row.insert, row.updates = bound, []
        case Update():
            if row.insert is not None and not row.updates and _known(row.insert, bound):
                apply_changes(row.insert, bound)
            elif row.updates and _foldable(row.updates[-1], bound, row.shape):
                _fold_update(row.updates[-1], bound)
            else:
                row.updates.append(bound)
        case Delete():
            row.delete = True
            row.insert, row.updates = None, []
        case _:
            assert_never(change)


def _known(row: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Tell whether an update of a new row can be worked out before the database numbers it."""
    return not any(
        isinstance(change, Increment) and isinstance(row[name], Bound)
        for name, change in later.items()
    )


def _foldable(earlier: Mapping[str, Any], later: Mapping[str, Any], shape: TableShape) -> bool:
    """Tell whether two updates may be one: not if the later works on what the earlier set."""
    return not any(
        name in earlier
        and (
            isinstance(change, AppendItem | ExtendItem)
            or (
                isinstance(change, Increment)
                and (not isinstance(earlier[name], Increment) or name in shape.inexact)
            )
        )
        for name, change in later.items()
    )


def _fold_update(earlier: dict[str, Any], later: Mapping[str, Any]) -> None:
    for name, change in later.items():
        before = earlier.get(name)
        if isinstance(change, Increment) and isinstance(before, Increment):
            earlier[name] = Increment(before.by + change.by)
        else:
            earlier[name] = change


def _bound(values: Mapping[str, Any], place: tuple[int, UUID, int]) -> dict[str, Any]:
    return {
        name: _bind(value, place) if type(value) in RESOLVABLE else value
        for name, value in values.items()
    }


def _bind(value: Any, place: tuple[int, UUID, int]) -> Any:
    match value:
        case Marker():
            return Bound(value, *place)
        case AppendItem(item):
            return AppendItem(_bound(item, place))
        case ExtendItem(index, fields):
            return ExtendItem(index, _bound(fields, place))
        case _:
            return value


def _inserts(user_id: str, rows: Iterable[_Row]) -> list[Statement]:
    by_table: dict[TableShape, list[dict[str, Any]]] = {}
    for row in rows:
        if row.insert is not None:
            by_table.setdefault(row.shape, []).append(row.insert)
    return [
        statement
        for shape, values in by_table.items()
        for statement, _ in insert_rows(shape, user_id, values)
    ]


def _insert(shape: TableShape, lines: list[str], sql: Sql) -> Statement:
    return Statement(
        f"insert into {shape.name} ({', '.join(['user_id', *shape.columns])})\n"
        f"select new.* from {_HEAD}\n"
        f"cross join lateral (values {', '.join(lines)}) as new\n"
        "where head.user_id = $1",
        sql.parameters,
        prepared=len(lines) == 1,
    )


def _update(row: _Row, changes: Mapping[str, Any], user_id: str) -> Statement:
    sql = Sql(user_id)
    where = _where(row, sql)
    sets = ", ".join(f"{name} = {sql.change(row.shape, name, c)}" for name, c in changes.items())
    return Statement(
        f"update {row.shape.name} as t\nset {sets}\nfrom {_HEAD}\n"
        f"where head.user_id = $1 and {where}",
        sql.parameters,
    )


def _delete(row: _Row, user_id: str) -> Statement:
    sql = Sql(user_id)
    return Statement(f"delete from {row.shape.name} as t where {_where(row, sql)}", sql.parameters)


def _where(row: _Row, sql: Sql) -> str:
    return " and ".join(
        [
            "t.user_id = $1",
            *(
                f"t.{name} = {sql.bind(value)}::{row.shape.columns[name]}"
                for name, value in zip(row.shape.key, row.key, strict=True)
            ),
        ]
    )
