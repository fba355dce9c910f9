"""
ChatGPT's export: `conversations.json`, an array of trees.

::

    {"id": …, "title": …, "create_time": 1700000000.5, "current_node": "c", "mapping": {
      "a": {"id": "a", "parent": null, "children": ["b"], "message": null},
      "b": {"id": "b", "parent": "a", "children": ["c"], "message": {
        "author": {"role": "user"}, "create_time": …, "recipient": "all",
        "content": {"content_type": "text", "parts": ["Buy milk"]}, "metadata": {}}}, …}}

OpenAI does not document it. A message to another recipient than `all` is a call of that tool, and
the tool's messages after it answer it; the export has no ids of calls, so they are made of the
messages' ids. What a message has no text for is kept as a part of its content, as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from eventstore.imports.tree import Node, branches_of, names_in

__all__ = ["read_chatgpt"]

_TEXTS = {
    "code": ("text",),
    "execution_output": ("text",),
    "user_editable_context": ("user_profile", "user_instructions"),
    "model_editable_context": ("model_set_context",),
}
"""By content type, the members that hold its text, and all there is to it."""


def read_chatgpt(value: Mapping[str, Any], *, every: bool = False) -> list[ImportedConversation]:
    """
    Read a conversation of ChatGPT's export: its current branch first.

    :param every: return the other branches too, with the key `id#node`.
    :raises InvalidInput: it has no id, no mapping, or its mapping is no tree.
    """
    mapping = as_mapping(value.get("mapping"), "mapping")
    key = key_of(value, "conversation_id", "id")
    nodes = {name: _node(node, f"mapping.{name}") for name, node in mapping.items()}
    title, created_at = text_of(value, "title"), as_timestamp(value.get("create_time"))
    model = text_of(value, "default_model_slug")
    found: list[ImportedConversation] = []
    for branch in branches_of(nodes, text_of(value, "current_node"), every=every):
        reader = _Reader(model)
        for name in branch.nodes:
            reader.read(name, mapping[name].get("message"))
        branch_key = key if branch.name is None else f"{key}#{branch.name}"
        found.append(ImportedConversation(branch_key, reader.messages, title, created_at))
    return found


def _node(value: object, path: str) -> Node:
    node = as_mapping(value, path)
    return Node(text_of(node, "parent"), names_in(node.get("children")))


class _Reader:
    """Reads the messages of one branch; what a message means depends on those before it."""

    def __init__(self, model: str | None) -> None:
        self.messages: list[ImportedMessage] = []
        self._model = model
        self._reasoning: list[str] = []
        self._calls: list[tuple[str, str]] = []
        """Of the calls, the tool and the id, newest last."""
        self._answered: set[str] = set()

    def read(self, name: str, value: object) -> None:
        """
        Add the message of a node, if it has one and says something.

        Roots have none, and hidden messages of the system are often empty.
        """
        if value is None:
            return
        path = f"mapping.{name}.message"
        message = as_mapping(value, path)
        author, content, metadata = (
            as_mapping(message.get(member) or {}, f"{path}.{member}")
            for member in ("author", "content", "metadata")
        )
        kind = text_of(content, "content_type")
        if kind == "thoughts":
            self._reasoning += _thoughts(content.get("thoughts"))
        elif kind != "reasoning_recap":  # "Thought for 5 seconds"
            # Custom instructions and memory have an author, but nobody said them.
            hidden = kind in {"user_editable_context", "model_editable_context"}
            role = "system" if hidden else text_of(author, "role") or "assistant"
            call = (text_of(message, "recipient") or "all", text_of(message, "id") or name)
            body = self._body(role, _parts(content), text_of(author, "name"), *call)
            if metadata.get("attachments"):
                body = {"role": role, "content": None, **body}
                body["attachments"] = metadata["attachments"]
            if body:
                self._add(role, body, message, metadata)

    def _body(
        self,
        role: str,
        parts: list[str | Mapping[str, Any]],
        author: str | None,
        recipient: str,
        message_id: str,
    ) -> dict[str, Any]:
        """Return the chat message; an empty one if there is nothing to it."""
        content = chat_content(parts)
        if role == "assistant" and recipient != "all":
            call_id = f"call_{message_id}"
            arguments = "\n".join(part for part in parts if isinstance(part, str))
            self._calls.append((recipient, call_id))
            calls = [assistant_call(call_id, recipient, arguments)]
            return {"role": role, "content": None, "tool_calls": calls}
        if role == "tool":
            answered = len(self._answered)
            answer = self._answer(author)
            if content is not None or len(self._answered) > answered:
                return {"role": role, "content": content or "", **answer}
            return {}
        return {} if content is None else {"role": role, "content": content}

    def _add(
        self,
        role: str,
        body: dict[str, Any],
        message: Mapping[str, Any],
        metadata: Mapping[str, Any],
    ) -> None:
        model = text_of(metadata, "model_slug")
        if role == "assistant":
            model = model or self._model
            if self._reasoning:
                body["reasoning_content"] = "\n\n".join(self._reasoning)
        # Thoughts are told before what they led to; those of an answer that never came are lost.
        if role != "tool":
            self._reasoning.clear()
        created_at = as_timestamp(message.get("create_time"))
        self.messages.append(ImportedMessage(role, body, created_at, model))

    def _answer(self, tool: str | None) -> dict[str, Any]:
        """
        Return what the body of a tool's message has beside its content.

        It answers the newest call of that tool that waits, else the newest call of it, for tools
        speak several times. What answers no call is a message of the tool all the same.
        """
        calls = [call for name, call in self._calls if _is_tool(tool, name)]
        waiting = [call for call in calls if call not in self._answered]
        answer = {} if tool is None else {"name": tool}
        if calls:
            call = (waiting or calls)[-1]
            self._answered.add(call)
            return {"tool_call_id": call, **answer}
        return answer


def _is_tool(tool: str | None, recipient: str) -> bool:
    """
    Tell whether a tool answers calls to `recipient`: `web` answers `web.run` too.

    :param tool: None of a tool without a name, which may be any.
    """
    return tool is None or tool.partition(".")[0] == recipient.partition(".")[0]


def _thoughts(thoughts: object) -> list[str]:
    texts = []
    for one in thoughts if isinstance(thoughts, list) else ():
        if isinstance(one, Mapping):
            members = (text_of(one, "summary"), text_of(one, "content"))
            texts += ["\n".join(text for text in members if text)]
    return [text for text in texts if text]


def _parts(content: Mapping[str, Any]) -> list[str | Mapping[str, Any]]:
    """Return the parts of a content: texts, and what is no text as it is, with a `type`."""
    kind = text_of(content, "content_type") or "text"
    parts = content.get("parts")
    if isinstance(parts, list):
        return [_part(part) for part in parts]
    if kind in _TEXTS:
        texts = [content.get(name) for name in _TEXTS[kind]]
        return ["\n\n".join(text for text in texts if isinstance(text, str) and text)]
    text = text_of(content, "text", "result", "content")
    if kind == "text":
        return [text or ""]
    if not any(value for name, value in content.items() if name != "content_type"):
        return []  # a page that the browser did not show
    shown = {"text": text} if text else {}
    return [{"type": kind, **_without_type(content), **shown}]


def _part(part: object) -> str | Mapping[str, Any]:
    if isinstance(part, Mapping):
        kind = text_of(part, "content_type") or "unknown"
        if kind == "audio_transcription" and isinstance(part.get("text"), str):
            return str(part["text"])
        return {"type": kind, **_without_type(part)}
    return part if isinstance(part, str) else ""


def _without_type(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: one for name, one in value.items() if name != "content_type"}
