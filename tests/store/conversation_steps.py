"""Random steps of a conversation: items of every format, calls, and how they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import strategies as st

from eventstore import NotFound, RequestedCall, User
from projections.model_input.formats import FormatName
from tests.store.test_model_input import IMAGES, MCP_IMAGE, RESPONSE_OF_A_CHAT, Body

type Calls = list[tuple[Any, Any, Any]]
"""The id, the name and the arguments of each."""

type Step = Callable[[User, UUID, str], None]
"""Does something in a conversation; the text marks what it says, and nothing else says it."""

IDS = st.sampled_from(["call_0", "call_1", "functions.f:1", "toolu_1", "x" * 300, "\ud800", None])
ARGUMENTS = st.sampled_from(['{"a": 1}', "{}", "", "no json", None, {"a": Decimal("1.10")}, "[1]"])
NAMES = st.sampled_from(["add_task", "f", ""])
ROLES = st.sampled_from(["user", "assistant", "system", "developer", "anna"])
RESULTS = st.sampled_from(
    [
        "ok",
        "",
        " ",
        "\ud83e\0",
        None,
        [],
        [1, Decimal("1.10")],
        {"a": 2**70},
        [{"type": "text", "text": "a"}],
        [{"type": "text", "text": ""}],
        [{"type": "input_text", "text": "a"}, IMAGES["responses"]],
        [{"type": "audio", "data": "aGk=", "mimeType": "audio/wav"}, MCP_IMAGE],
        {"content": [MCP_IMAGE, {"type": "resource", "resource": {"text": "a"}}]},
        [IMAGES["anthropic"], IMAGES["chat_completions"]],
    ]
)


def say(format: FormatName, role: str, shape: int) -> Step:  # noqa: A002 - as in the API
    def run(user: User, conversation: UUID, text: str) -> None:
        kind = {"chat_completions": "text", "anthropic": "text"}.get(
            format, "output_text" if role == "assistant" else "input_text"
        )
        part = {"type": kind, "text": text}
        image = [] if role == "assistant" or shape < 2 else [IMAGES[format]]
        content: Any = text if shape == 0 else [part, *image]
        message = {"type": "message"} if format == "responses" and shape == 2 else {}
        user.messages.post(conversation, body={**message, "role": role, "content": content})

    return run


def ask(format: FormatName, calls: Calls, shape: int) -> Step:  # noqa: A002 - as in the API
    asking = {
        "chat_completions": chat_asking,
        "responses": responses_asking,
        "anthropic": anthropic_asking,
    }[format]
    return lambda user, conversation, text: (
        user.messages.extend(conversation, asking(calls, shape, text)),
        None,
    )[1]


def chat_asking(calls: Calls, shape: int, text: str) -> list[Body]:
    if shape == 0:
        _, name, arguments = calls[0]
        legacy = {"name": name, "arguments": arguments}
        return [{"role": "assistant", "content": None, "function_call": legacy}]
    entries: list[Body] = [
        {"id": one, "function": {"name": name, "arguments": arguments}}
        for one, name, arguments in calls
    ]
    if shape == 1:
        custom = {"name": "run", "input": "x"}
        entries[0] = {"id": calls[0][0], "type": "custom", "custom": custom}
    content = text if shape == 2 else None
    return [{"role": "assistant", "content": content, "tool_calls": entries}]


def responses_asking(calls: Calls, shape: int, _: str) -> list[Body]:
    kind = ["function_call", "custom_tool_call", "shell_call", "computer_call"][shape]
    key = "input" if shape == 1 else "arguments"
    items: list[Body] = [
        {"type": kind, "call_id": one, "name": name, key: arguments}
        for one, name, arguments in calls
    ]
    return [{"type": "reasoning", "summary": [], "status": None}, *items] if shape else items


def anthropic_asking(calls: Calls, shape: int, text: str) -> list[Body]:
    blocks: list[Body] = [
        {"type": "tool_use", "id": one, "name": name, "input": arguments}
        for one, name, arguments in calls
    ]
    before: list[list[Body]] = [
        [],
        [{"type": "thinking", "thinking": "", "signature": "s"}],
        [{"type": "text", "text": text}],
        [
            {"type": "server_tool_use", "id": "s", "name": "web", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
        ],
    ]
    return [{"role": "assistant", "content": [*before[shape], *blocks]}]


def answer_by_item(format: FormatName, pick: int, result: Any, shape: int) -> Step:  # noqa: A002 - as in the API
    def run(user: User, conversation: UUID, text: str) -> None:
        calls = user.tool_calls.list(conversation=conversation, status=None)
        # An answer may come twice, before its call, or of a call that is not there.
        call_id = calls[pick % len(calls)].call_id if calls and pick < 20 else "call_0"
        body: Body
        match format:
            case "chat_completions" if shape == 0:
                body = {"role": "function", "name": call_id, "content": result}
            case "chat_completions":
                body = {"role": "tool", "tool_call_id": call_id, "content": result}
            case "responses":
                kind = "custom_tool_call_output" if shape == 1 else "function_call_output"
                body = {"type": kind, "call_id": call_id, "output": result, "status": "failed"}
            case "anthropic":
                block = {"type": "tool_result", "tool_use_id": call_id, "content": result}
                said = [{"type": "text", "text": text}]
                body = {"role": "user", "content": said * (shape == 0) + [block] * (1 + shape // 2)}
        user.messages.post(conversation, body=body)

    return run


def end(pick: int, how: str, result: Any, shape: int) -> Step:
    def run(user: User, conversation: UUID, text: str) -> None:
        calls = user.tool_calls.list(conversation=conversation)
        if not calls:
            return
        call = calls[pick % len(calls)]
        content = [{"type": "text", "text": "short"}] if shape == 0 else None
        history = {one.id for one in user.history(conversation)}
        # An answer to a message that was taken away would be an orphan.
        orphan = how != "abandon" and call.message_id not in {None, *history}
        with pytest.raises(NotFound) if orphan else nullcontext():
            if how == "succeed":
                user.tool_calls.succeed(call, output=result, content=content)
            elif how == "fail":
                user.tool_calls.fail(call, error=result, content=content)
            else:
                user.tool_calls.abandon(call, reason="went home")

    return run


def retract(pick: int) -> Step:
    def run(user: User, conversation: UUID, text: str) -> None:
        history = user.history(conversation)
        if history:
            user.messages.retract(conversation, history[pick % len(history)].id)

    return run


def post_odd(body: Body) -> Step:
    return lambda user, conversation, _: (user.messages.post(conversation, body=body), None)[1]


def request(user: User, conversation: UUID, text: str) -> None:
    user.messages.post(
        conversation,
        sender="assistant",
        content=text,
        tool_calls=[RequestedCall("call_0", "f", "{}")],
    )


SHAPES, PICKS = st.integers(0, 3), st.integers(0, 24)
ODD: list[Body] = [
    {},
    {"content": [MCP_IMAGE], "isError": True},
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]},
    {"type": "mcp_call", "id": "m", "name": "f", "arguments": "{}", "output": "a", "error": None},
    {"type": "web_search_call", "id": "w"},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "s"}]},
    {"role": "user", "content": [{"type": "text", "text": " "}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "a"}]},
    {"role": "user", "content": [{"n": 10**30}, "a"]},
    RESPONSE_OF_A_CHAT,
    {"role": 7, "content": {"x": [None]}, "tool_calls": {"not": "a list"}, "type": ["x"]},
]


def steps(formats: Sequence[FormatName]) -> st.SearchStrategy[Step]:
    name = st.sampled_from(formats)
    calls = st.lists(st.tuples(IDS, NAMES, ARGUMENTS), min_size=1, max_size=3)
    return st.one_of(
        st.builds(say, name, ROLES, st.integers(0, 2)),
        st.builds(ask, name, calls, SHAPES),
        st.builds(ask, name, calls, SHAPES),
        st.builds(answer_by_item, name, PICKS, RESULTS, SHAPES),
        st.builds(answer_by_item, name, PICKS, RESULTS, SHAPES),
        st.builds(end, PICKS, st.sampled_from(["succeed", "fail", "abandon"]), RESULTS, SHAPES),
        st.builds(retract, PICKS),
        st.builds(post_odd, st.sampled_from(ODD)),
        st.just(request),
    )
