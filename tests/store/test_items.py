"""
Items of every format come back exactly, and what they ask for and answer is a tool call's story.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from eventstore import (
    EventStore,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    StreamClosed,
    User,
)
from eventstore.events.items import read_item

FUNCTION = {"name": "add_task", "arguments": '{"title": "Milk"}'}
CHAT = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_1", "type": "function", "function": FUNCTION}],
}
CHAT_ANSWER = {"role": "tool", "tool_call_id": "call_1", "content": "ok"}
RESPONSES = {"type": "function_call", "call_id": "call_1", **FUNCTION}
RESPONSES_ANSWER = {"type": "function_call_output", "call_id": "call_1", "output": "ok"}
BLOCKS = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "I shall add it"},
        {"type": "tool_use", "id": "call_1", "name": "add_task", "input": {"title": "Milk"}},
    ],
}
BLOCKS_ANSWER = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "ok"}],
}
LEGACY = {"role": "assistant", "content": None, "function_call": FUNCTION}
LEGACY_ANSWER = {"role": "function", "name": "add_task", "content": "ok"}

PAIRS = {
    "chat": (CHAT, CHAT_ANSWER),
    "responses": (RESPONSES, RESPONSES_ANSWER),
    "blocks": (BLOCKS, BLOCKS_ANSWER),
    "legacy": (LEGACY, LEGACY_ANSWER),
}


def story(user: User, conversation: UUID) -> list[tuple[str, str, Any, Any]]:
    """Return the calls of a conversation as the table, the history and the audit tell them."""
    listed = user.tool_calls.list(conversation=conversation, status=None)
    for source in ("projection", "events"):
        shown = [
            call
            for message in user.history(conversation, source=source)
            for call in message.tool_calls
        ]
        assert sorted(shown, key=lambda one: one.position) == [
            one for one in listed if one.message_id is not None
        ]
    as_listed: list[tuple[str, str, Any, Any]] = [
        (one.name, one.status, one.output, one.error) for one in listed
    ]
    audited = user.audit(conversation=conversation)
    assert [(one.name, one.status, one.output, one.error) for one in audited] == as_listed
    assert user.audit() == audited
    return as_listed


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_an_item_that_answers_a_call_ends_it_whatever_the_format(
    store: EventStore, alice: User, chat: UUID, pair: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    asking, answer = pair
    alice.messages.post(chat, body=asking)
    assert story(alice, chat) == [("add_task", "pending", None, None)]

    alice.messages.post(chat, body=answer)

    assert story(alice, chat) == [("add_task", "succeeded", "ok", None)]
    assert [message.body for message in alice.history(chat)] == [asking, answer]
    assert alice.history(chat, source="events") == alice.history(chat)
    assert alice.tool_calls.list() == []
    assert store.verify().ok


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_call_and_its_answer_go_in_by_one_call(
    store: EventStore, alice: User, chat: UUID, pair: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    posted, answered = alice.messages.extend(chat, pair)

    assert [one.status for one in posted.tool_calls] == ["succeeded"]
    assert alice.history(chat) == [posted, answered]
    assert story(alice, chat) == [("add_task", "succeeded", "ok", None)]
    assert store.verify().ok


def test_the_first_of_an_answer_and_an_outcome_counts(
    store: EventStore, alice: User, chat: UUID
) -> None:
    alice.messages.extend(chat, [CHAT, CHAT_ANSWER])
    late = alice.tool_calls.find(chat, "call_1")

    with pytest.raises(IdempotencyConflict):
        alice.tool_calls.fail(late, error="a late worker")

    assert story(alice, chat) == [("add_task", "succeeded", "ok", None)]
    assert store.verify().ok


def test_answers_of_one_call_id_end_its_calls_in_their_order(
    store: EventStore, alice: User, chat: UUID
) -> None:
    twice = {**CHAT, "tool_calls": CHAT["tool_calls"] * 2}  # type: ignore[operator]  # a list
    alice.messages.post(chat, body=CHAT)
    answers = [{**CHAT_ANSWER, "content": text} for text in "abcd"]

    with alice.transaction() as tx:
        tx.messages.post(chat, body=answers[0])
        tx.messages.post(chat, body=twice)
        tx.messages.post(chat, body=answers[1])
        tx.messages.post(chat, body=answers[2])
        tx.messages.post(chat, body=CHAT)
    alice.messages.post(chat, body=answers[3])

    assert [output for _, _, output, _ in story(alice, chat)] == ["a", "b", "c", "d"]
    assert store.verify().ok


def test_an_outcome_and_an_answer_in_one_append_count_in_their_order(
    store: EventStore, alice: User, chat: UUID
) -> None:
    alice.messages.post(chat, body=CHAT)
    call = alice.tool_calls.find(chat, "call_1")
    with alice.transaction() as tx:
        tx.tool_calls.fail(call, error="first")
        tx.messages.post(chat, body=CHAT_ANSWER)
        again = tx.tool_calls.request(chat, name="f", arguments="{}", call_id="call_2")
        tx.messages.post(chat, body={**CHAT_ANSWER, "tool_call_id": "call_2"})
        tx.tool_calls.fail(again, error="second")

    assert story(alice, chat) == [
        ("add_task", "failed", None, "first"),
        ("f", "succeeded", "ok", None),
    ]
    assert store.verify().ok


def test_an_answer_ends_no_call_of_another_conversation_or_user(
    alice: User, bob: User, chat: UUID
) -> None:
    alice.messages.post(chat, body=CHAT)
    other = alice.conversations.start(key="other").id
    bobs = bob.conversations.start(key="chat").id

    alice.messages.post(other, body=CHAT_ANSWER)
    bob.messages.post(bobs, body=CHAT_ANSWER)

    assert story(alice, chat) == [("add_task", "pending", None, None)]


ODD = {
    "custom": (
        {"id": "1", "type": "custom", "custom": {"name": "code_exec", "input": "print('hi')"}},
        ("code_exec", "print('hi')"),
    ),
    "an object as arguments": (
        {"function": {"name": "f", "arguments": {"title": "Käse"}}},
        ("f", '{"title":"Käse"}'),
    ),
    "a null id": (
        {"id": None, "type": "function", "function": {"name": "f", "arguments": "{}"}},
        ("f", "{}"),
    ),
    "null arguments": ({"id": "1", "function": {"name": "f", "arguments": None}}, ("f", "{}")),
    "nothing": ({}, ("", "{}")),
    "a long id": ({"id": "x" * 300, "function": {"name": "f" * 300}}, ("f" * 238 + "…", "{}")),
}


@pytest.mark.parametrize(("entry", "expected"), ODD.values(), ids=ODD)
def test_an_odd_call_is_stored_exactly_and_recorded(
    alice: User, chat: UUID, entry: dict[str, Any], expected: tuple[str, str]
) -> None:
    body = {"role": "assistant", "content": None, "tool_calls": [entry]}

    posted = alice.messages.post(chat, body=body)

    (call,) = posted.tool_calls
    assert (call.name[: len(expected[0])], call.arguments) == expected
    assert call.call_id
    assert alice.history(chat)[0].body == body
    assert alice.tool_calls.find(chat, entry.get("id") or call.call_id) == call


ITEMS = [
    ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}, "user"),
    ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]}, "assistant"),
    ({"type": "custom_tool_call", "call_id": "1", "name": "f", "input": "x"}, "assistant"),
    ({"type": "computer_call", "call_id": "1", "action": {"type": "click"}}, "assistant"),
    ({"type": "local_shell_call", "call_id": "1", "action": {"command": ["ls"]}}, "assistant"),
    ({"type": "local_shell_call_output", "id": "1", "output": "a"}, "tool"),
    ({"type": "apply_patch_call", "call_id": "1", "operation": {"type": "delete"}}, "assistant"),
    ({"type": "mcp_call", "id": "1", "name": "f", "arguments": "{}", "output": "a"}, "assistant"),
    ({"content": [{"type": "text", "text": "a"}], "structuredContent": {"a": 1}}, "tool"),
    ({"role": "assistant", "content": None, "refusal": "a"}, "assistant"),
    ({"role": "assistant", "content": None, "audio": {"transcript": "a"}}, "assistant"),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "a"}]}, "assistant"),
    (
        {
            "role": "user",
            "content": [{"type": "tool_result", "content": [{"type": "text", "text": "a"}]}],
        },
        "user",
    ),
    ({"role": "developer", "content": "a"}, "developer"),
    ({"kind": "of another world", "role": 7, "content": {"x": [None]}}, "unknown"),
    ({"role": " ", "content": 5, "tool_calls": {"not": "a list"}, "type": ["x"]}, "unknown"),
    ({"role": "x" * 300, "content": None}, "x" * 238 + "…"),
    ({}, "unknown"),
]


@pytest.mark.parametrize(("item", "sender"), ITEMS, ids=[str(n) for n in range(len(ITEMS))])
def test_an_item_of_any_shape_comes_back_exactly_from_both_sources(
    store: EventStore, alice: User, chat: UUID, item: dict[str, Any], sender: str
) -> None:
    posted = alice.messages.post(chat, body=item)

    assert posted.sender.startswith(sender)
    assert posted.body == item
    for source in ("projection", "events"):
        (message,) = alice.history(chat, source=source)
        assert (message.body, list(message.body)) == (item, list(item))
    text = read_item(item).text
    with alice.session() as session:
        shown = session.connection().exec_driver_sql("select content from eventstore.message")
        assert shown.scalar_one() == text
    if "a" in str(item.values()) and sender in {"user", "tool"}:
        assert text == "a"
    assert store.verify().ok


def test_a_call_that_answers_itself_ends_at_once(
    store: EventStore, alice: User, chat: UUID
) -> None:
    good = {"type": "mcp_call", "id": "1", "name": "f", "arguments": "{}", "output": "done"}
    bad = {**good, "id": "2", "output": None, "error": {"code": 1}}

    alice.messages.extend(chat, [good, bad])

    assert story(alice, chat) == [
        ("f", "succeeded", "done", None),
        ("f", "failed", None, {"code": 1}),
    ]
    assert len(alice.history(chat)) == 2
    assert store.verify().ok


def test_items_start_their_conversation_once(alice: User) -> None:
    first = alice.messages.extend("session 1", [{"role": "user", "content": "a"}], start=True)
    second = alice.messages.extend("session 1", [{"role": "user", "content": "b"}], start=True)

    assert alice.history("session 1") == [*first, *second]
    with pytest.raises(NotFound):
        alice.messages.extend("session 2", [{"role": "user", "content": "a"}])
    alice.conversations.delete("session 1")
    with pytest.raises(StreamClosed):
        alice.messages.extend("session 1", [{"role": "user", "content": "c"}])
    anew = alice.messages.extend("session 1", [{"role": "user", "content": "c"}], start=True)

    assert alice.history("session 1") == anew


def test_items_that_start_a_conversation_are_posted_once_under_a_key(alice: User) -> None:
    items = [{"role": "user", "content": "a"}]
    first = alice.keyed("request 1").messages.extend("session 1", items, start=True)
    again = alice.keyed("request 1").messages.extend("session 1", items, start=True)
    alice.conversations.delete("session 1")
    anew = alice.keyed("request 2").messages.extend("session 1", items, start=True)
    once_more = alice.keyed("request 2").messages.extend("session 1", items, start=True)

    assert first == again
    assert anew == once_more == alice.history("session 1")
    with pytest.raises(IdempotencyConflict):
        alice.keyed("request 2").messages.extend("session 1", items * 2, start=True)


def test_one_bad_item_stores_none_of_them_and_is_named(alice: User, chat: UUID) -> None:
    items: list[Any] = [{"role": "user", "content": "a"}, "b"]
    with pytest.raises(InvalidInput) as error:
        alice.messages.extend(chat, items)

    assert error.value.path == "items[1]"
    assert alice.history(chat) == []


def test_a_caught_error_leaves_no_half_of_an_item_in_a_transaction(alice: User, chat: UUID) -> None:
    huge = {**CHAT, "tool_calls": [{"function": {"name": "f", "arguments": "x" * 4_000_001}}]}
    with alice.transaction() as tx:
        with pytest.raises(InvalidInput):
            tx.messages.post(chat, body=huge)
        tx.messages.post(chat, sender="user", content="and on")

    assert [message.content for message in alice.history(chat)] == ["and on"]


@pytest.mark.parametrize("role", ["", " ", "\u200b", "\u3164", "\x01"], ids=ascii)
@pytest.mark.parametrize("more", [{}, {"name": "x"}])
def test_a_role_that_shows_nothing_is_taken_for_none_and_refuses_no_item(
    role: str, more: dict[str, str]
) -> None:
    item = read_item({"role": role, "content": "Hello"} | more)

    assert item == read_item({"content": "Hello"} | more)


def test_an_item_asks_for_calls_of_its_own_conversation_only(
    store: EventStore, alice: User, bob: User, chat: UUID
) -> None:
    item = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    elsewhere = [user.conversations.start().id for user in (alice, bob)]
    others = [
        user.tool_calls.request(one, name="look", arguments="{}", call_id="c1", in_history=False)
        for user, one in zip((alice, bob), elsewhere, strict=True)
    ]
    before = alice.events()

    for other in others:
        with pytest.raises(NotFound, match=f"tool call {other.id} not found"):
            alice.messages.extend(chat, [item], calls=[other])

    assert alice.events() == before
    own = alice.tool_calls.request(
        chat, name="look", arguments="{}", call_id="c1", in_history=False
    )
    (posted,) = alice.messages.extend(chat, [item], calls=[own])
    (call,) = alice.history(chat)[-1].tool_calls
    assert (call.id, call.message_id) == (own.id, posted.id)
    assert store.verify().ok


SAID: dict[str, tuple[dict[str, Any], str]] = {
    "a text": ({"role": "user", "content": "Buy milk"}, "Buy milk"),
    "parts": (
        {"role": "assistant", "content": [{"type": "output_text", "text": "Done."}]},
        "Done.",
    ),
    "nothing": (CHAT, ""),
}


@pytest.mark.parametrize("case", SAID)
def test_a_message_has_the_text_that_a_person_reads(alice: User, case: str) -> None:
    body, text = SAID[case]
    alice.messages.extend("chat", [body], start=True)

    assert [one.text for one in alice.history("chat")] == [text]
    assert [one.text for one in alice.history("chat", source="events")] == [text]


def test_a_search_of_the_providers_own_is_no_call_that_waits(alice: User) -> None:
    search: dict[str, Any] = {
        "type": "tool_search_call",
        "call_id": None,
        "execution": "server",
        "arguments": {},
    }
    output: dict[str, Any] = {
        "type": "tool_search_output",
        "call_id": None,
        "execution": "server",
        "tools": [],
    }
    alice.messages.extend("chat", [search, output], start=True)

    assert alice.tool_calls.list(conversation="chat", status=None) == []
    assert alice.items("chat") == [search, output]
