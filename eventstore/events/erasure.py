"""
Erasure: what stays when a user's content is removed for good.

`ContentErased` is an event like any other, chained and never changed: that content was removed,
up to where, when (its `recorded_at`) and by whose order. `ErasedEvent` is what a reader gets in the
place of an event whose payload is gone: its stored name is known, what it said is not.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, PlainValidator

from eventstore.events.event import Event
from eventstore.events.limits import MAX_TITLE, check_label

__all__ = ["ContentErased", "ErasedEvent"]

_Words = Annotated[str, PlainValidator(lambda value: check_label(value, "text", MAX_TITLE))]


class ContentErased(Event, type="ContentErased", stream_kind="erasure"):
    """
    Payloads were removed from the log, and what had been made of them from the read models.

    The names and fields are the stored format (see `event`). Recorded by an erasure alone.

    :ivar conversation_id: whose events were erased; None for all streams of the user.
    :ivar through: every event of theirs up to this position was.
    :ivar events: how many payloads that removed.
    :ivar ordered_by: who gave the order, as the caller named them.
    """

    conversation_id: UUID | None = None
    through: int = Field(ge=1)
    events: int = Field(ge=1)
    ordered_by: _Words
    reason: _Words | None = None

    def covers(self, stream_id: UUID, position: int) -> bool:
        """Tell whether this erasure was about the event of that stream at that position."""
        return position <= self.through and self.conversation_id in {None, stream_id}


class ErasedEvent(Event):
    """
    In the place of an event whose payload was erased; no projector is given it.

    :ivar erased_type: the stored name of what it was; `RecordedEvent.type` says it too.
    """

    erased_type: str
