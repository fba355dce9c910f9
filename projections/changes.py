"""
Row changes: what a projector wants done, as values.

A projector never sees a database. So the same changes can be written by SQL in the append's
transaction (`apply.live`) and applied to dictionaries in memory (`apply.replay`). Markers stand for
what only the database knows of an event: its position, version and time.

A change never names `user_id`, because every row belongs to the user of its event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import Any

from sqlmodel import SQLModel

from eventstore.value_objects import value_object

__all__ = [
    "OCCURRED_AT",
    "POSITION",
    "RECORDED_AT",
    "VERSION",
    "Delete",
    "Increment",
    "Insert",
    "Marker",
    "RowChange",
    "Update",
    "UpdateAfter",
    "UpdateFirst",
]


class Marker(Enum):
    """A value that the database gives an event; the value is its attribute of `RecordedEvent`."""

    POSITION = "position"
    VERSION = "version"
    RECORDED_AT = "recorded_at"
    OCCURRED_AT = "occurred_at"

    # Statements are looked up by the markers in them, and the hash of Enum is a function in Python.
    __hash__ = object.__hash__


POSITION = Marker.POSITION
VERSION = Marker.VERSION
RECORDED_AT = Marker.RECORDED_AT
OCCURRED_AT = Marker.OCCURRED_AT
"""When it happened: as the caller told, or else when it was recorded. It is what users see."""


@value_object(frozen=True, slots=True)
class Increment:
    """Add `by` to a column of whole numbers; only in an `Update`. Null stays null."""

    by: int = 1


@value_object(frozen=True, slots=True)
class Insert:
    """
    A new row; an append whose row exists is refused.

    :ivar values: by column name, the key among them; columns that are not named are null.
    """

    table: type[SQLModel]
    values: Mapping[str, Any]


@value_object(frozen=True, slots=True)
class Update:
    """
    Changes of one row; nothing happens if the row does not exist.

    :ivar key: the values of the primary key's columns, without `user_id` and without markers.
    :ivar changes: the new values by column name; no column of the key.
    :ivar only_where: values that columns of the row must have; if one has not, nothing happens.
    """

    table: type[SQLModel]
    key: Mapping[str, Any]
    changes: Mapping[str, Any]
    only_where: Mapping[str, Any] = field(default_factory=dict)


@value_object(frozen=True, slots=True)
class UpdateFirst:
    """
    Changes of the first row, by its position, that has certain values; nothing if none has.

    The answer to a tool call names the call as the model does, and models repeat names, so the
    projector cannot know the key of the row. Only the built-in tables that say `found_by` in their
    `info` take it; their column `position` is that of the event which inserted the row.

    :ivar found_by: the values of the columns that the table is found by, which never change.
    :ivar changes: as in `Update`.
    :ivar only_where: as in `Update`; rows that differ are passed over.
    """

    table: type[SQLModel]
    found_by: Mapping[str, Any]
    changes: Mapping[str, Any]
    only_where: Mapping[str, Any] = field(default_factory=dict)


@value_object(frozen=True, slots=True)
class UpdateAfter:
    """
    Changes of all rows of a group behind a position; nothing if there is none.

    A rewind is one event, whatever is behind it, and knows none of the rows. Only the built-in
    tables that say `grouped_by` in their `info` take it; their column `position` is that of the
    event which inserted the row. Rows of later events are not meant.

    :ivar group: the values of the columns that the table is grouped by, which never change.
    :ivar after: rows at this position and before it stay as they are.
    :ivar changes: as in `Update`, without increments.
    :ivar only_where: as in `Update`. The changes must make it false, and nothing may make it true
        again: a replay looks at each row once.
    :ivar unless: values of columns; rows that have all of them stay as they are.
    """

    table: type[SQLModel]
    group: Mapping[str, Any]
    after: int
    changes: Mapping[str, Any]
    only_where: Mapping[str, Any]
    unless: Mapping[str, Any] = field(default_factory=dict)


@value_object(frozen=True, slots=True)
class Delete:
    """
    The deletion of one row; nothing happens if it does not exist.

    :ivar key: as in `Update`.
    """

    table: type[SQLModel]
    key: Mapping[str, Any]


type RowChange = Insert | Update | UpdateFirst | UpdateAfter | Delete
