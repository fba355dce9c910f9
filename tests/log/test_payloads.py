"""The output of models and tools is read back unchanged from both sources of history."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore import EventStore, NotStorable, User
from projections.models.message import MessageView
from tests.support.properties import examples

# The pool's thread may use `random` while Hypothesis draws an example, and Hypothesis then warns.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

_LETTERS = st.one_of(st.characters(), st.sampled_from('\0\ud800\udfff\u2028"\\'))
any_texts = st.text(_LETTERS)
# JSON reads a pair of surrogates as one character, so another test covers texts with pairs.
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
texts = any_texts.filter(lambda text: _PAIR.search(text) is None)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
# The store validates `tool_calls` and stores every other key of a body as it is.
keys = texts.filter(lambda key: key != "tool_calls")
bodies = st.dictionaries(keys, values, max_size=4).map(lambda body: {**body, "role": "user"})


def both_histories(user: User, conversation: Any) -> list[list[MessageView]]:
    return [
        user.history(conversation.id, source="projection"),
        user.history(conversation.id, source="events"),
    ]


@given(body=bodies)
@example(body={"z": 2**64, "role": "user", "content": "\0 \ud800", "a": -(2**70), "\0": "\udfff"})
@example(body={"role": "user", "content": [Decimal("1.10"), Decimal("1e400"), -0.0, 1e22]})
@examples(12)
def test_a_message_body_is_read_back_unchanged_from_both_sources(
    alice: User, body: dict[str, Any]
) -> None:
    chat = alice.conversations.start()

    posted = alice.messages.post(chat.id, body=body)

    # Equality would miss a change of 1 to 1.0, of 0.0 to -0.0 and of the order of keys.
    for (message,) in both_histories(alice, chat):
        assert repr(message.body) == repr(body)
        assert message == posted


@given(bodies=st.lists(bodies, min_size=1, max_size=6))
@example(bodies=[{"role": "user", "content": "\0\ud83d\ude00\ud83d", "\ud83d\ude00": 1}])
@examples(12)
def test_read_models_equal_the_replay_whatever_the_message_bodies(
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
@examples(12)
def test_a_tool_calls_arguments_and_output_are_read_back_unchanged_from_both_sources(
    alice: User, arguments: str, output: Any
) -> None:
    chat = alice.conversations.start()

    call = alice.tool_calls.request(chat.id, name="add_task", arguments=arguments)
    alice.tool_calls.succeed(call, output=output)

    for request, answer in both_histories(alice, chat):
        assert request.tool_calls[0].arguments == arguments
        assert repr(request.tool_calls[0].output) == repr(output)
        text = answer.content
        assert text == output if isinstance(output, str) else json.loads(text) == output


@given(content=any_texts)
@example(content="\ud83d\ude00")
@examples(12)
def test_a_posted_message_equals_the_message_in_history_whatever_its_text(
    store: EventStore, alice: User, content: str
) -> None:
    chat = alice.conversations.start()

    posted = alice.messages.post(chat.id, sender="user", content=content)

    assert both_histories(alice, chat) == [[posted], [posted]]
    assert store.verify("alice").problems == ()


def test_changing_a_body_after_it_was_posted_does_not_change_the_message(alice: User) -> None:
    chat = alice.conversations.start()
    body: dict[str, Any] = {"role": "user", "content": ["Buy milk"]}
    alice.messages.post(chat.id, body=body)

    body["content"].append("and eggs")

    for (message,) in both_histories(alice, chat):
        assert message.content == ["Buy milk"]


def test_content_that_json_cannot_hold_is_refused_and_nothing_is_written(alice: User) -> None:
    chat = alice.conversations.start()

    for content in ([float("nan")], [{"a": float("inf")}], [{1: "a"}], [b"bytes"]):
        with pytest.raises(NotStorable) as error:
            alice.messages.post(chat.id, sender="user", content=content)
        assert error.value.path.startswith("body.content")

    assert alice.history(chat.id) == []
