"""
The OpenAI chat format of message bodies: how tool calls and their answers appear in it.

A body is stored exactly as it came. These functions only read a body, or make one for a caller who
has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from eventstore.errors import InvalidInput
from eventstore.events.json_codec import dumps

__all__ = ["RequestedCall", "assistant_body", "requested_calls", "tool_body"]


class RequestedCall(NamedTuple):
    """A tool call that a message asks for; `arguments` is the model's text, verbatim."""

    id: str
    name: str
    arguments: str


def requested_calls(body: Mapping[str, Any], path: str = "body") -> list[RequestedCall]:
    """
    Return the tool calls that a message asks for.

    :param path: where the body stands in the caller's input, for error messages.
    :raises InvalidInput: an entry of `tool_calls` is not `{id, function: {name, arguments}}`.
    """
    entries = body.get("tool_calls")
    if entries is not None and not isinstance(entries, list | tuple):
        raise InvalidInput(f"{path}.tool_calls", "is not a list; give a list, or leave it out")
    calls = []
    for index, entry in enumerate(entries or []):
        at = f"{path}.tool_calls[{index}]"
        function = entry.get("function") if isinstance(entry, Mapping) else None
        if not isinstance(function, Mapping):
            raise InvalidInput(at, "has no function; give {id, function: {name, arguments}}")
        calls.append(
            RequestedCall(
                _text(entry.get("id"), f"{at}.id"),
                _text(function.get("name"), f"{at}.function.name"),
                _text(function.get("arguments", ""), f"{at}.function.arguments"),
            )
        )
    return calls


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(path, f"expected text, got {type(value).__name__}")
    return value


def assistant_body(
    sender: str, content: object, calls: Sequence[RequestedCall] = ()
) -> dict[str, Any]:
    """
    Return the body of a message with this content, asking for these calls.

    :param sender: the message's `role`.
    :param content: text, None or a list of parts.
    """
    body: dict[str, Any] = {"role": sender, "content": content}
    if calls:
        body["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return body


def tool_body(call_id: str, output: object) -> dict[str, Any]:
    """
    Return the body of a tool's answer: a text output as it is, any other value as JSON text.

    :param call_id: the model's name for the call.
    :param output: text, or a result of `check_json`.
    """
    # The format has text as a tool's content. The value itself is stored beside it by the outcome.
    content = output if isinstance(output, str) else dumps(output)
    return {"role": "tool", "tool_call_id": call_id, "content": content}
