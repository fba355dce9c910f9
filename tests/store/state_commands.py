"""
The commands of `test_state_machine`, which Hypothesis draws at random.

A command runs on a user or in a transaction, and returns the states that its events lead to; a
command that changes nothing returns none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import strategies as st

from eventstore import NotFound, RequestedCall
from eventstore.store.units.outcome import Handle
from tests.store.state_model import Call, Chat, Message, State, Todo

__all__ = [
    "ALONE",
    "BEGINNING",
    "COMMANDS",
    "ENDS",
    "LABEL",
    "PICK",
    "RESULT",
    "STARTS",
    "TRANSACTIONS",
    "Choose",
    "Command",
    "change_task",
    "end_call",
    "pick_one",
]

ABSENT = UUID(int=1)
PICK_ABSENT = 20
"""The pick that stands for an item that does not exist."""


class Command(NamedTuple):
    """
    A command and its effect on the model.

    :ivar run: runs the command on a user or in a transaction.
    :ivar after: returns the states that its events lead to, from the state before and the value
        that `run` returned; raises the error with which the store must refuse the command.
    """

    run: Callable[[Any], Any]
    after: Callable[[State, Any], list[State]]


type Choose = Callable[[State], Command]
"""Makes a command about an item of this state."""


def pick_one[T](things: Sequence[T], pick: int) -> T | None:
    """Return one of `things`, counted from the end; None if there is none."""
    return things[-1 - pick % len(things)] if things else None


def pick_id(things: Mapping[UUID, object], pick: int) -> UUID:
    """Return the id of one of `things`, or for `PICK_ABSENT` an id that does not exist."""
    found = None if pick == PICK_ABSENT else pick_one(list(things), pick)
    return found or ABSENT


def create(title: str, description: str | None) -> Choose:
    return lambda _: Command(
        lambda on: on.tasks.create(title, description=description),
        lambda state, made: [_created(state, made, Todo(title, description))],
    )


def _created(state: State, made: Any, todo: Todo) -> State:
    made_later = {made.id} if isinstance(made, Handle) else set[UUID]()
    return replace(state.with_task(made.id, todo), fresh=state.fresh | made_later)


TASK_CHANGES: dict[str, Callable[[Todo], Todo | None]] = {
    "complete": lambda todo: todo._replace(completed=True),
    "reopen": lambda todo: todo._replace(completed=False),
    "delete": lambda _: None,
}
CHAT_CHANGES: dict[str, Callable[[Chat], Chat]] = {
    "archive": lambda chat: replace(chat, status="archived"),
    "reopen": lambda chat: replace(chat, status="active"),
    "delete": lambda chat: replace(chat, status="deleted"),
}


def change_task(pick: int, name: str) -> Choose:
    return _on_task(pick, lambda on, key: getattr(on.tasks, name)(key), TASK_CHANGES[name])


def update(pick: int, title: str, description: str | None) -> Choose:
    return _on_task(
        pick,
        lambda on, key: on.tasks.update(key, title=title, description=description),
        lambda todo: todo._replace(title=title, description=description),
        certain=True,
    )


def tag(pick: int, tags: list[str]) -> Choose:
    return _on_task(
        pick,
        lambda on, key: on.tasks.update(key, tags=tags),
        lambda todo: todo._replace(tags=tuple(dict.fromkeys(tags))),
        certain=True,
    )


def restore(pick: int) -> Choose:
    """Restore a task, most often a deleted one."""

    def choose(state: State) -> Command:
        key = pick_id(state.deleted, pick) if state.deleted else pick_id(state.tasks, pick)

        def after(state: State, _: Any) -> list[State]:
            if key not in state.tasks:
                raise NotFound("task", key)
            return [state.with_restored(key)] if state.tasks[key] is None else []

        return Command(lambda on: on.tasks.restore(key), after)

    return choose


def move(pick: int, anchor_pick: int, after_it: bool) -> Choose:
    """Move a task next to another one that existed before."""

    def choose(state: State) -> Command:
        key, anchor = pick_id(state.tasks, pick), pick_id(state.tasks, anchor_pick)
        if anchor == key:
            return create("nothing to move", None)(state)

        def after(state: State, _: Any) -> list[State]:
            for one in (key, anchor):
                if state.tasks.get(one) is None:
                    raise NotFound("task", one)
            if anchor in state.fresh:
                raise NotFound("task", anchor)
            return [state.with_moved(key, anchor, after=after_it)]

        where = {"after" if after_it else "before": anchor}
        return Command(lambda on: on.tasks.move(key, **where), after)

    return choose


def _on_task(
    pick: int,
    run: Callable[[Any, UUID], Any],
    change: Callable[[Todo], Todo | None],
    *,
    certain: bool = False,
) -> Choose:
    def choose(state: State) -> Command:
        key = pick_id(state.tasks, pick)

        def after(state: State, _: Any) -> list[State]:
            todo = state.tasks.get(key)
            if todo is None:
                raise NotFound("task", key)
            if change(todo) == todo and not certain:
                return []
            return [state.with_task(key, change(todo))]

        return Command(lambda on: run(on, key), after)

    return choose


def start(title: str | None) -> Choose:
    return lambda _: Command(
        lambda on: on.conversations.start(title=title),
        lambda state, made: [state.with_chat(made.id, Chat(title))],
    )


def change_chat(pick: int, name: str) -> Choose:
    return _on_chat(pick, lambda on, key: getattr(on.conversations, name)(key), CHAT_CHANGES[name])


def rename(pick: int, title: str | None) -> Choose:
    return _on_chat(
        pick,
        lambda on, key: on.conversations.rename(key, title),
        lambda chat: replace(chat, title=title),
    )


def _on_chat(pick: int, run: Callable[[Any, UUID], Any], change: Callable[[Chat], Chat]) -> Choose:
    def choose(state: State) -> Command:
        key = pick_id(state.chats, pick)

        def after(state: State, _: Any) -> list[State]:
            chat = state.existing_chat(key)
            return [] if change(chat) == chat else [state.with_chat(key, change(chat))]

        return Command(lambda on: run(on, key), after)

    return choose


def post(pick: int, sender: str, content: Any, arguments: list[str]) -> Choose:
    """Post a message with tool calls that all have the same id, as some models give them."""
    requests = [RequestedCall("call_0", "tool", text) for text in arguments]

    def choose(state: State) -> Command:
        chat = pick_id(state.chats, pick)

        def after(state: State, made: Any) -> list[State]:
            state.open_chat(chat)
            # In a transaction `made` has no views of the calls, so the model cannot end them.
            views = getattr(made, "tool_calls", [None] * len(requests))
            calls = [Call(view, one.arguments) for view, one in zip(views, requests, strict=True)]
            states = [state.with_message(chat, made.id, Message(sender, content))]
            for number in range(len(calls)):
                message = Message(sender, content, tuple(calls[: number + 1]))
                states.append(states[-1].with_message(chat, made.id, message))
            return states

        return Command(
            lambda on: on.messages.post(chat, sender=sender, content=content, tool_calls=requests),
            after,
        )

    return choose


def retract(pick: int) -> Choose:
    """Retract a message without tool calls."""

    def choose(state: State) -> Command:
        chat, key = pick_one(
            [
                (chat, key)
                for chat, one in state.chats.items()
                for key, message in one.messages.items()
                if not message.calls
            ],
            pick,
        ) or (ABSENT, ABSENT)

        def after(state: State, _: Any) -> list[State]:
            found = state.chats.get(chat)
            message = None if found is None else found.visible_messages().get(key)
            if message is None:
                raise NotFound("message", key)
            state.open_chat(chat)
            return [state.with_message(chat, key, replace(message, retracted=True))]

        return Command(lambda on: on.messages.retract(chat, key), after)

    return choose


def edit(pick: int, text: str) -> Choose:
    """Edit a message without tool calls."""

    def choose(state: State) -> Command:
        chat, key = pick_one(
            [
                (chat, key)
                for chat, one in state.chats.items()
                for key, message in one.messages.items()
                if not message.calls
            ],
            pick,
        ) or (ABSENT, ABSENT)

        def after(state: State, _: Any) -> list[State]:
            found = state.chats.get(chat)
            message = None if found is None else found.visible_messages().get(key)
            if message is None:
                raise NotFound("message", key)
            if message.content == text:
                return []
            state.open_chat(chat)
            return [state.with_message(chat, key, replace(message, content=text))]

        return Command(lambda on: on.messages.edit(chat, key, content=text), after)

    return choose


def clear(pick: int) -> Choose:
    def choose(state: State) -> Command:
        chat = pick_id(state.chats, pick)
        return Command(
            lambda on: on.messages.clear(chat),
            lambda state, _: [state.with_chat(chat, state.open_chat(chat).rewound(0))],
        )

    return choose


def rewind(pick: int) -> Choose:
    """Rewind to a message that is shown; not in the transaction that posts it."""

    def choose(state: State) -> Command:
        chat, key = pick_one(
            [
                (chat, key)
                for chat, one in state.chats.items()
                for key in one.visible_messages()
                if one.status != "deleted"
            ],
            pick,
        ) or (ABSENT, ABSENT)

        def after(state: State, _: Any) -> list[State]:
            found = state.chats.get(chat)
            if found is None:
                raise NotFound("message", key)
            remaining = list(found.messages).index(key) + 1
            return [state.with_chat(chat, found.rewound(remaining))]

        return Command(lambda on: on.conversations.rewind(chat, to=key), after)

    return choose


def pop(pick: int, count: int) -> Choose:
    def choose(state: State) -> Command:
        chat = pick_id(state.chats, pick)

        def after(state: State, popped: Any) -> list[State]:
            found = state.existing_chat(chat)
            shown = list(found.visible_messages())
            assert [one.id for one in popped] == shown[-count:]
            if not popped:
                return []
            remaining = (
                list(found.messages).index(shown[-count - 1]) + 1 if len(shown) > count else 0
            )
            return [state.with_chat(chat, found.rewound(remaining))]

        return Command(lambda on: on.messages.pop(chat, count), after)

    return choose


def restore_chat(pick: int) -> Choose:
    def choose(state: State) -> Command:
        chat = pick_id(state.chats, pick)

        def after(state: State, _: Any) -> list[State]:
            found = state.chats.get(chat)
            if found is None:
                raise NotFound("conversation", chat)
            if found.status != "deleted":
                return []
            return [state.with_chat(chat, replace(found, status="active"))]

        return Command(lambda on: on.conversations.restore(chat), after)

    return choose


def request(pick: int, arguments: str) -> Choose:
    def choose(state: State) -> Command:
        chat = pick_id(state.chats, pick)

        def after(state: State, made: Any) -> list[State]:
            state.open_chat(chat)
            message = Message("assistant", None)
            requested = replace(message, calls=(Call(made, arguments),))
            posted = state.with_message(chat, made.message_id, message)
            return [posted, posted.with_message(chat, made.message_id, requested)]

        return Command(
            lambda on: on.tool_calls.request(chat, name="tool", arguments=arguments), after
        )

    return choose


def end(pick: int, status: str, result: Any) -> Choose:
    """End a pending call; create a task if no call is pending."""

    def choose(state: State) -> Command:
        call = pick_one(state.pending(), pick)
        if call is None:
            return create("nothing is pending", None)(state)
        return end_call(state, call, status, result)

    return choose


def end_call(state: State, call: tuple[UUID, UUID, int], status: str, result: Any) -> Command:
    """Return the command that ends a call, which `State.pending` found."""
    chat, key, index = call
    reference = state.chats[chat].messages[key].calls[index].reference

    def after(state: State, made: Any) -> list[State]:
        message = state.open_chat(chat).messages[key]
        ended = replace(message.calls[index], status=status, result=result)
        calls = (*message.calls[:index], ended, *message.calls[index + 1 :])
        messages = {
            **state.chats[chat].messages,
            key: replace(message, calls=calls),
            made.id: Message("tool", _as_text(result)),
        }
        return [state.with_chat(chat, replace(state.chats[chat], messages=messages))]

    return Command(lambda on: _end(on, reference, status, result), after)


def _end(on: Any, reference: Any, status: str, result: Any) -> Any:
    if status == "succeeded":
        return on.tool_calls.succeed(reference, output=result)
    return on.tool_calls.fail(reference, error=result)


def _as_text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, separators=(",", ":"))


PICK = st.integers(0, PICK_ABSENT)
LABEL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9).map(
    "{}.".format
)  # a label needs a visible character
TEXT = st.text(st.characters(exclude_categories=[]), max_size=9)  # NUL and lone surrogates too
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
CONTENT = st.none() | TEXT | st.lists(JSON, max_size=3)
RESULT = TEXT | st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=2)


BEGINNING = [create("a task", None), start("a chat"), request(0, "{}"), post(0, "user", "hi", [])]

STARTS: st.SearchStrategy[Choose] = st.builds(start, st.none() | LABEL)
ENDS: st.SearchStrategy[Choose] = st.builds(change_chat, PICK, st.just("delete"))
COMMANDS: st.SearchStrategy[Choose] = st.one_of(
    st.builds(create, LABEL, st.none() | LABEL),
    st.builds(update, PICK, LABEL, st.none() | LABEL),
    st.builds(change_task, PICK, st.sampled_from(list(TASK_CHANGES))),
    st.builds(tag, PICK, st.lists(LABEL, max_size=3)),
    st.builds(restore, PICK),
    st.builds(move, PICK, PICK, st.booleans()),
    st.builds(rename, PICK, st.none() | LABEL),
    st.builds(change_chat, PICK, st.sampled_from(["archive", "reopen"])),
    st.builds(post, PICK, st.sampled_from(["user", "assistant"]), CONTENT, st.just([])),
    st.builds(post, PICK, st.just("assistant"), CONTENT, st.lists(TEXT, max_size=3)),
    st.builds(retract, PICK),
    st.builds(edit, PICK, TEXT),
    st.builds(clear, PICK),
    st.builds(restore_chat, PICK),
    st.builds(request, PICK, TEXT),
    st.builds(end, PICK, st.sampled_from(["succeeded", "failed"]), RESULT),
)
ALONE: st.SearchStrategy[Choose] = st.one_of(
    st.builds(rewind, PICK), st.builds(pop, PICK, st.integers(1, 3))
)
"""Commands that a transaction does not have, or not in the model."""
TRANSACTIONS: st.SearchStrategy[list[Choose]] = st.builds(
    lambda first, then, last: [*first, *then, *last],
    st.lists(STARTS, max_size=1),
    st.lists(COMMANDS, min_size=1, max_size=5),
    st.lists(ENDS, max_size=1),
)
