"""
Check the streams of one user's log: versions without gaps, heads where the last events left them.

What is kept of a stream is where it stands. A log of very many streams is checked in parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import UUID

from eventstore.database.plan import Rows
from eventstore.events.erasure import Erasures
from eventstore.events.registry import EventRegistry
from projections.problem import Problem

__all__ = ["StreamCheck"]


class _Last(NamedTuple):
    """A stream's last event."""

    version: int = 0
    type_name: str = ""
    position: int = 0


class StreamCheck:
    """
    Follows the streams of one log.

    :param keep: of which ids, as keys of one column; None for all.
    """

    def __init__(
        self,
        user_id: str,
        registry: EventRegistry,
        erasures: Erasures,
        keep: Callable[[tuple[Any, ...]], bool] | None = None,
    ) -> None:
        self._user_id = user_id
        self._registry = registry
        self._erasures = erasures
        self._keep = keep
        self._last: dict[UUID, _Last] = {}

    def see(self, row: tuple[Any, ...]) -> Iterator[Problem]:
        """Check one event, as a row of `COLUMNS`, against the one before it in its stream."""
        position, stream_id, version, _, type_name = row[:5]
        if None in {stream_id, version, type_name}:
            return  # named by the log's own check
        if self._keep is not None and not self._keep((stream_id,)):
            return
        expected = self._last.get(stream_id, _Last()).version + 1
        if version != expected:
            detail = f"version {version} of stream {stream_id}, expected {expected}"
            yield Problem("version", self._user_id, detail, position=position)
        self._last[stream_id] = _Last(version, type_name, position)

    def heads(self, rows: Rows) -> Iterator[Problem]:
        """Check some rows of the table (id, version, kind, closed) against the last events."""
        for stream_id, version, *state in rows:
            if self._keep is not None and not self._keep((stream_id,)):
                continue
            last = self._last.pop(stream_id, None)
            if last is None:
                yield self._stream(stream_id, "no event is in this stream, or it is there twice")
            elif version != last.version:
                detail = f"the stream is at version {version}, its events end at {last.version}"
                yield self._stream(stream_id, detail)
            elif not self._is(state, stream_id, last):
                detail = "its kind, or whether it is closed, is not as recorded"
                yield self._stream(stream_id, detail)

    def ends(self) -> Iterator[Problem]:
        """Name the streams that the table did not have."""
        for stream_id, last in self._last.items():
            detail = f"the stream is missing, its events end at {last.version}"
            yield self._stream(stream_id, detail)

    def _is(self, state: list[Any], stream_id: UUID, last: _Last) -> bool:
        """Tell whether kind and closed are those of a stream with that last event."""
        known = self._registry.stream_of(last.type_name)
        if known is None:
            return True
        kind, closes = known
        # An erasure closes what it was about: nothing can be added to what is not known any more.
        erased = self._erasures.cover(last.type_name, stream_id, last.position)
        return state == [kind, closes or erased]

    def _stream(self, stream_id: UUID, detail: str) -> Problem:
        key = (str(stream_id),)
        return Problem("stream", self._user_id, detail, table="eventstore.stream", key=key)
