"""
What a format has to say to `arrange`, and how an item is read for it.

An `Entry` is one item of the history with its calls, each with its answer. A `Format` writes an
entry and the answers of its calls as the items of a request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from eventstore.events.items import Part

__all__ = ["Answer", "Call", "Entry", "Format", "FormatName", "format_of", "is_for_client"]

type FormatName = Literal["chat_completions", "responses", "anthropic"]
type Item = dict[str, Any]
type Role = Literal["system", "developer", "user", "assistant", "tool"]


class Answer(NamedTuple):
    """
    What a model is given as a call's result.

    :ivar content: text, a list of parts or another JSON value.
    :ivar part: the item or block that it came in; empty for a text of the store's.
    """

    content: Any
    failed: bool
    part: Part


@dataclass(slots=True)
class Call:
    """
    One call that an item asks for.

    :ivar id: what it is called in the request.
    :ivar spare_id: a name of the store's, unique, for a call whose own cannot be used.
    :ivar arguments: the model's text.
    :ivar part: where in the item it stands.
    :ivar legacy: whether that is the older `function_call` of a chat message.
    :ivar answer: None if it is left out.
    :ivar reply: the answer as the format has it; None if the call is left out.
    """

    id: str
    spare_id: str
    name: str
    arguments: str
    part: Part
    legacy: bool
    answer: Answer | None
    reply: Item | None = None


@dataclass(slots=True)
class Entry:
    """
    One item of a history.

    :ivar format: whose shape it has; None if all formats have it, like a text with a role.
    :ivar role: whom it is from; None of a shape that no format knows.
    :ivar newest: the newest position among the item and the answers of its calls.
    """

    body: Mapping[str, Any]
    format: FormatName | None
    role: Role | None
    newest: int
    calls: list[Call] = field(default_factory=list)

    @property
    def is_model(self) -> bool:
        """Whether the item is the model's: what it says, thinks or asks for."""
        return self.role == "assistant"

    @property
    def replied(self) -> list[Call]:
        """The calls that are in the request, in their order."""
        return [call for call in self.calls if call.reply is not None]


class Format(ABC):
    """
    One API's list of items.

    :cvar in_runs: whether items of the model that follow one another are one response of it, whose
        calls are answered after its last item.
    """

    name: ClassVar[FormatName]
    in_runs: ClassVar[bool]

    @abstractmethod
    def accepts_id(self, call_id: str) -> bool:
        """Tell whether the API takes this text for the id of a call."""

    @abstractmethod
    def reply(self, call: Call, answer: Answer) -> Item | None:
        """Return the answer of a call; None if the format has no such answer."""

    @abstractmethod
    def items(self, entry: Entry) -> list[Item]:
        """Return an entry without the answers of its calls, and without calls that have none."""

    def replies(self, calls: Sequence[Call]) -> list[Item]:
        """Return the answers of calls that were asked for together, none or more."""
        return [call.reply for call in calls if call.reply is not None]

    def finish(self, items: list[Item]) -> list[Item]:
        """Return the list as the API demands it beyond single items."""
        return items


_CHAT_KEYS = ("tool_calls", "function_call", "refusal", "audio")
_CHAT_PARTS = {"image_url", "input_audio", "file"}
_RESPONSES_PARTS = {"input_text", "output_text", "input_image", "input_file"}
_RESPONSES_ITEMS = {
    "compaction",
    "item_reference",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_list_tools",
    "message",
    "reasoning",
    "tool_search_output",
}
_ANTHROPIC_PARTS = {"document", "image", "redacted_thinking", "search_result", "thinking"}
_FOR_CLIENT = {
    "apply_patch_call",
    "computer_call",
    "custom_tool_call",
    "function_call",
    "local_shell_call",
    "shell_call",
    "tool_use",
}


def format_of(body: Mapping[str, Any]) -> FormatName | None:
    """Return the format that an item has the shape of; None if several have it, or none."""
    kind, content = body.get("type"), body.get("content")
    kinds = {
        part["type"]
        for part in (content if isinstance(content, list) else ())
        if isinstance(part, Mapping) and isinstance(part.get("type"), str)
    }
    blocks = kinds & _ANTHROPIC_PARTS or any(
        one.endswith(("tool_use", "tool_result")) for one in kinds
    )
    if body.get("role") in {"tool", "function"} or kinds & _CHAT_PARTS:
        return "chat_completions"
    # A response of Anthropic's is of the type `message` too.
    if "stop_reason" in body or (blocks and "role" in body):
        return "anthropic"
    if kinds & _RESPONSES_PARTS or (
        isinstance(kind, str)
        and (kind in _RESPONSES_ITEMS or kind.endswith(("_call", "_call_output")))
    ):
        return "responses"
    if any(key in body for key in _CHAT_KEYS):
        return "chat_completions"
    return None


def is_for_client(part: Part) -> bool:
    """
    Tell whether a call is for the caller's tools, and not one that the provider answers itself.

    :param part: where the call stands, as in `read_parts`.
    """
    kind = part.get("type")
    # Those of Chat Completions have no type, or one of other words, and are all for the caller.
    if not isinstance(kind, str) or not kind.endswith(("_call", "tool_use")):
        return True
    return kind in _FOR_CLIENT
