"""
What a long history costs beside fetching its rows: from the read model, and from the log.

The floor is psycopg fetching the rows that the source reads, binary, as tuples, as a superuser
without row-level security. What is left is decoding, replaying and making views.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import RawCursor

from benchmarks.measure import Figure, Size, in_turn, timed
from benchmarks.server import Server
from benchmarks.turns import MESSAGES_PER_TURN, fill
from eventstore import EventStore
from eventstore.log.stored_event import REPLAY_COLUMNS, select_list

__all__ = ["figures"]

_MESSAGES = Size(full=10_000, quick=1_000)
"""The longest conversation worth loading whole; the time grows with it in proportion."""

_ROUNDS = Size(full=15, quick=5)
"""A round is one history from each source, a second together."""

_WITHIN_SECONDS = Size(full=25, quick=2)
"""No further round after that: a busy machine gets fewer rounds, not a longer run."""

_MESSAGE_ROWS = """
select id, position, sender, body::text, tool_calls::text[], created_at
from eventstore.message
where user_id = $1 and conversation_id = $2
order by position
"""

_EVENT_ROWS = f"""
select {select_list(REPLAY_COLUMNS)}
from eventstore.event
where user_id = $1 and stream_id = $2
order by version
"""


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure both sources of one conversation in a database of its own."""
    url = server.create_database("history")
    messages = _MESSAGES.of(quick=quick)
    with EventStore.connect(url) as store, server.admin("history") as plain:
        alice = store.user("alice")
        chat = alice.conversations.start(title="Groceries").id
        fill(alice, chat, messages // MESSAGES_PER_TURN)
        plain.execute("vacuum analyze")
        if alice.history(chat) != alice.history(chat, source="events"):
            raise RuntimeError("the two sources of history differ")
        binds = (alice.user_id, chat)
        rounds = in_turn(
            lambda: timed(lambda: _fetch(plain, _MESSAGE_ROWS, binds)),
            lambda: timed(lambda: alice.history(chat)),
            lambda: timed(lambda: _fetch(plain, _EVENT_ROWS, binds)),
            lambda: timed(lambda: alice.history(chat, source="events")),
            rounds=_ROUNDS.of(quick=quick),
            within_seconds=_WITHIN_SECONDS.of(quick=quick),
        )
    floor = "psycopg, same rows"
    title = f"history of {messages:,} messages, "
    yield Figure(title + "read model", floor, messages, "messages", rounds[0], rounds[1])
    yield Figure(title + "log", floor, messages, "messages", rounds[2], rounds[3])


def _fetch(
    connection: psycopg.Connection[Any], sql: str, binds: tuple[object, ...]
) -> list[tuple[Any, ...]]:
    cursor = RawCursor(connection)
    cursor.execute(sql, binds, binary=True)
    return cursor.fetchall()
