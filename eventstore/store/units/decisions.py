"""
Decisions: steps of a unit of work that must read a row before they know their event.

Until it is committed, a unit of work holds events that are certain and decisions that are pending.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol
from uuid import UUID

from eventstore.errors import InvalidInput, NotFound, WrongVersion
from eventstore.events.event import Event
from eventstore.log.envelope import Expected, NewEvent
from eventstore.store.units.moves import Beside
from projections import Conversation, Message, Task, ToolCall
from projections.apply.table_shape import Row

__all__ = [
    "CallerVersionConflict",
    "Cause",
    "Decision",
    "HasEventId",
    "Overtaken",
    "event_id_of",
    "expect_version",
    "require_shown",
    "state_of",
]


class HasEventId(Protocol):
    """Anything that stands for one event: a handle, a view, a recorded event."""

    @property
    def event_id(self) -> UUID:
        """The event's id."""


type Cause = UUID | HasEventId | None
"""What caused an event: the id of another event, or anything that has one."""


# Frozen, because a decision is the key of the row that was read for it.
@dataclass(frozen=True, slots=True)
class Decision:
    """
    A step that must read one row before it knows its event.

    :ivar key: the row's id.
    :ivar stream_id: the stream of the event; a message's row and stream have different ids.
    :ivar decide: returns the event to append, or None if nothing would change; of a move it is not
        called.
    :ivar of_deleted: whether the row may be that of something deleted.
    :ivar beside: of a move: where the task goes.
    :ivar with_body: whether a message's body is read too, which may have megabytes.
    """

    table: type[Task | Conversation | Message | ToolCall]
    key: UUID
    stream_id: UUID
    decide: Callable[[Row], Event | None]
    event_id: UUID
    causation_id: UUID | None
    of_deleted: bool = False
    beside: Beside | None = None
    with_body: bool = False

    @property
    def needs_version(self) -> bool:
        """Whether the append must find the stream as it was read; of two moves the later counts."""
        return self.beside is None


def state_of[S](kind: type[S], row: Mapping[str, Any]) -> S:
    """
    Return the part of a row that decisions depend on.

    :param kind: a dataclass whose fields are named like columns of the row.
    """
    return kind(**{one.name: row[one.name] for one in fields(kind)})  # type: ignore[arg-type]  # a dataclass


def require_shown(row: Row, conversation: UUID, message_id: UUID) -> None:
    """
    Refuse to decide on a message that no history of its conversation shows any more.

    :param row: of the message, read by its id alone, so it may be another conversation's.
    :raises NotFound: it is, or the message was taken away.
    """
    if row["conversation_id"] != conversation or row["retracted_at"] is not None:
        raise NotFound("message", message_id)


def event_id_of(cause: Cause) -> UUID | None:
    """
    Return the id of the event that caused another one.

    :raises InvalidInput: the cause is neither a UUID nor has an `event_id`.
    """
    known = cause if cause is None or isinstance(cause, UUID) else getattr(cause, "event_id", cause)
    if known is None or isinstance(known, UUID):
        return known
    raise InvalidInput(
        "caused_by", f"a {type(cause).__name__}; give an event's id, a view or a handle"
    )


class Overtaken(WrongVersion):
    """Another append came between reading and deciding; reading and deciding again may help."""


class CallerVersionConflict(WrongVersion):
    """The caller required a version that is not there, so deciding again would not help."""


def expect_version(event: NewEvent, version: int) -> NewEvent:
    """
    Return the event as expecting the version that was read, unless the caller required another.

    :raises CallerVersionConflict: the caller required another version.
    """
    # The stream was read, so it exists: to expect its version only narrows these two.
    if event.expected in {Expected.ANY, Expected.EXISTS}:
        return replace(event, expected=version)
    if event.expected != version:
        raise CallerVersionConflict(event.stream_id, str(event.expected), version)
    return event
