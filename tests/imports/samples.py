"""Small exports of each program, written by hand in the shapes that they have."""

from __future__ import annotations

from typing import Any

__all__ = ["CHATGPT", "CLAUDE", "OPEN_WEBUI", "RESPONSES", "chatgpt_message", "chatgpt_node"]


def chatgpt_message(role: str, content: dict[str, Any] | str | None, **more: Any) -> dict[str, Any]:
    """Return a message of ChatGPT's export; a text is a content of the type `text`."""
    if isinstance(content, str):
        content = {"content_type": "text", "parts": [content]}
    return {
        "author": {"role": role, "name": more.pop("name", None), "metadata": {}},
        "create_time": more.pop("create_time", None),
        "update_time": None,
        "content": content,
        "status": "finished_successfully",
        "end_turn": True,
        "weight": 1.0,
        "metadata": more.pop("metadata", {}),
        "recipient": more.pop("recipient", "all"),
        "channel": None,
        **more,
    }


def chatgpt_node(
    name: str, parent: str | None, children: list[str], message: dict[str, Any] | None
) -> dict[str, Any]:
    """Return a node of a mapping; its message has the node's id."""
    given = None if message is None else {"id": name, **message}
    return {"id": name, "parent": parent, "children": children, "message": given}


def _mapping(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {node["id"]: node for node in nodes}


CHATGPT: dict[str, Any] = {
    "title": "Groceries",
    "create_time": 1704441600.25,
    "update_time": 1704445200.5,
    "current_node": "bought",
    "conversation_id": "6597b8c0-1111-4222-8333-444455556666",
    "id": "6597b8c0-1111-4222-8333-444455556666",
    "default_model_slug": "gpt-4o",
    "moderation_results": [],
    "is_archived": False,
    "mapping": _mapping(
        chatgpt_node("root", None, ["hidden"], None),
        chatgpt_node(
            "hidden",
            "root",
            ["context"],
            chatgpt_message(
                "system", "", metadata={"is_visually_hidden_from_conversation": True}, weight=0.0
            ),
        ),
        chatgpt_node(
            "context",
            "hidden",
            ["question"],
            chatgpt_message(
                "user",
                {
                    "content_type": "user_editable_context",
                    "user_profile": "I live in Bremen.",
                    "user_instructions": "Be brief.",
                },
                metadata={"is_user_system_message": True},
            ),
        ),
        chatgpt_node(
            "question",
            "context",
            ["declined", "thought"],
            chatgpt_message(
                "user",
                {
                    "content_type": "multimodal_text",
                    "parts": [
                        {
                            "content_type": "image_asset_pointer",
                            "asset_pointer": "file-service://file-1",
                            "width": 4,
                            "height": 3,
                        },
                        "What is missing here?",
                    ],
                },
                create_time=1704441601.0,
                metadata={"attachments": [{"id": "file-1", "name": "fridge.png"}]},
            ),
        ),
        chatgpt_node(
            "declined", "question", [], chatgpt_message("assistant", "I cannot see pictures.")
        ),
        chatgpt_node(
            "thought",
            "question",
            ["recap"],
            chatgpt_message(
                "assistant",
                {
                    "content_type": "thoughts",
                    "thoughts": [{"summary": "Looking", "content": "No milk.", "finished": True}],
                    "source_analysis_msg_id": "x",
                },
            ),
        ),
        chatgpt_node(
            "recap",
            "thought",
            ["search"],
            chatgpt_message(
                "assistant",
                {"content_type": "reasoning_recap", "content": "Thought for 2 seconds"},
            ),
        ),
        chatgpt_node(
            "search",
            "recap",
            ["page"],
            chatgpt_message(
                "assistant",
                {"content_type": "code", "language": "unknown", "text": 'search("milk")'},
                recipient="browser",
                metadata={"model_slug": "gpt-4o-mini"},
            ),
        ),
        chatgpt_node(
            "page",
            "search",
            ["empty"],
            chatgpt_message(
                "tool",
                {
                    "content_type": "tether_browsing_display",
                    "result": "# Milk\nhttps://milk.example",
                    "summary": None,
                    "assets": None,
                },
                name="browser",
            ),
        ),
        chatgpt_node(
            "empty",
            "page",
            ["quote"],
            chatgpt_message(
                "tool",
                {"content_type": "tether_browsing_display", "result": "", "summary": ""},
                name="browser",
            ),
        ),
        chatgpt_node(
            "quote",
            "empty",
            ["run"],
            chatgpt_message(
                "tool",
                {
                    "content_type": "tether_quote",
                    "url": "https://milk.example",
                    "domain": "milk.example",
                    "text": "Milk is white.",
                    "title": "Milk",
                },
                name="browser",
            ),
        ),
        chatgpt_node(
            "run",
            "quote",
            ["output"],
            chatgpt_message(
                "assistant",
                {"content_type": "code", "language": "python", "text": "print(2)"},
                recipient="python",
            ),
        ),
        chatgpt_node(
            "output",
            "run",
            ["bought"],
            chatgpt_message(
                "tool", {"content_type": "execution_output", "text": "2"}, name="python"
            ),
        ),
        chatgpt_node(
            "bought",
            "output",
            [],
            chatgpt_message("assistant", "Milk.", create_time=1704441609.5),
        ),
    ),
}

CLAUDE: dict[str, Any] = {
    "uuid": "0b7b1c1e-1111-4222-8333-444455556666",
    "name": "Milk for Jürgen",
    "summary": "",
    "created_at": "2025-01-05T08:00:00.123456Z",
    "updated_at": "2025-01-05T08:01:00.000000Z",
    "account": {"uuid": "a"},
    "chat_messages": [
        {
            "uuid": "m1",
            "text": "Read the list",
            "content": [
                {
                    "start_timestamp": "2025-01-05T08:00:01Z",
                    "stop_timestamp": "2025-01-05T08:00:01Z",
                    "flags": None,
                    "type": "text",
                    "text": "Read the list",
                    "citations": [],
                }
            ],
            "sender": "human",
            "created_at": "2025-01-05T08:00:01Z",
            "updated_at": "2025-01-05T08:00:01Z",
            "attachments": [
                {
                    "file_name": "list.txt",
                    "file_size": 9,
                    "file_type": "txt",
                    "extracted_content": "milk\neggs",
                }
            ],
            "files": [{"file_name": "fridge.png"}],
        },
        {
            "uuid": "m2",
            "text": "I will add it. Done.",
            "content": [
                {"type": "thinking", "thinking": "Milk and eggs.", "summaries": []},
                {"type": "text", "text": "I will add it.", "citations": []},
                {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"n": "für"}},
                {"type": "tool_use", "name": "add", "input": {"n": "eggs"}, "message": "Adding"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "name": "add",
                    "content": [{"type": "text", "text": "ok"}],
                    "is_error": False,
                },
                {"type": "tool_result", "name": "add", "content": [], "is_error": True},
                {"type": "token_budget"},
                {"type": "text", "text": "Done.", "citations": [{"url": "https://milk.example"}]},
            ],
            "sender": "assistant",
            "created_at": "2025-01-05T08:00:05Z",
            "attachments": [],
            "files": [],
        },
        {"uuid": "m3", "text": "Thanks", "sender": "human", "created_at": "no date"},
        {"uuid": "m4", "text": "", "content": [], "sender": "assistant"},
    ],
}

OPEN_WEBUI: dict[str, Any] = {
    "id": "c1c1c1c1-1111-4222-8333-444455556666",
    "user_id": "u",
    "title": "Shopping",
    "chat": {
        "id": "",
        "title": "Shopping",
        "models": ["llama3:8b"],
        "timestamp": 1715000000123,
        "tags": [],
        "history": {
            "currentId": "a2",
            "messages": {
                "q": {
                    "id": "q",
                    "parentId": None,
                    "childrenIds": ["a1", "a2", "a3"],
                    "role": "user",
                    "content": "What shall I buy?",
                    "timestamp": 1715000001,
                    "models": ["llama3:8b", "qwen2"],
                    "files": [{"type": "file", "name": "list.txt"}],
                },
                "a1": {
                    "id": "a1",
                    "parentId": "q",
                    "childrenIds": [],
                    "role": "assistant",
                    "content": "Eggs.",
                    "timestamp": 1715000002,
                    "model": "llama3:8b",
                    "done": True,
                },
                "a2": {
                    "id": "a2",
                    "parentId": "q",
                    "childrenIds": [],
                    "role": "assistant",
                    "content": "Milk.",
                    "timestamp": 1715000003,
                    "model": "qwen2",
                    "usage": {"total_tokens": 5},
                },
                "a3": {
                    "id": "a3",
                    "parentId": "q",
                    "childrenIds": [],
                    "role": "assistant",
                    "content": "",
                    "model": "qwen2",
                },
            },
        },
        "messages": [],
    },
    "created_at": 1715000000,
    "updated_at": 1715000009,
    "archived": False,
}

RESPONSES: dict[str, Any] = {
    "id": "resp-1",
    "model": "gpt-5",
    "created_at": 1730000000,
    "instructions": "Be brief.",
    "input": "Buy milk",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "add_task",
            "arguments": '{"title": "Buy milk"}',
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "ok"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Done.", "annotations": []}],
        },
    ],
}
