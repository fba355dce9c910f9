"""
What a long history costs beyond fetching its rows: from the read model and from the log.

The floor is psycopg, which fetches the same rows in binary as tuples, as a superuser without
row-level security. The difference is the cost of decoding, replaying and making views.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import RawCursor

from benchmarks.measure import Figure, Size, run_in_turn, time_calls
from benchmarks.server import Server
from benchmarks.turns import MESSAGES_PER_TURN, fill
from eventstore import EventStore
from eventstore.log.stored_event import REPLAY_COLUMNS, select_list

__all__ = ["figures"]

_MESSAGES = Size(full=10_000, quick=1_000)
"""The longest conversation worth loading as a whole; the time is proportional to its length."""

_ROUNDS = Size(full=15, quick=5)
"""A round loads one history from each source, which takes a second together."""

_WITHIN_SECONDS = Size(full=25, quick=2)
"""No round starts later: on a busy machine the benchmark has fewer rounds and takes no longer."""

_MESSAGE_ROWS = """
select id, position, sender, content, body::text, tool_call_count, created_at
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
    """Measure both sources of one conversation in a database that holds nothing else."""
    url = server.create_database("history")
    messages = _MESSAGES.choose(quick=quick)
    with EventStore.connect(url) as store, server.admin("history") as admin:
        alice = store.user("alice")
        chat = alice.conversations.start(title="Groceries").id
        fill(alice, chat, messages // MESSAGES_PER_TURN)
        # Autovacuum is off on this server.
        admin.execute("vacuum analyze")
        if alice.history(chat) != alice.history(chat, source="events"):
            raise RuntimeError("the two sources of history differ")
        parameters = (alice.user_id, chat)
        rounds = run_in_turn(
            lambda: time_calls(lambda: _fetch(admin, _MESSAGE_ROWS, parameters)),
            lambda: time_calls(lambda: alice.history(chat)),
            lambda: time_calls(lambda: _fetch(admin, _EVENT_ROWS, parameters)),
            lambda: time_calls(lambda: alice.history(chat, source="events")),
            rounds=_ROUNDS.choose(quick=quick),
            within_seconds=_WITHIN_SECONDS.choose(quick=quick),
        )
    floor = "psycopg, same rows"
    title = f"history of {messages:,} messages, "
    yield Figure(title + "read model", floor, messages, "messages", rounds[0], rounds[1])
    yield Figure(title + "log", floor, messages, "messages", rounds[2], rounds[3])


def _fetch(
    connection: psycopg.Connection[Any], sql: str, parameters: tuple[object, ...]
) -> list[tuple[Any, ...]]:
    cursor = RawCursor(connection)
    cursor.execute(sql, parameters, binary=True)
    return cursor.fetchall()
