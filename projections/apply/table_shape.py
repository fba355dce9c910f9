"""
The shape of a read-model table, and which tables and row changes cannot be kept by a projector.

What is refused here would part the table from its replay, or never reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, assert_never

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from eventstore.database.timestamps import timestamp_text
from eventstore.errors import ConfigurationError, InvalidInput
from eventstore.events.json_codec import check_json
from projections.apply.column_types import ColumnType, column_type
from projections.apply.sql_names import is_plain
from projections.changes import (
    AppendItem,
    Delete,
    ExtendItem,
    Increment,
    Insert,
    Marker,
    RowChange,
    Update,
)

__all__ = ["TableShape"]

type _Form = tuple[type[Insert | Update | Delete], tuple[str, ...], tuple[str, ...]]


class TableShape:
    """
    What SQL needs to know of a read-model table.

    :ivar name: schema-qualified.
    :ivar key: the primary key without `user_id`.
    :ivar columns: every column but `user_id`, with the type that its values are cast to.
    :ivar json: the names of `json` columns; `jsonb` those of them that keep no order of keys;
        `json_lists` of `json[]` columns.
    :ivar inexact: columns in which sums depend on their order.
    """

    def __init__(self, model: type[SQLModel]) -> None:
        table: Table | None = getattr(model, "__table__", None)
        if table is None:
            raise ConfigurationError(
                f"{model!r} is no table that a projector can keep; give a SQLModel class with "
                "table=True"
            )
        primary = [column.name for column in table.primary_key.columns]
        if primary[:1] != ["user_id"]:
            raise ConfigurationError(
                f"read model {table.name}: its primary key is ({', '.join(primary)}); it must "
                "begin with user_id, because isolation, locking and rebuild happen per user"
            )
        self.model = model
        self.table = table
        self.name = f"{table.schema or 'public'}.{table.name}"
        self.key = tuple(primary[1:])
        self._known: set[_Form] = set()
        """Forms of changes that were found right: the same few come again with every event."""
        self._require_plain_names()
        self._types = {
            column.name: self._require_kept(column)
            for column in table.columns
            if column.name != "user_id"
        }
        self.columns = {name: kind.cast for name, kind in self._types.items()}
        self._plain = {name: kind.plain for name, kind in self._types.items()}
        self._numbers = [name for name in self.key if self.columns[name] == "numeric"]
        self._nulls = dict.fromkeys(self.columns)
        self.json = self._of("json", "jsonb")
        self.jsonb = self._of("jsonb")
        self.json_lists = self._of("json[]")
        self.inexact = frozenset(name for name, kind in self._types.items() if not kind.exact)

    def _of(self, *types: str) -> frozenset[str]:
        return frozenset(name for name, sql_type in self.columns.items() if sql_type in types)

    def with_nulls(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a new row with all columns: those that an insert does not name are null."""
        return {**self._nulls, **values}

    def key_of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the row's key as a tuple."""
        return tuple([row[name] for name in self.key])  # a list is built faster than a generator

    def normalized(self, change: RowChange) -> RowChange:
        """
        Return a change with its values as the columns give them back.

        :raises ConfigurationError: the projector is wrong; the message says in what.
        :raises InvalidInput: a value that its column would change, or refuse.
        """
        match change:
            case Insert(values=values):
                self._require(Insert, tuple(values), ())
                row = self._coerced(values, self._new)
                for name in self._numbers:
                    if row[name] != row[name]:  # NaN, which no replay would find again
                        raise self._misplaced(name, row[name])
                return Insert(change.table, row)
            case Update(key=key, changes=changes):
                self._require(Update, tuple(key), tuple(changes))
                return Update(change.table, self._place(key), self._coerced(changes, self._changed))
            case Delete(key=key):
                self._require(Delete, tuple(key), ())
                return Delete(change.table, self._place(key))
            case _:
                assert_never(change)

    def _require(
        self, kind: type[Insert | Update | Delete], first: tuple[str, ...], second: tuple[str, ...]
    ) -> None:
        form = kind, first, second
        if form in self._known:
            return
        if strange := {*first, *second} - self.columns.keys():
            raise ConfigurationError(
                f"the projector of {self.name} names {', '.join(sorted(strange))}, "
                "which the table does not have (user_id is never named)"
            )
        if not {*first} >= {*self.key} or (kind is not Insert and len(first) > len(self.key)):
            raise ConfigurationError(
                f"the projector of {self.name} must name the key of a row: "
                f"({', '.join(self.key)}), user_id aside"
            )
        if moved := {*second} & {*self.key}:
            raise ConfigurationError(
                f"the projector of {self.name} updates {', '.join(sorted(moved))}, which is part "
                "of the key; delete the row, and insert another"
            )
        self._known.add(form)

    def _coerced(
        self, values: Mapping[str, Any], coerce: Callable[[str, Any], Any]
    ) -> dict[str, Any]:
        plain = self._plain
        return {
            name: value if type(value) in plain[name] else coerce(name, value)
            for name, value in values.items()
        }

    def _new(self, column: str, value: Any) -> Any:
        kind = self._types[column]
        if type(value) is Marker:
            if value not in kind.markers:
                raise self._misplaced(column, value)
            return value
        try:
            return kind.coerce(value)
        except InvalidInput as error:
            raise error.within(f"{self.name}.{column}") from None

    def _changed(self, column: str, change: Any) -> Any:
        match change:
            case Increment(by):
                if not self._types[column].counts or not _is_whole(by):
                    raise self._misplaced(column, change)
                return change
            case AppendItem(item):
                return AppendItem(self._item(column, change, item))
            case ExtendItem(index, fields):
                if not _is_whole(index) or index < 0:
                    raise self._misplaced(column, change)
                return ExtendItem(index, self._item(column, change, fields))
            case _:
                return self._new(column, change)

    def _place(self, key: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in key.items():
            if isinstance(value, Marker):
                raise self._misplaced(name, value)
        return self._coerced(key, self._new)

    def _item(self, column: str, change: object, item: Any) -> dict[str, Any]:
        """Return an item as JSON, but for markers; an instant as its own instants are written."""
        if column not in self.json_lists or not isinstance(item, Mapping):
            raise self._misplaced(column, change)
        checked: dict[str, Any] = {}
        for name, value in item.items():
            place = f"{self.name}.{column}.{name}"
            if not isinstance(name, str):
                raise InvalidInput(place, "the name of a field is text")
            if isinstance(value, Marker):
                checked[name] = value
                continue
            as_json = check_json(value, place)
            checked[name] = timestamp_text(value) if isinstance(value, datetime) else as_json
        return checked

    def _misplaced(self, column: str, value: object) -> InvalidInput:
        fact = f"the projector gives {type(value).__name__} for a column of {self.columns[column]}"
        return InvalidInput(f"{self.name}.{column}", fact)

    def _require_plain_names(self) -> None:
        table = self.table
        for name in (table.schema or "public", table.name, *table.columns.keys()):
            if not is_plain(name):
                raise ConfigurationError(
                    f"read model {table.name}: the name {name} would need quotes in SQL; take one "
                    "in lower case that is no word of SQL"
                )

    def _require_kept(self, column: Column[Any]) -> ColumnType:
        """Return the type of a column, if a replay can know all that will be in it."""
        problem = None
        sql_type = _sql_type(column)
        kind = column_type(sql_type)
        if column.computed is not None or column.identity is not None:
            problem = "is computed by the database; leave it out of the class"
        elif kind is None:
            better = _BETTER.get(sql_type.partition("(")[0], "text, or leave it out of the class")
            problem = f"is {sql_type}, which changes what is written; make it {better}"
        elif column.primary_key and not kind.key:
            problem = f"is {sql_type}, and cannot be part of a key"
        if kind is None or problem is not None:
            raise ConfigurationError(
                f"read model {self.table.name}: its column {column.name} {problem}: "
                "the table would not equal its replay"
            )
        return kind


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are untyped


def _sql_type(column: Column[Any]) -> str:
    return column.type.compile(_DIALECT).lower()


_BETTER = {
    "real": "double precision",
    "float": "double precision",
    "timestamp": "one with microseconds, without a precision",
    "time": "one with microseconds, without a precision",
}
