"""Each format is told from the others, and read as its program meant it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from eventstore import InvalidInput
from eventstore.events.json_codec import dumps, loads
from eventstore.imports.conversation import ImportedConversation, as_timestamp
from eventstore.imports.formats import Branches, Format, read_conversation
from tests.imports.samples import (
    CHATGPT,
    CLAUDE,
    OPEN_WEBUI,
    RESPONSES,
    chatgpt_message,
    chatgpt_node,
)

CHAT: dict[str, Any] = {
    "id": 7,
    "title": "Groceries",
    "created_at": "2024-01-05T08:00:00Z",
    "model": "gpt-4.1",
    "messages": [
        {"role": "user", "content": "Buy milk", "created_at": "2024-01-05T09:00:01+01:00"},
        {"role": "assistant", "content": "Done.", "model": "gpt-4.1-mini"},
        {"role": "assistant", "content": "Really."},
        {"type": "function_call_output", "call_id": "call_1", "output": "ok"},
    ],
}


def read_one(value: Any, **options: Any) -> ImportedConversation:
    (conversation,) = read_conversation(value, **options)
    return conversation


def bodies(conversation: ImportedConversation) -> list[Any]:
    return [one.body for one in conversation.messages]


def test_chat_messages_are_stored_as_they_are_with_their_dates_and_models() -> None:
    read = read_one(CHAT)

    assert (read.key, read.title) == ("7", "Groceries")
    assert read.created_at == datetime(2024, 1, 5, 8, tzinfo=UTC)
    assert bodies(read) == CHAT["messages"]
    assert [one.sender for one in read.messages] == ["user", "assistant", "assistant", "tool"]
    assert [one.model for one in read.messages] == [None, "gpt-4.1-mini", "gpt-4.1", None]
    assert read.messages[0].created_at == datetime(2024, 1, 5, 8, 0, 1, tzinfo=UTC)


def test_the_current_branch_of_chatgpt_is_read_with_calls_their_answers_and_reasoning() -> None:
    read = read_one(CHATGPT)

    assert (read.key, read.title) == (CHATGPT["id"], "Groceries")
    assert read.created_at == datetime(2024, 1, 5, 8, 0, 0, 250_000, tzinfo=UTC)
    picture, asking = bodies(read)[1]["content"]
    assert picture["type"] == "image_asset_pointer"
    assert picture["asset_pointer"] == "file-service://file-1"
    assert asking == {"type": "text", "text": "What is missing here?"}
    assert bodies(read) == [
        {"role": "system", "content": "I live in Bremen.\n\nBe brief."},
        {
            "role": "user",
            "content": [picture, asking],
            "attachments": [{"id": "file-1", "name": "fridge.png"}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_search",
                    "type": "function",
                    "function": {"name": "browser", "arguments": 'search("milk")'},
                }
            ],
            "reasoning_content": "Looking\nNo milk.",
        },
        {
            "role": "tool",
            "content": [
                {
                    "type": "tether_browsing_display",
                    "result": "# Milk\nhttps://milk.example",
                    "summary": None,
                    "assets": None,
                    "text": "# Milk\nhttps://milk.example",
                }
            ],
            "tool_call_id": "call_search",
            "name": "browser",
        },
        {
            "role": "tool",
            "content": [
                {
                    "type": "tether_quote",
                    "url": "https://milk.example",
                    "domain": "milk.example",
                    "text": "Milk is white.",
                    "title": "Milk",
                }
            ],
            "tool_call_id": "call_search",
            "name": "browser",
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_run",
                    "type": "function",
                    "function": {"name": "python", "arguments": "print(2)"},
                }
            ],
        },
        {"role": "tool", "content": "2", "tool_call_id": "call_run", "name": "python"},
        {"role": "assistant", "content": "Milk."},
    ]
    assert [one.model for one in read.messages] == [
        None, None, "gpt-4o-mini", None, None, "gpt-4o", None, "gpt-4o",
    ]  # fmt: skip
    assert read.messages[-1].created_at == datetime(2024, 1, 5, 8, 0, 9, 500_000, tzinfo=UTC)


def test_other_branches_are_conversations_of_their_own_on_request() -> None:
    current, declined = read_conversation(CHATGPT, branches=Branches.ALL)

    assert current == read_one(CHATGPT)
    assert declined.key == f"{CHATGPT['id']}#declined"
    assert (declined.title, declined.created_at) == (current.title, current.created_at)
    assert bodies(declined) == [
        *bodies(current)[:2],
        {"role": "assistant", "content": "I cannot see pictures."},
    ]


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ({"content_type": "text", "parts": ["a", "", "b"]}, ["a", "b"]),
        ({"content_type": "text"}, None),
        ({"content_type": "text", "parts": []}, None),
        ({"content_type": "code", "language": "python", "text": "x"}, "x"),
        ({"content_type": "model_editable_context", "model_set_context": ""}, None),
        ({"content_type": "system_error", "text": "no", "name": "E"}, [("system_error", "no")]),
        ({"content_type": "a new one", "thing": {"a": 1}}, [("a new one", None)]),
        ({"content_type": "tether_browsing_display", "result": ""}, None),
        ({}, None),
        (None, None),
        (
            {
                "content_type": "multimodal_text",
                "parts": [
                    {"content_type": "audio_transcription", "text": "hello", "direction": "in"},
                    {"content_type": "real_time_user_audio_video_asset_pointer", "x": 1},
                    None,
                ],
            },
            ["hello", ("real_time_user_audio_video_asset_pointer", None)],
        ),
    ],
)
def test_every_content_of_chatgpt_is_read_or_kept(content: Any, stored: Any) -> None:
    nodes = chatgpt_node("a", None, [], chatgpt_message("assistant", content))
    read = read_one({"id": "x", "current_node": "a", "mapping": {"a": nodes}})

    if stored is None:
        assert bodies(read) == []
        return
    (body,) = bodies(read)
    shown = body["content"]
    if isinstance(shown, list):
        shown = [
            part["text"] if part["type"] == "text" else (part["type"], part.get("text"))
            for part in shown
        ]
    assert shown == stored


def test_thoughts_without_an_answer_are_read_once_the_answer_is_there() -> None:
    """Otherwise the conversation of a newer export would not begin like that of an older one."""
    thoughts = {"content_type": "thoughts", "thoughts": [{"summary": "Hm"}]}
    mapping = {
        "a": chatgpt_node("a", None, ["b"], chatgpt_message("user", "Why?")),
        "b": chatgpt_node("b", "a", ["c"], chatgpt_message("assistant", thoughts)),
        "c": chatgpt_node("c", "b", [], chatgpt_message("assistant", "So.")),
    }

    before = bodies(read_one({"id": "x", "current_node": "b", "mapping": mapping}))
    after = bodies(read_one({"id": "x", "current_node": "c", "mapping": mapping}))

    assert after[: len(before)] == before
    assert after[-1] == {"role": "assistant", "content": "So.", "reasoning_content": "Hm"}


def test_one_message_of_claude_becomes_the_chat_messages_that_it_holds() -> None:
    read = read_one(CLAUDE)

    assert (read.key, read.title) == (CLAUDE["uuid"], "Milk for Jürgen")
    assert read.created_at == datetime(2025, 1, 5, 8, 0, 0, 123_456, tzinfo=UTC)
    assert bodies(read) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Read the list"},
                {"type": "text", "text": "milk\neggs"},
            ],
            "attachments": [{"file_name": "list.txt", "file_size": 9, "file_type": "txt"}],
            "files": [{"file_name": "fridge.png"}],
        },
        {
            "role": "assistant",
            "content": "I will add it.",
            "reasoning_content": "Milk and eggs.",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"n":"für"}'},
                },
                {
                    "id": "call_m2_1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"n":"eggs"}'},
                },
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "ok"},
        {"role": "tool", "tool_call_id": "call_m2_1", "content": "", "is_error": True},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Done.", "citations": [{"url": "https://milk.example"}]}
            ],
        },
        {"role": "user", "content": "Thanks"},
    ]
    assert [one.created_at is None for one in read.messages] == [False] * 5 + [True]


def test_claude_has_branches_where_it_tells_parents() -> None:
    def message(uuid: str, parent: str, sender: str) -> dict[str, Any]:
        return {"uuid": uuid, "parent_message_uuid": parent, "sender": sender, "text": uuid}

    value = {
        "uuid": "x",
        "name": "",
        "chat_messages": [
            message("q", "00000000-0000-4000-8000-000000000000", "human"),
            message("first", "q", "assistant"),
            message("second", "q", "assistant"),
            message("thanks", "first", "human"),
        ],
    }

    def contents(**more: Any) -> dict[str, list[Any]]:
        read = read_conversation({**value, **more}, branches=Branches.ALL)
        return {one.key: [body["content"] for body in bodies(one)] for one in read}

    assert contents() == {"x": ["q", "first", "thanks"], "x#second": ["q", "second"]}
    assert contents(current_leaf_message_uuid="second") == {
        "x": ["q", "second"],
        "x#first": ["q", "first", "thanks"],
    }


def test_the_current_branch_of_open_webui_is_read_with_its_model() -> None:
    read, other = read_conversation(OPEN_WEBUI, branches=Branches.ALL)

    assert (read.key, read.title) == (OPEN_WEBUI["id"], "Shopping")
    assert read.created_at == datetime(2024, 5, 6, 12, 53, 20, tzinfo=UTC)
    assert bodies(read) == [
        {
            "role": "user",
            "content": "What shall I buy?",
            "files": [{"type": "file", "name": "list.txt"}],
        },
        {"role": "assistant", "content": "Milk."},
    ]
    assert [one.model for one in read.messages] == [None, "qwen2"]
    assert other.key == f"{OPEN_WEBUI['id']}#a1"
    assert bodies(other)[-1] == {"role": "assistant", "content": "Eggs."}


def test_a_chat_of_open_webui_without_a_history_is_a_list() -> None:
    value = {"id": "x", "chat": {"messages": [{"role": "user", "content": "Hello"}]}}

    assert bodies(read_one(value)) == [{"role": "user", "content": "Hello"}]


def test_responses_items_are_stored_as_they_are() -> None:
    read = read_one(RESPONSES)

    assert read.created_at == datetime(2024, 10, 27, 3, 33, 20, tzinfo=UTC)
    assert bodies(read) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Buy milk"},
        *RESPONSES["output"],
    ]
    assert [one.sender for one in read.messages] == [
        "system", "user", "assistant", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert [one.model for one in read.messages] == [None, None, "gpt-5", "gpt-5", None, "gpt-5"]
    assert bodies(read_one({"items": RESPONSES["output"]}, key="k")) == RESPONSES["output"]


SAMPLES = {
    Format.CHAT: CHAT,
    Format.CHATGPT: CHATGPT,
    Format.CLAUDE: CLAUDE,
    Format.OPENWEBUI: OPEN_WEBUI,
    Format.RESPONSES: RESPONSES,
}


@pytest.mark.parametrize("known", SAMPLES)
def test_a_format_is_told_by_itself_and_refused_by_the_others(known: Format) -> None:
    value = loads(dumps(SAMPLES[known]))

    assert read_conversation(value) == read_conversation(value, format=known)
    for other in SAMPLES:
        if other is not known:
            with pytest.raises(InvalidInput):
                read_conversation(value, format=other)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "conversation: is a list; give a JSON object"),
        ({"id": "x"}, "in no known format; it has neither `messages`"),
        ({"messages": [{"role": "user"}]}, "id: is missing"),
        ({"id": ["a"], "messages": []}, "id: is a list; give text or a whole number"),
        ({"id": True, "messages": []}, "id: is a bool; give text or a whole number"),
        ({"id": "x", "messages": [3]}, r"messages\[0\]: is not an object with a `role`"),
        ({"id": "x", "messages": [{}]}, r"messages\[0\]: is not an object with a `role`"),
        ({"id": "x", "items": [{}]}, r"items\[0\]: has neither a `role` nor a `type`"),
        ({"id": "x", "items": ["a"]}, r"items\[0\]: is a str; give a JSON object"),
        ({"mapping": {}}, "conversation_id: is missing"),
        ({"id": "x", "mapping": []}, "mapping: is a list; give a JSON object"),
        ({"id": "x", "mapping": {"a": 1}}, "mapping.a: is a int; give a JSON object"),
        ({"id": "x", "mapping": {"a": {"message": 1}}}, "mapping.a.message: is a int"),
        (
            {"id": "x", "current_node": "a", "mapping": {"a": {"parent": "a"}}},
            "node 'a': is its own ancestor",
        ),
        ({"id": "x", "mapping": {"a": {"parent": "a"}}}, "node 'a': is its own ancestor"),
        ({"uuid": "x", "chat_messages": {}}, "chat_messages: is no list"),
        ({"uuid": "x", "chat_messages": [{}]}, r"chat_messages\[0\].sender: is missing"),
        ({"id": "x", "chat": {}}, "chat.history.messages: is missing"),
        (
            {"id": "x", "chat": {"messages": [{"content": "a"}]}},
            "chat.messages.0.role: is missing",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_path(value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^.*{message}"):
        read_conversation(value)


def test_a_date_is_iso_8601_or_seconds_or_milliseconds_and_anything_else_is_none() -> None:
    expected = datetime(2024, 1, 5, 8, tzinfo=UTC)

    for value in (
        "2024-01-05T08:00:00Z", "2024-01-05 09:00+01:00", "2024-01-05T08:00:00",
        1704441600, 1704441600.0, 1704441600000, loads("1704441600.0000000"),
    ):  # fmt: skip
        assert as_timestamp(value) == expected
    for value in (None, "", "soon", True, 0, -5, 1e300, [], "9999-12-31T23:59:59-14:00"):
        assert as_timestamp(value) is None
