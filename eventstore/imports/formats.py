"""The formats that can be imported, and how one is told from another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from eventstore.errors import InvalidInput
from eventstore.imports.chat import read_chat
from eventstore.imports.chatgpt import read_chatgpt
from eventstore.imports.claude import read_claude
from eventstore.imports.conversation import ImportedConversation
from eventstore.imports.open_webui import read_open_webui
from eventstore.imports.responses import LISTS, read_responses

__all__ = ["Branches", "Format", "read_conversation"]


class Format(StrEnum):
    """A format of conversations; AUTO tells it by the members of each conversation."""

    AUTO = "auto"
    CHAT = "chat"
    CHATGPT = "chatgpt"
    CLAUDE = "claude"
    OPENWEBUI = "openwebui"
    RESPONSES = "responses"


class Branches(StrEnum):
    """Which branches of a conversation that is a tree become conversations."""

    CURRENT = "current"
    ALL = "all"


_READ_TREE: dict[Format, Callable[..., list[ImportedConversation]]] = {
    Format.CHATGPT: read_chatgpt,
    Format.CLAUDE: read_claude,
    Format.OPENWEBUI: read_open_webui,
}


def read_conversation(
    value: object,
    *,
    format: Format = Format.AUTO,  # noqa: A002 - the option's name
    branches: Branches = Branches.CURRENT,
    key: str | None = None,
) -> list[ImportedConversation]:
    """
    Read one exported conversation.

    :param value: what `eventstore.events.json_codec.loads` makes of its JSON.
    :param key: its key if its format allows it to have none.
    :return: the current branch, and with `Branches.ALL` the others that have messages of their own.
    :raises InvalidInput: it is no conversation in this format; the error has the path in it.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput("conversation", f"is a {type(value).__name__}; give a JSON object")
    known = _format_of(value) if format is Format.AUTO else format
    if known is Format.CHAT:
        return [read_chat(value, key=key)]
    if known is Format.RESPONSES:
        return [read_responses(value, key=key)]
    found = _READ_TREE[known](value, every=branches is Branches.ALL)
    current, others = found[0], found[1:]
    return [current, *(one for one in others if not _is_part(one, current))]


def _format_of(value: Mapping[str, Any]) -> Format:
    if "mapping" in value:
        return Format.CHATGPT
    if "chat_messages" in value:
        return Format.CLAUDE
    if isinstance(value.get("chat"), Mapping):
        return Format.OPENWEBUI
    if "messages" in value:
        return Format.CHAT
    if any(name in value for name in LISTS):
        return Format.RESPONSES
    raise InvalidInput(
        "conversation",
        "is in no known format; it has neither `messages` (chat) nor `mapping` (ChatGPT), "
        "`chat_messages` (Claude), `chat` (Open WebUI) or `items` (Responses)",
    )


def _is_part(branch: ImportedConversation, current: ImportedConversation) -> bool:
    """Tell whether a branch ends before it says anything of its own."""
    size = len(branch.messages)
    return list(branch.messages) == list(current.messages[:size])
