"""Each method of the store works, or refuses its arguments and changes nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import (
    EventStore,
    EventStoreError,
    MessagePosted,
    NewEvent,
    OutcomeUnknown,
    TaskCreated,
    User,
)
from eventstore.store.commands.conversations import Conversations
from eventstore.store.commands.messages import Messages
from eventstore.store.commands.tasks import Tasks
from eventstore.store.commands.tool_calls import ToolCalls
from eventstore.store.commands.turns import Turns
from tests.fuzz.values import any_value
from tests.support.erasing import all_rows
from tests.support.properties import examples

GROUPS = {
    "user": User,
    "tasks": Tasks,
    "conversations": Conversations,
    "messages": Messages,
    "tool_calls": ToolCalls,
    "turns": Turns,
    "store": EventStore,
}

# What is no call of its own: it opens something, or ends the store.
LEFT_OUT = {"session", "transaction", "turn", "close", "connect", "database", "user", "user_id"}

CALLBACKS = {"write", "handler", "progress", "seen"}


def methods_of(group: str) -> list[str]:
    """Return the names of what can be called of a group."""
    return [
        name
        for name in dir(GROUPS[group])
        if not name.startswith("_") and name not in {*LEFT_OUT, *GROUPS}
    ]


class World:
    """A user who has something of each kind, and right values for parameters by their names."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.user = user = store.user("alice")
        self.chat = user.conversations.start(title="Groceries", key="chat").id
        self.task = user.tasks.create("Buy milk", tags=["home"]).id
        self.message = user.messages.post("chat", sender="user", content="milk").id
        self.call = user.tool_calls.request("chat", name="add", arguments="{}", call_id="c1").id
        with user.turn("chat", key="k", wait_seconds=0) as turn:
            turn.end([])
        self.turn = user.turns.list("chat")[0].id

    def right(self, name: str) -> st.SearchStrategy[Any]:
        """Draw a right value for a parameter of this name."""
        item = {"role": "user", "content": "x"}
        event = st.sampled_from([TaskCreated(title="x"), MessagePosted(sender="user", body=item)])
        made = {
            "conversation": st.sampled_from([self.chat, "chat", str(self.chat), "other"]),
            "task": st.sampled_from([self.task, str(self.task)]),
            "message": st.sampled_from([self.message, str(self.message)]),
            "call": st.sampled_from([self.call, str(self.call)]),
            "turn": st.just(self.turn),
            "stream_id": st.sampled_from([self.chat, self.task]),
            "items": st.just([item]),
            "events": st.lists(
                event.map(lambda data: NewEvent(stream_id=uuid4(), data=data)), max_size=2
            ),
            "body": st.just(item),
            "at": st.sampled_from([self.message, 3]),
            "to": st.sampled_from([self.message, 3]),
            "as_of": st.sampled_from([3, datetime.now(UTC)]),
            "user_id": st.just("alice"),
            "due_on": st.just(date(2026, 1, 1)),
            "due_at": st.just(datetime(2026, 1, 1, tzinfo=UTC)),
            "zone": st.just("Europe/Berlin"),
            "due_zone": st.just("Europe/Berlin"),
            "tags": st.just(["home"]),
            "metadata": st.just({"a": 1}),
            "arguments": st.sampled_from(["{}", "{"]).map(lambda text: text),
            "write": st.just(lambda _: None),
            "handler": st.just(lambda _: None),
            "progress": st.just(None),
            "seen": st.just(None),
            "jobs": st.just(1),
            "seconds": st.sampled_from([0, 0.01, 1]),
            "conversations": st.just([]),
        }
        texts = ("title", "description", "sender", "name", "key", "text", "content", "search")
        if name in texts:
            return st.sampled_from(["chat", "milk", "user", "another"])
        return made.get(name, st.sampled_from([None, 1, "x", True]))

    def arguments(self, call: Callable[..., Any]) -> st.SearchStrategy[dict[str, Any]]:
        """Draw arguments of a method by name: all that it needs, and some that it does not."""
        required: dict[str, Any] = {}
        optional: dict[str, Any] = {}
        for name, parameter in inspect.signature(call).parameters.items():
            into = required if parameter.default is parameter.empty else optional
            # What a callback that cannot be called raises is Python's to say.
            into[name] = self.right(name) if name in CALLBACKS else any_value(self.right(name))
        if call.__name__ == "wait":  # as long as it is told to
            required["seconds"] = self.right("seconds")
        return st.fixed_dictionaries(required, optional=optional)


@pytest.mark.parametrize("store", ["sync"], indirect=True)
@pytest.mark.parametrize("group", GROUPS)
def test_a_method_works_or_refuses_its_arguments_and_changes_nothing(
    store: EventStore, admin: psycopg.Connection, group: str
) -> None:
    world = World(store)
    owner = {"user": world.user, "store": store}.get(group) or getattr(world.user, group)

    @examples(8 * len(methods_of(group)))
    @given(st.data())
    def try_one(data: st.DataObject) -> None:
        call = getattr(owner, data.draw(st.sampled_from(methods_of(group)), "method"))
        arguments = data.draw(world.arguments(call), "arguments")
        before = all_rows(admin)
        try:
            result = call(**arguments)
            if isinstance(result, User):  # a view of the user, which its next call uses
                result.tasks.create("milk")
            elif isinstance(result, AbstractContextManager):
                with result:
                    pass
        except OutcomeUnknown:  # of a view with hardly any time
            pass
        except EventStoreError:
            assert all_rows(admin) == before

    try_one()

    assert store.verify().ok
