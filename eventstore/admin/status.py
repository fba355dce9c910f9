"""What a database holds and what goes on in it, as far as the login may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from eventstore.admin.health import is_pending
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope, operator, user_scope
from eventstore.errors import AccessDenied
from eventstore.log.feeds import Feed, list_feeds
from eventstore.schema.expected import REVISIONS

__all__ = ["Status", "read_status"]

# Asked as the login itself: the roles of the store are shown the sessions of no login at all.
# PostgreSQL hides of a foreign session everything but its place, the type of its process too.
_SERVER = """
select current_setting('server_version'),
       (select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
        from pg_catalog.pg_class as c
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where n.nspname = 'eventstore' and c.relkind = 'r'),
       pg_database_size(current_database())
"""
_SESSIONS = """
select extract(epoch from clock_timestamp() - min(xact_start))::float8,
       count(*) filter (where backend_type is null)
from pg_catalog.pg_stat_activity
where datname = current_database()
  and pid <> pg_backend_pid()
  and (backend_type is null or backend_type = 'client backend')
"""

_REVISION = "select string_agg(version_num, ', ') from eventstore.alembic_version"
_USERS = """
select count(*), coalesce(sum(position), 0)::bigint, count(*) filter (where position >= quota)
from eventstore.user_log
"""
# Indexes: tool_call_pending and tool_call_abandoned, turn_running.
_PENDING_CALLS = """
select count(*),
       count(*) filter (
           where claimed_at + make_interval(secs => claim_seconds) < clock_timestamp())
from eventstore.tool_call
where status = 'pending'
"""
_ABANDONED_CALLS = "select count(*) from eventstore.tool_call where status = 'abandoned'"
_TURNS = """
select count(*),
       count(*) filter (
           where leased_at + make_interval(secs => lease_seconds) < clock_timestamp())
from eventstore.turn
where status = 'running' and lease_seconds > 0
"""
_REBUILD = """
select count(*) filter (where finished_at is null),
       count(finished_at),
       min(started_at),
       max(finished_at)
from eventstore.rebuild_progress
"""
_OF_ALL_USERS = (_USERS, _PENDING_CALLS, _ABANDONED_CALLS, _TURNS, _REBUILD)
_NOT_SHOWN = (None,) * 13
"""The columns of these answers, for a login that may not enter the operator role."""


@dataclass(frozen=True, slots=True)
class Status:
    """
    What a database holds, and what goes on in it.

    What is about all users, from `users` to `feeds`, is None for a login that may not
    enter the operator role.

    :ivar revision: the schema's; `none` if it has none.
    :ivar head: the newest revision that this release knows.
    :ivar migration_pending: the schema is older than this release needs.
    :ivar bytes: of all tables and indexes of the store, with TOAST.
    :ivar database_bytes: of the whole database, which is what a provider's limit counts.
    :ivar oldest_transaction_seconds: how long the oldest open transaction in the database has
        lasted, of the sessions that the login is shown; None if none is open.
    :ivar hidden_sessions: how many sessions the login is not shown: those of other logins, unless
        it belongs to `pg_read_all_stats`.
    :ivar users: how many logs there are.
    :ivar events: in all logs, erased ones too.
    :ivar users_at_quota: whose logs hold as many events as they may; see `EventStore.set_quota`.
    :ivar pending_calls: tool calls without an outcome.
    :ivar lapsed_calls: of these, the ones whose worker's claim has run out.
    :ivar abandoned_calls: that were given up, ever.
    :ivar open_turns: turns under way; those without a lease, which keep nobody out, do not count.
    :ivar lapsed_turns: of these, the ones whose lease has run out and which nobody has continued.
    :ivar rebuild_left: users that a rebuild of all users has still to do; 0 if none is under way or
        was interrupted.
    :ivar rebuild_done: users that this rebuild, or else the last one, has done.
    :ivar rebuild_started_at: when it began; None if there was none.
    :ivar rebuild_advanced_at: when it finished a user last: long ago, if it was interrupted.
    :ivar feeds: how far each feed is, by name: who is behind, by how many events, and who is
        parked.
    """

    server_version: str
    revision: str
    head: str
    migration_pending: bool
    bytes: int
    database_bytes: int
    oldest_transaction_seconds: float | None
    hidden_sessions: int
    users: int | None
    events: int | None
    users_at_quota: int | None
    pending_calls: int | None
    lapsed_calls: int | None
    abandoned_calls: int | None
    open_turns: int | None
    lapsed_turns: int | None
    rebuild_left: int | None
    rebuild_done: int | None
    rebuild_started_at: datetime | None
    rebuild_advanced_at: datetime | None
    feeds: list[Feed] | None


def read_status() -> Plan[Status]:
    """Ask as the login and then as the operator, or as nobody where the login may not."""
    (version, size, database_size), (oldest, hidden) = yield from _ask(None, _SERVER, _SESSIONS)
    try:
        (revision,), *counts = yield from _ask(operator, _REVISION, *_OF_ALL_USERS)
        shown: Sequence[Any] = [value for row in counts for value in row]
        shown = [*shown, (yield from list_feeds())]
    except AccessDenied:
        ((revision,),) = yield from _ask(user_scope(""), _REVISION)
        shown = _NOT_SHOWN
    return Status(
        version,
        revision or "none",
        REVISIONS[-1],
        is_pending(revision),
        size,
        database_size,
        oldest,
        hidden,
        *shown,
    )


def _ask(scope: Scope | None, *questions: str) -> Plan[list[tuple[Any, ...]]]:
    """Ask in one round trip, and return the one row of each answer."""
    answers = yield Batch(scope, tuple(map(Statement, questions)))
    return [rows[0] for rows in answers]
