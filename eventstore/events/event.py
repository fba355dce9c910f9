"""
What an event is: a frozen value with a stored name and a schema version.

The stored name, the version and the fields are the stored format: once released they never change.
A changed shape is a new schema version, and the old one is read through an upcast
(`registry.EventRegistry.upcast`). The Python class may be renamed freely.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from eventstore.errors import InvalidInput
from eventstore.events.jsontext import Json, check_json

__all__ = ["Event", "checked"]


class Event(BaseModel):
    """
    The base of every event.

    Name it in the past tense, and give its stored name and the kind of its stream::

        class TaskSnoozed(Event, type="TaskSnoozed", stream_kind="task"):
            until: datetime

    :cvar type: the stored name, 1 to 100 characters, unique in a registry.
    :cvar schema_version: 1 at first; raised whenever the stored fields change.
    :cvar stream_kind: `task`, `conversation` or a kind of your own.
    :cvar closes: the stream takes no more events after this one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1
    stream_kind: ClassVar[str] = ""
    closes: ClassVar[bool] = False

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002 - the field's own word
        schema_version: int = 1,
        stream_kind: str | None = None,
        closes: bool = False,
        **kwargs: Any,
    ) -> None:
        """Keep the stored name and version beside the class."""
        super().__init_subclass__(**kwargs)
        if stream_kind is not None:
            cls.stream_kind = stream_kind
        if type is not None:
            cls.type = type
            cls.schema_version = schema_version
            cls.closes = closes

    def to_payload(self) -> Json:
        """Return what is stored: the fields that were set, or made up, as plain JSON values."""
        left_out = {
            name
            for name, field in type(self).model_fields.items()
            if name not in self.model_fields_set and field.default_factory is None
        }
        return check_json(self.model_dump(mode="python", exclude=left_out), self.type)

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Self:
        """Return the event of a stored payload of this class's schema version."""
        return cls.model_validate(payload)


def checked[E: Event](kind: type[E], **fields: object) -> E:
    """
    Build an event from what a caller sent.

    :raises InvalidInput: a field does not fit; the message names it.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        refused = first.get("ctx", {}).get("error")
        place = ".".join(str(part) for part in first["loc"]) or kind.type
        if isinstance(refused, InvalidInput):
            inner = re.sub(r"^\w+", "", refused.place)  # `value[3].price` within this field
            raise type(refused)(f"{place}{inner}", refused.fact) from None
        raise InvalidInput(place, first["msg"]) from None
