"""
Replay: run projectors over events in memory.

The row changes that `live` writes by SQL are applied to dictionaries here. The result is what the
read models must be: rebuild writes it, verify compares with it, and histories as of an earlier
moment are read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, assert_never

from sqlmodel import SQLModel

from eventstore.errors import EventStoreError, InvalidInput, UnreadableEvent
from eventstore.log.envelope import RecordedEvent
from projections.apply.table_shape import TableShape
from projections.changes import Delete, Insert, RowChange, Update, apply_changes, resolve
from projections.projector import Projections

__all__ = ["Replay", "Row"]

type Row = dict[str, Any]
"""A row by column name, without `user_id`."""


class Replay:
    """
    The read-model rows of one user after the events applied so far.

    :param keep: tells of a key whether its row is kept; a log with too many rows for memory is
        replayed in parts.
    """

    def __init__(
        self, projections: Projections, keep: Callable[[tuple[Any, ...]], bool] | None = None
    ) -> None:
        self._projections = projections
        self._keep = keep
        self._tables: dict[type[SQLModel], dict[tuple[Any, ...], Row]] = {
            one.table: {} for one in projections.projectors
        }
        self.position = 0
        """Of the last event applied."""
        self.touched: set[tuple[TableShape, tuple[Any, ...]]] | None = set()
        """The rows that other transactions may have changed since; None if that is not known."""
        self._watching = False

    def watch(self) -> None:
        """Note from now on which rows the applied events are about."""
        self._watching = True

    def touch(self, event: RecordedEvent) -> None:
        """Note the rows that a skipped event is about."""
        if self.touched is not None and not event.erased:
            for change in self._projections.project(event):
                self._note(change, event)

    def rows(self, table: type[SQLModel]) -> dict[tuple[Any, ...], Row]:
        """Return the rows of `table` by key; a row lacks `user_id`, which is the log's."""
        return self._tables[table]

    def apply(self, events: Iterable[RecordedEvent]) -> None:
        """
        Apply the row changes of `events`, which follow the events applied before.

        An erased event changes nothing.

        :raises UnreadableEvent: a projector fails on one of them.
        """
        for event in events:
            if not event.erased:
                self._project(event)
            self.position = event.position

    def _project(self, event: RecordedEvent) -> None:
        try:
            for change in self._projections.project(event):
                self._apply_change(change, event)
                if self._watching:
                    self._note(change, event)
        except InvalidInput as error:
            if not event.position:  # it is about to be recorded and is refused
                raise
            raise UnreadableEvent(event.type, event.position, str(error)) from error
        except EventStoreError:
            raise
        except Exception as error:  # a projector, or its row changes, may raise anything
            reason = f"a projector raises {type(error).__name__}"
            raise UnreadableEvent(event.type, event.position, reason) from error

    def _note(self, change: RowChange, event: RecordedEvent) -> None:
        if self.touched is not None:
            shape = self._projections.shape(change.table)
            named = resolve(change.values, event) if isinstance(change, Insert) else change.key
            self.touched.add((shape, shape.key_of(named)))

    def _apply_change(self, change: Insert | Update | Delete, event: RecordedEvent) -> None:
        rows = self._tables[change.table]
        shape = self._projections.shape(change.table)
        match change:
            case Insert(values=values):
                row = shape.with_nulls(resolve(values, event))
                key = shape.key_of(row)
                if self._keep is None or self._keep(key):
                    rows[key] = row
            case Update(key=named, changes=changes):
                known = rows.get(shape.key_of(named))
                if known is not None:
                    apply_changes(known, resolve(changes, event))
            case Delete(key=named):
                rows.pop(shape.key_of(named), None)
            case _:
                assert_never(change)
