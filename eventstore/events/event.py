"""
What an event is: a frozen value with a stored name and a schema version.

Stored name, schema version and fields are the stored format: once released they never change. An
event whose fields change gets a new schema version and an upcast that reads the old one. The
Python class may be renamed freely.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from eventstore.errors import InvalidInput
from eventstore.events.json_codec import Json, check_json

__all__ = ["BUILT_IN_EVENTS", "Event", "Upcast", "make_event"]

type Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""A pure function from the stored payload of one schema version to that of the next."""

BUILT_IN_EVENTS: list[type[Event]] = []
"""The events that are defined in this package, in the order of their definition."""


class Event(BaseModel):
    """
    The base of every event.

    Name an event in the past tense, and give its stored name and the kind of its stream::

        class TaskSnoozed(
            Event,
            type="TaskSnoozed",
            stream_kind="task",
            schema_version=2,
            upcasts={1: lambda payload: {"until": payload["until_utc"] + "Z"}},
        ):
            until: datetime

    :cvar type: the stored name, 1 to 100 characters, unique in a registry.
    :cvar schema_version: 1 at first; raised whenever the stored fields change.
    :cvar stream_kind: `task`, `conversation` or a kind of your own.
    :cvar closes: the stream takes no more events after this one.
    :cvar upcasts: for each older schema version, the function that makes the next one's payload.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1
    stream_kind: ClassVar[str] = ""
    closes: ClassVar[bool] = False
    upcasts: ClassVar[Mapping[int, Upcast]] = {}

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002 - the field's own word
        schema_version: int = 1,
        stream_kind: str | None = None,
        closes: bool = False,
        upcasts: Mapping[int, Upcast] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the class arguments, and list the class if it is one of this package's events."""
        super().__init_subclass__(**kwargs)
        if stream_kind is not None:
            cls.stream_kind = stream_kind
        if type is not None:
            cls.type = type
            cls.schema_version = schema_version
            cls.closes = closes
            cls.upcasts = upcasts or {}
            if cls.__module__.startswith(f"{__package__}."):
                BUILT_IN_EVENTS.append(cls)

    def to_payload(self) -> Json:
        """
        Return what is stored: the fields that were set or generated, as plain JSON values.

        :raises NotStorable: a field holds a value that JSON cannot; the message names it.
        """
        omitted = {
            name
            for name, field in type(self).model_fields.items()
            if name not in self.model_fields_set and field.default_factory is None
        }
        return check_json(self.model_dump(mode="python", exclude=omitted), self.type)

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Self:
        """
        Return the event of a stored payload that has this class's schema version.

        :raises ValidationError: the payload does not fit the class's fields.
        """
        return cls.model_validate(payload)


def make_event[E: Event](kind: type[E], **fields: object) -> E:
    """
    Make an event from values that a caller sent.

    :raises InvalidInput: a value does not fit its field; the message names the field.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error")
        path = ".".join(str(part) for part in first["loc"]) or kind.type
        if isinstance(cause, InvalidInput):
            inner = re.sub(r"^\w+", "", cause.path)  # `[3].price` of `value[3].price`
            raise type(cause)(f"{path}{inner}", cause.fact) from None
        raise InvalidInput(path, first["msg"]) from None
