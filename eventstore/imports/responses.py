"""
Items of the OpenAI Responses API: `{"id": …, "items": [{"type": "message", …}, …]}`.

Instead of `items` there may be the `input` and `output` of a request and its response. An `input`
that is text is a message of the user, `instructions` are a message of the system. Items are stored
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eventstore.errors import InvalidInput
from eventstore.imports.conversation import (
    ImportedConversation,
    ImportedMessage,
    as_mapping,
    as_timestamp,
    key_of,
    text_of,
)

__all__ = ["LISTS", "read_item", "read_responses"]

LISTS = ("items", "input", "output")
"""Members that hold items, in the order in which they are read."""


def read_responses(value: Mapping[str, Any], *, key: str | None = None) -> ImportedConversation:
    """
    Read a conversation of Responses items.

    :param key: its key if it has no `id`.
    :raises InvalidInput: no list of items, an item that is no object, an `id` that cannot be one.
    """
    model = text_of(value, "model")
    messages = []
    instructions = value.get("instructions")
    if isinstance(instructions, str) and instructions:
        messages.append(_text_message("system", instructions))
    found = False
    for name in LISTS:
        items = value.get(name)
        if isinstance(items, str) and name == "input":
            found = True
            messages.append(_text_message("user", items))
        elif isinstance(items, list):
            found = True
            messages += [
                read_item(item, f"{name}[{number}]", model) for number, item in enumerate(items)
            ]
    if not found:
        raise InvalidInput("items", "is no list; give {'id': …, 'items': [{'type': …}, …]}")
    if key is None or value.get("id") is not None:
        key = key_of(value, "id")
    created_at = as_timestamp(value.get("created_at"))
    return ImportedConversation(key, messages, text_of(value, "title", "name"), created_at)


def read_item(value: object, path: str, model: str | None = None) -> ImportedMessage:
    """
    Read one item.

    :param model: of the conversation, for what the model said.
    :raises InvalidInput: it is no object, or has neither `role` nor `type`.
    """
    item = as_mapping(value, path)
    sender, kind = item.get("role"), item.get("type")
    if not isinstance(sender, str):
        if not isinstance(kind, str):
            raise InvalidInput(path, "has neither a `role` nor a `type`")
        # The outputs of calls come from tools; what else has no role comes from the model.
        sender = "tool" if kind.endswith("_output") else "assistant"
    said_by = text_of(item, "model") or (model if sender == "assistant" else None)
    return ImportedMessage(sender, item, as_timestamp(item.get("created_at")), said_by)


def _text_message(role: str, text: str) -> ImportedMessage:
    return ImportedMessage(role, {"role": role, "content": text})
