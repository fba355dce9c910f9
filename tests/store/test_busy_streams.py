"""A command that looks first gets its turn on a stream that others write to all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from eventstore import EventStore, Settings, User

WRITERS = 2
ROUNDS = 5
LIMIT_SECONDS = 3.0


@contextmanager
def posting(alice: User, chat: UUID) -> Iterator[None]:
    stop = threading.Event()
    started = threading.Barrier(WRITERS + 1)

    def post() -> None:
        alice.messages.post(chat, sender="user", content="x")
        started.wait()
        while not stop.is_set():
            alice.messages.post(chat, sender="user", content="x")

    threads = [threading.Thread(target=post) for _ in range(WRITERS)]
    for one in threads:
        one.start()
    started.wait()
    try:
        yield
    finally:
        stop.set()
        for one in threads:
            one.join()


COMMANDS: dict[str, Callable[[User, UUID, int], object]] = {
    "rename": lambda user, chat, number: user.conversations.rename(chat, f"title {number}"),
    "archive": lambda user, chat, number: (
        user.conversations.reopen(chat) if number % 2 else user.conversations.archive(chat)
    ),
    "retract": lambda user, chat, number: user.messages.retract(
        chat, user.history(chat, limit=ROUNDS + 1)[number].id
    ),
    "pop": lambda user, chat, _: user.messages.pop(chat),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_decides_is_not_starved_by_posts(database_url: str, name: str) -> None:
    settings = Settings(database_url=database_url, deadline_seconds=5)
    with EventStore.connect(settings=settings) as store:
        alice = store.user("alice")
        chat = alice.conversations.start().id
        # Enough to retract, should the writers be slow.
        alice.messages.extend(chat, [{"role": "user", "content": "x"}] * 2 * ROUNDS)
        waits: list[float] = []
        with posting(alice, chat):
            for number in range(ROUNDS):
                began = time.monotonic()
                COMMANDS[name](alice, chat, number)
                waits.append(time.monotonic() - began)

    assert max(waits) < LIMIT_SECONDS
