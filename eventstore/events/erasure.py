"""
Erasure: what stays when a user's content is removed for good.

`ContentErased` is an event like any other, chained and never changed: that content was removed,
up to where, when (its `recorded_at`) and by whose order. `ErasedEvent` is what a reader gets in the
place of an event whose payload is gone: its stored name is known, what it said is not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from uuid import UUID

from pydantic import Field, PlainValidator

from eventstore.events.event import Event
from eventstore.events.limits import MAX_TITLE, check_label

__all__ = ["ContentErased", "ErasedEvent", "Erasures"]

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


class ErasedEvent(Event):
    """
    In the place of an event whose payload was erased; no projector is given it.

    :ivar erased_type: the stored name of what it was; `RecordedEvent.type` says it too.
    """

    erased_type: str


class Erasures:
    """What all erasures on record were about, together: asked of every event, so kept small."""

    def __init__(self, records: Iterable[ContentErased] = ()) -> None:
        self._through: dict[UUID | None, int] = {None: 0}
        for one in records:
            known = self._through.get(one.conversation_id, 0)
            self._through[one.conversation_id] = max(known, one.through)

    def cover(self, type_name: str, stream_id: UUID, position: int) -> bool:
        """Tell whether the payload of the event of that place must be gone."""
        if type_name == ContentErased.type:
            return False
        return position <= max(self._through[None], self._through.get(stream_id, 0))
