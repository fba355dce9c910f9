"""
Write row changes by SQL, in the append's own transaction.

Changes of one append are folded first: an insert and its later updates are one row, updates of one
row are one statement, rows of one shape are one statement. What the database gives an event is
read from the locked head of the user's log: the last event of the append has the head's position,
the one before it one less, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never
from uuid import UUID

from eventstore.database.plan import Statement
from eventstore.errors import InvalidInput
from eventstore.events.jsontext import check_json, dumps
from eventstore.log.envelope import Fact
from projections.changes import (
    AppendItem,
    Delete,
    ExtendItem,
    Increment,
    Insert,
    Marker,
    RowChange,
    Update,
    changed,
)
from projections.projector import Projections, TableShape

__all__ = ["insert_rows", "live_statements"]

_HEAD = "eventstore.user_log as head"
_ROWS_PER_INSERT = 500


@dataclass(frozen=True, slots=True)
class Bound:
    """A marker of one event of the append: so many events (of its stream) come after it."""

    marker: Marker
    later: int
    stream_id: UUID
    later_in_stream: int


@dataclass(slots=True)
class _Row:
    """All that one append does to one row."""

    shape: TableShape
    key: tuple[Any, ...]
    insert: dict[str, Any] | None = None
    updates: list[dict[str, Any]] = field(default_factory=list)
    delete: bool = False


def live_statements(projections: Projections, facts: Sequence[Fact]) -> list[Statement]:
    """Return the statements that write what `facts`, just appended together, do to the tables."""
    rows: dict[tuple[TableShape, tuple[Any, ...]], _Row] = {}
    in_stream: dict[UUID, int] = {}
    for fact in facts:
        in_stream[fact.stream_id] = in_stream.get(fact.stream_id, 0) + 1
    for index, fact in enumerate(facts):
        in_stream[fact.stream_id] -= 1
        place = (len(facts) - 1 - index, fact.stream_id, in_stream[fact.stream_id])
        for change in projections.project(fact):
            shape = projections.shape(change.table)
            named = change.values if isinstance(change, Insert) else change.key
            key = shape.key_of(named)
            row = rows.get((shape, key))
            if row is None:
                row = rows[shape, key] = _Row(shape, key)
            _fold(row, change, place)
    user_id = facts[0].user_id
    touched = list(rows.values())
    return [
        *(_delete(row, user_id) for row in touched if row.delete),
        *_inserts(user_id, touched),
        *(_update(row, changes, user_id) for row in touched for changes in row.updates),
    ]


def insert_rows(
    shape: TableShape, user_id: str, rows: Sequence[Mapping[str, Any]]
) -> list[Statement]:
    """Return statements that insert whole rows, as rebuild has them."""
    return [
        _insert(shape, user_id, rows[start : start + _ROWS_PER_INSERT])
        for start in range(0, len(rows), _ROWS_PER_INSERT)
    ]


def _fold(row: _Row, change: RowChange, place: tuple[int, UUID, int]) -> None:
    match change:
        case Insert(values=values):
            if row.insert is not None:
                raise InvalidInput("events", f"{row.shape.name} {row.key} is created twice")
            row.insert, row.updates = _bound(values, place), []
        case Update(changes=changes):
            bound = _bound(changes, place)
            if row.insert is not None:
                changed(row.insert, bound)
            elif row.updates and _foldable(row.updates[-1], bound):
                _fold_update(row.updates[-1], bound)
            else:
                row.updates.append(bound)
        case Delete():
            row.delete = True
            row.insert, row.updates = None, []
        case _:
            assert_never(change)


def _foldable(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
    """Tell whether two updates may be one: not if the later works on what the earlier set."""
    return not any(
        name in earlier
        and (
            isinstance(change, AppendItem | ExtendItem)
            or (isinstance(change, Increment) and not isinstance(earlier[name], Increment))
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
    return {name: _bind(value, place) for name, value in values.items()}


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


class _Sql:
    """The parameters of one statement under construction; `$1` is always the user."""

    def __init__(self, user_id: str) -> None:
        self.parameters: list[object] = [user_id]

    def bind(self, value: object) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def value(self, shape: TableShape, column: str, value: Any) -> str:
        """Return the SQL of a new value for `column`."""
        match value:
            case Bound():
                return self.given(value)
            case None:
                return f"null::{shape.columns[column]}"
            case _ if column in shape.json:
                return f"{self.bind(dumps(check_json(value, column)))}::json"
            case list() if column in shape.json_lists:
                return f"array[{', '.join(map(self.item, value))}]::json[]"
            case _:
                return f"{self.bind(value)}::{shape.columns[column]}"

    def change(self, shape: TableShape, column: str, change: Any) -> str:
        """Return the SQL of an updated value for `column`."""
        match change:
            case Increment(by):
                return f"t.{column} + {self.bind(by)}"
            case AppendItem(item):
                return f"array_append(coalesce(t.{column}, '{{}}'), {self.item(item)})"
            case ExtendItem(index, fields):
                if not fields:
                    return f"t.{column}"
                text = f"t.{column}[{index + 1}]::text"
                comma = f"case when {text} = '{{}}' then '' else ',' end"
                return (
                    f"case when coalesce(cardinality(t.{column}), 0) > {index} then"
                    f" t.{column}[:{index}] || concat(left({text}, -1), {comma},"
                    f" {self.pieces(fields)},"
                    f" '}}')::json || t.{column}[{index + 2}:] else t.{column} end"
                )
            case _:
                return self.value(shape, column, change)

    def given(self, bound: Bound) -> str:
        """Return the SQL of what the database gave one event of this append."""
        match bound.marker:
            case Marker.POSITION:
                return f"(head.position - {bound.later})"
            case Marker.RECORDED_AT:
                return "head.recorded_at"
            case Marker.VERSION:
                stream = self.bind(bound.stream_id)
                return (
                    "(select s.version from eventstore.stream as s where s.user_id = $1"
                    f" and s.stream_id = {stream}::uuid) - {bound.later_in_stream}"
                )
            case _:
                assert_never(bound.marker)

    def item(self, item: Mapping[str, Any]) -> str:
        """Return the SQL of a JSON object that may hold markers."""
        if not any(isinstance(value, Bound) for value in item.values()):
            return f"{self.bind(dumps(item))}::json"
        return f"concat('{{', {self.pieces(item)}, '}}')::json"

    def pieces(self, item: Mapping[str, Any]) -> str:
        """Return the SQL of an object's members, as pieces of text to concatenate."""
        pieces: list[str] = []
        text = ""
        for number, (name, value) in enumerate(item.items()):
            text += ("," if number else "") + dumps(name) + ":"
            if isinstance(value, Bound):
                pieces += [f"{self.bind(text)}::text", self.json_given(value)]
                text = ""
            else:
                text += dumps(value)
        return ", ".join([*pieces, f"{self.bind(text)}::text"] if text else pieces)

    def json_given(self, bound: Bound) -> str:
        """Return the SQL of what the database gave, as a piece of JSON text."""
        if bound.marker is Marker.RECORDED_AT:
            return f"""'"', to_char(head.recorded_at at time zone 'UTC', {_ISO}), '"'"""
        return self.given(bound)


_ISO = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""


def _inserts(user_id: str, rows: Iterable[_Row]) -> list[Statement]:
    by_table: dict[tuple[TableShape, tuple[str, ...]], list[dict[str, Any]]] = {}
    for row in rows:
        if row.insert is not None:
            by_table.setdefault((row.shape, tuple(row.insert)), []).append(row.insert)
    return [
        statement
        for (shape, _), values in by_table.items()
        for statement in insert_rows(shape, user_id, values)
    ]


def _insert(shape: TableShape, user_id: str, rows: Sequence[Mapping[str, Any]]) -> Statement:
    sql = _Sql(user_id)
    columns = list(rows[0])
    lines = [
        "(" + ", ".join(["$1::text", *(sql.value(shape, c, row[c]) for c in columns)]) + ")"
        for row in rows
    ]
    names = ", ".join(["user_id", *columns])
    return Statement(
        f"insert into {shape.name} ({names})\n"
        f"select new.* from {_HEAD}\n"
        f"cross join lateral (values {', '.join(lines)}) as new\n"
        "where head.user_id = $1",
        sql.parameters,
        prepared=len(rows) == 1,
    )


def _update(row: _Row, changes: Mapping[str, Any], user_id: str) -> Statement:
    sql = _Sql(user_id)
    where = _where(row, sql)
    sets = ", ".join(f"{name} = {sql.change(row.shape, name, c)}" for name, c in changes.items())
    return Statement(
        f"update {row.shape.name} as t\nset {sets}\nfrom {_HEAD}\n"
        f"where head.user_id = $1 and {where}",
        sql.parameters,
    )


def _delete(row: _Row, user_id: str) -> Statement:
    sql = _Sql(user_id)
    return Statement(f"delete from {row.shape.name} as t where {_where(row, sql)}", sql.parameters)


def _where(row: _Row, sql: _Sql) -> str:
    return " and ".join(
        [
            "t.user_id = $1",
            *(
                f"t.{name} = {sql.bind(value)}::{row.shape.columns[name]}"
                for name, value in zip(row.shape.key, row.key, strict=True)
            ),
        ]
    )
