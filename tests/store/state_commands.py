"""
The commands of `test_state_machine`, drawn at random.

A command runs on a user or in a transaction alike, and names the states that its events lead to:
none if it changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from hypothesis import strategies as st

from eventstore import NotFound, RequestedCall
from tests.store.state_model import Call, Chat, Said, State, Todo

__all__ = [
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
    "ending",
    "picked",
]

ABSENT = UUID(int=1)
UNSCOPED_TRANSACTION = 20


class Command(NamedTuple):
    """
    Something to do.

    :ivar run: on a user, or in a transaction.
    :ivar after: the states its events lead to, from the state before and what `run` returned;
        raises what the store is to refuse it with.
    """

    run: Callable[[Any], Any]
    after: Callable[[State, Any], list[State]]


type Choose = Callable[[State], Command]
"""Makes a command about something that there is in this state."""


def picked[T](things: Sequence[T], pick: int) -> T | None:
    """Return one of `things`, rather a late one; None if there is none."""
    return things[-1 - pick % len(things)] if things else None


def picked_id(things: Mapping[UUID, object], pick: int) -> UUID:
    """Return the id of one of `things`, or now and then one that nothing has."""
    found = None if pick == UNSCOPED_TRANSACTION else picked(list(things), pick)
    return found or ABSENT


def create(title: str, description: str | None) -> Choose:
    return lambda _: Command(
        lambda on: on.tasks.create(title, description=description),
        lambda state, made: [state.task(made.id, Todo(title, description))],
    )


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
        lambda todo: Todo(title, description, todo.completed),
    )


def _on_task(
    pick: int, run: Callable[[Any, UUID], Any], change: Callable[[Todo], Todo | None]
) -> Choose:
    def choose(state: State) -> Command:
        key = picked_id(state.tasks, pick)

        def after(state: State, _: Any) -> list[State]:
            todo = state.tasks.get(key)
            if todo is None:
                raise NotFound("task", key)
            return [] if change(todo) == todo else [state.task(key, change(todo))]

        return Command(lambda on: run(on, key), after)

    return choose


def start(title: str | None) -> Choose:
    return lambda _: Command(
        lambda on: on.conversations.start(title=title),
        lambda state, made: [state.chat(made.id, Chat(title))],
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
        key = picked_id(state.chats, pick)

        def after(state: State, _: Any) -> list[State]:
            chat = state.standing(key)
            return [] if change(chat) == chat else [state.chat(key, change(chat))]

        return Command(lambda on: run(on, key), after)

    return choose


def post(pick: int, sender: str, content: Any, arguments: list[str]) -> Choose:
    """Post a message with tool calls whose ids are all alike, as some models give them."""
    asked = [RequestedCall("call_0", "tool", text) for text in arguments]

    def choose(state: State) -> Command:
        chat = picked_id(state.chats, pick)

        def after(state: State, made: Any) -> list[State]:
            state.taking(chat)
            given = getattr(made, "tool_calls", [None] * len(asked))
            calls = [Call(ref, one.arguments) for ref, one in zip(given, asked, strict=True)]
            states = [state.said(chat, made.id, Said(sender, content))]
            for number in range(len(calls)):
                said = Said(sender, content, tuple(calls[: number + 1]))
                states.append(states[-1].said(chat, made.id, said))
            return states

        return Command(
            lambda on: on.messages.post(chat, sender=sender, content=content, tool_calls=asked),
            after,
        )

    return choose


def retract(pick: int) -> Choose:
    """Take back a message that asked for no tools."""

    def choose(state: State) -> Command:
        chat, message = picked(
            [
                (chat, key)
                for chat, one in state.chats.items()
                for key, said in one.said.items()
                if not said.calls
            ],
            pick,
        ) or (ABSENT, ABSENT)

        def after(state: State, _: Any) -> list[State]:
            said = state.chats[chat].standing().get(message) if chat in state.chats else None
            if said is None:
                raise NotFound("message", message)
            state.taking(chat)
            return [state.said(chat, message, replace(said, retracted=True))]

        return Command(lambda on: on.messages.retract(chat, message), after)

    return choose


def request(pick: int, arguments: str) -> Choose:
    def choose(state: State) -> Command:
        chat = picked_id(state.chats, pick)

        def after(state: State, made: Any) -> list[State]:
            state.taking(chat)
            said = Said("assistant", None)
            asked = replace(said, calls=(Call(made, arguments),))
            posted = state.said(chat, made.message_id, said)
            return [posted, posted.said(chat, made.message_id, asked)]

        return Command(
            lambda on: on.tool_calls.request(chat, name="tool", arguments=arguments), after
        )

    return choose


def end(pick: int, status: str, result: Any) -> Choose:
    """End a pending call; create a task if there is none."""

    def choose(state: State) -> Command:
        place = picked(state.pending(), pick)
        nothing = create("nothing is pending", None)
        return nothing(state) if place is None else ending(state, place, status, result)

    return choose


def ending(state: State, place: tuple[UUID, UUID, int], status: str, result: Any) -> Command:
    chat, message, index = place
    reference = state.chats[chat].said[message].calls[index].reference

    def after(state: State, made: Any) -> list[State]:
        said = state.taking(chat).said[message]
        ended = replace(said.calls[index], status=status, result=result)
        calls = (*said.calls[:index], ended, *said.calls[index + 1 :])
        messages = {
            **state.chats[chat].said,
            message: replace(said, calls=calls),
            made.id: Said("tool", _written(result)),
        }
        return [state.chat(chat, replace(state.chats[chat], said=messages))]

    return Command(lambda on: _end(on, reference, status, result), after)


def _end(on: Any, reference: Any, status: str, result: Any) -> Any:
    if status == "succeeded":
        return on.tool_calls.succeed(reference, output=result)
    return on.tool_calls.fail(reference, error=result)


def _written(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, separators=(",", ":"))


PICK = st.integers(0, UNSCOPED_TRANSACTION)
LABEL = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9
).filter(str.strip)
TEXT = st.text(st.characters(exclude_categories=[]), max_size=9)  # NUL and lone surrogates too
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
CONTENT = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
RESULT = TEXT | st.dictionaries(st.sampled_from("abc"), st.integers(0, 9), max_size=2)


BEGINNING = [create("a task", None), start("a chat"), request(0, "{}"), post(0, "user", "hi", [])]

STARTS: st.SearchStrategy[Choose] = st.builds(start, st.none() | LABEL)
ENDS: st.SearchStrategy[Choose] = st.builds(change_chat, PICK, st.just("delete"))
COMMANDS: st.SearchStrategy[Choose] = st.one_of(
    st.builds(create, LABEL, st.none() | LABEL),
    st.builds(update, PICK, LABEL, st.none() | LABEL),
    st.builds(change_task, PICK, st.sampled_from(list(TASK_CHANGES))),
    st.builds(rename, PICK, st.none() | LABEL),
    st.builds(change_chat, PICK, st.sampled_from(["archive", "reopen"])),
    st.builds(post, PICK, st.sampled_from(["user", "assistant"]), CONTENT, st.just([])),
    st.builds(post, PICK, st.just("assistant"), CONTENT, st.lists(TEXT, max_size=3)),
    st.builds(retract, PICK),
    st.builds(request, PICK, TEXT),
    st.builds(end, PICK, st.sampled_from(["succeeded", "failed"]), RESULT),
)
TRANSACTIONS: st.SearchStrategy[list[Choose]] = st.builds(
    lambda first, then, last: [*first, *then, *last],
    st.lists(STARTS, max_size=1),
    st.lists(COMMANDS, min_size=1, max_size=5),
    st.lists(ENDS, max_size=1),
)
