"""
The OpenAI chat format: `{"id": …, "title": …, "created_at": …, "messages": [{"role": …}, …]}`.

Messages are stored as they are. `id`, `title` and dates are optional.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventstore.errors import InvalidInput
from eventstore.imports.conversation import (
    ImportedConversation,
    ImportedMessage,
    as_timestamp,
    key_of,
    text_of,
)
from eventstore.imports.responses import read_item

__all__ = ["DATES", "read_chat"]

DATES = ("created_at", "create_time", "timestamp")
"""Members that programs keep a message's or conversation's date in."""


def read_chat(value: Mapping[str, Any], *, key: str | None = None) -> ImportedConversation:
    """
    Read a conversation in the chat format.

    :param key: its key if it has no `id`.
    :raises InvalidInput: no list `messages`, a message without a role, an `id` that cannot be one.
    """
    messages = value.get("messages")
    if not isinstance(messages, list):
        raise InvalidInput("messages", "is no list; give {'id': …, 'messages': [{'role': …}, …]}")
    if key is None or value.get("id") is not None:
        key = key_of(value, "id")
    model = text_of(value, "model")
    return ImportedConversation(
        key,
        [_message(one, f"messages[{number}]", model) for number, one in enumerate(messages)],
        text_of(value, "title", "name"),
        _date(value),
    )


def _message(value: object, path: str, model: str | None) -> ImportedMessage:
    if not isinstance(value, Mapping):
        raise InvalidInput(path, "is not an object with a `role`")
    role = value.get("role")
    if not isinstance(role, str):
        if isinstance(value.get("type"), str):  # an item of the Responses API among messages
            return read_item(value, path, model)
        raise InvalidInput(path, "is not an object with a `role`")
    said_by = text_of(value, "model") or (model if role == "assistant" else None)
    return ImportedMessage(role, value, _date(value), said_by)


def _date(value: Mapping[str, Any]) -> Any:
    dates = (as_timestamp(value.get(name)) for name in DATES)
    return next((date for date in dates if date is not None), None)
