"""
Row changes: what a projector wants done, as values.

A projector never sees a database, so the same changes can be written by SQL in the append's
transaction (`live`) and applied to dictionaries (`replay`). What only the database knows of an
event (position, version, time) stands in them as a marker.

`user_id` is never named: every row belongs to the user of its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from enum import Enum
from typing import Any, assert_never

from sqlmodel import SQLModel

from eventstore.database.instants import instant_text
from eventstore.log.envelope import RecordedEvent

__all__ = [
    "POSITION",
    "RECORDED_AT",
    "RESOLVABLE",
    "VERSION",
    "WIDE",
    "AppendItem",
    "Delete",
    "ExtendItem",
    "Increment",
    "Insert",
    "Marker",
    "RowChange",
    "Update",
    "changed",
    "resolved",
]


class Marker(Enum):
    """A value of the event that the database gives; usable as a column or as an item's field."""

    POSITION = "position"
    VERSION = "version"
    RECORDED_AT = "recorded_at"


POSITION = Marker.POSITION
VERSION = Marker.VERSION
RECORDED_AT = Marker.RECORDED_AT

WIDE = Context(prec=2_000)
"""In which numbers keep all their digits: PostgreSQL declares 1,000 at most."""


@dataclass(frozen=True, slots=True)
class Increment:
    """Add `by` to the column; only in an `Update`."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class AppendItem:
    """Append a JSON object to a `json[]` column; only in an `Update`. Fields may be markers."""

    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExtendItem:
    """Add fields to the object at `index` of a `json[]` column; nothing if there is none."""

    index: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row; columns not named are null. An append whose row exists already is refused."""

    table: type[SQLModel]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Update:
    """A change of one row; nothing if the row does not exist."""

    table: type[SQLModel]
    key: Mapping[str, Any]
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of one row; nothing if it does not exist."""

    table: type[SQLModel]
    key: Mapping[str, Any]


type RowChange = Insert | Update | Delete


def changed(row: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Apply resolved (or bound) `changes` to a row in memory: what the live SQL does to a table."""
    for column, change in changes.items():
        match change:
            case Increment(by):
                before = row[column]
                row[column] = None if before is None else _sum(before, by)  # as in SQL
            case AppendItem(item):
                row[column] = [*(row[column] or []), dict(item)]
            case ExtendItem(index, fields):
                items = row[column] or []
                if index < len(items):
                    row[column] = [
                        {**item, **fields} if at == index else item for at, item in enumerate(items)
                    ]
            case _:
                row[column] = change


def _sum(number: Any, by: int) -> Any:
    return WIDE.add(number, by) if isinstance(number, Decimal) else number + by


def resolved(values: Mapping[str, Any], event: RecordedEvent) -> dict[str, Any]:
    """Return `values` with every marker replaced by what the database gave the event."""
    return {
        name: _resolve(value, event) if type(value) in RESOLVABLE else value
        for name, value in values.items()
    }


RESOLVABLE = {Marker, AppendItem, ExtendItem}
"""What may hold something that only the database gives."""


def _resolve(value: Any, event: RecordedEvent) -> Any:
    match value:
        case Marker():
            return _given(value, event)
        case AppendItem(item):
            return AppendItem(_resolved_item(item, event))
        case ExtendItem(index, fields):
            return ExtendItem(index, _resolved_item(fields, event))
        case _:
            return value


def _resolved_item(item: Mapping[str, Any], event: RecordedEvent) -> dict[str, Any]:
    return {
        name: _given_in_json(value, event) if isinstance(value, Marker) else value
        for name, value in item.items()
    }


def _given_in_json(marker: Marker, event: RecordedEvent) -> int | str:
    given = _given(marker, event)
    return instant_text(given) if isinstance(given, datetime) else given


def _given(marker: Marker, event: RecordedEvent) -> int | datetime:
    match marker:
        case Marker.POSITION:
            return event.position
        case Marker.VERSION:
            return event.version
        case Marker.RECORDED_AT:
            return event.recorded_at
        case _:
            assert_never(marker)
