"""
The registry: from a stored type and schema version to the class that reads it.

The built-in events are in every registry; a service adds its own. A stored type that nobody
registered is an error with its name and position, never a silent skip: a skipped event would be a
silent hole in every read model.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from eventstore.errors import ConfigurationError, InvalidInput, UnknownEventType, UnreadableEvent
from eventstore.events import conversations, erasure, messages, tasks, tool_calls
from eventstore.events.event import Event
from eventstore.events.jsontext import dumps, loads

__all__ = ["BUILT_IN", "EventRegistry", "Upcast"]

type Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""From the stored payload of one schema version to that of the next; pure."""

BUILT_IN: tuple[type[Event], ...] = (
    tasks.TaskCreated,
    tasks.TaskUpdated,
    tasks.TaskCompleted,
    tasks.TaskReopened,
    tasks.TaskDeleted,
    conversations.ConversationStarted,
    conversations.ConversationRenamed,
    conversations.ConversationArchived,
    conversations.ConversationReopened,
    conversations.ConversationDeleted,
    messages.MessagePosted,
    messages.MessageRetracted,
    tool_calls.ToolCallRequested,
    tool_calls.ToolCallSucceeded,
    tool_calls.ToolCallFailed,
    erasure.ContentErased,
)


_MAX_TYPE = 100
_KIND = re.compile("[a-z][a-z0-9_]{0,62}")


class EventRegistry:
    """The event classes a store can read, and the upcasts of their older versions."""

    def __init__(self, *events: type[Event]) -> None:
        self._classes: dict[str, type[Event]] = {}
        self._upcasts: dict[tuple[str, int], Upcast] = {}
        for event in (*BUILT_IN, *events):
            self.register(event)

    def register(self, event: type[Event]) -> type[Event]:
        """
        Add an event class; usable as a decorator.

        :raises ConfigurationError: no stored name, no stream kind, or the name is taken.
        """
        if not (isinstance(event, type) and issubclass(event, Event)):
            raise ConfigurationError(f"{event!r} is no event class; give subclasses of Event")
        if not 1 <= len(event.type) <= _MAX_TYPE or not _KIND.fullmatch(event.stream_kind):
            raise ConfigurationError(
                f'{event.__name__}: declare `class {event.__name__}(Event, type="…", '
                f'stream_kind="…")` with a name of at most {_MAX_TYPE} characters '
                "and a kind like `task`; neither may depend on the class name"
            )
        if event.stream_kind == erasure.ContentErased.stream_kind and event not in BUILT_IN:
            raise ConfigurationError(
                f"{event.__name__}: the stream kind {event.stream_kind} is kept for erasures"
            )
        known = self._classes.setdefault(event.type, event)
        if known is not event:
            raise ConfigurationError(f"event type {event.type} is already {known.__qualname__}")
        return event

    def require(self, event: Event, place: str) -> None:
        """
        Refuse an event that this registry could not read back.

        :raises InvalidInput: its class is not registered, or only the store itself records it.
        """
        if isinstance(event, erasure.ContentErased):
            raise InvalidInput(
                place, "ContentErased is recorded by an erasure alone; call `store.erase`"
            )
        if self._classes.get(event.type) is not type(event):
            raise InvalidInput(
                place,
                f"{type(event).__name__} is not registered; "
                "pass it to EventStore.connect(events=[…])",
            )
        if type(event) not in BUILT_IN:
            self._require_round_trip(event, place)

    def _require_round_trip(self, event: Event, place: str) -> None:
        payload = loads(dumps(event.to_payload()))
        try:
            again: Event | None = self.read(event.type, event.schema_version, payload)
        except UnreadableEvent:
            again = None
        if again != event:
            raise InvalidInput(
                place,
                f"{type(event).__name__} would not be read back as it is; its fields must come "
                "back from their own JSON (no aliases, computed fields or changing validators)",
            )

    def upcast(self, event: type[Event], *, from_version: int) -> Callable[[Upcast], Upcast]:
        """Decorate the function that turns a payload of `from_version` into the next version's."""

        def keep(function: Upcast) -> Upcast:
            self._upcasts[event.type, from_version] = function
            return function

        return keep

    def read(
        self, type_name: str, schema_version: int, payload: Any, position: int | None = None
    ) -> Event:
        """
        Return the event of a stored payload, upcast to its class's schema version.

        :raises UnknownEventType: no class, an unknown newer version, or a missing upcast.
        :raises UnreadableEvent: the payload does not fit.
        """
        kind = self._classes.get(type_name)
        if kind is None or schema_version > kind.schema_version:
            raise UnknownEventType(type_name, schema_version, position)
        for version in range(schema_version, kind.schema_version):
            step = self._upcasts.get((type_name, version))
            if step is None:
                raise UnknownEventType(type_name, version, position)
            try:
                payload = step(payload)
            except Exception as error:
                reason = f"its upcast from version {version} raised {type(error).__name__}: {error}"
                raise UnreadableEvent(type_name, position, reason) from error
        try:
            return kind.from_payload(payload)
        except (ValidationError, InvalidInput) as error:
            reason = str(error).splitlines()[0]
            raise UnreadableEvent(type_name, position, reason) from error

    def stream_of(self, type_name: str) -> tuple[str, bool] | None:
        """Return the stream kind of a stored type, and whether it closes; None if not known."""
        kind = self._classes.get(type_name)
        return None if kind is None else (kind.stream_kind, kind.closes)

    def types(self) -> list[str]:
        """Return the registered stored names, sorted."""
        return sorted(self._classes)
