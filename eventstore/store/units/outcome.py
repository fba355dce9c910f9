"""
What a command promises before anything is written, and what a commit did.

A command returns a `Handle`, with the ids of what it is about. The handle makes the command's
answer from the `Outcome` of its unit of work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan, Rows
from eventstore.errors import Conflict, NotFound
from eventstore.log.envelope import RecordedEvent
from projections.apply.replay import Replay
from projections.apply.table_shape import Key, Row
from projections.changes import RowChange

__all__ = ["Handle", "Outcome"]


@dataclass(slots=True)
class Outcome:
    """
    What a commit did.

    :ivar recorded: the events in order; none if every decision found nothing to change.
    :ivar repeated: an earlier append with the same key wrote them.
    :ivar read: the row that was read with the append, if one was.
    :ivar also: the rows of the statements `UnitOfWork.also`; empty of a retry.
    """

    recorded: list[RecordedEvent]
    _changes: Sequence[Sequence[RowChange]]
    _replay: Callable[[], Replay]
    repeated: bool = False
    read: Row | None = None
    also: Sequence[Rows] = ()
    _rows: Replay | None = None
    _by_id: dict[UUID, RecordedEvent] | None = None
    _by_cause: dict[UUID, list[RecordedEvent]] | None = None

    def row(self, table: type[Any], key: UUID) -> Row:
        """
        Return the row of something that this unit of work created or changed, as it is now.

        :param table: the class of a built-in read model.
        :param key: the row's `id`.
        """
        # What was written without reading was read with the append.
        if self.read is not None:
            return self.read
        return self.rows(table)[key,]

    def rows(self, table: type[Any]) -> Mapping[Key, Row]:
        """Return the rows of a table by key: those that were read or written here, as now."""
        # The rows are replayed from what was read and written, which saves a round trip. A
        # transaction returns no views, so it never comes to this.
        if self._rows is None:
            self._rows = self._replay()
            for event, changes in zip(self.recorded, self._changes, strict=True):
                self._rows.apply_changes(event, changes)
        return self._rows.rows(table)

    def event(self, event_id: UUID) -> RecordedEvent:
        """Return the recorded event with this id."""
        if len(self.recorded) == 1:
            return self.recorded[0]
        # Several commands ask for theirs: each looking through all would take a second for 1,000.
        if self._by_id is None:
            self._by_id = {one.event_id: one for one in self.recorded}
        return self._by_id[event_id]

    def caused_by(self, event_id: UUID) -> Sequence[RecordedEvent]:
        """Return the recorded events that name an event as their cause, in order."""
        if self._by_cause is None:
            self._by_cause = {}
            for one in self.recorded:
                if one.causation_id is not None:
                    self._by_cause.setdefault(one.causation_id, []).append(one)
        return self._by_cause.get(event_id, ())


@dataclass(slots=True)
class Handle[V]:
    """
    What a command in a transaction returns, before anything is written.

    :ivar id: of the entity that the command is about, known at once.
    :ivar event_id: of the command's event; give the handle as `caused_by` of later commands.
    :ivar view: makes the command's answer from the outcome.
    :ivar on_conflict: answers instead of a `Conflict` or `NotFound`, where the command runs alone;
        it may raise the error again.
    :ivar on_repeat: answers instead of `view` where the command runs alone and was a retry.
    :ivar reads: the task whose row the answer shows, if that is to be read with the append.
    """

    id: UUID
    event_id: UUID
    view: Callable[[Outcome], V] = field(repr=False)
    on_conflict: Callable[[Conflict | NotFound], Plan[V]] | None = field(default=None, repr=False)
    on_repeat: Callable[[], Plan[V]] | None = field(default=None, repr=False)
    reads: UUID | None = field(default=None, repr=False)
