"""Random conversations that change their mind: every promise holds after every step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    Conflict,
    EventStore,
    InvalidInput,
    NewEvent,
    NotFound,
    ToolCallSucceeded,
    User,
)
from projections.models.tool_call import ToolCallView
from tests.store.conversation_steps import Step, steps
from tests.store.test_model_input import PAIRS, model_input
from tests.support.properties import examples

# The pool's thread may use `random` while Hypothesis draws an example, and Hypothesis then warns.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

numbers = count()
REFUSALS = (InvalidInput, NotFound, Conflict)


def on_message(act: Callable[[User, UUID, Any, str], object]) -> Callable[[int], Step]:
    """Return a strategy's function: a step that does something with one message of the history."""

    def make(pick: int) -> Step:
        def run(user: User, chat: UUID, text: str) -> None:
            if history := user.history(chat):
                act(user, chat, history[pick % len(history)], text)

        return run

    return make


def replace_tail(user: User, chat: UUID, message: Any, text: str) -> None:
    asking, answer = PAIRS["responses"]
    last = user.history(chat)[-1].id
    said = {"role": "user", "content": text}
    user.messages.replace_tail(chat, [said, asking, answer], after=message, expected_last=last)


def fork(user: User, chat: UUID, message: Any, text: str) -> None:
    copy = user.conversations.fork(chat, at=message)
    copied = user.history(copy.id)
    before = [one.body for one in user.history(chat) if one.position <= message.position]
    assert [one.body for one in copied] == before
    assert all(call.status != "pending" for one in copied for call in one.tool_calls)


def end_again(pick: int) -> Step:
    """Record an outcome past the store's checks, as another program or an import may."""

    def run(user: User, chat: UUID, text: str) -> None:
        if calls := user.tool_calls.list(conversation=chat, status=None):
            call = calls[pick % len(calls)]
            late = ToolCallSucceeded(call_id=call.call_id, request_event_id=call.id, output=text)
            user.append([NewEvent(stream_id=chat, data=late)])

    return run


def begin_anew(user: User, chat: UUID, text: str) -> None:
    key = user.conversations.get(chat).key
    user.conversations.delete(chat)
    if key is None:
        user.conversations.restore(chat)
    else:
        user.conversations.start(key=key)


PICKS = st.integers(0, 24)
CHANGES_OF_MIND: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        on_message(lambda user, chat, one, text: user.messages.edit(chat, one.id, content=text)),
        PICKS,
    ),
    st.builds(
        on_message(lambda user, chat, one, text: user.conversations.rewind(chat, to=one)), PICKS
    ),
    st.builds(
        on_message(
            lambda user, chat, one, text: user.conversations.rewind(chat, to=one.position - 1)
        ),
        PICKS,
    ),
    st.builds(on_message(replace_tail), PICKS),
    st.builds(on_message(fork), PICKS),
    st.builds(end_again, PICKS),
    st.builds(lambda n: lambda user, chat, text: user.messages.pop(chat, n), st.integers(1, 4)),
    st.just(lambda user, chat, text: user.messages.clear(chat)),
    st.just(begin_anew),
)


# Both drivers run the same plans, and it is these that random steps try.
@pytest.mark.parametrize("store", ["sync"], indirect=True)
@pytest.mark.slow
@examples(12)
@given(
    taken=st.lists(
        st.tuples(
            st.one_of(steps([*PAIRS]), steps([*PAIRS]), CHANGES_OF_MIND), PICKS, st.booleans()
        ),
        min_size=3,
        max_size=16,
    )
)
def test_every_promise_holds_after_each_step_of_a_conversation_that_changes_its_mind(
    store: EventStore, taken: list[tuple[Step, int, bool]]
) -> None:
    user = store.user(f"user {next(numbers)}")
    user.conversations.start(key="chat")
    ended: dict[UUID, ToolCallView] = {}
    for number, (step, pick, again) in enumerate(taken):
        chats = sorted(one.id for one in user.conversations.list(limit=100))
        chats = chats or [user.conversations.start().id]
        chat = chats[pick % len(chats)]
        keyed = user.keyed(f"step {number}") if again else user
        done = False
        # Refused is an edit that would ask for other calls, an answer to nothing, and so on.
        with suppress(*REFUSALS):
            step(keyed, chat, f"said {number};")
            done = True
        assert_promises(store, user, ended)
        if done and again:
            before = user.events(limit=10_000)
            # A step that reads first may ask for something else now, and is told so.
            with suppress(*REFUSALS):
                step(keyed, chat, f"said {number};")
            assert user.events(limit=10_000) == before


def assert_promises(store: EventStore, user: User, ended: dict[UUID, ToolCallView]) -> None:
    """Check the histories, what models are given, the calls' outcomes, and the tables."""
    for conversation in user.conversations.list(limit=100):
        history = user.history(conversation.id)
        assert user.history(conversation.id, source="events") == history
        for name in PAIRS:
            model_input(user, conversation.id, format=name)
            model_input(user, conversation.id, format=name, limit=4, pending="answer")
    for call in user.tool_calls.list(status=None, limit=1_000):
        if call.id in ended:
            assert call == ended[call.id]
        elif call.status != "pending":
            ended[call.id] = call
    assert store.verify(user.user_id).problems == ()
