"""
Replay: run projectors over events in memory.

The same row changes that `live` writes by SQL are applied to dictionaries. The result is what the
read models must be; rebuild writes it, verify compares with it, histories as of an earlier moment
are read from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, assert_never

from sqlmodel import SQLModel

from eventstore.errors import EventStoreError, InvalidInput, UnreadableEvent
from eventstore.log.envelope import RecordedEvent
from projections.changes import Delete, Insert, RowChange, Update, changed, resolved
from projections.projector import Projections
from projections.shape import TableShape

__all__ = ["Replay"]

type Row = dict[str, Any]


class Replay:
    """
    The read-model rows of one user after the events seen so far.

    :param keep: of which keys; a log whose rows are too many for memory is replayed in parts.
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
        """Of the last event seen."""
        self.touched: set[tuple[TableShape, tuple[Any, ...]]] | None = set()
        """The rows that others may have changed since; None if that is not known."""
        self._watching = False

    def watch(self) -> None:
        """Begin to note which rows the events that follow are about."""
        self._watching = True

    def touch(self, event: RecordedEvent) -> None:
        """Note the rows that `event`, which is left out, is about."""
        if self.touched is not None and not event.erased:
            for change in self._projections.project(event):
                self._note(change, event)

    def rows(self, table: type[SQLModel]) -> dict[tuple[Any, ...], Row]:
        """Return the rows of `table` by key; a row lacks `user_id`, which is the log's."""
        return self._tables[table]

    def see(self, events: Iterable[RecordedEvent]) -> None:
        """
        Apply what the projectors make of `events`, which follow those seen before.

        An erased event leaves no trace: the rows are as if it had said nothing.

        :raises UnreadableEvent: a projector cannot take one of them.
        """
        for event in events:
            if not event.erased:
                self._project(event)
            self.position = event.position

    def _project(self, event: RecordedEvent) -> None:
        try:
            for change in self._projections.project(event):
                self._apply(change, event)
                if self._watching:
                    self._note(change, event)
        except InvalidInput as error:
            if not event.position:  # is about to be recorded, and is refused
                raise
            raise UnreadableEvent(event.type, event.position, str(error)) from error
        except EventStoreError:
            raise
        except Exception as error:  # whatever a projector, or its row changes, make of the event
            told = f"a projector ends in {type(error).__name__}"
            raise UnreadableEvent(event.type, event.position, told) from error

    def _note(self, change: RowChange, event: RecordedEvent) -> None:
        if self.touched is not None:
            shape = self._projections.shape(change.table)
            place = resolved(change.values, event) if isinstance(change, Insert) else change.key
            self.touched.add((shape, shape.key_of(place)))

    def _apply(self, change: Insert | Update | Delete, event: RecordedEvent) -> None:
        rows = self._tables[change.table]
        shape = self._projections.shape(change.table)
        match change:
            case Insert(values=values):
                row = shape.whole(resolved(values, event))
                key = shape.key_of(row)
                if self._keep is None or self._keep(key):
                    rows[key] = row
            case Update(key=place, changes=changes):
                known = rows.get(shape.key_of(place))
                if known is not None:
                    changed(known, resolved(changes, event))
            case Delete(key=place):
                rows.pop(shape.key_of(place), None)
            case _:
                assert_never(change)
