"""What commands are made of before they are committed: decisions, handles, causes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol
from uuid import UUID

from eventstore.errors import InvalidInput, WrongVersion
from eventstore.events.event import Event
from eventstore.log.envelope import Expected, NewEvent
from projections import Conversation, Message, Task
from projections.replay import Row

__all__ = [
    "CallersVersion",
    "Cause",
    "Decision",
    "Handle",
    "HasEventId",
    "event_id_of",
    "pinned",
]


class HasEventId(Protocol):
    """Anything that stands for one event: a handle, a tool call, a recorded event."""

    @property
    def event_id(self) -> UUID:
        """The event's id."""


type Cause = UUID | HasEventId | None


@dataclass(frozen=True, slots=True)
class Handle:
    """What a command inside a transaction is known by: the id of its thing, and of its event."""

    id: UUID
    event_id: UUID


@dataclass(frozen=True, slots=True)
class Decision:
    """
    A step that must look at one row before it knows its event.

    :ivar key: the row's id; a message's differs from that of the stream it belongs to.
    """

    table: type[Task | Conversation | Message]
    key: UUID
    stream_id: UUID
    decide: Callable[[Row], Event | None]
    event_id: UUID
    causation_id: UUID | None


def event_id_of(cause: Cause) -> UUID | None:
    """Return the id of the event that `cause` stands for."""
    named = cause if cause is None or isinstance(cause, UUID) else getattr(cause, "event_id", cause)
    if named is None or isinstance(named, UUID):
        return named
    raise InvalidInput(
        "caused_by", f"a {type(cause).__name__}; give an event's id, a tool call or a handle"
    )


class CallersVersion(WrongVersion):
    """The caller asked for a version that is not there: deciding again would not help."""


def pinned(event: NewEvent, version: int) -> NewEvent:
    """Return the event as expecting the version that was seen, unless the caller asked for more."""
    if event.expected in {Expected.ANY, Expected.EXISTS}:
        return replace(event, expected=version)
    if event.expected != version:
        raise CallersVersion(event.stream_id, str(event.expected), version)
    return event
