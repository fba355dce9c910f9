"""
What every built-in read model is made of: the base of the tables, their columns, and views.

A table class says how rows are stored. A view is a value that shows one row as it was at
some moment; it lists the columns it shows, and queries select exactly those. A table and its view
stand in one file, with the projector that keeps the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from decimal import Decimal
from typing import Any, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import wrap_serializer_function_ser_schema
from sqlalchemy import BigInteger, Column, DateTime, Text, Uuid
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore.database.timestamps import as_utc
from eventstore.log.tables import metadata
from eventstore.value_objects import value_object
from projections.model_input.content import plain

__all__ = ["ReadModel", "Shown", "View", "bigint", "text", "timestamp", "uuid"]


# With SQLModel's global metadata, the Alembic of a service would want to create these tables, or to
# drop them (docs/decisions/0007).
class ReadModel(SQLModel, registry=registry(metadata=metadata)):
    """The base of the built-in tables; their metadata is separate from a service's own."""


# Columns are given in full, because SQLModel makes VARCHAR of str, INTEGER of int and TIMESTAMP
# without time zone of datetime, and the migrations have other types.
def text(*, nullable: bool = False) -> Any:
    """Return a `text` column."""
    return Field(default=None, sa_column=Column(Text, nullable=nullable))


def uuid(*, nullable: bool = False) -> Any:
    """Return a `uuid` column."""
    return Field(default=None, sa_column=Column(Uuid, nullable=nullable))


def bigint(*, nullable: bool = False) -> Any:
    """Return a `bigint` column."""
    return Field(default=None, sa_column=Column(BigInteger, nullable=nullable))


def timestamp(*, nullable: bool = False) -> Any:
    """Return a `timestamp with time zone` column."""
    return Field(default=None, sa_column=Column(DateTime(timezone=True), nullable=nullable))


_COLUMNS: dict[type[Any], tuple[str, ...]] = {}


class Shown:
    """The base of what is shown to callers: dataclasses that pydantic writes as plain JSON."""

    __slots__ = ()

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """
        Return the schema by which pydantic checks and writes a view, as in FastAPI's responses.

        Written as JSON a view is plain: lone surrogates and NUL become U+FFFD, and every number is
        a number, whereas pydantic refuses the first and makes text of a Decimal.
        """
        schema: Any = handler(source)
        schema["serialization"] = wrap_serializer_function_ser_schema(
            lambda view, write: write(_plain(view)), when_used="json"
        )
        return schema  # type: ignore[no-any-return]  # one of the many shapes of a schema


def _plain(shown: Any) -> Any:
    # One in another one, like a message's calls, is made plain when it is written itself.
    values = {one.name: getattr(shown, one.name) for one in fields(shown)}
    return replace(shown, **{name: plain(one) for name, one in values.items() if _is_json(one)})


def _is_json(value: object) -> bool:
    return isinstance(value, str | dict | list | Decimal)


@value_object(frozen=True, slots=True)
class View(Shown):
    """
    The base of views: a dataclass whose fields are columns of its table, in the order selected.

    A view is made from a row, whether that comes from the table or from a replay, so both sources
    of a history give equal values.
    """

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Return the names of the columns that the view shows."""
        names = _COLUMNS.get(cls)
        if names is None:
            # What a view says beside its row is not compared, so that equal rows are equal views.
            names = _COLUMNS[cls] = tuple(one.name for one in fields(cls) if one.compare)
        return names

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """
        Return the view of a row, its timestamps in UTC.

        :param row: has all columns of the view, and may have more.
        """
        return cls(**{name: as_utc(row[name]) for name in cls.columns()})
