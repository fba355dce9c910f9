"""
The messages of a Chat Completions request.

What the API demands: an assistant's message with `tool_calls` is followed by one message of the
role `tool` for each of them; a tool's message has text only; `tool_calls` is no empty list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from projections.model_input.content import Image, parts_of, pieces_of, text_of
from projections.model_input.formats import Answer, Call, Entry, Format, Item

__all__ = ["ChatCompletions"]

# Only a user's message may have more than text.
_PARTS = {"user": {"text", "image_url", "input_audio", "file"}, "assistant": {"text", "refusal"}}


class ChatCompletions(Format):
    """Messages with `tool_calls`, and with the older `function_call` where an item has that."""

    name = "chat_completions"
    in_runs = False

    def accepts_id(self, call_id: str) -> bool:
        """Take any text: services that speak this format make ids of their own forms."""
        return bool(call_id)

    def reply(self, call: Call, answer: Answer) -> Item | None:
        """Return the message of the role `tool`, or `function` for the older form."""
        content = answer.content
        if call.legacy:
            return {"role": "function", "name": call.name, "content": text_of(pieces_of(content))}
        if not (isinstance(content, list) and content and all(map(_is_text, content))):
            content = text_of(pieces_of(content))
        came = answer.part if answer.part.get("role") == "tool" else {}
        message: Item = {key: one for key, one in came.items() if one is not None}
        return message | {"role": "tool", "tool_call_id": call.id, "content": content}

    def replies(self, calls: Sequence[Call]) -> list[Item]:
        """Return the answers in the order of the calls, that of a `function_call` last."""
        return sorted(super().replies(calls), key=lambda reply: reply["role"] == "function")

    def items(self, entry: Entry) -> list[Item]:
        """Return the message, if anything of it is left."""
        body = entry.body
        if entry.role in {None, "tool"}:
            return []
        # Null means the same as absence, except where the API demands the key.
        own = entry.format in {None, self.name}
        message: Item = {key: one for key, one in body.items() if own and one is not None}
        message.pop("tool_calls", None)
        message.pop("function_call", None)
        message |= {"role": entry.role, "content": _content(body.get("content"), entry.role)}
        if calls := [_call(call) for call in entry.replied if not call.legacy]:
            message["tool_calls"] = calls
        for call in entry.replied:
            if call.legacy:
                message["function_call"] = {"name": call.name, "arguments": call.arguments}
        # An answer in sound is named by its id; its bytes are not taken back.
        match message.pop("audio", None):
            case {"id": str() as audio}:
                message["audio"] = {"id": audio}
        parts = ("content", "tool_calls", "function_call", "refusal", "audio")
        return [message] if any(message.get(part) for part in parts) else []


def _is_text(part: object) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and "text" in part


def _content(content: Any, role: str) -> str | list[dict[str, Any]] | None:
    """Return content for a message; None if there is none."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        image_part = _image_part if role == "user" else None
        return parts_of(content, _PARTS.get(role, {"text"}), _text_part, image_part) or None
    return text_of(pieces_of(content)) or None


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image_part(image: Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image.url}}


def _call(call: Call) -> Item:
    part = call.part
    match part:
        case {"type": "custom"} | {"type": "custom_tool_call"}:
            tool = {"name": call.name, "input": call.arguments}
            return {"id": call.id, "type": "custom", "custom": tool}
        case {"function": Mapping() as function}:
            # Services of other makers put more beside a call, like a signature of its thoughts.
            tool = {**function, "name": call.name, "arguments": call.arguments}
            return {**part, "id": call.id, "type": "function", "function": tool}
        case _:
            tool = {"name": call.name, "arguments": call.arguments}
            return {"id": call.id, "type": "function", "function": tool}
