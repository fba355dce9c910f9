"""
Open WebUI's export: an array of chats, each a tree of messages.

::

    {"id": …, "title": …, "created_at": 1700000000, "chat": {"title": …, "history": {
      "currentId": "b", "messages": {
        "a": {"id": "a", "parentId": null, "childrenIds": ["b"], "role": "user",
              "content": "Buy milk", "timestamp": 1700000000},
        "b": {"id": "b", "parentId": "a", "childrenIds": [], "role": "assistant",
              "content": "Done.", "timestamp": 1700000001, "model": "llama3"}}}}}

Chats of its first versions have a list `messages` and no `history`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from eventstore.imports.tree import Branch, Node, branches_of, names_in

__all__ = ["read_open_webui"]

_ALSO = ("files", "sources", "error")
"""What a message carries beside its content, if there is any."""


def read_open_webui(value: Mapping[str, Any], *, every: bool = False) -> list[ImportedConversation]:
    """
    Read a chat of Open WebUI's export: its current branch first.

    :param every: return the other branches too, with the key `id#message`.
    :raises InvalidInput: it has no id or no messages, or its history is no tree.
    """
    chat = as_mapping(value.get("chat"), "chat")
    key = key_of(value, "id")
    path, messages, branches = _branches(chat, every=every)
    title = text_of(value, "title") or text_of(chat, "title")
    created_at = as_timestamp(value.get("created_at")) or as_timestamp(chat.get("timestamp"))
    found = []
    for branch in branches:
        said = [
            message
            for name in branch.nodes
            if (message := _message(messages[name], f"{path}.{name}")) is not None
        ]
        branch_key = key if branch.name is None else f"{key}#{branch.name}"
        found.append(ImportedConversation(branch_key, said, title, created_at))
    return found


def _branches(
    chat: Mapping[str, Any], *, every: bool
) -> tuple[str, Mapping[str, Any], Sequence[Branch]]:
    """Return where the messages are, the messages by name, and the branches."""
    history = chat.get("history")
    if isinstance(history, Mapping) and isinstance(history.get("messages"), Mapping):
        path, messages = "chat.history.messages", history["messages"]
        nodes = {name: _node(one, f"{path}.{name}") for name, one in messages.items()}
        return path, messages, branches_of(nodes, text_of(history, "currentId"), every=every)
    listed = chat.get("messages")
    if not isinstance(listed, list):
        raise InvalidInput(
            "chat.history.messages", "is missing; give a chat of Open WebUI's export"
        )
    messages = {str(number): one for number, one in enumerate(listed)}
    return "chat.messages", messages, [Branch(None, [*messages])]


def _node(value: object, path: str) -> Node:
    node = as_mapping(value, path)
    return Node(text_of(node, "parentId"), names_in(node.get("childrenIds")))


def _message(value: object, path: str) -> ImportedMessage | None:
    """Return a message, or None of one that says nothing: an answer that was never given."""
    message = as_mapping(value, path)
    role = text_of(message, "role")
    if role is None:
        raise InvalidInput(f"{path}.role", "is missing; give user, assistant or system")
    more = {name: message[name] for name in _ALSO if message.get(name)}
    content = message.get("content")
    if not content and not more:
        return None
    model = text_of(message, "model") if role == "assistant" else None
    body = {"role": role, "content": content, **more}
    return ImportedMessage(role, body, as_timestamp(message.get("timestamp")), model)
