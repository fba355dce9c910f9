"""
The input of a Responses request.

What the API demands: each call has its output after it and each output its call before it, both of
one kind; a reasoning item is followed by the item that came of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from projections.model_input.content import Image, parts_of, pieces_of, shown, text_of
from projections.model_input.formats import Answer, Call, Entry, Format, Item, is_for_client

__all__ = ["Responses"]

_MAX_CALL_ID = 64
_OUTPUT_PARTS = {"input_text", "input_image", "input_file"}
_INPUT_PARTS = {"input_text", "input_image", "input_file", "input_audio"}
_MODEL_PARTS = {"output_text", "refusal"}
_STATUSES = {"in_progress", "completed", "incomplete"}


class Responses(Format):
    """Messages, reasoning, calls and outputs, each an item of its own."""

    name = "responses"
    in_runs = True

    def accepts_id(self, call_id: str) -> bool:
        """Take what has 1 to 64 characters."""
        return 0 < len(call_id) <= _MAX_CALL_ID

    def reply(self, call: Call, answer: Answer) -> Item | None:
        """Return the output item that belongs to the kind of the call."""
        kind = _kind(call)
        came = answer.part if answer.part.get("type") == f"{kind}_output" else {}
        item: Item = {key: one for key, one in came.items() if one is not None}
        item |= {"type": f"{kind}_output", "call_id": call.id}
        if kind != "apply_patch_call" and item.get("status") not in _STATUSES:
            item.pop("status", None)
        match kind:
            case "local_shell_call":
                # This one has the call's name as its id.
                del item["call_id"]
                item |= {"id": call.id, "output": text_of(pieces_of(answer.content))}
            case "apply_patch_call":
                item.setdefault("status", "failed" if answer.failed else "completed")
                item["output"] = text_of(pieces_of(answer.content))
            case "shell_call":
                item["output"] = _shell_output(answer)
            case "computer_call":
                screenshot = _screenshot(answer.content)
                if screenshot is None:  # nothing else can answer it
                    return None
                item["output"] = screenshot
            case _:
                item["output"] = _output(answer.content)
        return item

    def items(self, entry: Entry) -> list[Item]:
        """Return the entry's message and calls, or the item of another kind as it is."""
        body, kind = entry.body, entry.body.get("type")
        if entry.format == self.name and isinstance(kind, str) and kind != "message":
            return self._typed(entry, kind)
        made: list[Item] = []
        if entry.role not in {None, "tool"} and (content := _content(entry)):
            typed = entry.format == self.name and kind == "message"
            message = {key: one for key, one in body.items() if typed and one is not None}
            made.append({**message, "role": entry.role, "content": content})
        return made + [_call(call) for call in entry.replied]

    def _typed(self, entry: Entry, kind: str) -> list[Item]:
        if entry.role == "tool":
            return []
        if any(is_for_client(call.part) for call in entry.calls):
            return [_call(call) for call in entry.replied]
        item = dict(entry.body)
        if kind == "reasoning":
            # The API gives these as null, and refuses some of them.
            item = {key: one for key, one in item.items() if one is not None}
            item.setdefault("summary", [])
        return [item]

    def finish(self, items: list[Item]) -> list[Item]:
        """Leave out reasoning of which nothing came."""
        rest: list[Item] = []
        for item in reversed(items):
            if item.get("type") != "reasoning" or (rest and _is_of_model(rest[-1])):
                rest.append(item)
        return rest[::-1]


def _is_of_model(item: Item) -> bool:
    kind = str(item.get("type", "message"))
    return item.get("role") == "assistant" or kind == "reasoning" or kind.endswith("_call")


def _kind(call: Call) -> str:
    kind = call.part.get("type")
    if isinstance(kind, str) and kind.endswith("_call") and "call_id" in call.part:
        return kind
    return "custom_tool_call" if kind == "custom" else "function_call"


def _call(call: Call) -> Item:
    kind = _kind(call)
    came = call.part if call.part.get("type") == kind else {}
    item: Item = {key: one for key, one in came.items() if one is not None}
    item |= {"type": kind, "call_id": call.id}
    if kind == "function_call":
        item |= {"name": call.name, "arguments": call.arguments}
    elif kind == "custom_tool_call":
        item |= {"name": call.name, "input": call.arguments}
    return item


def _content(entry: Entry) -> str | list[dict[str, Any]] | None:
    """Return the content of a message; None if there is none."""
    content = entry.body.get("content")
    # The API knows parts of the model's own by the ids that it gave them, and takes text from all.
    if not isinstance(content, list) or (entry.is_model and entry.format != "responses"):
        return text_of(pieces_of(content)) or _beside_content(entry)
    if entry.is_model:
        return parts_of(content, _MODEL_PARTS, _output_text, None) or None
    return parts_of(content, _INPUT_PARTS, _input_text, _image_part) or None


def _beside_content(entry: Entry) -> str | None:
    """Return what a chat message has beside its content: a refusal or a sound."""
    match entry.body:
        case {"refusal": str() as text} | {"audio": {"transcript": str() as text}}:
            return text or None
        case _:
            return None


def _input_text(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text}


def _image_part(image: Image) -> dict[str, Any]:
    return {"type": "input_image", "image_url": image.url, "detail": "auto"}


def _output(content: Any) -> str | list[dict[str, Any]]:
    kinds = {one.get("type") for one in content} if _is_objects(content) else set()
    if kinds and kinds <= _OUTPUT_PARTS:
        return list(content)
    return shown(pieces_of(content), _input_text, _image_part)


def _is_objects(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(one, Mapping) for one in content)


def _screenshot(content: Any) -> Any:
    if isinstance(content, Mapping) and content.get("type") == "computer_screenshot":
        return content
    for piece in pieces_of(content):
        if isinstance(piece, Image):
            return {"type": "computer_screenshot", "image_url": piece.url}
    return None


def _shell_output(answer: Answer) -> Any:
    content = answer.content
    if _is_objects(content) and all("outcome" in one for one in content):
        return content
    outcome = {"type": "exit", "exit_code": 1 if answer.failed else 0}
    return [{"stdout": text_of(pieces_of(content)), "stderr": "", "outcome": outcome}]
