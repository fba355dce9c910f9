"""
Items: what a conversation is a list of, and what the store reads from one.

An item is stored exactly as it came. `read_item` finds in it what the store has columns and rows
for: who said it, its text, the calls it asks for and the calls it answers. It goes by the parts
that stand in an item and not by a declared format, so that one conversation may mix them:

- Chat Completions: `tool_calls` of functions and custom tools, the older `function_call`, answers
  of the roles `tool` and `function`, refusals, audio transcripts, lists of parts;
- the Responses API: every `…_call` and `…_call_output`, messages, reasoning;
- Anthropic: blocks that end in `tool_use` and `tool_result`;
- MCP: results with content, structured or not.

A shape it does not know has no calls and perhaps no text, and is stored all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from eventstore.events.fields import has_visible, storable_label
from eventstore.events.json_codec import dumps

__all__ = [
    "CallAnswer",
    "ItemParts",
    "Part",
    "RequestedCall",
    "assistant_body",
    "is_part",
    "read_item",
    "read_parts",
    "tool_body",
]

UNKNOWN_SENDER = "unknown"
_SAYING = {"user", "assistant", "system", "developer"}
"""Roles of which a text is nothing but what was said."""

type Part = Mapping[str, Any]
"""What an item has within it, or the item as a whole."""


class RequestedCall(NamedTuple):
    """
    A tool call that an item asks for.

    :ivar id: the model's name for the call; empty where the item gives none.
    :ivar arguments: the model's text, verbatim; of an object its JSON text.
    """

    id: str
    name: str
    arguments: str


class CallAnswer(NamedTuple):
    """
    What an item says a tool returned.

    :ivar call_id: the model's name for the call.
    :ivar output: as it stands in the item: text, a list of parts or an object.
    :ivar failed: whether the item says that the tool failed.
    """

    call_id: str
    output: Any
    failed: bool


class ItemParts(NamedTuple):
    """
    What the store reads from an item.

    :ivar sender: the item's role, or who such an item comes from.
    :ivar text: what can be shown and searched; None if the item has no place for text.
    """

    sender: str
    text: str | None
    calls: tuple[RequestedCall, ...] = ()
    answers: tuple[CallAnswer, ...] = ()


def read_item(body: Mapping[str, Any]) -> ItemParts:
    """
    Return what the store reads from an item.

    :param body: a JSON object of any shape; nothing in it is refused.
    """
    role, content = body.get("role"), body.get("content")
    # Most items have one of these roles and a text, and every append and replay reads them.
    if type(content) is str and len(body) == 2 and type(role) is str and role in _SAYING:  # noqa: PLR2004 - role and content
        return ItemParts(role, content)
    calls, answers = read_parts(body)
    return ItemParts(
        _sender(body, calls, answers),
        _text_of(body),
        tuple([call for call, _ in calls]),
        tuple([answer for answer, _ in answers]),
    )


def read_parts(
    body: Mapping[str, Any],
) -> tuple[list[tuple[RequestedCall, Part]], list[tuple[CallAnswer, Part]]]:
    """
    Return the calls that an item asks for and those that it answers, each with where it stands.

    That is an entry of `tool_calls`, the object `function_call`, a block, or the item as a whole.

    :param body: a JSON object of any shape.
    :return: in the order of `read_item`.
    """
    role, content = body.get("role"), body.get("content")
    calls = [(_chat_call(entry), entry) for entry in _mappings(body.get("tool_calls"))]
    answers: list[tuple[CallAnswer, Part]] = []
    legacy = body.get("function_call")
    if isinstance(legacy, Mapping):
        # This form has no ids: the answer names the function, so the function's name is the id.
        name = _text(legacy.get("name"))
        calls.append((RequestedCall(name, name, _arguments(legacy.get("arguments"))), legacy))
    if role == "tool" and _text(body.get("tool_call_id")):
        # Chat Completions has no word for it; an import of Claude's results says it as Claude does.
        failed = body.get("is_error") is True
        answers.append((CallAnswer(_text(body["tool_call_id"]), content, failed), body))
    elif role == "function" and _text(body.get("name")):
        answers.append((CallAnswer(_text(body["name"]), content, failed=False), body))
    for part in (body, *_mappings(content)):
        call, answer = _read_part(part)
        if call is not None:
            calls.append((call, part))
        # An answer that names no call can end none.
        if answer is not None and answer.call_id:
            answers.append((answer, part))
    return calls, answers


def _chat_call(entry: Mapping[str, Any]) -> RequestedCall:
    """Read an entry of `tool_calls`: a function with arguments, or a custom tool with its input."""
    kind = entry.get("type")
    # What kind of tool it is stands under its own name: {"type": "custom", "custom": {…}}.
    of = entry.get(kind) if isinstance(kind, str) else None
    tool = of if isinstance(of, Mapping) else entry.get("function")
    if not isinstance(tool, Mapping):
        tool = entry
    arguments = tool.get("arguments", tool.get("input"))
    return RequestedCall(_text(entry.get("id")), _text(tool.get("name")), _arguments(arguments))


# Where the calls of the Responses API have what the tool is given.
_ARGUMENTS = ("arguments", "input", "action", "operation")


def _read_part(part: Part) -> tuple[RequestedCall | None, CallAnswer | None]:
    """Return the call and the answer that a Responses item or an Anthropic block is."""
    kind = part.get("type")
    if not isinstance(kind, str):
        return None, None
    if kind.endswith("tool_use"):
        name, given = _text(part.get("name")), part.get("input")
        return RequestedCall(_text(part.get("id")), name, _arguments(given)), None
    if kind.endswith("tool_result"):
        call_id, failed = _text(part.get("tool_use_id")), part.get("is_error") is True
        return None, CallAnswer(call_id, part.get("content"), failed)
    if kind.endswith("_call_output"):
        # The output of a local shell has the call's id as `id`.
        call_id = _text(part.get("call_id")) or _text(part.get("id"))
        failed = part.get("status") == "failed"
        return None, CallAnswer(call_id, part.get("output"), failed)
    if kind == "mcp_call":  # made by the provider, so its answer stands in the same item
        call_id, name = _text(part.get("id")), _text(part.get("name"))
        call = RequestedCall(call_id, name, _arguments(part.get("arguments")))
        error, output = part.get("error"), part.get("output")
        if error is not None:
            return call, CallAnswer(call_id, error, failed=True)
        return call, None if output is None else CallAnswer(call_id, output, failed=False)
    # Without an id nothing can answer it, as where the provider searches for tools itself.
    if kind.endswith("_call") and _text(part.get("call_id")):
        name = _text(part.get("name")) or kind.removesuffix("_call")
        given = next((part[key] for key in _ARGUMENTS if key in part), None)
        return RequestedCall(_text(part["call_id"]), name, _arguments(given)), None
    return None, None


def _sender(body: Mapping[str, Any], calls: Sequence[object], answers: Sequence[object]) -> str:
    role = body.get("role")
    if isinstance(role, str) and has_visible(role):
        return storable_label(role)
    # An item that is call and answer in one comes from the model's side.
    if calls or body.get("type") == "reasoning":
        return "assistant"
    if answers or "structuredContent" in body or "isError" in body:
        return "tool"
    return UNKNOWN_SENDER


# Where the formats have text, in the order in which it is shown.
_TEXTS = (
    "text",
    "refusal",
    "transcript",
    "audio",
    "summary",
    "content",
    "resource",
    "output",
    "stdout",
    "stderr",
    "error",
)


def _text_of(body: Mapping[str, Any]) -> str | None:
    """Return the texts of an item, a line each; None if it has no place for text."""
    content = body.get("content")
    texts = [content] if isinstance(content, str) else list(_texts(body))
    if content is None and not texts:
        return None
    return "\n".join(texts)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key in _TEXTS:
            if key in value:
                yield from _texts(value[key])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _mappings(value: object) -> list[Mapping[str, Any]]:
    if not isinstance(value, list | tuple):
        return []
    return [one for one in value if type(one) is dict or isinstance(one, Mapping)]


def _text(value: object) -> str:
    """Return a name or an id as a text column holds it; empty if it is no text."""
    return storable_label(value) if isinstance(value, str) and value else ""


def _arguments(value: object) -> str:
    if isinstance(value, str):
        return value
    # Null means that the model gave no arguments, and arguments are a JSON object.
    return "{}" if value is None else dumps(value)


def assistant_body(
    sender: str, content: object, calls: Sequence[RequestedCall] = ()
) -> dict[str, Any]:
    """
    Return the chat message with this content, asking for these calls.

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


def tool_body(call_id: str, content: object) -> dict[str, Any]:
    """
    Return the chat message with which a tool answers: a text as it is, another value as JSON text.

    :param call_id: the model's name for the call.
    :param content: text, or a result of `check_json`; a list of content parts stays a list.
    """
    # A list of content parts is what a model reads as what they are.
    parts = isinstance(content, list) and bool(content) and all(map(is_part, content))
    if not isinstance(content, str) and not parts:
        content = dumps(content)
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def is_part(value: object) -> bool:
    """Tell whether a value is a content part of any format: an object that says its type."""
    return isinstance(value, Mapping) and isinstance(value.get("type"), str)
