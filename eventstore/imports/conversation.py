"""
What the readers of all formats return: a conversation of another program, ready to be written.

A message of an export becomes one in the OpenAI chat format, because that is what models and the
rest of the store read. Whatever else it carries and people would miss (attachments, sources, the
model's reasoning) stays in the message's body under a key of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from eventstore.errors import InvalidInput
from eventstore.events.fields import check_occurred_at

__all__ = [
    "ImportFailure",
    "ImportedConversation",
    "ImportedMessage",
    "as_mapping",
    "as_timestamp",
    "assistant_call",
    "chat_content",
    "key_of",
    "text_of",
]


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    """
    One message of a conversation to import.

    :ivar sender: `user`, `assistant`, `system`, `tool` or another name.
    :ivar body: the message, a JSON object, stored as it is.
    :ivar created_at: when it was said, with time zone, if the export tells; else it counts as said
        when the message before it was.
    :ivar model: which model said it, if the export tells.
    """

    sender: str
    body: Mapping[str, Any]
    created_at: datetime | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ImportedConversation:
    """
    A conversation to import.

    :ivar key: its id where it comes from; importing the same key again adds what is new.
    :ivar messages: in the order in which they were said.
    :ivar title: shown in lists; shortened if it is too long for a title.
    :ivar created_at: when it began, with time zone, if the export tells.
    :ivar location: where it comes from, for error messages.
    """

    key: str
    messages: Sequence[ImportedMessage]
    title: str | None = None
    created_at: datetime | None = None
    location: str = ""

    @property
    def began_at(self) -> datetime | None:
        """When it began: `created_at`, or else the time of its first message that has one."""
        if self.created_at is not None:
            return self.created_at
        return next((one.created_at for one in self.messages if one.created_at is not None), None)


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """
    A conversation that was not imported.

    :ivar location: the file with line or index.
    :ivar key: None if it could not be read.
    :ivar reason: what is wrong, and the remedy.
    """

    location: str
    key: str | None
    reason: str


_MILLISECONDS_FROM = 10**11
"""Numbers from here on are milliseconds: as seconds they would be after the year 5138."""


def as_timestamp(value: object) -> datetime | None:
    """
    Return a date of an export: ISO 8601, or seconds or milliseconds since 1970.

    A date that cannot be read or stored is None and not an error: what was said matters more than
    when.
    """
    try:
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            said_at = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        elif isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value > 0:
            seconds = float(value)
            said_at = datetime.fromtimestamp(
                seconds / 1000 if seconds >= _MILLISECONDS_FROM else seconds, UTC
            )
        else:
            return None
        return check_occurred_at(said_at, "")
    except (ValueError, OverflowError, OSError):
        return None


def as_mapping(value: object, path: str) -> Mapping[str, Any]:
    """
    Return `value` if it is a JSON object.

    :raises InvalidInput: it is something else.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(path, f"is a {type(value).__name__}; give a JSON object")
    return value


def key_of(value: Mapping[str, Any], *names: str) -> str:
    """
    Return the id of an exported conversation: the first of these members that is there.

    :raises InvalidInput: none is, or it is neither text nor a whole number.
    """
    for name in names:
        key = value.get(name)
        if key is not None:
            if type(key) not in {str, int}:
                raise InvalidInput(name, f"is a {type(key).__name__}; give text or a whole number")
            return str(key)
    raise InvalidInput(names[0], "is missing; without it a second import would not find the first")


def text_of(value: Mapping[str, Any], *names: str) -> str | None:
    """Return the first of these members that is text, or None."""
    titles = (value.get(name) for name in names)
    return next((one for one in titles if isinstance(one, str)), None)


def chat_content(parts: Sequence[str | Mapping[str, Any]]) -> str | list[dict[str, Any]] | None:
    """
    Return the content of a chat message that is made of these parts.

    :param parts: text, or a part with a `type`; empty texts are left out.
    :return: a single text as it is, several parts as a list, None if there is nothing.
    """
    given = [part for part in parts if part]
    if not given:
        return None
    if len(given) == 1 and isinstance(given[0], str):
        return given[0]
    return [{"type": "text", "text": one} if isinstance(one, str) else {**one} for one in given]


def assistant_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Return an entry of `tool_calls`."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
