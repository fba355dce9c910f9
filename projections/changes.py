"""
Row changes: what a projector wants done, as values.

A projector never sees a database. So the same changes can be written by SQL in the append's
transaction (`apply.live`) and applied to dictionaries in memory (`apply.replay`). Markers stand for
what only the database knows of an event: its position, version and time.

A change never names `user_id`, because every row belongs to the user of its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Context, Decimal
from enum import Enum
from typing import Any, assert_never

from sqlmodel import SQLModel

from eventstore.database.timestamps import timestamp_text
from eventstore.log.envelope import RecordedEvent

__all__ = [
    "POSITION",
    "RECORDED_AT",
    "RESOLVABLE",
    "VERSION",
    "WIDE_CONTEXT",
    "AppendItem",
    "Delete",
    "ExtendItem",
    "Increment",
    "Insert",
    "Marker",
    "RowChange",
    "Update",
    "apply_changes",
    "resolve",
]


class Marker(Enum):
    """A value that the database gives an event; usable for a column or a field of an item."""

    POSITION = "position"
    VERSION = "version"
    RECORDED_AT = "recorded_at"


POSITION = Marker.POSITION
VERSION = Marker.VERSION
RECORDED_AT = Marker.RECORDED_AT

WIDE_CONTEXT = Context(prec=2_000)
"""A decimal context in which sums keep all digits: PostgreSQL declares 1,000 at most."""


@dataclass(frozen=True, slots=True)
class Increment:
    """Add `by` to the column; only in an `Update`."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class AppendItem:
    """Append a JSON object to a `json[]` column; only in an `Update`. Its fields may be markers."""

    item: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ExtendItem:
    """Add fields to the object at `index` of a `json[]` column, if there is one."""

    index: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row; columns that are not named are null. An append whose row exists is refused."""

    table: type[SQLModel]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Update:
    """Changes of one row; nothing happens if the row does not exist."""

    table: type[SQLModel]
    key: Mapping[str, Any]
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """The deletion of one row; nothing happens if it does not exist."""

    table: type[SQLModel]
    key: Mapping[str, Any]


type RowChange = Insert | Update | Delete


def apply_changes(row: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Apply changes without markers to a row in memory, as the live SQL does to a table."""
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
    return WIDE_CONTEXT.add(number, by) if isinstance(number, Decimal) else number + by


def resolve(values: Mapping[str, Any], event: RecordedEvent) -> dict[str, Any]:
    """Return `values` with every marker replaced by what the database gave the event."""
    return {
        name: _resolve_value(value, event) if type(value) in RESOLVABLE else value
        for name, value in values.items()
    }


RESOLVABLE = {Marker, AppendItem, ExtendItem}
"""Types of values that may hold a marker."""


def _resolve_value(value: Any, event: RecordedEvent) -> Any:
    match value:
        case Marker():
            return _marked_value(value, event)
        case AppendItem(item):
            return AppendItem(_resolve_item(item, event))
        case ExtendItem(index, fields):
            return ExtendItem(index, _resolve_item(fields, event))
        case _:
            return value


def _resolve_item(item: Mapping[str, Any], event: RecordedEvent) -> dict[str, Any]:
    return {
        name: _marked_json_value(value, event) if isinstance(value, Marker) else value
        for name, value in item.items()
    }


def _marked_json_value(marker: Marker, event: RecordedEvent) -> int | str:
    value = _marked_value(marker, event)
    return timestamp_text(value) if isinstance(value, datetime) else value


def _marked_value(marker: Marker, event: RecordedEvent) -> int | datetime:
    match marker:
        case Marker.POSITION:
            return event.position
        case Marker.VERSION:
            return event.version
        case Marker.RECORDED_AT:
            return event.recorded_at
        case _:
            assert_never(marker)
