"""
What the hash chain costs an append: the same calls with the chain and without it.

In the database of the floor, `append_events` computes no hash, and appends to it compute no digest.
Its log is no evidence of anything, and verify reports it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from unittest.mock import patch

from benchmarks.measure import Figure, Samples, Size, run_in_turn, time_calls
from benchmarks.server import Server
from benchmarks.turns import text
from eventstore import EventStore, UnsafeDatabase, User
from eventstore.log import append_request

__all__ = ["figures"]

_APPENDS = Size(full=50, quick=25)
_ROUNDS = Size(full=30, quick=8)
_WITHIN_SECONDS = Size(full=25, quick=3)
_BATCH = 100
"""Messages in the larger append, which is like the import of a conversation."""

_SOURCE = """
select pg_get_functiondef(oid) from pg_proc
where pronamespace = 'eventstore'::regnamespace and proname in ('append_event', 'append_events')
"""
_HASHING = re.compile(r"v_hash := pg_catalog\.sha256\(.*?\);\n", re.DOTALL)


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure the append of one message and of a batch."""
    with ExitStack() as stack:
        chained = stack.enter_context(EventStore.connect(server.create_database("chained")))
        bare = stack.enter_context(EventStore.connect(server.create_database("bare")))
        # After `connect`, which refuses a database with these functions.
        _stop_hashing(server, "bare")
        for messages in (1, _BATCH):
            bare_rounds, chained_rounds = run_in_turn(
                _side(_poster(bare.user("alice"), messages), quick, digests=False),
                _side(_poster(chained.user("alice"), messages), quick, digests=True),
                rounds=_ROUNDS.choose(quick=quick),
                within_seconds=_WITHIN_SECONDS.choose(quick=quick),
            )
            name = "append one message" if messages == 1 else f"append {messages} messages"
            yield Figure(
                f"{name}, chained",
                "without hashes",
                messages,
                "events",
                bare_rounds,
                chained_rounds,
            )
        if not _is_evidence(chained) or _is_evidence(bare):
            raise RuntimeError("the log of the floor has a valid chain, or the other log has none")


def _is_evidence(store: EventStore) -> bool:
    try:
        return store.verify().ok
    except UnsafeDatabase:  # verify refuses a database with other functions
        return False


def _stop_hashing(server: Server, database: str) -> None:
    with server.admin(database) as admin:
        for (source,) in admin.execute(_SOURCE).fetchall():
            bare, replaced = _HASHING.subn("v_hash := v_hash;\n", source)
            if replaced != 1:
                raise RuntimeError(
                    "the functions that append have changed: this benchmark no longer finds where "
                    "they compute hashes"
                )
            admin.execute(bare.encode())


def _poster(user: User, messages: int) -> Callable[[], object]:
    chat = user.conversations.start(title="Groceries").id
    numbers = count()

    def post() -> None:
        with user.transaction() as record:
            for _ in range(messages):
                record.messages.post(chat, sender="user", content=text(next(numbers)))

    return post


def _side(post: Callable[[], object], quick: bool, *, digests: bool) -> Callable[[], Samples]:
    # Patched for one round only, because both sides run in this process.
    def side() -> Samples:
        with ExitStack() as stack:
            if not digests:
                for name in ("payload_digest", "event_digest"):
                    stack.enter_context(patch.object(append_request, name, _no_digest))
            return time_calls(post, _APPENDS.choose(quick=quick))

    return side


def _no_digest(*_: object) -> bytes:
    return bytes(32)
