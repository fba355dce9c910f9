"""
Check the streams of one user's log: versions without gaps, and `stream` rows that match them.

Of each stream only its last event is remembered. A log with very many streams is checked in parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

from eventstore.admin.problems import Problem
from eventstore.database.plan import Rows
from eventstore.events.erasure import Erasures
from eventstore.events.registry import EventRegistry
from eventstore.log.stored_event import StoredEvent

__all__ = ["STREAM_COLUMNS", "StreamCheck"]

STREAM_COLUMNS = ("stream_id", "version", "kind", "closed")


class _LastEvent(NamedTuple):
    """The last event of a stream."""

    version: int
    type_name: str
    position: int


class StreamCheck:
    """
    Follows the streams of one log.

    :param problems: where what is found is added.
    :param keep: tells of a stream's key whether this part checks it.
    """

    def __init__(
        self,
        user_id: str,
        registry: EventRegistry,
        erasures: Erasures,
        problems: list[Problem],
        keep: Callable[[tuple[UUID]], bool],
    ) -> None:
        self._user_id = user_id
        self._registry = registry
        self._erasures = erasures
        self._problems = problems
        self._keep = keep
        self._last: dict[UUID, _LastEvent] = {}

    def check(self, event: StoredEvent) -> None:
        """
        Check one event against the one before it in its stream.

        :param event: the next one of the log by position; those of other parts are passed over.
        """
        stream_id, version = event.stream_id, event.version
        if stream_id is None or version is None or event.type is None:
            return  # the check of the log reports nulls
        if not self._keep((stream_id,)):
            return
        last = self._last.get(stream_id)
        expected = 1 if last is None else last.version + 1
        if version != expected:
            detail = f"version {version} of stream {stream_id}, expected {expected}"
            self._problems.append(
                Problem("version", self._user_id, detail, position=event.position)
            )
        # The next event is checked against this one even if its version is wrong: one change is one
        # problem, not many.
        self._last[stream_id] = _LastEvent(version, event.type, event.position)

    def check_rows(self, rows: Rows) -> None:
        """
        Check some rows of `stream` against the last events, once all events were checked.

        :param rows: the `STREAM_COLUMNS` of each.
        """
        for stream_id, version, kind, closed in rows:
            if not self._keep((stream_id,)):
                continue
            # Taken out, so that a second row of the stream is found, and `end` finds what has none.
            last = self._last.pop(stream_id, None)
            if last is None:
                detail = "no event is in this stream, or the stream is there twice"
                self._report(stream_id, detail)
            elif version != last.version:
                detail = f"the stream is at version {version}, its events end at {last.version}"
                self._report(stream_id, detail)
            elif not self._is_right(kind, closed, stream_id, last):
                detail = "its kind, or whether it is closed, is not as recorded"
                self._report(stream_id, detail)

    def end(self) -> None:
        """Report the streams that have no row."""
        for stream_id, last in self._last.items():
            detail = f"the stream is missing, its events end at {last.version}"
            self._report(stream_id, detail)

    def _is_right(self, kind: str, closed: bool, stream_id: UUID, last: _LastEvent) -> bool:
        """Tell whether kind and closed are those of a stream with that last event."""
        known = self._registry.stream_of(last.type_name)
        if known is None:  # reading the event reports that no class is registered for it
            return True
        stream_kind, closes = known
        # An erasure closes its streams, because nothing can be decided on what is unknown.
        erased = self._erasures.covers(last.type_name, stream_id, last.position)
        return (kind, closed) == (stream_kind, closes or erased)

    def _report(self, stream_id: UUID, detail: str) -> None:
        key = (str(stream_id),)
        self._problems.append(
            Problem("stream", self._user_id, detail, table="eventstore.stream", key=key)
        )
