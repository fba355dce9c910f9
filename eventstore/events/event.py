"""
What an event is: a frozen value with a stored name and a schema version.

Stored name, schema version and fields are the stored format: once released they never change. An
event whose fields change gets a new schema version and an upcast that reads the old one. The
Python class may be renamed freely.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, ConfigDict, ValidationError

from eventstore.errors import InvalidInput
from eventstore.events.json_codec import MAX_WRAPPED, Json, check_json, checked_text, trusted_text
from eventstore.events.times import validate_with_zones, with_times_as_text

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
    :cvar starts: whether a stream may begin with it.
    :cvar closes: the stream takes no more events after this one.
    :cvar reopens: a stream takes it although an event of such a class closed it.
    :cvar upcasts: for each older schema version, the function that makes the next one's payload.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: ClassVar[str] = ""
    schema_version: ClassVar[int] = 1
    stream_kind: ClassVar[str] = ""
    starts: ClassVar[bool] = True
    closes: ClassVar[bool] = False
    reopens: ClassVar[bool] = False
    upcasts: ClassVar[Mapping[int, Upcast]] = {}
    _built_in: ClassVar[_BuiltIn | None] = None

    def __init_subclass__(
        cls,
        *,
        type: str | None = None,  # noqa: A002 - the field's own word
        schema_version: int = 1,
        stream_kind: str | None = None,
        starts: bool | None = None,
        closes: bool = False,
        reopens: bool = False,
        upcasts: Mapping[int, Upcast] | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the class arguments, and list the class if it is one of this package's events."""
        super().__init_subclass__(**kwargs)
        if stream_kind is not None:
            cls.stream_kind = stream_kind
        if starts is not None:
            cls.starts = starts
        if type is not None:
            cls.type = type
            cls.schema_version = schema_version
            cls.closes = closes
            cls.reopens = reopens
            cls.upcasts = upcasts or {}
            if cls.__module__.startswith(f"{__package__}."):
                BUILT_IN_EVENTS.append(cls)

    def to_payload(self) -> Json:
        """
        Return what is stored: the fields that were set or generated, as plain JSON values.

        :raises NotStorable: a field holds a value that JSON cannot; the message names it.
        """
        # A field may have all levels that a value may have, and stands one level deeper here.
        return check_json(self._stored_fields(), self.type, nesting=MAX_WRAPPED)

    def payload_text(self) -> str:
        """
        Return what is stored, as JSON text.

        :raises NotStorable: a field holds a value that JSON cannot; the message names it.
        """
        # Field types of a service may accept what JSON cannot hold, such as NaN in a float.
        if self._built_in is None:
            return checked_text(self._stored_fields(), self.type)
        return trusted_text(self._stored_fields())

    def _stored_fields(self) -> dict[str, Any]:
        # A field that was not set is no part of the fact: an update of a task's title says nothing
        # of its description, and one to None removes it.
        given = self.__pydantic_fields_set__
        if self._built_in is not None:  # its values are plain already
            values = self.__dict__
            if len(given) == len(values):
                return values
            return {name: value for name, value in values.items() if name in given}
        # What a factory generated is stored, because it would be another value on reading.
        omitted = {
            name
            for name, field in type(self).model_fields.items()
            if name not in given and field.default_factory is None
        }
        fields: dict[str, Any] = with_times_as_text(self.model_dump(mode="python", exclude=omitted))
        return fields

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Self:
        """
        Return the event of a stored payload that has this class's schema version.

        :param payload: what `loads` made of the stored text; it becomes part of the event.
        :raises ValueError: the payload does not fit the class's fields.
        """
        built_in = cls._built_in
        if built_in is None:
            return validate_with_zones(cls, payload)
        # The values were validated when they were appended, and the hash chain covers them.
        names = {*payload}
        if not built_in.required <= names <= built_in.names:
            raise ValueError(f"its fields are {', '.join(sorted(map(str, names)))}")
        values = {**built_in.defaults, **payload} if built_in.defaults else payload
        for name, read in built_in.readers:
            if values[name] is not None:
                values[name] = read(values[name])
        # pydantic's comparison and copies read these four attributes, which have no defaults.
        event: Self = _new(cls)
        _set_values(event, values)
        _set_given(event, names)
        _set_extra(event, None)
        _set_private(event, None)
        return event

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Note what `from_payload` must know of one of this package's events."""
        super().__pydantic_init_subclass__(**kwargs)
        # pydantic calls this hook once the fields are known; `__init_subclass__` runs before that.
        fields = cls.model_fields
        kinds = {name: _kinds(field.annotation) for name, field in fields.items()}
        plain = all(one <= _PLAIN and not (list in one and _readers(one)) for one in kinds.values())
        # A service's subclass would otherwise inherit the fields of a built-in event.
        cls._built_in = None
        if plain and cls.__module__.startswith(f"{__package__}."):
            required = all(field.is_required() for field in fields.values())
            cls._built_in = _BuiltIn(
                frozenset(fields),
                frozenset(name for name, field in fields.items() if field.is_required()),
                tuple((name, read) for name, one in kinds.items() for read in _readers(one)),
                {} if required else {name: field.get_default() for name, field in fields.items()},
            )


@dataclass(frozen=True, slots=True)
class _BuiltIn:
    """
    The fields of one of this package's events.

    :ivar readers: of those whose values are text in JSON and not in Python.
    :ivar defaults: of all fields, in their order, if one may be left out; a required one is always
        replaced.
    """

    names: frozenset[str]
    required: frozenset[str]
    readers: tuple[tuple[str, Callable[[str], Any]], ...]
    defaults: dict[str, Any]


_new: Callable[[type[Any]], Any] = object.__new__
# An event is frozen. Its slots are set past that, in half the time of `object.__setattr__`.
_set_values, _set_given, _set_extra, _set_private = (
    BaseModel.__dict__[name].__set__
    for name in (
        "__dict__",
        "__pydantic_fields_set__",
        "__pydantic_extra__",
        "__pydantic_private__",
    )
)


_READERS: dict[object, Callable[[str], Any]] = {
    UUID: UUID,
    date: date.fromisoformat,
    datetime: datetime.fromisoformat,
}

_PLAIN = {str, int, bool, float, type(None), dict, list, Any, *_READERS}
"""Types whose values are as JSON gives them, or are read from one text."""


def _readers(kinds: set[object]) -> list[Callable[[str], Any]]:
    return [read for kind, read in _READERS.items() if kind in kinds]


def _kinds(annotation: object) -> set[object]:
    """Return the types that values of a field have, those inside of lists and dicts included."""
    arguments, origin = get_args(annotation), get_origin(annotation)
    if origin is Annotated:
        return _kinds(arguments[0])
    inside = set[object]().union(*map(_kinds, arguments))
    return inside | ({annotation} if not arguments else {origin} & {dict, list})


def make_event[E: Event](kind: type[E], **fields: object) -> E:
    """
    Make an event from values that a caller sent.

    :param fields: the values by field name; they may have any type.
    :raises InvalidInput: a value does not fit its field, a field is missing or unknown; the error's
        path begins with the field.
    :raises NotStorable: JSON or PostgreSQL cannot hold a value.
    """
    # What the class does when it is called, without the call.
    make: Callable[[object], E] = kind.__pydantic_validator__.validate_python
    try:
        return make(fields)
    except ValidationError as error:
        # pydantic's message quotes the value, and messages of the store never quote content.
        first = error.errors(include_url=False, include_input=False)[0]
        cause = first.get("ctx", {}).get("error")
        path = ".".join(str(part) for part in first["loc"]) or kind.type
        if isinstance(cause, InvalidInput):
            if not first["loc"]:  # of several fields together
                raise cause from None
            inner = re.sub(r"^\w+", "", cause.path)  # `[3].price` of `value[3].price`
            raise type(cause)(f"{path}{inner}", cause.fact) from None
        raise InvalidInput(path, first["msg"]) from None
