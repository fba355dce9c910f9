"""Random conversations of items of every format: what a model is given passes its API's rules."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore
from eventstore.events.fields import storable_label
from eventstore.events.items import read_item
from projections.model_input.formats import FormatName
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallView
from tests.store.conversation_steps import Step, steps
from tests.store.test_model_input import PAIRS, Body, model_input
from tests.support.properties import examples

# The pool's thread may use `random` while Hypothesis draws an example, and Hypothesis then warns.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

FORMATS: list[FormatName] = [*PAIRS]
CONVERSATIONS = st.one_of(
    *(
        st.lists(steps(formats), min_size=1, max_size=14)
        for formats in [*([one] for one in FORMATS), FORMATS]
    )
)
numbers = count()


# Both drivers run the same plans, and it is these that random steps try.
@pytest.mark.parametrize("store", ["sync"], indirect=True)
@pytest.mark.slow
@given(
    conversation=CONVERSATIONS,
    pending=st.sampled_from(["leave_out", "answer"]),
    limit=st.none() | st.integers(0, 12),
    back=st.integers(0, 12),
)
@examples(30)
def test_what_a_model_is_given_passes_the_rules_of_each_api(
    store: EventStore, conversation: list[Step], pending: str, limit: int | None, back: int
) -> None:
    user = store.user(f"user {next(numbers)}")
    chat = user.conversations.start().id
    for number, step in enumerate(conversation):
        step(user, chat, f"said {number};")

    head = user.events(backward=True, limit=1)[0].position
    history = user.history(chat)
    assert user.history(chat, source="events") == history
    for as_of in (None, max(2, head - back)):
        for name in FORMATS:
            options = {"format": name, "pending": pending}
            complete = model_input(user, chat, as_of=as_of, **options)
            model_input(user, chat, as_of=as_of, limit=limit, **options)
            if as_of is None:
                assert_nothing_is_lost(name, complete, history, pending)
        model_input(user, chat, as_of=as_of, limit=limit, pending=pending)
    assert user.history(chat) == history
    assert store.verify(user.user_id).problems == ()


def assert_nothing_is_lost(
    name: FormatName, items: list[Body], history: list[MessageView], pending: str
) -> None:
    """Check that what is said and was not retracted is given, and each call that has a result."""
    written = json.dumps(items)
    for message in history:
        for word in json.dumps(message.body, default=str).split('"'):
            if word.startswith("said "):
                assert word in written
    positions = {message.position for message in history}
    # Only a screenshot answers a computer, and what the provider runs itself is not answered.
    unlike_others = {"mcp_call", "computer_call" if name == "responses" else ""}
    calls = [
        call
        for message in history
        for call in message.tool_calls
        if message.body.get("type") not in unlike_others and call.name != "web"
        if pending == "answer" or call.finished_position in positions
    ]
    if pending == "leave_out":
        calls += _answered_again(history, positions, unlike_others)
    marks = ('"role": "tool"', '"role": "function"', '_call_output"', '"tool_result"')
    answers = sum(map(written.count, marks)) - written.count('"computer_call_output"')
    assert answers == len(calls)


def _answered_again(
    history: list[MessageView], positions: set[int], unlike_others: set[str]
) -> list[ToolCallView]:
    """Return the calls whose answer was retracted, and which have got another one since."""
    own = {
        id(call)
        for message in history
        for call in message.tool_calls
        if message.body.get("type") in unlike_others or call.name == "web"
    }
    answered = [
        (message.position, storable_label(answer.call_id))
        for message in history
        for answer in read_item(message.body).answers
    ]
    places = [(call, message.position) for message in history for call in message.tool_calls]
    used = {(call.finished_position, call.call_id) for call, _ in places}
    used |= {(position, call.call_id) for call, position in places}
    withdrawn = [
        call
        for call, position in places
        if call.finished_position is not None and call.status != "abandoned"
        if call.finished_position not in positions and (position, call.call_id) not in answered
    ]
    again = []
    for position, name in (place for place in answered if place not in used):
        before = [
            call
            for call in withdrawn
            if call.call_id == name and (call.finished_position or 0) < position
        ]
        if before:
            again.append(before[-1])
            withdrawn.remove(before[-1])
    return [call for call in again if id(call) not in own]
