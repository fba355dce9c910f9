"""Whatever could be stored can be read and printed, however deeply it is nested."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from eventstore import EventStore, NotStorable, User
from eventstore.events.json_codec import MAX_NESTING
from tests.support.command import Command


def nested(levels: int, leaf: object = "milk") -> Any:
    value = leaf
    for _ in range(levels):
        value = {"in": value}
    return value


def writers_of(alice: User, value: object) -> list[Callable[[UUID], object]]:
    """Every way to store a value, each given a conversation."""
    part = {"type": "text", "text": "x", "more": value}

    def answer(chat: UUID, output: object) -> None:
        call = alice.tool_calls.request(chat, name="look", arguments="{}")
        alice.tool_calls.succeed(call, output=output)

    return [
        lambda chat: answer(chat, value),
        lambda chat: answer(chat, [part]),
        lambda chat: alice.messages.post(chat, body={"role": "user", "more": value}),
        lambda chat: alice.messages.post(chat, sender="user", content=[part]),
        lambda chat: alice.annotated(metadata={"deep": value}).messages.post(
            chat, sender="user", content="x"
        ),
    ]


LEVELS = range(MAX_NESTING - 2, MAX_NESTING + 2)


def test_what_can_be_stored_can_be_printed(eventstore: Command, database_url: str) -> None:
    keys: list[str] = []
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        for levels in LEVELS:
            for number, write in enumerate(writers_of(alice, nested(levels))):
                chat = alice.conversations.start(key=f"{levels}.{number}")
                try:
                    write(chat.id)
                except NotStorable:
                    continue
                keys.append(f"{levels}.{number}")
        assert store.verify().ok

    user = ("--user", "alice")
    assert len(keys) > len(LEVELS)
    for key in keys:
        for source in ("projection", "events"):
            for form in ((), ("--format", "openai")):
                answer = eventstore(
                    "history", *user, "--conversation", key, "--source", source, "--json", *form
                )
                assert answer.returncode == 0, (key, source, form, answer.stderr)
                json.loads(answer.stdout)
    for arguments in (
        ("audit", *user, "--json"),
        ("audit", *user),
        ("tail", *user, "--json", "-n", "1000"),
        ("tail", *user, "-n", "1000"),
        ("export", *user),
        ("tasks", *user, "--json"),
        ("conversations", *user, "--json"),
    ):
        answer = eventstore(*arguments)
        assert answer.returncode == 0, (arguments, answer.stderr)


def test_what_is_nested_deeper_is_still_refused(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        chat = store.user("alice").conversations.start()
        body = {"role": "user", "more": nested(MAX_NESTING)}

        with pytest.raises(NotStorable, match="nested deeper"):
            store.user("alice").messages.post(chat.id, body=body)
