"""
What a model is given passes the rules of its API, whatever was recorded in which order.

`history` stays exact beside it. The rules are in `tests.support.model_apis`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from eventstore import InvalidInput, NotFound, User
from projections.model_input.arrange import arrange
from projections.model_input.formats import FormatName
from projections.queries.model_input import MESSAGES, REACH, TOOL_CALLS
from tests.store.test_items import (
    BLOCKS,
    BLOCKS_ANSWER,
    CHAT,
    CHAT_ANSWER,
    FUNCTION,
    LEGACY,
    LEGACY_ANSWER,
    RESPONSES,
    RESPONSES_ANSWER,
)
from tests.support.model_apis import check

type Body = dict[str, Any]

HURRY: Body = {"role": "user", "content": "and hurry"}
PAIRS: dict[FormatName, tuple[Body, Body]] = {
    "chat_completions": (CHAT, CHAT_ANSWER),
    "responses": (RESPONSES, RESPONSES_ANSWER),
    "anthropic": (BLOCKS, BLOCKS_ANSWER),
}
each_pair = pytest.mark.parametrize(
    ("name", "asking", "answer"),
    [*((name, *pair) for name, pair in PAIRS.items()), ("chat_completions", LEGACY, LEGACY_ANSWER)],
)


def model_input(user: User, conversation: UUID, **options: Any) -> list[Body]:
    """Return what the model is given, after checking it; the log's history must give the same."""
    items = user.model_input(conversation, **options)
    as_of = options.pop("as_of", None)
    assert items == arrange(user.history(conversation, source="events", as_of=as_of), **options)
    if (name := options.get("format")) is not None:
        check(name, items)
    return items


def asking(*ids: str | None, **message: Any) -> Body:
    calls = [{"id": one, "type": "function", "function": FUNCTION} for one in ids]
    return {"role": "assistant", "content": None, **message, "tool_calls": calls}


# Where the calls of each format stand, and how they are answered.


@each_pair
def test_an_answer_stands_directly_after_its_call_whatever_came_between(
    alice: User, chat: UUID, name: FormatName, asking: Body, answer: Body
) -> None:
    alice.messages.extend(chat, [asking, HURRY, answer])

    items = model_input(alice, chat)

    check(name, items)
    if name == "anthropic":
        (result,), hurry = BLOCKS_ANSWER["content"], {"type": "text", "text": "and hurry"}
        assert items == [asking, {"role": "user", "content": [result, hurry]}]
    else:
        assert items == [asking, answer, HURRY]
    assert [one.body for one in alice.history(chat)] == [asking, HURRY, answer]


OUTCOMES: dict[FormatName, tuple[Body, Body]] = {
    "chat_completions": (
        {"role": "tool", "tool_call_id": "call_1", "content": '{"id":7}'},
        {"role": "tool", "tool_call_id": "call_1", "content": "no"},
    ),
    "responses": (
        {"type": "function_call_output", "call_id": "call_1", "output": '{"id":7}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "no"},
    ),
    "anthropic": (
        {"type": "tool_result", "tool_use_id": "call_1", "content": '{"id":7}'},
        {"type": "tool_result", "tool_use_id": "call_1", "is_error": True, "content": "no"},
    ),
}


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_a_call_that_the_store_ends_is_answered_in_the_format_of_its_item(
    alice: User, chat: UUID, name: FormatName, failed: bool
) -> None:
    alice.messages.extend(chat, [PAIRS[name][0], HURRY])
    call = alice.tool_calls.find(chat, "call_1")
    if failed:
        alice.tool_calls.fail(call, error="no")
    else:
        alice.tool_calls.succeed(call, output={"id": 7})

    items = model_input(alice, chat)

    check(name, items)
    found = items[1]["content"][0] if name == "anthropic" else items[1]
    assert found == OUTCOMES[name][failed]


OTHER_KINDS: dict[str, tuple[Body, Body]] = {
    "a custom tool": (
        {"type": "custom_tool_call", "call_id": "1", "name": "run", "input": "print()"},
        {"type": "custom_tool_call_output", "call_id": "1", "output": "done"},
    ),
    "a local shell": (
        {
            "type": "local_shell_call",
            "id": "x",
            "call_id": "1",
            "action": {},
            "status": "completed",
        },
        {"type": "local_shell_call_output", "id": "1", "output": "done"},
    ),
    "a shell": (
        {"type": "shell_call", "call_id": "1", "action": {"commands": ["ls"]}},
        {
            "type": "shell_call_output",
            "call_id": "1",
            "output": [
                {"stdout": "done", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}
            ],
        },
    ),
    "a patch": (
        {"type": "apply_patch_call", "call_id": "1", "operation": {}, "status": "completed"},
        {
            "type": "apply_patch_call_output",
            "call_id": "1",
            "status": "completed",
            "output": "done",
        },
    ),
    "a custom tool of a chat": (
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "custom", "custom": {"name": "run", "input": "print()"}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ),
}


@pytest.mark.parametrize(("item", "answer"), OTHER_KINDS.values(), ids=OTHER_KINDS)
def test_each_kind_of_call_has_its_kind_of_answer(
    alice: User, chat: UUID, item: Body, answer: Body
) -> None:
    alice.messages.post(chat, body=item)
    alice.tool_calls.succeed(alice.tool_calls.find(chat, "1"), output="done")

    items = model_input(alice, chat)

    assert items == [item, answer]
    check("responses" if "type" in item else "chat_completions", items)


def test_a_screenshot_answers_a_computer_and_nothing_else_can(alice: User, chat: UUID) -> None:
    click = {"type": "computer_call", "call_id": "1", "action": {"type": "click"}}
    picture = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
    alice.messages.extend(chat, [click, {**click, "call_id": "2"}])
    alice.tool_calls.succeed(alice.tool_calls.find(chat, "1"), output={"content": [picture]})

    for pending in ("leave_out", "answer"):
        items = model_input(alice, chat, pending=pending, format="responses")

        url = "data:image/png;base64,aGk="
        screenshot = {"type": "computer_screenshot", "image_url": url}
        output = {"type": "computer_call_output", "call_id": "1", "output": screenshot}
        assert items == [click, output]


def test_parallel_calls_are_answered_in_their_order(alice: User, chat: UUID) -> None:
    alice.messages.extend(
        chat,
        [
            asking("1", "2", "3"),
            HURRY,
            {**CHAT_ANSWER, "tool_call_id": "3"},
            {**CHAT_ANSWER, "tool_call_id": "1"},
        ],
    )
    alice.tool_calls.succeed(alice.tool_calls.find(chat, "2"), output="two")

    items = model_input(alice, chat, format="chat_completions")

    assert [one.get("tool_call_id") for one in items] == [None, "1", "2", "3", None]
    blocks = model_input(alice, chat, format="anthropic")[1]["content"]
    assert [one.get("tool_use_id") for one in blocks] == ["1", "2", "3", None]


def test_blocks_that_were_stored_one_by_one_are_one_message_again(alice: User, chat: UUID) -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    calls = [{"type": "tool_use", "id": one, "name": "f", "input": {}} for one in "ab"]
    results = [{"type": "tool_result", "tool_use_id": one, "content": one} for one in "ab"]
    model = [{"role": "assistant", "content": [block]} for block in [thought, *calls]]
    user = [{"role": "user", "content": [block]} for block in results]
    alice.messages.extend(chat, [HURRY, *model, *user])

    assert model_input(alice, chat, format="anthropic") == [
        HURRY,
        {"role": "assistant", "content": [thought, *calls]},
        {"role": "user", "content": results},
    ]


def test_the_outputs_of_one_response_follow_its_last_call(alice: User, chat: UUID) -> None:
    reasoning: Body = {"type": "reasoning", "id": "rs_1", "summary": []}
    first, second = RESPONSES, {**RESPONSES, "call_id": "call_2"}
    output = {**RESPONSES_ANSWER, "call_id": "call_2"}
    alice.messages.extend(chat, [reasoning, first, second, HURRY, output, RESPONSES_ANSWER])

    items = model_input(alice, chat, format="responses")

    assert items == [reasoning, first, second, RESPONSES_ANSWER, output, HURRY]


# What is left out.


@each_pair
def test_a_second_answer_is_left_out_and_the_first_one_counts(
    alice: User, chat: UUID, name: FormatName, asking: Body, answer: Body
) -> None:
    alice.messages.extend(chat, [asking, answer])
    alice.messages.post(chat, body=answer)

    items = model_input(alice, chat)

    check(name, items)
    assert items == [asking, answer]


@each_pair
def test_answers_without_their_call_are_left_out(
    alice: User, chat: UUID, name: FormatName, asking: Body, answer: Body
) -> None:
    early = alice.messages.post(chat, body=answer)
    first = alice.messages.post(chat, body=asking)
    alice.messages.post(chat, body=answer)
    alice.messages.post(chat, body=HURRY)
    assert len(model_input(alice, chat)) == (2 if name == "anthropic" else 3)

    alice.messages.retract(chat, first.id)

    assert model_input(alice, chat) == [HURRY]
    assert alice.history(chat)[0] == early


@each_pair
def test_a_call_whose_answer_was_retracted_has_no_result(
    alice: User, chat: UUID, name: FormatName, asking: Body, answer: Body
) -> None:
    _, posted, _ = alice.messages.extend(chat, [asking, answer, HURRY])
    alice.messages.retract(chat, posted.id)

    left = model_input(alice, chat, format=name)
    given = model_input(alice, chat, format=name, pending="answer")

    said = [{**asking, "content": asking["content"][:1]}] if name == "anthropic" else []
    assert left == [*said, HURRY]
    assert "the result of this call was withdrawn" in json.dumps(given)
    assert "ok" not in json.dumps(given)


@each_pair
def test_a_later_answer_stands_for_one_that_was_retracted(
    alice: User, chat: UUID, name: FormatName, asking: Body, answer: Body
) -> None:
    _, posted, *_ = alice.messages.extend(chat, [asking, answer, HURRY, answer])
    alice.messages.retract(chat, posted.id)

    assert json.dumps(model_input(alice, chat)).count('"ok"') == 1
    # The limit is read by the place of the answer that was retracted.
    for limit in range(4):
        model_input(alice, chat, format=name, limit=limit)


def test_an_answer_to_a_call_that_the_provider_answered_itself_stands_for_nothing(
    alice: User, chat: UUID
) -> None:
    search: Body = {
        "role": "assistant",
        "content": [
            {"type": "server_tool_use", "id": "srv_1", "name": "web", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []},
        ],
    }
    foreign = {"type": "tool_result", "tool_use_id": "srv_1", "content": "ok"}
    alice.messages.extend(chat, [search, HURRY, {"role": "user", "content": [foreign]}])

    assert model_input(alice, chat, limit=2, format="anthropic") == [HURRY]


@each_pair
def test_calls_that_have_no_result_are_left_out_or_answered(
    alice: User, chat: UUID, name: FormatName, asking: Body, answer: Body
) -> None:
    alice.messages.extend(chat, [asking, HURRY])
    said = [{**asking, "content": asking["content"][:1]}] if name == "anthropic" else []
    assert model_input(alice, chat, format=name) == [*said, HURRY]
    pending = model_input(alice, chat, format=name, pending="answer")
    assert "this call has no result yet" in json.dumps(pending)

    call = alice.history(chat)[0].tool_calls[0]
    alice.tool_calls.abandon(call, reason="the user went home")

    assert model_input(alice, chat, format=name) == [*said, HURRY]
    abandoned = model_input(alice, chat, format=name, pending="answer")
    assert "this call was abandoned: the user went home" in json.dumps(abandoned)


def test_a_message_whose_call_is_left_out_keeps_its_text_and_the_other_calls(
    alice: User, chat: UUID
) -> None:
    body = asking("1", "2", content="Let me see", refusal=None)
    alice.messages.extend(chat, [body, {**CHAT_ANSWER, "tool_call_id": "2"}, asking("3")])

    items = model_input(alice, chat, format="chat_completions")

    assert items == [asking("2", content="Let me see"), {**CHAT_ANSWER, "tool_call_id": "2"}]
    alice.messages.retract(chat, alice.history(chat)[1].id)
    assert model_input(alice, chat) == [{"role": "assistant", "content": "Let me see"}]


def test_thoughts_go_with_the_call_that_came_of_them(alice: User, chat: UUID) -> None:
    reasoning: Body = {"type": "reasoning", "id": "rs_1", "summary": [], "content": None}
    thinking = [{"type": "thinking", "thinking": "hm", "signature": "s"}]
    blocks = {**BLOCKS, "content": [*thinking, BLOCKS["content"][1]]}
    alice.messages.extend(chat, [reasoning, RESPONSES, HURRY])
    other = alice.conversations.start().id
    alice.messages.extend(other, [blocks, HURRY])

    assert model_input(alice, chat, format="responses") == [HURRY]
    assert model_input(alice, other, format="anthropic") == [HURRY]


def test_what_no_format_knows_is_left_out_and_stays_in_the_history(alice: User, chat: UUID) -> None:
    odd: list[Body] = [
        {},
        {"kind": "of another world", "content": {"x": 1}},
        {"content": [{"type": "text", "text": "a"}], "structuredContent": {"a": 1}},
        {"role": "user", "content": None},
        {"role": "assistant", "content": "", "tool_calls": None},
        {"role": " ", "content": "a"},
    ]
    alice.messages.extend(chat, [*odd, HURRY])

    for name in PAIRS:
        assert model_input(alice, chat, format=name) == [HURRY]
    assert len(alice.history(chat)) == 7


def test_calls_in_no_history_are_in_no_request(alice: User, chat: UUID) -> None:
    alice.messages.post(chat, body=HURRY)
    call = alice.tool_calls.request(chat, name="f", arguments="{}", in_history=False)
    alice.tool_calls.succeed(call, output=1)

    assert model_input(alice, chat, pending="answer") == [HURRY]


# Ids, arguments, values, roles.


def test_calls_without_an_id_get_the_one_of_the_store(alice: User, chat: UUID) -> None:
    alice.messages.post(chat, body=asking(None, "call_1"))
    given, named = alice.history(chat)[0].tool_calls
    for call in (given, named):
        alice.tool_calls.succeed(call, output="ok")

    message, first, second = model_input(alice, chat, format="chat_completions")

    assert [one["id"] for one in message["tool_calls"]] == [given.call_id, "call_1"]
    assert (first["tool_call_id"], second["tool_call_id"]) == (given.call_id, "call_1")


@pytest.mark.parametrize("name", PAIRS)
def test_ids_that_a_model_repeats_are_told_apart(alice: User, chat: UUID, name: FormatName) -> None:
    answers = [{**CHAT_ANSWER, "content": text} for text in "abc"]
    both = asking("call_1", "call_1")
    alice.messages.extend(chat, [asking("call_1"), answers[0], both, *answers[1:]])

    items = model_input(alice, chat, format=name)

    written = json.dumps(items)
    assert [written.index(f'"{text}"') for text in "abc"] == sorted(
        written.index(f'"{text}"') for text in "abc"
    )


def test_one_message_answers_calls_of_one_id_in_their_order(alice: User, chat: UUID) -> None:
    result = {"type": "tool_result", "tool_use_id": "call_1"}
    results = [{**result, "content": text} for text in "ab"]
    alice.messages.extend(chat, [asking("call_1", "call_1"), {"role": "user", "content": results}])

    items = model_input(alice, chat, format="chat_completions")

    assert [one["content"] for one in items] == [None, "a", "b"]
    assert [call.output for call in alice.history(chat)[0].tool_calls] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "text", "value"),
    [
        (None, "{}", {}),
        ({"title": "Milk", "price": Decimal("1.10")}, '{"title":"Milk","price":1.10}', None),
        ('{"a": 1}', '{"a": 1}', {"a": 1}),
        ("not json", "not json", {"input": "not json"}),
        ("[1]", "[1]", {"input": "[1]"}),
    ],
)
def test_arguments_are_text_or_an_object_as_the_format_has_it(
    alice: User, chat: UUID, arguments: Any, text: str, value: Any
) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    alice.messages.post(chat, body={"role": "assistant", "content": None, "tool_calls": [call]})

    chats, responses, blocks = (
        model_input(alice, chat, format=name, pending="answer") for name in PAIRS
    )

    assert chats[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": text}
    assert responses[0]["arguments"] == text
    assert blocks[0]["content"][0]["input"] == (value or json.loads(text))


def test_values_are_plain_json_and_the_history_keeps_the_exact_ones(
    alice: User, chat: UUID
) -> None:
    parts = [{"type": "text", "text": "cut \ud83e\0", "n": [Decimal("1.10"), 2**70, True, None]}]
    body = {"role": "user", "content": parts, "huge\ud800": Decimal("1e400")}
    alice.messages.extend(chat, [body, {**HURRY, "content": "\ud83e"}])

    first, second = model_input(alice, chat, format="chat_completions")

    assert first["content"] == [
        {"type": "text", "text": "cut \ufffd\ufffd", "n": [1.1, 2**70, True, None]}
    ]
    assert type(first["content"][0]["n"][0]) is float
    assert first["huge\ufffd"] == "1E+400"
    assert second["content"] == "\ufffd"
    assert alice.history(chat)[0].body == body


def test_a_role_that_no_api_has_is_the_users(alice: User, chat: UUID) -> None:
    alice.messages.post(chat, sender="anna", content="Milk")
    alice.messages.post(chat, body={"role": "anna", "content": "Bread"})
    alice.messages.post(chat, body={"role": "developer", "content": "Be brief"})

    roles = {name: [one["role"] for one in model_input(alice, chat, format=name)] for name in PAIRS}

    assert roles == {
        "chat_completions": ["user", "user", "developer"],
        "responses": ["user", "user", "developer"],
        "anthropic": ["user"],
    }
    assert alice.history(chat)[0].sender == "anna"


PNG = "data:image/png;base64,aGk="
IMAGES: dict[FormatName, Body] = {
    "chat_completions": {"type": "image_url", "image_url": {"url": PNG}},
    "responses": {"type": "input_image", "image_url": PNG, "detail": "auto"},
    "anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
    },
}
MCP_IMAGE = {"type": "image", "data": "aGk=", "mimeType": "image/png"}


@pytest.mark.parametrize("given", IMAGES)
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_goes_over_into_each_format(
    alice: User, chat: UUID, given: FormatName, name: FormatName
) -> None:
    alice.messages.post(chat, body={"role": "user", "content": [IMAGES[given]]})

    (item,) = model_input(alice, chat, format=name)

    assert item == {"role": "user", "content": [IMAGES[name]]}


@pytest.mark.parametrize("by_item", [True, False])
def test_the_result_of_an_mcp_tool_is_given_as_content_and_not_as_base64_text(
    alice: User, chat: UUID, by_item: bool
) -> None:
    result = {"content": [{"type": "text", "text": "a"}, MCP_IMAGE], "isError": True}
    alice.messages.post(chat, body=RESPONSES)
    if by_item:
        alice.messages.post(chat, body={**RESPONSES_ANSWER, "output": result})
    else:
        alice.tool_calls.succeed(alice.tool_calls.find(chat, "call_1"), output=result)

    chats, responses, blocks = (model_input(alice, chat, format=name) for name in PAIRS)

    assert chats[1]["content"] == "a\n[image left out]"
    text, image = {"type": "input_text", "text": "a"}, IMAGES["responses"]
    assert responses[1]["output"] == [text, image]
    text = {"type": "text", "text": "a"}
    assert blocks[1]["content"][0]["content"] == [text, IMAGES["anthropic"]]
    assert blocks[1]["content"][0]["is_error"] is True


def test_the_content_that_was_meant_for_the_model_is_what_it_gets(alice: User, chat: UUID) -> None:
    alice.messages.post(chat, body=BLOCKS)
    parts = [{"type": "text", "text": "a"}, IMAGES["anthropic"]]
    alice.tool_calls.succeed(
        alice.tool_calls.find(chat, "call_1"), output={"rows": list(range(99))}, content=parts
    )

    _, answer = model_input(alice, chat, format="anthropic")

    assert answer["content"][0]["content"] == parts


RESPONSE_OF_A_CHAT = {
    "role": "assistant",
    "content": None,
    "refusal": "I will not",
    "annotations": None,
    "tool_calls": None,
    "function_call": None,
    "audio": None,
}


def test_what_an_api_returned_goes_back_as_it_takes_it(alice: User, chat: UUID) -> None:
    sound = {"id": "audio_1", "transcript": "hello", "data": "aGk=", "expires_at": 1}
    alice.messages.extend(
        chat, [RESPONSE_OF_A_CHAT, {"role": "assistant", "content": None, "audio": sound}]
    )
    other = alice.conversations.start().id
    block: Body = {"type": "text", "text": "hello", "citations": None}
    alice.messages.post(
        other,
        body={
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [block],
            "stop_reason": "end_turn",
            "usage": {"output_tokens": 1},
        },
    )
    third = alice.conversations.start().id
    message: Body = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "hello", "annotations": []}],
    }
    reasoning: Body = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "status": None,
        "content": None,
    }
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    alice.messages.extend(third, [reasoning, search, message])

    assert model_input(alice, chat, format="chat_completions") == [
        {"role": "assistant", "content": None, "refusal": "I will not"},
        {"role": "assistant", "content": None, "audio": {"id": "audio_1"}},
    ]
    assert model_input(alice, chat, format="anthropic")[0]["content"] == [
        {"type": "text", "text": "I will not"},
        {"type": "text", "text": "hello"},
    ]
    assert model_input(alice, chat, format="responses")[1]["content"] == "hello"
    assert model_input(alice, other) == [{"role": "assistant", "content": [block]}]
    bare = {"type": "reasoning", "id": "rs_1", "summary": []}
    assert model_input(alice, third) == [bare, search, message]


# The format of a mixed conversation.


def test_the_format_is_that_of_the_newest_item_of_the_model(alice: User, chat: UUID) -> None:
    assert model_input(alice, chat) == []
    for name, (item, answer) in PAIRS.items():
        body = json.loads(json.dumps([item, answer]).replace("call_1", name))
        alice.messages.extend(chat, [*body, HURRY])

        items = model_input(alice, chat)

        check(name, items)
        assert json.dumps(items).count('"ok"') == [*PAIRS].index(name) + 1
    alice.messages.post(chat, body={"role": "user", "content": [IMAGES["responses"]]})
    check("anthropic", model_input(alice, chat))
    for name in PAIRS:
        assert json.dumps(model_input(alice, chat, format=name)).count('"ok"') == 3


def test_an_answer_of_the_store_does_not_make_a_chat_of_a_conversation(
    alice: User, chat: UUID
) -> None:
    alice.messages.post(chat, body=RESPONSES)
    alice.tool_calls.succeed(alice.tool_calls.find(chat, "call_1"), output="ok")

    assert model_input(alice, chat) == [RESPONSES, RESPONSES_ANSWER]


# The limit, and earlier moments.


@each_pair
@pytest.mark.parametrize("between", [0, 3])
def test_a_limit_never_begins_between_a_call_and_its_answer(
    alice: User, chat: UUID, name: FormatName, asking: Body, answer: Body, between: int
) -> None:
    said = [{"role": "user", "content": str(number)} for number in range(between)]
    alice.messages.extend(chat, [HURRY, asking, *said, answer])

    items = model_input(alice, chat, limit=1, format=name)

    assert items == [asking, answer]
    assert model_input(alice, chat, limit=0) == []
    assert model_input(alice, chat, limit=9) == model_input(alice, chat)
    if between:
        both = model_input(alice, chat, limit=2, format=name)
        assert json.dumps(said[-1]["content"]) in json.dumps(both)
        assert json.dumps(said[-2]["content"]) not in json.dumps(both)


def test_a_limit_never_begins_between_reasoning_and_what_came_of_it(
    alice: User, chat: UUID
) -> None:
    reasoning: Body = {"type": "reasoning", "id": "rs_1", "summary": []}
    second, output = {**RESPONSES, "call_id": "2"}, {**RESPONSES_ANSWER, "call_id": "2"}
    items = [reasoning, RESPONSES, second, RESPONSES_ANSWER, output]
    alice.messages.extend(chat, [HURRY, *items])

    for limit in range(1, 6):
        assert model_input(alice, chat, limit=limit, format="responses") == items
    alice.messages.extend(chat, [reasoning, {"role": "assistant", "content": "done"}])
    assert len(model_input(alice, chat, limit=1, format="responses")) == 2


def test_a_limit_counts_what_is_in_the_history(alice: User, chat: UUID) -> None:
    posted = [alice.messages.post(chat, body={**HURRY, "content": str(n)}) for n in range(5)]
    alice.messages.retract(chat, posted[3].id)

    items = model_input(alice, chat, limit=2)

    assert [one["content"] for one in items] == ["2", "4"]


def test_the_call_of_an_answer_is_found_at_most_500_messages_before_the_limit(
    alice: User, chat: UUID
) -> None:
    alice.messages.post(chat, body=CHAT)
    alice.messages.extend(chat, [{**HURRY, "content": str(number)} for number in range(499)])
    alice.messages.post(chat, body=CHAT_ANSWER)
    assert alice.model_input(chat, limit=1) == [CHAT, CHAT_ANSWER]

    other = alice.conversations.start().id
    alice.messages.post(other, body=CHAT)
    alice.messages.extend(other, [{**HURRY, "content": str(number)} for number in range(500)])
    alice.messages.post(other, body=CHAT_ANSWER)

    assert alice.model_input(other, limit=1) == []
    assert len(alice.model_input(other, limit=2)) == 3


def test_as_of_gives_what_the_model_would_have_been_given_then(alice: User, chat: UUID) -> None:
    request = alice.messages.post(chat, body=CHAT)
    hurry = alice.messages.post(chat, body=HURRY)
    answer = alice.messages.post(chat, body=CHAT_ANSWER)
    alice.messages.retract(chat, request.id)

    def then(position: int, **options: Any) -> list[Body]:
        return model_input(
            alice, chat, as_of=position, format="chat_completions", pending="answer", **options
        )

    # The requests stand after their message in the log.
    assert len(then(request.position)) == 2
    assert len(then(hurry.position)) == 3
    assert then(answer.position) == [CHAT, CHAT_ANSWER, HURRY]
    assert then(answer.position, limit=1) == [CHAT, CHAT_ANSWER]
    assert then(answer.position + 1) == [HURRY]


@pytest.mark.parametrize(
    ("options", "path"),
    [({"limit": -1}, "limit"), ({"pending": "wait"}, "pending"), ({"format": "openai"}, "format")],
)
def test_a_parameter_that_does_not_fit_is_named(
    alice: User, chat: UUID, options: dict[str, Any], path: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        alice.model_input(chat, **options)

    assert error.value.path == path


def test_nobody_is_given_another_users_conversation(alice: User, bob: User, chat: UUID) -> None:
    alice.messages.post(chat, body=HURRY)
    for options in ({}, {"limit": 5}):
        with pytest.raises(NotFound):
            bob.model_input(chat, **options)  # type: ignore[arg-type]  # of two types
        with pytest.raises(NotFound):
            bob.model_input("no such key", **options)  # type: ignore[arg-type]  # of two types


MANY = """
insert into eventstore.message
  (user_id, id, conversation_id, position, sender, content, tool_call_count, created_at)
select 'alice', gen_random_uuid(), %(chat)s, 10 + n, case n %% 3 when 0 then 'user' else
  'assistant' end, 'text', (n %% 3 = 1)::int, now()
from generate_series(1, 20000) as n
"""
MANY_CALLS = """
insert into eventstore.tool_call
  (user_id, id, conversation_id, message_id, index, call_id, name, arguments, status, requested_at,
   position, finished_position, finished_at)
select 'alice', gen_random_uuid(), conversation_id, id, 0, 'call_0', 'f', '"{}"', 'succeeded',
  created_at, position, position + 1, created_at
from eventstore.message where tool_call_count > 0
"""


def test_the_newest_messages_come_from_indexes_however_long_the_conversation(
    alice: User, chat: UUID, admin: psycopg.Connection
) -> None:
    admin.execute(MANY, {"chat": chat})
    admin.execute(MANY_CALLS)
    admin.execute("analyze eventstore.message, eventstore.tool_call")
    parameters = ["alice", chat, None, None, 50]

    for sql, reads in ((MESSAGES, "message"), (TOOL_CALLS, "tool_call")):
        admin.execute(f"prepare {reads} (text, uuid, bigint, timestamptz, bigint) as {sql}")
        values = psycopg.sql.SQL(", ").join(map(psycopg.sql.Literal, parameters))
        statement = psycopg.sql.SQL("explain (analyze, format json) execute {} ({})").format(
            psycopg.sql.Identifier(reads), values
        )
        (plan,) = admin.execute(statement).fetchone() or ()
        text = json.dumps(plan)

        assert "Seq Scan" not in text
        assert "message_conversation_position_key" in text
        assert "tool_call_message" in text
        assert max(nodes(plan[0]["Plan"])) <= REACH


def nodes(plan: dict[str, Any]) -> Iterator[int]:
    """Yield how many rows each node of a plan made in one run."""
    yield plan["Actual Rows"]
    for one in plan.get("Plans", ()):
        yield from nodes(one)
