"""
What a projector is, and which ones a store runs.

A projector is a pure function from a fact (an event and all that was known before it was recorded)
to row changes. One definition is run live, replayed and rebuilt, so the three cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import JSON, Column, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import sort_tables
from sqlmodel import SQLModel

from eventstore.errors import ConfigurationError
from eventstore.log.envelope import Fact
from projections.changes import Delete, Insert, RowChange, Update

__all__ = ["Projections", "Projector", "TableShape", "projector"]

type _Form = tuple[type[Insert | Update | Delete], tuple[str, ...], tuple[str, ...]]
type Project = Callable[[Fact], Iterable[RowChange]]


@dataclass(frozen=True, slots=True)
class Projector:
    """A read model's definition: the one table it owns, and what each event does to it."""

    table: type[SQLModel]
    project: Project


def projector(table: type[SQLModel]) -> Callable[[Project], Projector]:
    """
    Decorate the function that keeps `table`.

    ::

        @projector(TasksPerDay)
        def project_tasks_per_day(fact: Fact) -> Iterator[RowChange]:
            match fact.data:
                case TaskCompleted():
                    yield …
    """
    return lambda project: Projector(table, project)


class TableShape:
    """
    What SQL needs to know of a read-model table.

    :ivar name: schema-qualified.
    :ivar key: the primary key without `user_id`.
    :ivar columns: every column but `user_id`, with its SQL type.
    :ivar json: the names of `json` columns; `jsonb` those of them that keep no order of keys;
        `json_lists` of `json[]` columns.
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
        for name, sql_type in self.columns.items():
            if (better := _exact(sql_type)) is not None:
                raise ConfigurationError(
                    f"read model {table.name}: its column {name} is {sql_type}, which changes what "
                    f"is written, so the table would never equal the replay; make it {better}"
                )
        self.json = frozenset(c.name for c in table.columns if isinstance(c.type, JSON))
        self.jsonb = frozenset(c.name for c in table.columns if isinstance(c.type, JSONB))
        self.json_lists = frozenset(
            c.name
            for c in table.columns
            if isinstance(c.type, postgresql.ARRAY) and isinstance(c.type.item_type, JSON)
        )

    def key_of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the row's key as a tuple."""
        return tuple([row[name] for name in self.key])  # a list is built faster than a generator

    def require(self, change: RowChange) -> None:
        """
        Refuse a change that names columns the table does not have, or not its whole key.

        :raises ConfigurationError: the projector is wrong; the message says in what.
        """
        match change:
            case Insert(values=values):
                form: _Form = Insert, tuple(values), ()
            case Update(key=key, changes=changes):
                form = Update, tuple(key), tuple(changes)
            case Delete(key=key):
                form = Delete, tuple(key), ()
            case _:
                assert_never(change)
        if form in self._known:
            return
        kind, first, second = form
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
        self._known.add(form)


def _sql_type(column: Column[Any]) -> str:
    return column.type.compile(postgresql.dialect()).lower()  # type: ignore[no-untyped-call]  # SQLAlchemy's dialects are untyped


def _exact(sql_type: str) -> str | None:
    """Return the type that keeps values as they are, if this one does not."""
    return next((better for kind, better in _LOSSY.items() if re.fullmatch(kind, sql_type)), None)


_LOSSY = {
    r"real|float\((1?\d|2[0-4])\)": "double precision",
    r"char(\(\d+\))?": "text",
    r"timestamp\([0-5]\) (with|without) time zone": "one with microseconds, without a precision",
    r"time\([0-5]\) (with|without) time zone": "one with microseconds, without a precision",
}


class Projections:
    """The projectors a store runs; each table has one owner."""

    def __init__(self, *projectors: Projector) -> None:
        for one in projectors:
            if not isinstance(one, Projector):
                raise ConfigurationError(
                    f"{one!r} is no projector; decorate the function with @projector(ITS_TABLE)"
                )
        self.projectors = projectors
        self._shapes = {one.table: TableShape(one.table) for one in projectors}
        if len(self._shapes) < len(projectors):
            names = sorted(one.table.__name__ for one in projectors)
            raise ConfigurationError(f"two projectors for one table among {', '.join(names)}")
        order = sort_tables([shape.table for shape in self._shapes.values()])
        by_table = {shape.table: shape for shape in self._shapes.values()}
        self.shapes = [by_table[table] for table in order]
        """Parents before children: the order to insert in; delete in reverse."""
        self.tables = [shape.name for shape in self.shapes]
        """Their names, schema-qualified."""
        self._parts: dict[tuple[type[SQLModel], ...], Projections] = {}

    def shape(self, table: type[SQLModel]) -> TableShape:
        """Return the shape of a registered table."""
        return self._shapes[table]

    def of(self, *tables: type[SQLModel]) -> Projections:
        """Return only the projectors of `tables`: a history needs no tasks."""
        part = self._parts.get(tables)
        if part is None:
            chosen = (one for one in self.projectors if one.table in tables)
            part = self._parts[tables] = Projections(*chosen)
        return part

    def project(self, fact: Fact) -> Iterator[RowChange]:
        """Yield what every projector wants done for `fact`, in the order of registration."""
        for one in self.projectors:
            shape = self._shapes[one.table]
            for change in one.project(fact):
                if change.table is not one.table:
                    raise ConfigurationError(
                        f"the projector of {shape.name} changes {change.table.__name__}; "
                        "each table has one projector, which changes no other"
                    )
                shape.require(change)
                yield change
