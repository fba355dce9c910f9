"""
Whether an append slows down as the log grows: the same append at a thousand and a million events.

The logs are filled by SQL, as a superuser, because a million real appends take half an hour. These
filler events ARE NOT CHAINED: their hashes and digests are zeros, their metadata says so, and
verify reports them. Their keys, sizes and indexes are those of real messages, and each has its row
in the read model, so that an append meets index trees of real depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

from benchmarks.measure import Figure, Size, run_in_turn, time_calls
from benchmarks.server import Server
from benchmarks.turns import text
from eventstore import EventStore

__all__ = ["figures"]

_SMALL = Size(full=1_000, quick=1_000)
_LARGE = Size(full=1_000_000, quick=30_000)
"""A million events are some hundred busy users for years, and more than fit into the buffers."""

_USERS_PER_MILLION = 1_000
"""Other users, who share nine tenths of the events; the measured user has one tenth."""

_APPENDS = Size(full=25, quick=25)
"""Appends in one round: few, because sides without a pgbench process may alternate often."""

_ROUNDS = Size(full=120, quick=30)
"""Many short rounds, because the expected difference is smaller than the noise of one."""

_WITHIN_SECONDS = Size(full=30, quick=2)
"""No round starts later: on a busy machine the benchmark has fewer rounds and takes no longer."""

# Ids grow with users and positions, because an index is filled fastest at its right end.
_FILL = """
set session_replication_role = replica;  -- foreign keys are not checked row by row

create temporary table filler as
select
    case when u = 0 then 'alice' else 'user-' || u end as user_id,
    case when u = 0 then {events} / 10 else {events} * 9 / 10 / {users} end as events,
    'a' || to_char(u, 'FM0000000') as prefix
from generate_series(0, {users}) as u;

insert into eventstore.user_log (user_id, position, hash, recorded_at)
select user_id, events, decode(repeat('00', 32), 'hex'), now() from filler;

insert into eventstore.event (
    user_id, position, stream_id, version, event_id, type, schema_version, payload, metadata,
    idempotency_key, append_size, recorded_at, salt, payload_digest, hash)
select
    f.user_id, p,
    (f.prefix || '-0000-7000-8000-' || to_char((p - 1) / 100, 'FM000000000000'))::uuid,
    (p - 1) % 100 + 1,
    e.id, 'MessagePosted', 1,
    json_build_object(
        'sender', 'user',
        'body', json_build_object('role', 'user', 'content', '{text}')),
    '{{"filler": "not chained"}}',
    e.id::text, 1, now(), decode(repeat('00', 16), 'hex'),
    decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex')
from filler as f
cross join lateral generate_series(1, f.events) as p
cross join lateral (
    select (f.prefix || '-0000-7001-8000-' || to_char(p, 'FM000000000000'))::uuid as id) as e
order by f.user_id, p;

insert into eventstore.stream (user_id, stream_id, kind, version, closed)
select user_id, stream_id, 'conversation', max(version), false
from eventstore.event group by user_id, stream_id order by user_id, stream_id;

insert into eventstore.conversation (
    user_id, id, status, created_at, updated_at, last_activity_at, event_id, position,
    last_position, activity_position)
select user_id, stream_id, 'active', now(), now(), now(), gen_random_uuid(), min(position),
    max(position), max(position)
from eventstore.event group by user_id, stream_id order by user_id, stream_id;

insert into eventstore.message (
    user_id, id, conversation_id, position, sender, content, tool_call_count, created_at)
select user_id, event_id, stream_id, position, 'user', '{text}', 0, recorded_at
from eventstore.event order by user_id, position;
"""


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure the append of one message to a small and to a large log, each in its own database."""
    small, large = _SMALL.choose(quick=quick), _LARGE.choose(quick=quick)
    with ExitStack() as stack:
        post_small = _poster(server, "small", small, stack)
        post_large = _poster(server, "large", large, stack)
        appends = _APPENDS.choose(quick=quick)
        small_rounds, large_rounds = run_in_turn(
            lambda: time_calls(post_small, appends),
            lambda: time_calls(post_large, appends),
            rounds=_ROUNDS.choose(quick=quick),
            within_seconds=_WITHIN_SECONDS.choose(quick=quick),
        )
    yield Figure(
        f"append one message at {large:,} events",
        f"the same at {small:,} events",
        1,
        "events",
        small_rounds,
        large_rounds,
    )


def _poster(server: Server, database: str, events: int, stack: ExitStack) -> Callable[[], object]:
    """Fill a log and return the append of one message to it."""
    url = server.create_database(database)
    with server.admin(database) as admin:
        users = max(10, events * _USERS_PER_MILLION // 1_000_000)
        admin.execute(_FILL.format(events=events, users=users, text=text(events)).encode())
        # Autovacuum is off, and writing the filler rows to disk must not fall into a measurement.
        admin.execute("vacuum analyze")
        admin.execute("checkpoint")
    alice = stack.enter_context(EventStore.connect(url)).user("alice")
    chat = alice.conversations.start(title="Groceries").id
    numbers = count()
    return lambda: alice.messages.post(chat, sender="user", content=text(next(numbers)))
