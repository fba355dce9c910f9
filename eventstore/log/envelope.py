"""
Around an event: whose it is, where it stands, what caused it.

A `NewEvent` is what a caller wants recorded. A `Fact` is what a projector may know: everything but
what the database gives. A `RecordedEvent` is a fact with its position, version and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from eventstore.events.erasure import ErasedEvent
from eventstore.events.event import Event
from eventstore.log.identity import uuid7

__all__ = ["NOW", "Cut", "Expected", "ExpectedVersion", "Fact", "NewEvent", "RecordedEvent"]


class Expected(StrEnum):
    """What an append may ask of a stream instead of an exact version."""

    NEW = "new"
    """The stream does not exist yet."""
    EXISTS = "exists"
    """The stream exists and is not closed."""
    ANY = "any"
    """Either; only a closed stream refuses."""


type ExpectedVersion = Expected | int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """
    An event to append to a stream.

    :ivar stream_id: the task or conversation (or a stream of your own).
    :ivar expected: checked once per stream, at its first event in the append.
    :ivar event_id: made by the client; an append with an idempotency key derives it from the key.
    :ivar correlation_id: what belongs together, as one agent turn.
    :ivar causation_id: the `event_id` of the event that caused this one.
    :ivar metadata: a JSON object, kept as it is and covered by the hash chain.
    """

    stream_id: UUID
    data: Event
    expected: ExpectedVersion = Expected.ANY
    event_id: UUID = field(default_factory=uuid7)
    correlation_id: UUID | None = None
    causation_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fact:
    """An event and all that was known of it before it was recorded."""

    user_id: str
    stream_id: UUID
    event_id: UUID
    data: Event
    metadata: Mapping[str, Any]
    correlation_id: UUID | None
    causation_id: UUID | None


@dataclass(frozen=True, slots=True)
class RecordedEvent(Fact):
    """
    An event as it stands in the log.

    :ivar position: its place in the user's log: 1, 2, 3 …
    :ivar version: its place in its stream: 1, 2, 3 …
    :ivar recorded_at: UTC, given by the database, never runs backwards within a log.
    """

    position: int
    version: int
    recorded_at: datetime

    @property
    def type(self) -> str:
        """The stored name, of an erased event too."""
        return self.data.erased_type if isinstance(self.data, ErasedEvent) else self.data.type

    @property
    def erased(self) -> bool:
        """True if its payload was removed for good; `data` is an `ErasedEvent` then."""
        return isinstance(self.data, ErasedEvent)


@dataclass(frozen=True, slots=True)
class Cut:
    """
    A moment of one user's log: everything up to a position or an instant, both included.

    Neither means now.
    """

    position: int | None = None
    instant: datetime | None = None

    def includes(self, position: int, recorded_at: datetime) -> bool:
        """Tell whether an event with this position and time had happened."""
        return (self.position is None or position <= self.position) and (
            self.instant is None or recorded_at <= self.instant
        )


NOW = Cut()
