"""
Row changes: what a projector wants done, as values.

A projector never sees a database. So the same changes can be written by SQL in the append's
transaction (`apply.live`) and applied to dictionaries in memory (`apply.replay`). Markers stand for
what only the database knows of an event: its position, version and time.

A change never names `user_id`, because every row belongs to the user of its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlmodel import SQLModel

__all__ = [
    "POSITION",
    "RECORDED_AT",
    "VERSION",
    "Delete",
    "Increment",
    "Insert",
    "Marker",
    "RowChange",
    "Update",
]


class Marker(Enum):
    """A value that the database gives an event; the value is its attribute of `RecordedEvent`."""

    POSITION = "position"
    VERSION = "version"
    RECORDED_AT = "recorded_at"

    __hash__ = object.__hash__  # that of Enum is Python, and statements are looked up by markers


POSITION = Marker.POSITION
VERSION = Marker.VERSION
RECORDED_AT = Marker.RECORDED_AT


@dataclass(frozen=True, slots=True)
class Increment:
    """Add `by` to a column of whole numbers; only in an `Update`. Null stays null."""

    by: int = 1


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row; columns that are not named are null. An append whose row exists is refused."""

    table: type[SQLModel]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Update:
    """
    Changes of one row; nothing happens if the row does not exist.

    :ivar only_where: values that columns of the row must have; if one has not, nothing happens.
    """

    table: type[SQLModel]
    key: Mapping[str, Any]
    changes: Mapping[str, Any]
    only_where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delete:
    """The deletion of one row; nothing happens if it does not exist."""

    table: type[SQLModel]
    key: Mapping[str, Any]


type RowChange = Insert | Update | Delete
