"""
The shape of a read-model table, and which tables and row changes cannot be kept by a projector.

What is refused here would part the table from its replay, or never reach it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from types import NoneType
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import JSON, Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel

from eventstore.errors import ConfigurationError, InvalidInput
from projections.changes import Delete, Insert, Marker, RowChange, Update

__all__ = ["TableShape"]

type _Form = tuple[
    type[Insert | Update | Delete], tuple[str, ...], tuple[str, ...], tuple[type, ...]
]


class TableShape:
    """
    What SQL needs to know of a read-model table.

    :ivar name: schema-qualified.
    :ivar key: the primary key without `user_id`.
    :ivar columns: every column but `user_id`, with its SQL type.
    :ivar json: the names of `json` columns; `jsonb` those of them that keep no order of keys;
        `json_lists` of `json[]` columns.
    :ivar scales: of `numeric` columns that round, how many digits they keep after the point.
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
        self.columns = {
            column.name: _sql_type(column) for column in table.columns if column.name != "user_id"
        }
        self.scales = {
            name: int(found[1] or 0)
            for name, sql_type in self.columns.items()
            if (found := re.fullmatch(r"numeric\(\d+(?:, (-?\d+))?\)", sql_type))
        }
        self._nulls = dict.fromkeys(self.columns)
        self._require_plain_names()
        self._require_exact()
        self.json = frozenset(c.name for c in table.columns if isinstance(c.type, JSON))
        self.jsonb = frozenset(c.name for c in table.columns if isinstance(c.type, JSONB))
        self.json_lists = frozenset(
            c.name
            for c in table.columns
            if isinstance(c.type, postgresql.ARRAY) and isinstance(c.type.item_type, JSON)
        )

    def whole(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a new row with all columns: those that an insert does not name are null."""
        return {**self._nulls, **values}

    def key_of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the row's key as a tuple."""
        return tuple([row[name] for name in self.key])  # a list is built faster than a generator

    def require(self, change: RowChange) -> None:
        """
        Refuse a change that names columns the table does not have, or not its whole key.

        :raises ConfigurationError: the projector is wrong; the message says in what.
        :raises InvalidInput: a part of the key would come back as something else than it went.
        """
        match change:
            case Insert(values=place):
                form: _Form = Insert, tuple(place), (), self._types(place)
            case Update(key=place, changes=changes):
                form = Update, tuple(place), tuple(changes), self._types(place)
            case Delete(key=place):
                form = Delete, tuple(place), (), self._types(place)
            case _:
                assert_never(change)
        if form in self._known:
            return
        kind, first, second, types = form
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
        for name, given in zip(self.key, types, strict=True):
            wanted = _READ_AS.get(self.columns[name].partition("(")[0], object)
            if not _fits(given, wanted):
                raise InvalidInput(
                    f"{self.name}.{name}",
                    f"the projector gives a key of type {given.__name__} for a column of type "
                    f"{self.columns[name]}; make it {wanted.__name__}",
                )
        self._known.add(form)

    def _types(self, place: Mapping[str, Any]) -> tuple[type, ...]:
        return tuple([type(place.get(name)) for name in self.key])

    def _require_plain_names(self) -> None:
        table = self.table
        for name in (table.schema or "public", table.name, *table.columns.keys()):
            if _DIALECT.identifier_preparer.quote(name) != name:
                raise ConfigurationError(
                    f"read model {table.name}: the name {name} would need quotes in SQL; take one "
                    "in lower case that is no word of SQL"
                )

    def _require_exact(self) -> None:
        for column in self.table.columns:
            if column.computed is not None or column.identity is not None:
                raise ConfigurationError(
                    f"read model {self.table.name}: its column {column.name} is computed by the "
                    "database, which no replay does; leave it out of the class"
                )
        for name, sql_type in self.columns.items():
            if (better := _exact(sql_type)) is not None:
                raise ConfigurationError(
                    f"read model {self.table.name}: its column {name} is {sql_type}, which changes "
                    "what is written, so the table would never equal the replay; "
                    f"make it {better}"
                )


_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are untyped


def _sql_type(column: Column[Any]) -> str:
    return column.type.compile(_DIALECT).lower()


def _exact(sql_type: str) -> str | None:
    """Return the type that keeps values as they are, if this one does not."""
    return next((better for kind, better in _LOSSY.items() if re.fullmatch(kind, sql_type)), None)


_LOSSY = {
    r"real|float\((1?\d|2[0-4])\)": "double precision",
    r"char(\(\d+\))?": "text",
    r"timestamp\([0-5]\) (with|without) time zone": "one with microseconds, without a precision",
    r"time\([0-5]\) (with|without) time zone": "one with microseconds, without a precision",
}

_READ_AS = {
    "bigint": int,
    "boolean": bool,
    "date": date,
    "integer": int,
    "smallint": int,
    "text": str,
    "timestamp with time zone": datetime,
    "timestamp without time zone": datetime,
    "uuid": UUID,
    "varchar": str,
}
"""What a key comes back as: a replay finds a row by nothing else, where SQL would cast."""


def _fits(given: type, wanted: type) -> bool:
    if given in {bool, datetime} and wanted in {int, date}:
        return False  # subclasses that PostgreSQL does not take for one
    return issubclass(given, (wanted, Marker, NoneType))
