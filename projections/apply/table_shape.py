"""
The shape of a read-model table, and which tables and row changes a projector cannot keep.

What is refused here would make the table differ from its replay, or never reach it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Any, assert_never
from uuid import UUID

import orjson
from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from eventstore.errors import ConfigurationError, InvalidInput, NotStorable
from eventstore.events.json_codec import dumps
from projections.apply.column_types import ColumnType, column_type
from projections.apply.sql_names import is_plain
from projections.changes import (
    Delete,
    Increment,
    Insert,
    Marker,
    RowChange,
    Update,
    UpdateAfter,
    UpdateFirst,
)

__all__ = ["Key", "Row", "TableShape", "sql_once"]

type Row = dict[str, Any]
"""A row by column name, without `user_id`."""

type Key = tuple[Any, ...]
"""The primary key of a row, without `user_id`."""

sql_once = lru_cache(maxsize=1024)
"""Decorates a function that makes SQL of a shape; those of stores that are closed drop out."""


class TableShape:
    """
    What SQL and a replay need to know of a read-model table.

    :ivar name: schema-qualified.
    :ivar key: the names of the primary key's columns, without `user_id`.
    :ivar found_by: the columns by which an `UpdateFirst` finds a row; none in most tables.
    :ivar grouped_by: the columns whose values an `UpdateAfter` names; none in most tables.
    :ivar columns: the type of every column but `user_id`.
    :ivar nulls: a row of nulls.
    :ivar number: its place among the tables of a store: parents before children.
    :ivar stream_column: the column with the id of the stream whose events alone make a row; None if
        there is none.

    :param model: a SQLModel class with `table=True`, whose primary key begins with `user_id`.
    :param trusted: its JSON values are known to be plain, and its timestamps in UTC.
    :param stream_column: as its projector names it.
    :raises ConfigurationError: a projector cannot keep the table; the message says why.
    """

    def __init__(
        self, model: type[SQLModel], *, trusted: bool = False, stream_column: str | None = None
    ) -> None:
        table: Table | None = getattr(model, "__table__", None)
        if table is None:
            raise ConfigurationError(
                f"{model!r} is no table that a projector can keep; give a SQLModel class with "
                "table=True"
            )
        primary = [str(column.name) for column in table.primary_key.columns]
        if primary[:1] != ["user_id"]:
            raise ConfigurationError(
                f"read model {table.name}: its primary key is ({', '.join(primary)}); it must "
                "begin with user_id, because isolation, locking and rebuild happen per user"
            )
        _require_plain_names(table)
        self.model = model
        self.table = table
        self.name = f"{table.schema or 'public'}.{table.name}"
        self.key = tuple(primary[1:])
        self.found_by: tuple[str, ...] = table.info.get("found_by", ())
        self.grouped_by: tuple[str, ...] = table.info.get("grouped_by", ())
        # SQLAlchemy's own kind of text, which column names may have, is no name for orjson.
        self.columns = {
            str(column.name): _require_kept(column)
            for column in table.columns
            if column.name != "user_id"
        }
        if not self.columns:
            raise ConfigurationError(
                f"read model {table.name}: it has no column but user_id; add one that a projector "
                "fills"
            )
        self.stream_column = self._require_uuid(stream_column)
        self.nulls: Row = dict.fromkeys(self.columns)
        self.number = 0
        # Values of built-in events were checked when the events were made. What a service's own
        # projector yields may have no JSON form, and is checked as it is written.
        known = _ENCODERS_OF_PLAIN_VALUES if trusted else {}
        encoders = {name: known.get(kind.sql, kind.encode) for name, kind in self.columns.items()}
        self._encoders = [(name, one) for name, one in encoders.items() if one is not None]
        # In JSON a list stays a list. As a parameter it is the text of a PostgreSQL array.
        self._json_encoders = [
            (name, encode) for name, encode in self._encoders if not self.columns[name].is_list
        ]

    def _require_uuid(self, stream_column: str | None) -> str | None:
        if stream_column is not None:
            kind = self.columns.get(stream_column)
            if kind is None or kind.sql != "uuid":
                raise ConfigurationError(
                    f"read model {self.name}: its stream_column {stream_column} is no column of "
                    "type uuid"
                )
        return stream_column

    def key_of(self, values: Mapping[str, Any]) -> Key:
        """
        Return the key of a row, or of what names one.

        :param values: by column name; columns that are not of the key are passed over.
        """
        return tuple([values[name] for name in self.key])  # a list is built faster than a generator

    def encoded(self, values: Row) -> Row:
        """
        Encode values of a row as parameters of SQL, in place, and return them.

        :param values: by column name, in the order of the parameters.
        :raises NotStorable: a value of a `json` column has no JSON form.
        """
        for name, encode in self._encoders:
            if values.get(name) is not None:
                values[name] = encode(values[name])
        return values

    def json_row(self, values: Row) -> str:
        """
        Return values of a row as a JSON object that PostgreSQL reads with `record_column`.

        :param values: by column name, without markers.
        :raises NotStorable: a value has no JSON form.
        """
        encoded = {
            name: encode(values[name])
            for name, encode in self._json_encoders
            if values.get(name) is not None
        }
        # A value of a JSON column is a string here, with the text of the codec in it: orjson itself
        # cannot write lone surrogates and integers of more than 64 bits.
        try:
            return orjson.dumps({**values, **encoded}, _encode).decode()
        except (TypeError, RecursionError) as error:  # of an event that was tampered with
            raise NotStorable(self.name, f"has a value that JSON cannot hold: {error}") from error

    def keys_record(self) -> str:
        """Return the SQL that reads `$2`, a JSON list of keys that `json_row` wrote, as `r`."""
        # A table with one row for each user has no key but `user_id`, and `json_to_recordset` wants
        # at least one column.
        if not self.key:
            return "pg_catalog.json_array_elements($2) as r"
        columns = ", ".join(map(self.record_column, self.key))
        return f"pg_catalog.json_to_recordset($2) as r ({columns})"

    def record_column(self, name: str, sql_type: str | None = None) -> str:
        """
        Return the column as which PostgreSQL reads a value that `json_row` wrote.

        :param sql_type: what is sent instead of a value of the column: `bigint` for a marker.
        """
        # A JSON value is read as text and cast later: json_to_recordset decodes strings, and would
        # refuse an escaped NUL, which the type json can hold.
        kind = sql_type or self.columns[name].sql
        return f"{name} {'text' if kind in _JSON else kind}"

    def record_value(self, name: str, sql_type: str | None = None) -> str:
        """
        Return the SQL of a column's value in a record `r` that was read so.

        :param sql_type: as in `record_column`.
        """
        kind = sql_type or self.columns[name].sql
        return f"r.{name}::{kind}" if kind in _JSON else f"r.{name}"

    def check(self, change: RowChange) -> None:  # noqa: C901 - a case a row change
        """
        Refuse a row change that is wrong in itself.

        What passes has one meaning in SQL and in a replay (docs/decisions/0021).

        :raises ConfigurationError: the projector is wrong; the message says in what.
        :raises InvalidInput: a value that its column cannot hold.
        """
        match change:
            case Insert(values=values):
                self._check_names(values)
                self._require_key(values)
                for name, value in values.items():
                    self._check_value(name, value)
            case Update(key=key, changes=changes, only_where=conditions):
                self._check_names(key, changes, conditions)
                self._require_key(key, alone=True)
                for name, value in changes.items():
                    if isinstance(value, Increment):
                        self._check_increment(name, value)
                    else:
                        self._check_value(name, value)
                # A marker would have to be compared before the database has given its value.
                for name, value in (*key.items(), *conditions.items()):
                    self._check_value(name, value, markers=False)
                self._check_conditions(conditions)
                # Folding and replay find a row by its key, and would not follow one that moves.
                if moved := {*changes} & {*self.key}:
                    raise ConfigurationError(
                        f"the projector of {self.name} updates {', '.join(sorted(moved))}, which "
                        "is part of the key; delete the row, and insert another"
                    )
            case UpdateFirst() | UpdateAfter():
                raise ConfigurationError(
                    f"the projector of {self.name} gives an {type(change).__name__}, which only "
                    "built-in tables take; name the row by its key in an Update"
                )
            case Delete(key=key):
                self._check_names(key)
                self._require_key(key, alone=True)
                for name, value in key.items():
                    self._check_value(name, value, markers=False)
            case _:
                assert_never(change)

    def _check_names(self, *mappings: Mapping[str, Any]) -> None:
        """Refuse names that the table does not have."""
        names = {name for mapping in mappings for name in mapping}
        if strange := names - self.columns.keys():
            raise ConfigurationError(
                f"the projector of {self.name} names {', '.join(sorted(strange))}, "
                "which the table does not have (user_id is never named)"
            )

    def _require_key(self, names: Mapping[str, Any], *, alone: bool = False) -> None:
        """Require the key of a row; `alone` refuses further columns, which would find no row."""
        if not names.keys() >= {*self.key} or (alone and len(names) > len(self.key)):
            only = " and nothing else in its place" if alone else ""
            raise ConfigurationError(
                f"the projector of {self.name} must name the key of a row: "
                f"({', '.join(self.key)}), user_id aside{only}"
            )

    def _check_value(self, name: str, value: Any, *, markers: bool = True) -> None:
        kind = self.columns[name]
        if value is None and name not in self.key:
            return
        if isinstance(value, Marker) and markers and value in kind.markers:
            return
        if isinstance(value, Marker | Increment):
            raise self._misplaced(name, value)
        try:
            kind.check(value)
        except InvalidInput as error:
            raise error.within(f"{self.name}.{name}") from None

    def _check_conditions(self, names: Mapping[str, Any]) -> None:
        if odd := [name for name in names if not self.columns[name].compares]:
            raise ConfigurationError(
                f"the projector of {self.name} has a condition on {', '.join(odd)}; "
                "give one on text, whole numbers, booleans, uuids or dates"
            )

    def _check_increment(self, name: str, increment: Increment) -> None:
        by: object = increment.by
        if not self.columns[name].counts or not isinstance(by, int) or isinstance(by, bool):
            raise self._misplaced(name, increment)

    def _misplaced(self, name: str, value: object) -> InvalidInput:
        kind = self.columns[name].sql
        return InvalidInput(
            f"{self.name}.{name}", f"is given {type(value).__name__}, which a {kind} does not take"
        )


_JSON = {"json", "jsonb"}

_ENCODERS_OF_PLAIN_VALUES = {**dict.fromkeys(_JSON, dumps), "timestamp with time zone": None}


def _encode(value: object) -> str:
    """Encode a value of a subclass, as drivers and libraries for time have them."""
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError


def _require_plain_names(table: Table) -> None:
    for name in (table.schema or "public", table.name, *table.columns.keys()):
        if not is_plain(name):
            raise ConfigurationError(
                f"read model {table.name}: the name {name} would need quotes in SQL or be "
                "cut; take one of 63 bytes, in lower case, that is no word of SQL"
            )


def _require_kept(column: Column[Any]) -> ColumnType:
    """Return the type of a column, if a replay can know all that will be in it."""
    # The type is judged by its SQL, because a variant for PostgreSQL shows in the SQL alone.
    problem = None
    sql_type = column.type.compile(_DIALECT).lower()
    kind = column_type(sql_type)
    if column.computed is not None or column.identity is not None:
        problem = "is computed by the database; leave it out of the class"
    elif kind is None:
        better = _BETTER.get(sql_type.partition("(")[0], "text, or leave it out of the class")
        problem = f"is {sql_type}, which a projector cannot keep; make it {better}"
    elif column.primary_key and not kind.key:
        problem = f"is {sql_type}, and cannot be part of a key"
    if kind is None or problem is not None:
        raise ConfigurationError(
            f"read model {column.table.name}: its column {column.name} {problem}: "
            "the table would not equal its replay"
        )
    return kind


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are untyped

_BETTER = {
    "real": "double precision",
    "timestamp": "timestamp with time zone",
    "time": "text",
}
