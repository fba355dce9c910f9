"""
Whether what a service asks again and again slows down as the user's log grows.

The same questions are put to one user with a thousand and with a hundred thousand events: a call by
the model's name for it, the pending calls, and the audit of one conversation. The conversations are
of one size in both logs, and so are the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from benchmarks.measure import Figure, Size, run_in_turn, time_calls
from benchmarks.server import Server
from eventstore import EventStore, User

__all__ = ["figures"]

_SMALL = Size(full=1_000, quick=1_000)
_LARGE = Size(full=100_000, quick=5_000)
_CALLS = 50
"""Calls of one conversation; with the start, and an outcome of each, it has 101 events."""

_QUESTIONS = Size(full=20, quick=5)
_ROUNDS = Size(full=30, quick=5)
_WITHIN_SECONDS = Size(full=10, quick=1)

_ASKED: dict[str, Callable[[User], Sequence[object]]] = {
    "find a call by the model's name": lambda user: [user.tool_calls.find("chat 3", "call_7")],
    "list ten pending calls": lambda user: user.tool_calls.list(limit=10),
    "audit one conversation": lambda user: user.audit(conversation="chat 3"),
}


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure each question in a small and in a large log, each in its own database."""
    small, large = _SMALL.choose(quick=quick), _LARGE.choose(quick=quick)
    with ExitStack() as stack:
        few, many = (_user_with(events, server, stack) for events in (small, large))
        number = _QUESTIONS.choose(quick=quick)
        for name, ask in _ASKED.items():
            small_rounds, large_rounds = run_in_turn(
                partial(time_calls, partial(ask, few), number),
                partial(time_calls, partial(ask, many), number),
                rounds=_ROUNDS.choose(quick=quick),
                within_seconds=_WITHIN_SECONDS.choose(quick=quick),
            )
            yield Figure(
                f"{name} at {large:,} events",
                f"the same at {small:,} events",
                len(ask(many)),
                "rows",
                small_rounds,
                large_rounds,
            )


def _user_with(events: int, server: Server, stack: ExitStack) -> User:
    """Return a user whose log has so many events: calls, of which the last ten are pending."""
    database = f"lookups_{events}"
    alice = stack.enter_context(EventStore.connect(server.create_database(database))).user("alice")
    chats = events // (2 * _CALLS)
    for number in range(chats):
        with alice.transaction() as tx:
            chat = tx.conversations.start(key=f"chat {number}").id
            for call in range(_CALLS):
                asking = tx.tool_calls.request(
                    chat, name="f", arguments="{}", call_id=f"call_{call}", in_history=False
                )
                if number < chats - 1 or call < _CALLS - 10:
                    tx.tool_calls.succeed(asking, output={"ok": True})
    with server.admin(database) as admin:
        # Autovacuum is off, and writing the rows to disk must not fall into a measurement.
        admin.execute("vacuum analyze")
        admin.execute("checkpoint")
    return alice
