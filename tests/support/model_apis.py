"""
What the APIs of models demand of the list in a request, as far as a list can break it.

Written from their references and from the errors that they answer with, and on purpose not from
the code that makes the lists: nothing of the store is imported here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["CHECKS", "check"]

type Item = dict[str, Any]


def check(name: str, items: Sequence[Item]) -> None:
    """Raise an AssertionError if the API of that name would refuse the items."""
    written = json.dumps(items, ensure_ascii=False, allow_nan=False)
    written.encode()  # no lone surrogates
    assert all("\0" not in text for text in _texts(list(items)))
    CHECKS[name](items)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from (key, *_texts(one))
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def _parts(content: Any, kinds: set[str]) -> None:
    """Check content that is text or a list of parts of these kinds, and not empty."""
    assert content
    if not isinstance(content, str):
        assert isinstance(content, list)
        for part in content:
            assert part["type"] in kinds, part


def check_chat_completions(items: Sequence[Item]) -> None:
    waiting: list[tuple[str, str]] = []
    for item in items:
        role = item["role"]
        assert role in {"system", "developer", "user", "assistant", "tool", "function"}
        assert all(one is not None for key, one in item.items() if key != "content")
        # "An assistant message with 'tool_calls' must be followed by tool messages responding to
        # each 'tool_call_id'", and one of the role tool follows such a message.
        if role in {"tool", "function"}:
            name = item["tool_call_id"] if role == "tool" else item["name"]
            assert waiting[:1] == [(role, name)]
            del waiting[0]
            if role == "tool" and not isinstance(item["content"], str):
                _parts(item["content"], {"text"})
            continue
        assert not waiting
        if role != "assistant":
            kinds = {"text", "image_url", "input_audio", "file"} if role == "user" else {"text"}
            _parts(item["content"], kinds)
            continue
        waiting = _check_chat_assistant(item)
    assert not waiting


def _check_chat_assistant(item: Item) -> list[tuple[str, str]]:
    answered_by = []
    if item.get("content"):
        _parts(item["content"], {"text", "refusal"})
    else:
        assert {"tool_calls", "function_call", "refusal", "audio"} & item.keys()
    if "tool_calls" in item:
        assert item["tool_calls"]
        for call in item["tool_calls"]:
            assert call["id"]
            assert isinstance(call["id"], str)
            tool = call[call["type"]]
            assert call["type"] in {"function", "custom"}
            assert tool["name"]
            given = tool["arguments" if call["type"] == "function" else "input"]
            assert isinstance(given, str)
            answered_by.append(("tool", call["id"]))
        assert len(set(answered_by)) == len(answered_by)
    if "function_call" in item:
        assert isinstance(item["function_call"]["arguments"], str)
        answered_by.append(("function", item["function_call"]["name"]))
    if "audio" in item:
        assert item["audio"].keys() == {"id"}
    return answered_by


_ANSWERED = {
    "apply_patch_call",
    "computer_call",
    "custom_tool_call",
    "function_call",
    "local_shell_call",
    "shell_call",
}
_INPUT = {"input_text", "input_image", "input_file"}


def check_responses(items: Sequence[Item]) -> None:
    waiting: dict[str, str] = {}
    ids: set[str] = set()
    for number, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            model = item["role"] == "assistant"
            assert item["role"] in {"system", "developer", "user", "assistant"}
            _parts(item["content"], {"output_text", "refusal"} if model else _INPUT)
            assert "type" in item or item.keys() == {"role", "content"}
            # "No tool output found for function call": answers come before anybody speaks.
            assert model or not waiting
        elif kind in _ANSWERED:
            assert 0 < len(item["call_id"]) <= 64
            assert item["call_id"] not in ids
            ids.add(item["call_id"])
            waiting[item["call_id"]] = kind
            if kind == "function_call":
                assert item["name"]
                assert isinstance(item["arguments"], str)
        elif kind.endswith("_call_output"):
            # "No tool call found for function call output with call_id"
            call_id = item["id"] if kind == "local_shell_call_output" else item["call_id"]
            assert f"{waiting.pop(call_id)}_output" == kind
            _check_output(kind, item)
        elif kind == "reasoning":
            # "Item of type 'reasoning' was provided without its required following item"
            after = items[number + 1]
            follows = after.get("type", "message")
            assert (
                after.get("role") == "assistant"
                or follows == "reasoning"
                or (follows.endswith("_call"))
            )
            assert isinstance(item["summary"], list)
        else:
            assert kind in {"mcp_call", "web_search_call"}
    assert not waiting


def _check_output(kind: str, item: Item) -> None:
    output = item.get("output")
    if kind == "shell_call_output":
        assert all({"stdout", "stderr", "outcome"} <= one.keys() for one in output)  # type: ignore[union-attr]  # a list
    elif kind == "computer_call_output":
        assert output["type"] == "computer_screenshot"  # type: ignore[index]  # an object
    elif kind == "apply_patch_call_output":
        assert item["status"] in {"completed", "failed"}
    elif not isinstance(output, str):
        assert kind != "local_shell_call_output"
        _parts(output, _INPUT)
    if kind != "apply_patch_call_output":
        assert item.get("status", "completed") in {"in_progress", "completed", "incomplete"}


_THOUGHTS = {"thinking", "redacted_thinking"}


def check_anthropic(items: Sequence[Item]) -> None:
    ids: set[str] = set()
    waiting: list[str] = []
    before = None
    for item in items:
        assert item.keys() == {"role", "content"}  # "Extra inputs are not permitted"
        role = item["role"]
        assert role in {"user", "assistant"}
        assert role != before  # the API joins them, some that speak its format do not
        before = role
        content = item["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        assert blocks  # "all messages must have non-empty content"
        # "`tool_use` ids were found without `tool_result` blocks immediately after"
        answers = [one["tool_use_id"] for one in blocks if one["type"] == "tool_result"]
        assert answers == waiting
        assert all(one["type"] == "tool_result" for one in blocks[: len(waiting)])
        waiting = []
        for block in blocks:
            _check_block(block)
            if block["type"] == "tool_use":
                assert role == "assistant"
                assert re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"])
                assert block["id"] not in ids  # "`tool_use` ids must be unique"
                ids.add(block["id"])
                waiting.append(block["id"])
            elif block["type"] in _THOUGHTS:
                assert role == "assistant"
        # "The final block in an assistant message cannot be `thinking`"
        assert blocks[-1]["type"] not in _THOUGHTS
    assert not waiting


def _check_block(block: Mapping[str, Any]) -> None:
    match block:
        case {"type": "text", "text": str() as text}:
            assert text.strip()  # "text content blocks must contain non-whitespace text"
        case {"type": "image", "source": {"type": "base64", "media_type": str(), "data": str()}}:
            pass
        case {"type": "image", "source": {"type": "url", "url": str()}}:
            pass
        case {"type": "tool_use", "name": str() as name, "input": dict()}:
            assert name
        case {"type": "tool_result"}:
            content = block.get("content", [])
            assert content or not block.get("is_error")
            for one in [] if isinstance(content, str) else content:
                assert one["type"] in {"text", "image"}
                _check_block(one)
        case {"type": kind}:
            assert kind in {*_THOUGHTS, "server_tool_use", "web_search_tool_result"}


CHECKS: Mapping[str, Callable[[Sequence[Item]], None]] = {
    "chat_completions": check_chat_completions,
    "responses": check_responses,
    "anthropic": check_anthropic,
}
