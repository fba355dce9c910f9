"""
Claude's export: `conversations.json`, an array of conversations.

::

    {"uuid": …, "name": …, "created_at": "2025-01-05T08:00:00Z", "chat_messages": [
      {"uuid": …, "sender": "human", "text": "Buy milk", "created_at": …, "attachments": [],
       "files": [], "content": [{"type": "text", "text": "Buy milk"}]}, …]}

One message of Claude's holds calls, their results and what was said between; it becomes several
here, since a chat message's calls are answered by messages of the tool. Newer exports tell each
message's parent, so they may have branches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from eventstore.errors import InvalidInput
from eventstore.events.json_codec import dumps
from eventstore.imports.conversation import (
    ImportedConversation,
    ImportedMessage,
    as_mapping,
    as_timestamp,
    assistant_call,
    chat_content,
    key_of,
    text_of,
)
from eventstore.imports.tree import Branch, Node, branches_of

__all__ = ["read_claude"]

_ROLES = {"human": "user"}


def read_claude(value: Mapping[str, Any], *, every: bool = False) -> list[ImportedConversation]:
    """
    Read a conversation of Claude's export: its current branch first.

    :param every: return the other branches too, with the key `uuid#message`.
    :raises InvalidInput: it has no uuid, or its messages are no list of messages.
    """
    given = value.get("chat_messages")
    if not isinstance(given, list):
        raise InvalidInput("chat_messages", "is no list; give a conversation of Claude's export")
    key = key_of(value, "uuid")
    messages = [as_mapping(one, f"chat_messages[{n}]") for n, one in enumerate(given)]
    title, created_at = text_of(value, "name"), as_timestamp(value.get("created_at"))
    model = text_of(value, "model")
    found = []
    for branch in _branches(messages, text_of(value, "current_leaf_message_uuid"), every=every):
        said = [
            one
            for name in branch.nodes
            for one in _read_message(messages[int(name)], f"chat_messages[{name}]", model)
        ]
        branch_key = key
        if branch.name is not None:
            branch_key = f"{key}#{messages[int(branch.name)].get('uuid')}"
        found.append(ImportedConversation(branch_key, said, title, created_at))
    return found


def _branches(
    messages: Sequence[Mapping[str, Any]], current: str | None, *, every: bool
) -> list[Branch]:
    """Return the branches; their nodes are places in the list of messages."""
    places = {text_of(one, "uuid"): str(n) for n, one in enumerate(messages)}
    parents = [text_of(one, "parent_message_uuid") for one in messages]
    if not any(parents) or len(places) < len(messages):
        return [Branch(None, [str(n) for n in range(len(messages))])]
    # The first message's parent is a uuid that no message has.
    nodes = {str(n): Node(places.get(parent)) for n, parent in enumerate(parents)}
    last = str(len(messages) - 1)
    return branches_of(nodes, places.get(current, last) if current else last, every=every)


def _read_message(
    message: Mapping[str, Any], path: str, model: str | None
) -> list[ImportedMessage]:
    sender = text_of(message, "sender")
    if sender is None:
        raise InvalidInput(f"{path}.sender", "is missing; give human or assistant")
    said = _Said(_ROLES.get(sender, sender), f"call_{message.get('uuid')}")
    blocks = message.get("content")
    for block in blocks if isinstance(blocks, list) else ():
        said.add(as_mapping(block, f"{path}.content"))
    if not said.anything:
        said.parts.append(text_of(message, "text") or "")
    said.attach(message)
    said.end()
    created_at = as_timestamp(message.get("created_at"))
    return [_imported(body, created_at, text_of(message, "model") or model) for body in said.bodies]


def _imported(
    body: Mapping[str, Any], created_at: datetime | None, model: str | None
) -> ImportedMessage:
    role = str(body["role"])
    return ImportedMessage(role, body, created_at, model if role == "assistant" else None)


class _Said:
    """The chat messages that one message of Claude's becomes."""

    def __init__(self, role: str, call_id: str) -> None:
        self.role = role
        self.bodies: list[dict[str, Any]] = []
        self.parts: list[str | Mapping[str, Any]] = []
        self._more: dict[str, Any] = {}
        self._calls: list[dict[str, Any]] = []
        self._call_id = call_id
        self._call_count = 0
        self._waiting: list[tuple[str, str]] = []
        """The calls without a result: id and name."""

    @property
    def anything(self) -> bool:
        """Whether any block said something."""
        return bool(self.bodies or self.parts or self._calls or self._more)

    def add(self, block: Mapping[str, Any]) -> None:
        """Add one block of the content."""
        match block.get("type"):
            case "text":
                if self._calls:
                    self.end()
                self.parts.append(_text_part(block))
            case "thinking":
                if self.parts or self._calls:
                    self.end()
                thought = text_of(block, "thinking")
                if thought:
                    before = self._more.get("reasoning_content")
                    self._more["reasoning_content"] = (
                        f"{before}\n\n{thought}" if before else thought
                    )
            case "tool_use":
                self._request(block)
            case "tool_result":
                self._end_call(block)
            case "token_budget":  # how much may still be said: nobody said it
                pass
            case _:
                self.parts.append(block)

    def _request(self, block: Mapping[str, Any]) -> None:
        name, given = text_of(block, "name") or "", block.get("input")
        # Older exports have no ids.
        call_id = text_of(block, "id") or f"{self._call_id}_{self._call_count}"
        self._call_count += 1
        arguments = given if isinstance(given, str) else dumps({} if given is None else given)
        self._calls.append(assistant_call(call_id, name, arguments))
        self._waiting.append((call_id, name))

    def _end_call(self, block: Mapping[str, Any]) -> None:
        self.end()
        call_id, name = text_of(block, "tool_use_id"), text_of(block, "name")
        waiting = [
            one
            for one in self._waiting
            if one[0] == call_id or (call_id is None and name in {None, one[1]})
        ]
        body: dict[str, Any] = {"role": "tool"}
        if waiting:
            self._waiting.remove(waiting[0])
            body["tool_call_id"] = waiting[0][0]
        elif call_id is not None:
            body["tool_call_id"] = call_id
        content = block.get("content")
        blocks = content if isinstance(content, list) else [content]
        parts = [_text_part(one) if isinstance(one, Mapping) else str(one or "") for one in blocks]
        body["content"] = chat_content(parts) or ""
        if block.get("is_error"):
            body["is_error"] = True
        self.bodies.append(body)

    def attach(self, message: Mapping[str, Any]) -> None:
        """Add what was sent with a message: the text of attachments, and what files there were."""
        attachments = _objects(message.get("attachments"))
        self.parts += [text_of(one, "extracted_content") or "" for one in attachments]
        if attachments:
            self._more["attachments"] = [
                {name: part for name, part in one.items() if name != "extracted_content"}
                for one in attachments
            ]
        if message.get("files"):
            self._more["files"] = message["files"]

    def end(self) -> None:
        """End the chat message that the blocks so far make, if they make one."""
        content = chat_content(self.parts)
        if content is not None or self._calls or self._more:
            body = {"role": self.role, "content": content, **self._more}
            if self._calls:
                body["tool_calls"] = self._calls
            self.bodies.append(body)
        self.parts, self._calls, self._more = [], [], {}


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def _text_part(block: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """Return the text of a block; one with citations keeps them, another kind is as it is."""
    text = block.get("text")
    if block.get("type") != "text" or not isinstance(text, str):
        return block
    citations = block.get("citations")
    return {"type": "text", "text": text, "citations": citations} if citations else text
