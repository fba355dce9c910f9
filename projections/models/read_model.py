"""
What every built-in read model is made of: the base of the tables, their columns, and views.

A table class says how rows are stored. A view is a frozen value that shows one row as it was at
some moment; it lists the columns it shows, and queries select exactly those. A table and its view
stand in one file, with the projector that keeps the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from sqlalchemy import BigInteger, Column, DateTime, Text, Uuid
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore.database.timestamps import as_utc
from eventstore.log.tables import metadata

__all__ = ["ReadModel", "View", "bigint", "text", "timestamp", "uuid"]


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


@dataclass(frozen=True, slots=True)
class View:
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
