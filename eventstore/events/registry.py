"""
The registry: from a stored type and schema version to the class that reads it.

The built-in events are in every registry, and a service adds its own. A stored type without a class
is an error that names type and position. Skipping it instead would leave a silent gap in every
read model.
"""

from __future__ import annotations

import re
from typing import Any

from eventstore.errors import ConfigurationError, InvalidInput, UnknownEventType, UnreadableEvent
from eventstore.events import (  # noqa: F401 - importing a module registers its events
    conversations,
    messages,
    tasks,
    tool_calls,
    turns,
)
from eventstore.events.erasure import ContentErased
from eventstore.events.event import BUILT_IN_EVENTS, Event
from eventstore.events.fields import MAX_TYPE
from eventstore.events.json_codec import dumps, loads

__all__ = ["BUILT_IN_EVENTS", "EventRegistry"]

_STREAM_KIND = re.compile("[a-z][a-z0-9_]{0,62}")


class EventRegistry:
    """
    The event classes that a store can read.

    :param events: a service's own classes, beside the built-in ones.
    """

    def __init__(self, *events: type[Event]) -> None:
        self._classes: dict[str, type[Event]] = {}
        for event in (*BUILT_IN_EVENTS, *events):
            self.register(event)

    def register(self, event: type[Event]) -> type[Event]:
        """
        Add an event class; usable as a decorator.

        :raises ConfigurationError: the class has no stored name or stream kind, lacks an upcast
            from an older schema version, or its name is taken.
        """
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise ConfigurationError(f"{event!r} is no event class; give subclasses of Event")
        if not 1 <= len(event.type) <= MAX_TYPE or not _STREAM_KIND.fullmatch(event.stream_kind):
            raise ConfigurationError(
                f'{event.__name__}: declare `class {event.__name__}(Event, type="…", '
                f'stream_kind="…")` with a type of at most {MAX_TYPE} characters '
                "and a stream kind like `task`; neither may depend on the class name"
            )
        if event.stream_kind == ContentErased.stream_kind and event not in BUILT_IN_EVENTS:
            raise ConfigurationError(
                f"{event.__name__}: the stream kind {event.stream_kind} is reserved for erasures"
            )
        if missing := [one for one in range(1, event.schema_version) if one not in event.upcasts]:
            raise ConfigurationError(
                f"{event.__name__}: has schema version {event.schema_version} and no upcast from "
                f"version {missing[0]}; add it to the class's argument `upcasts`"
            )
        # A class may be registered twice; two classes of one name would read each other's payloads.
        known = self._classes.setdefault(event.type, event)
        if known is not event:
            raise ConfigurationError(
                f"event type {event.type} of {event.__module__} is already "
                f"{known.__module__}.{known.__qualname__}; give the class another type"
            )
        return event

    def require(self, event: Event, path: str) -> None:
        """
        Refuse an event that this registry could not read back.

        :param path: where the event stands in the caller's input, for the error message.
        :raises InvalidInput: its class is not registered, does not read its own payload back, or
            is recorded by the store alone.
        """
        if isinstance(event, ContentErased):
            raise InvalidInput(
                path, "ContentErased is recorded by an erasure alone; call `store.erase`"
            )
        # A subclass has the stored name of its parent, and would be read back as the parent.
        if self._classes.get(event.type) is not type(event):
            raise InvalidInput(
                path,
                f"{type(event).__name__} is not registered; "
                "pass it to EventStore.connect(events=[…])",
            )
        # Tests read every built-in event back; only a service's own can fail to come back.
        if type(event) not in BUILT_IN_EVENTS:
            self._require_round_trip(event, path)

    def _require_round_trip(self, event: Event, path: str) -> None:
        payload = loads(dumps(event.to_payload()))
        try:
            again: Event | None = self.read(event.type, event.schema_version, payload)
        except UnreadableEvent:
            again = None
        if again != event:
            raise InvalidInput(
                path,
                f"{type(event).__name__} would not be read back as it is; its fields must come "
                "back from their own JSON (no aliases, computed fields or changing validators)",
            )

    def read(
        self, type_name: str, schema_version: int, payload: Any, position: int | None = None
    ) -> Event:
        """
        Return the event of a stored payload, upcast to its class's schema version.

        :param payload: what `loads` made of the stored text; it may become part of the event.
        :param position: for the error message; None where the event is not recorded yet.
        :raises UnknownEventType: no class is registered, or it has an older schema version.
        :raises UnreadableEvent: the payload does not fit the class, or an upcast failed.
        """
        kind = self._classes.get(type_name)
        if kind is None or schema_version > kind.schema_version:
            raise UnknownEventType(type_name, schema_version, position)
        if schema_version < kind.schema_version:
            payload = _upcast(kind, schema_version, payload, position)
        try:
            return kind.from_payload(payload)
        # A payload that was tampered with need not be an object, hence the TypeError. The lines of
        # pydantic's message after the first quote the values.
        except (ValueError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise UnreadableEvent(type_name, position, reason) from error

    def stream_of(self, type_name: str) -> tuple[str, bool] | None:
        """
        Return a type's stream kind and whether it closes its stream.

        :param type_name: a stored name, which a log may have although no class is registered.
        :return: None if the type is not registered.
        """
        kind = self._classes.get(type_name)
        return None if kind is None else (kind.stream_kind, kind.closes)

    def types_in(self, stream_kind: str) -> list[str]:
        """Return the stored names of the registered classes of one kind of stream, sorted."""
        return sorted(name for name, one in self._classes.items() if one.stream_kind == stream_kind)

    def types(self, *kinds: type[Event]) -> list[str]:
        """
        Return the stored names of registered classes, sorted.

        :param kinds: only these classes and their subclasses; none for all.
        """
        return sorted(
            name for name, one in self._classes.items() if issubclass(one, kinds or Event)
        )


def _upcast(kind: type[Event], schema_version: int, payload: Any, position: int | None) -> Any:
    """Return the payload that the newest schema version has for an older one."""
    for version in range(schema_version, kind.schema_version):
        upcast = kind.upcasts.get(version)
        if upcast is None:  # a version below 1, which nobody of ours writes
            raise UnknownEventType(kind.type, version, position)
        try:
            payload = upcast(payload)
        # An upcast is the service's code, and may raise anything on a payload it did not expect.
        except Exception as error:
            # Its text may quote the payload.
            reason = f"its upcast from version {version} raised {type(error).__name__}"
            raise UnreadableEvent(kind.type, position, reason) from error
    return payload
