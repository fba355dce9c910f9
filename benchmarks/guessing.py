"""
Whether a clock tells someone else's id from one that does not exist, as no error and no row does.

Bob asks for what is alice's, and for what is nobody's, in turn; both are answered with NotFound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import batched
from uuid import UUID, uuid4

from benchmarks.measure import Figure, Samples, Size, in_turn, timed
from benchmarks.server import Server
from benchmarks.turns import text
from eventstore import EventStore, NotFound, User

__all__ = ["figures"]

_QUESTIONS = Size(full=60, quick=20)
_ROUNDS = Size(full=40, quick=4)
_WITHIN_SECONDS = Size(full=5, quick=0)
_AT_A_TIME = 100
_ROWS = Size(full=2_000, quick=200)
"""Tasks and messages of alice's: what is found would be found in a tree of some depth."""


@dataclass(frozen=True, slots=True)
class _Ids:
    """A task, a conversation and a message: somebody else's, or nobody's."""

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
    """Measure one method of each kind; a ratio of 1 tells nothing, which is what it is to tell."""
    with EventStore.connect(server.create_database("guessing")) as store:
        hers, bob = _fill(store.user("alice"), _ROWS.of(quick=quick)), store.user("bob")
        bob.tasks.create("Something of his own")
        nobodys = _Ids(uuid4(), uuid4(), uuid4())
        for name, guess in _GUESSES.items():
            of_nobody, of_alice = in_turn(
                _side(guess, bob, nobodys, quick=quick),
                _side(guess, bob, hers, quick=quick),
                rounds=_ROUNDS.of(quick=quick),
                within_seconds=_WITHIN_SECONDS.of(quick=quick),
            )
            yield Figure(
                f"{name} of someone else's", "one that is nobody's", 1, "calls", of_nobody, of_alice
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
            raise RuntimeError("what is someone else's was found")

    return lambda: timed(ask, _QUESTIONS.of(quick=quick))
