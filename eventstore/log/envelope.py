"""
An event with its surroundings: whose it is, in which stream, what caused it, where it is recorded.

`NewEvent` is what a caller wants to append. `EventEnvelope` is the event with everything that is
known before it is recorded; projectors get this and nothing more. `RecordedEvent` adds what the
database gives: position, version and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from eventstore.events.erasure import ErasedEvent
from eventstore.events.event import Event
from eventstore.log.ids import uuid7
from eventstore.value_objects import value_object

__all__ = [
    "NOW",
    "EventEnvelope",
    "Expected",
    "ExpectedVersion",
    "NewEvent",
    "PointInTime",
    "RecordedEvent",
]


class Expected(StrEnum):
    """What an append may require of a stream instead of an exact version."""

    # The members are text, because `WrongVersion.expected` is text and is compared with them.
    NEW = "new"
    """The stream does not exist yet."""
    EXISTS = "exists"
    """The stream exists and is not closed."""
    ANY = "any"
    """The stream may or may not exist, but it is not closed."""


type ExpectedVersion = Expected | int


@value_object(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """
    An event to append to a stream.

    :ivar stream_id: the task or conversation, or a stream of your own.
    :ivar expected: checked once per stream, at the stream's first event in the append.
    :ivar event_id: made by the client; a command under an idempotency key derives it from the key.
    :ivar correlation_id: the same for all events that belong together, like those of a turn.
    :ivar causation_id: the `event_id` of the event that caused this one.
    :ivar metadata: a JSON object, stored as it is and covered by the hash chain.
    :ivar occurred_at: when it happened, with time zone; None: when it is recorded. Read models show
        it. It orders nothing, and may be in the future: the store believes its caller.
    """

    stream_id: UUID
    data: Event
    expected: ExpectedVersion = Expected.ANY
    # The client makes the id and not the database, so that a retry of the append sends it again.
    event_id: UUID = field(default_factory=uuid7)
    correlation_id: UUID | None = None
    causation_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    occurred_at: datetime | None = None


@value_object(frozen=True, slots=True)
class EventEnvelope:
    """
    An event and everything that is known of it before it is recorded.

    :ivar given_occurred_at: when it happened, as its caller told; None if that was not told. A
        projector takes the marker `OCCURRED_AT`, which stands for either.
    """

    # Position, version and time are known only later, under the lock on the user's row.
    user_id: str
    stream_id: UUID
    event_id: UUID
    data: Event
    metadata: Mapping[str, Any]
    correlation_id: UUID | None
    causation_id: UUID | None
    given_occurred_at: datetime | None


@value_object(frozen=True, slots=True)
class RecordedEvent(EventEnvelope):
    """
    An event in the log.

    :ivar position: its place in the user's log: 1, 2, 3 …
    :ivar version: its place in its stream: 1, 2, 3 …
    :ivar recorded_at: UTC, given by the database; it never runs backwards within a log.
    """

    position: int
    version: int
    recorded_at: datetime

    @property
    def occurred_at(self) -> datetime:
        """When it happened, in UTC: as its caller told, or else when it was recorded."""
        given = self.given_occurred_at
        return self.recorded_at if given is None else given

    @property
    def type(self) -> str:
        """The stored name, also of an erased event."""
        return self.data.erased_type if isinstance(self.data, ErasedEvent) else self.data.type

    @property
    def erased(self) -> bool:
        """True if the payload was removed for good; `data` is an `ErasedEvent` then."""
        return isinstance(self.data, ErasedEvent)


@value_object(frozen=True, slots=True)
class PointInTime:
    """
    A moment of one user's log: everything up to a position or a timestamp, both inclusive.

    With neither, the moment is now.

    :ivar position: 0 is before the first event.
    :ivar timestamp: with time zone, compared with the time that the database recorded, and never
        with when something happened.
    """

    position: int | None = None
    timestamp: datetime | None = None

    @property
    def bounds(self) -> tuple[int | None, datetime | None]:
        """The two of them, as statements take them."""
        return self.position, self.timestamp


NOW = PointInTime()
