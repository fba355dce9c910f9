"""
Whether the time of an answer reveals that another user's id exists.

Bob asks for entities of alice and for entities that do not exist, in turn. Both answers are
NotFound, so only their times could differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import batched
from uuid import UUID, uuid4

from benchmarks.measure import Figure, Samples, Size, run_in_turn, time_calls
from benchmarks.server import Server
from benchmarks.turns import text
from eventstore import EventStore, NotFound, User

__all__ = ["figures"]

_REQUESTS = Size(full=60, quick=20)
_ROUNDS = Size(full=40, quick=4)
_WITHIN_SECONDS = Size(full=5, quick=0)
_AT_A_TIME = 100
_ROWS = Size(full=2_000, quick=200)
"""Tasks and messages of alice, together: enough for index trees of some depth."""


@dataclass(frozen=True, slots=True)
class _Ids:
    """The ids of a task, a conversation and a message: another user's, or of nothing."""

    task: UUID
    chat: UUID
    message: UUID


_GUESSES: dict[str, Callable[[User, _Ids], object]] = {
    "get a task": lambda bob, ids: bob.tasks.get(ids.task),
    "complete a task": lambda bob, ids: bob.tasks.complete(ids.task),
    "get a conversation": lambda bob, ids: bob.conversations.get(ids.chat),
    "rename a conversation": lambda bob, ids: bob.conversations.rename(ids.chat, "Mine"),
    "history, read model": lambda bob, ids: bob.history(ids.chat),
    "history, log": lambda bob, ids: bob.history(ids.chat, source="events"),
    "post a message": lambda bob, ids: bob.messages.post(ids.chat, sender="user", content="Hi"),
    "retract a message": lambda bob, ids: bob.messages.retract(ids.chat, ids.message),
    "audit": lambda bob, ids: bob.audit(conversation=ids.chat),
}


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure one method of each kind; a ratio of 1 means that the time reveals nothing."""
    with EventStore.connect(server.create_database("guessing")) as store:
        alices, bob = _fill(store.user("alice"), _ROWS.choose(quick=quick)), store.user("bob")
        bob.tasks.create("A task of bob")
        absent = _Ids(uuid4(), uuid4(), uuid4())
        for name, guess in _GUESSES.items():
            absent_rounds, rounds = run_in_turn(
                _side(guess, bob, absent, quick=quick),
                _side(guess, bob, alices, quick=quick),
                rounds=_ROUNDS.choose(quick=quick),
                within_seconds=_WITHIN_SECONDS.choose(quick=quick),
            )
            yield Figure(
                f"{name} by another user's id", "by an absent id", 1, "calls", absent_rounds, rounds
            )


def _fill(alice: User, rows: int) -> _Ids:
    chat = alice.conversations.start(title="Groceries").id
    for numbers in batched(range(rows // 2), _AT_A_TIME, strict=False):
        with alice.transaction() as record:
            for number in numbers:
                task = record.tasks.create(text(number)).id
                message = record.messages.post(chat, sender="user", content=text(number)).id
    return _Ids(task, chat, message)


def _side(
    guess: Callable[[User, _Ids], object], bob: User, ids: _Ids, *, quick: bool
) -> Callable[[], Samples]:
    def ask() -> None:
        with suppress(NotFound):
            guess(bob, ids)
            raise RuntimeError("an entity of another user was found")

    return lambda: time_calls(ask, _REQUESTS.choose(quick=quick))
