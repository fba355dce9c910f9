"""
Erasure: what stays in the log when a user's content is removed for good.

`ContentErased` is an event like any other, hashed into the chain and never changed. It records that
content was removed, up to which position, when and on whose order. `ErasedEvent` is what a reader
gets instead of an event whose payload was removed: the stored name is still known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated
from uuid import UUID

from pydantic import Field, PlainValidator

from eventstore.events.event import Event
from eventstore.events.fields import MAX_TITLE, check_label

__all__ = ["ContentErased", "ErasedEvent", "Erasures"]

_Note = Annotated[str, PlainValidator(lambda value: check_label(value, "text", MAX_TITLE))]


class ContentErased(Event, type="ContentErased", stream_kind="erasure"):
    """
    Payloads were removed from the log, and the rows made from them from the read models.

    Stored names and fields are the stored format (see `event`). Only an erasure records this event.

    :ivar streams: whose events were erased: a conversation, or a part of what a user has; None for
        everything.
    :ivar through: the position up to which every event of those streams was erased.
    :ivar events: how many payloads were removed.
    :ivar ordered_by: who ordered the erasure, as the caller named them.
    """

    streams: list[UUID] | None = None
    through: int = Field(ge=1)
    events: int = Field(ge=1)
    ordered_by: _Note
    reason: _Note | None = None


class ErasedEvent(Event):
    """
    Stands for an event whose payload was erased; projectors are never given one.

    :ivar erased_type: the stored name of the erased event, also `RecordedEvent.type`.
    """

    # Without a stored name of its own it is in no registry, so nobody can append one.
    erased_type: str


class Erasures:
    """
    All recorded erasures of a user together: up to which position each stream is erased.

    :param records: in any order.
    """

    def __init__(self, records: Iterable[ContentErased] = ()) -> None:
        records = [*records]
        everything = (one.through for one in records if one.streams is None)
        self._all_through = max(everything, default=0)
        self._through: dict[UUID, int] = {}
        for one in records:
            # What an erasure of everything covers may be thousands of streams.
            if one.streams is not None and one.through > self._all_through:
                for stream in one.streams:
                    self._through[stream] = max(self._through.get(stream, 0), one.through)

    def covers(self, type_name: str, stream_id: UUID, position: int) -> bool:
        """
        Tell whether an event must have no payload.

        :param type_name: its stored name.
        :param position: its place in the user's log, compared with `through` of each record.
        """
        # Records of erasures stand in a stream of their own and are never erased.
        if type_name == ContentErased.type:
            return False
        return position <= max(self._all_through, self._through.get(stream_id, 0))
