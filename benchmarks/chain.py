"""
What the hash chain costs an append: the same calls, with it and without it, side by side.

The floor's database has an `append_events` that hashes nothing, and its appends digest nothing:
its log is no evidence of anything, and verify refuses it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from unittest.mock import patch

from benchmarks.measure import Figure, Samples, Size, in_turn, timed
from benchmarks.server import Server
from benchmarks.turns import text
from eventstore import EventStore, UnsafeDatabase, User
from eventstore.log import append_request
from eventstore.log.hash_chain import payload_digest

__all__ = ["figures"]

_APPENDS = Size(full=50, quick=25)
_ROUNDS = Size(full=30, quick=8)
_WITHIN_SECONDS = Size(full=25, quick=3)
_BATCH = 100
"""Messages of the larger append: a conversation that is imported."""

_SOURCE = """
select pg_get_functiondef(oid) from pg_proc
where pronamespace = 'eventstore'::regnamespace and proname = 'append_events'
"""
_HASHING = re.compile(r"v_hash := sha256\(.*?'UTF8'\)\);", re.DOTALL)


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure one message and a batch of them."""
    with ExitStack() as stack:
        chained = stack.enter_context(EventStore.connect(server.create_database("chained")))
        bare = stack.enter_context(EventStore.connect(server.create_database("bare")))
        _stop_hashing(server, "bare")  # now, as a store does not open on such a database
        for messages in (1, _BATCH):
            of_bare, of_chained = in_turn(
                _side(_poster(bare.user("alice"), messages), quick, digest=_no_digest),
                _side(_poster(chained.user("alice"), messages), quick, digest=payload_digest),
                rounds=_ROUNDS.of(quick=quick),
                within_seconds=_WITHIN_SECONDS.of(quick=quick),
            )
            name = "append one message" if messages == 1 else f"append {messages} messages"
            yield Figure(
                f"{name}, chained", "without hashes", messages, "events", of_bare, of_chained
            )
        if not _is_evidence(chained) or _is_evidence(bare):
            raise RuntimeError("the two sides are not with and without the chain")


def _is_evidence(store: EventStore) -> bool:
    try:
        return store.verify().ok
    except UnsafeDatabase:  # the function that hashes is not the store's
        return False


def _stop_hashing(server: Server, database: str) -> None:
    with server.admin(database) as admin:
        ((source,),) = admin.execute(_SOURCE).fetchall()
        bare, replaced = _HASHING.subn("v_hash := v_hash;", source)
        if replaced != 1:
            raise RuntimeError("append_events hashes in another way than this benchmark knows")
        admin.execute(bare.encode())


def _poster(user: User, messages: int) -> Callable[[], object]:
    chat = user.conversations.start(title="Groceries").id
    numbers = count()

    def post() -> None:
        with user.transaction() as record:
            for _ in range(messages):
                record.messages.post(chat, sender="user", content=text(next(numbers)))

    return post


def _side(
    post: Callable[[], object], quick: bool, *, digest: Callable[[bytes, str, str], bytes]
) -> Callable[[], Samples]:
    def side() -> Samples:
        with patch.object(append_request, "payload_digest", digest):
            return timed(post, _APPENDS.of(quick=quick))

    return side


def _no_digest(_salt: bytes, _payload: str, _metadata: str) -> bytes:
    return bytes(32)
