"""
The messages of an Anthropic request.

What the API demands: the message after one with `tool_use` blocks is the user's and begins with a
`tool_result` for each of them; ids of calls are unique and of letters, digits, `_` and `-`; no
text is blank, no message empty, and no message of the model ends in thoughts. The roles alternate:
the API itself joins messages of one role, and so does this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from projections.model_input.content import Image, as_object, pieces_of, shown
from projections.model_input.formats import Answer, Call, Entry, Format, Item

__all__ = ["Anthropic"]

_ID = re.compile(r"[a-zA-Z0-9_-]+")
_THOUGHTS = {"thinking", "redacted_thinking"}
_OF_OTHER_FORMATS = {
    "audio",
    "file",
    "image_url",
    "input_audio",
    "input_file",
    "input_image",
    "input_text",
    "output_text",
    "refusal",
    "resource",
    "resource_link",
}


class Anthropic(Format):
    """Messages of `user` and `assistant`, whose contents are blocks."""

    name = "anthropic"
    in_runs = True

    def accepts_id(self, call_id: str) -> bool:
        """Take what the API's own pattern for ids takes."""
        return _ID.fullmatch(call_id) is not None

    def reply(self, call: Call, answer: Answer) -> Item | None:
        """Return the `tool_result` block."""
        came = answer.part if answer.part.get("type") == "tool_result" else {}
        block: Item = {**came, "type": "tool_result", "tool_use_id": call.id}
        content = answer.content
        blocks = _blocks(_given_blocks(content))
        if answer.failed:
            block["is_error"] = True
            blocks = blocks or [_text_block("error")]  # the API refuses an error without a text
        block.pop("content", None)
        if blocks:
            # A text that came as a text goes as one.
            block["content"] = content if isinstance(content, str) and content.strip() else blocks
        return block

    def replies(self, calls: Sequence[Call]) -> list[Item]:
        """Return the user's message that answers all of the calls."""
        blocks = super().replies(calls)
        return [{"role": "user", "content": blocks}] if blocks else []

    def items(self, entry: Entry) -> list[Item]:
        """Return the message, if anything of it is left."""
        if entry.role in {None, "tool"}:
            return []
        body, role = entry.body, "assistant" if entry.is_model else "user"
        content = body.get("content")
        if isinstance(content, str) and content.strip() and not entry.replied:
            return [{"role": role, "content": content}]
        calls = {id(call.part): call for call in entry.replied}
        blocks: list[Item] = []
        for block in _given_blocks(content):
            call = calls.pop(id(block), None)
            if call is not None:
                blocks.append(_tool_use(call))
            elif block["type"] not in {"tool_use", "tool_result"}:
                blocks += _blocks([block])
        match body:
            case {"refusal": str() as text} | {"audio": {"transcript": str() as text}} if (
                text.strip() and not blocks
            ):
                blocks.append(_text_block(text))
        # Calls of another format stand beside the content.
        blocks += map(_tool_use, calls.values())
        return [{"role": role, "content": blocks}] if blocks else []

    def finish(self, items: list[Item]) -> list[Item]:
        """Join messages of one role, and end no message of the model with its thoughts."""
        messages: list[Item] = []
        for item in _joined(items):
            content = item["content"]
            if item["role"] == "assistant" and isinstance(content, list):
                end = len(content)
                while end and content[end - 1]["type"] in _THOUGHTS:
                    end -= 1
                content = content[:end]
            if content:
                messages.append({**item, "content": content})
        return _joined(messages)


def _joined(items: Sequence[Item]) -> list[Item]:
    messages: list[Item] = []
    for item in items:
        if messages and messages[-1]["role"] == item["role"]:
            both = [*_as_blocks(messages[-1]["content"]), *_as_blocks(item["content"])]
            messages[-1] = {"role": item["role"], "content": both}
        else:
            messages.append(item)
    return messages


def _as_blocks(content: str | list[Item]) -> list[Item]:
    return [_text_block(content)] if isinstance(content, str) else content


def _given_blocks(content: Any) -> list[Item]:
    """Return content as blocks: themselves if it is a list of them, so that each can be found."""
    if isinstance(content, list) and all(
        isinstance(one, Mapping) and isinstance(one.get("type"), str) for one in content
    ):
        return content
    return _shown(content)


def _shown(content: Any) -> list[Item]:
    made = shown(pieces_of(content), _text_block, _image_block)
    return _as_blocks(made)


def _blocks(content: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Return blocks as the API takes them: those of other formats converted, no blank text."""
    blocks: list[Item] = []
    for block in content:
        if block["type"] in _OF_OTHER_FORMATS or (block["type"] == "image" and "data" in block):
            blocks += _blocks(_shown([block]))
        elif block["type"] != "text" or str(block.get("text", "")).strip():
            blocks.append(dict(block))
    return blocks


def _text_block(text: str) -> Item:
    return {"type": "text", "text": text}


def _image_block(image: Image) -> Item:
    kind, comma, data = image.url.removeprefix("data:").partition(";base64,")
    if image.url.startswith("data:") and comma:
        source = {"type": "base64", "media_type": kind, "data": data}
    else:
        source = {"type": "url", "url": image.url}
    return {"type": "image", "source": source}


def _tool_use(call: Call) -> Item:
    came = call.part if call.part.get("type") == "tool_use" else {}
    given = call.part.get("input")
    arguments = given if came and isinstance(given, Mapping) else as_object(call.arguments)
    return {**came, "type": "tool_use", "id": call.id, "name": call.name, "input": arguments}
