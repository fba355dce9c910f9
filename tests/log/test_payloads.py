"""What a model or a tool produced comes back exactly, whichever way it is asked for."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventstore import EventStore, NotStorable, User
from projections.models.message import MessageView

# The pool's thread may draw its jitter while Hypothesis draws an example, which takes it for ours.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

_LETTERS = st.one_of(st.characters(), st.sampled_from('\0\ud800\udfff\u2028"\\'))
any_texts = st.text(_LETTERS)
# Two surrogates that make a pair are one character in JSON, and have a test of their own.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
texts = any_texts.filter(lambda text: _PAIR.search(text) is None)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
# `tool_calls` has a form that is checked; whatever else a body carries is kept.
keys = texts.filter(lambda key: key != "tool_calls")
bodies = st.dictionaries(keys, values, max_size=4).map(lambda body: {**body, "role": "user"})

# One database serves all examples of a test: each has a conversation of its own in it.
examples = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def both_histories(user: User, conversation: Any) -> list[list[MessageView]]:
    return [
        user.history(conversation.id, source="projection"),
        user.history(conversation.id, source="events"),
    ]


@given(body=bodies)
@example(body={"z": 2**64, "role": "user", "content": "\0 \ud800", "a": -(2**70), "\0": "\udfff"})
@example(body={"role": "user", "content": [Decimal("1.10"), Decimal("1e400"), -0.0, 1e22]})
@examples
def test_a_message_body_comes_back_from_both_sources_as_it_was_posted(
    alice: User, body: dict[str, Any]
) -> None:
    chat = alice.conversations.start()

    posted = alice.messages.post(chat.id, body=body)

    # As text, so that 1 and 1.0, 0.0 and -0.0, and orders of keys are told apart.
    for (message,) in both_histories(alice, chat):
        assert repr(message.body) == repr(body)
        assert message == posted


@given(bodies=st.lists(bodies, min_size=1, max_size=6))
@example(bodies=[{"role": "user", "content": "\0\ud83d\ude00\ud83d", "\ud83d\ude00": 1}])
@examples
def test_read_models_equal_the_replay_whatever_was_said(
    store: EventStore, alice: User, bodies: list[dict[str, Any]]
) -> None:
    chat = alice.conversations.start()

    with alice.transaction() as tx:
        for body in bodies:
            tx.messages.post(chat.id, body=body)

    assert store.verify("alice").problems == ()
    projection, events = both_histories(alice, chat)
    assert repr(projection) == repr(events)


@given(arguments=texts, output=values)
@example(arguments='{"title": "not JSON', output=None)
@example(arguments="", output="")
@examples
def test_a_tool_calls_arguments_and_output_come_back_from_both_sources(
    alice: User, arguments: str, output: Any
) -> None:
    chat = alice.conversations.start()

    call = alice.tool_calls.request(chat.id, name="add_task", arguments=arguments)
    alice.tool_calls.succeed(call, output=output)

    for asked, answered in both_histories(alice, chat):
        assert asked.tool_calls[0].arguments == arguments
        assert repr(asked.tool_calls[0].output) == repr(output)
        text = answered.content
        assert text == output if isinstance(output, str) else json.loads(text) == output


@given(content=any_texts)
@example(content="\ud83d\ude00")
@examples
def test_what_a_post_returns_is_what_history_gives_whatever_the_text(
    store: EventStore, alice: User, content: str
) -> None:
    chat = alice.conversations.start()

    posted = alice.messages.post(chat.id, sender="user", content=content)

    assert both_histories(alice, chat) == [[posted], [posted]]
    assert store.verify("alice").problems == ()


def test_a_body_is_kept_as_it_was_when_it_was_posted(alice: User) -> None:
    chat = alice.conversations.start()
    body: dict[str, Any] = {"role": "user", "content": ["Buy milk"]}
    alice.messages.post(chat.id, body=body)

    body["content"].append("and eggs")

    for (message,) in both_histories(alice, chat):
        assert message.content == ["Buy milk"]


def test_content_that_json_cannot_hold_is_refused_and_nothing_is_written(alice: User) -> None:
    chat = alice.conversations.start()

    for content in (float("nan"), {"a": float("inf")}, {1: "a"}, b"bytes"):
        with pytest.raises(NotStorable) as error:
            alice.messages.post(chat.id, sender="user", content=content)
        assert error.value.path.startswith("body.content")

    assert alice.history(chat.id) == []
