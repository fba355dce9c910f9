"""
Replay: apply row changes in memory.

The row changes that `live` writes by SQL are applied to dictionaries here. The result is what the
read models must be: rebuild writes it, verify compares with it, histories as of an earlier moment
are read from it, and a command's answer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from sqlmodel import SQLModel

from eventstore.database.plan import GIVE_WAY, ROWS_AT_A_TIME, Plan
from eventstore.errors import EventStoreError, InvalidInput, UnreadableEvent
from eventstore.log.envelope import RecordedEvent
from projections.apply.table_shape import Key, Row, TableShape
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
from projections.projector import Projections

__all__ = ["Replay", "apply_changes", "is_met"]


class Replay:
    """
    The read-model rows of one user after the events applied so far.

    :param projections: the projectors to run, one for each table.
    :param keep: tells whether a row is kept; a log with too many rows for memory is replayed in
        parts. None keeps all.
    """

    def __init__(
        self, projections: Projections, keep: Callable[[TableShape, Row], bool] | None = None
    ) -> None:
        self.projections = projections
        self._keep = keep
        self._tables: dict[type[SQLModel], dict[Key, Row]] = {
            one.table: {} for one in projections.projectors
        }
        # By table: the keys of the rows that an `UpdateFirst` may be about, in their order.
        self._found_by: dict[TableShape, dict[Key, list[Key]]] = {}
        # By table: the keys of the rows that an `UpdateAfter` may still be about, in their order.
        self._groups: dict[TableShape, dict[Key, list[Key]]] = {}
        self.position = 0
        """Of the last event applied."""
        self.watching = False
        self.touched: set[tuple[TableShape, Key]] = set()
        """The rows that events are about which were applied while `watching`, or skipped."""

    def rows(self, table: type[SQLModel]) -> dict[Key, Row]:
        """Return the rows of `table` by key; a row lacks `user_id`, which is the log's."""
        return self._tables[table]

    def apply(self, event: RecordedEvent) -> None:
        """
        Apply the row changes of an event, which follows the events applied before.

        An erased event changes nothing.

        :param event: its position becomes that of the replay; 0 if it is about to be recorded.
        :raises UnreadableEvent: a projector fails on a recorded event.
        :raises ConfigurationError: a row change is wrong in itself, or of another table.
        :raises InvalidInput: a projector fails on an event that is about to be recorded.
        """
        try:
            self.apply_changes(event, self.projections.project(event))
        except InvalidInput as error:
            if not event.position:  # it is about to be recorded and is refused
                raise
            raise UnreadableEvent(event.type, event.position, str(error)) from error
        except EventStoreError:
            raise
        except Exception as error:  # a projector, or its row changes, may raise anything
            reason = f"a projector raises {type(error).__name__}"
            raise UnreadableEvent(event.type, event.position, reason) from error
        self.position = event.position

    def apply_changes(self, event: RecordedEvent, changes: Iterable[RowChange]) -> None:
        """
        Apply row changes that projectors gave for an event.

        :param event: the recorded event, whose values replace the markers.
        """
        for change in changes:
            shape = self.projections.shapes_by_model[change.table]
            if isinstance(change, UpdateAfter):
                self._update_after(shape, change, event)
                continue
            key = self._apply(shape, self._tables[change.table], change, event)
            # A row of another part is not touched: compared with this part it would be one too
            # many, and a rebuild would delete it.
            if self.watching and key is not None:
                self.touched.add((shape, key))

    def _apply(
        self,
        shape: TableShape,
        rows: dict[Key, Row],
        change: Insert | Update | UpdateFirst | Delete,
        event: RecordedEvent,
    ) -> Key | None:
        """Apply one row change; return the key of the row that it is about, if that is known."""
        if isinstance(change, Insert):
            return self._insert(shape, rows, change, event)
        if isinstance(change, UpdateFirst):
            first = self._first(shape, change)
            if first is not None:
                apply_changes(rows[first], change.changes, event)
            return first
        key = tuple([change.key[name] for name in shape.key])
        known = rows.get(key)
        if known is None:
            return None
        if isinstance(change, Delete):
            del rows[key]
        elif is_met(known, change.only_where):
            apply_changes(known, change.changes, event)
        return key

    def _insert(
        self, shape: TableShape, rows: dict[Key, Row], change: Insert, event: RecordedEvent
    ) -> Key | None:
        row = {**shape.nulls, **change.values}
        for name, value in row.items():
            if type(value) is Marker:
                # `_value_` is a plain attribute; `value` is a property that runs Python.
                row[name] = getattr(event, value._value_)
        # Only inserts ask: a row of another part is never found by what comes later.
        if self._keep is not None and not self._keep(shape, row):
            return None
        key = tuple([row[name] for name in shape.key])
        rows[key] = row
        if shape.found_by:
            found_by = tuple([row[name] for name in shape.found_by])
            self._found_by.setdefault(shape, {}).setdefault(found_by, []).append(key)
        groups = self._groups.get(shape)
        if groups is not None:
            groups.setdefault(_group_of(shape, row), []).append(key)
        return key

    def _update_after(self, shape: TableShape, change: UpdateAfter, event: RecordedEvent) -> None:
        rows = self._tables[change.table]
        for key in self._behind(shape, change):
            if is_met(rows[key], change.only_where):
                apply_changes(rows[key], change.changes, event)
                if self.watching:
                    self.touched.add((shape, key))

    def _behind(self, shape: TableShape, change: UpdateAfter) -> Iterator[Key]:
        """Yield the keys of the rows of a group behind a position, and forget them."""
        rows, groups = self._tables[change.table], self._groups.get(shape)
        # Most logs have no such change, so the groups are made when the first one comes.
        if groups is None:
            groups = self._groups[shape] = {}
            for key, row in rows.items():
                groups.setdefault(_group_of(shape, row), []).append(key)
        keys = groups.get(tuple([change.group[name] for name in shape.grouped_by]), [])
        # Rows are inserted in the order of their positions; 0 is that of an event which is about to
        # be recorded, after all others. What was changed, or differs, will never be changed again.
        staying = []
        while keys and not 0 < rows[keys[-1]]["position"] <= change.after:
            key = keys.pop()
            if change.unless and is_met(rows[key], change.unless):
                staying.append(key)
            else:
                yield key
        keys.extend(reversed(staying))

    def skip(self, event: RecordedEvent) -> None:
        """
        Do not apply an event, but note the rows that it is about.

        Whatever a projector raises reaches the caller as it is.
        """
        for change in self.projections.project(event):
            shape = self.projections.shapes_by_model[change.table]
            if isinstance(change, Insert):
                row = _resolved({**shape.nulls, **change.values}, event)
                if self._keep is None or self._keep(shape, row):
                    self.touched.add((shape, shape.key_of(row)))
            elif isinstance(change, UpdateAfter):
                self.touched.update((shape, key) for key in self._behind(shape, change))
            elif isinstance(change, UpdateFirst):
                # Which of them it changed is not known without the events before it.
                self.touched.update((shape, key) for key in self._found(shape, change))
            else:
                # Of a row that is not known the insert was skipped as well, and noted it.
                key = shape.key_of(change.key)
                if key in self._tables[change.table]:
                    self.touched.add((shape, key))

    def release(self) -> Plan[None]:
        """Free the rows and let others run; to free very many at once takes a tenth of a second."""
        held = (*self._tables.values(), *self._found_by.values(), *self._groups.values())
        for some in cast("tuple[dict[Key, Any], ...]", held):
            while len(some) > ROWS_AT_A_TIME:
                for _ in range(ROWS_AT_A_TIME):
                    some.popitem()
                yield GIVE_WAY

    def _found(self, shape: TableShape, change: UpdateFirst) -> Sequence[Key]:
        found_by = tuple([change.found_by[name] for name in shape.found_by])
        return self._found_by.get(shape, {}).get(found_by, ())

    def _first(self, shape: TableShape, change: UpdateFirst) -> Key | None:
        """Return the key of the first row that an update is about."""
        rows, found = self._tables[change.table], self._found(shape, change)
        # Rows are inserted in the order of their positions. A deleted one is still listed.
        return next(
            (key for key in found if key in rows and is_met(rows[key], change.only_where)), None
        )


def apply_changes(row: Row, changes: Mapping[str, Any], event: RecordedEvent | None = None) -> None:
    """
    Apply the changes of an update to a row in memory, as the live SQL does to a table.

    :param row: changed in place.
    :param event: for the markers among them; without it they stay in the row as they are.
    """
    for name, value in changes.items():
        kind = type(value)
        if kind is Marker and event is not None:
            row[name] = getattr(event, value._value_)
        elif kind is not Increment:
            row[name] = value
        elif row[name] is not None:  # in SQL null plus a number is null
            row[name] += value.by


def _group_of(shape: TableShape, row: Row) -> Key:
    return tuple([row[name] for name in shape.grouped_by])


def is_met(row: Row, only_where: Mapping[str, Any]) -> bool:
    """
    Tell whether a row has the values on whose condition it is to be updated.

    :param only_where: values by column; None is met by null, as `is not distinct from` is in SQL.
    """
    # `TableShape.check` admits only columns whose values are equal in Python where SQL says so.
    return not only_where or all(row[name] == value for name, value in only_where.items())


def _resolved(values: Mapping[str, Any], event: RecordedEvent) -> Row:
    """Return values with each marker replaced by what the database gave the event."""
    # An insert may have POSITION in its key, and a row is looked up by the number itself.
    return {
        name: getattr(event, value._value_) if type(value) is Marker else value
        for name, value in values.items()
    }
