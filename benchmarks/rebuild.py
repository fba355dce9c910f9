"""
How fast events become rows again: by a replay in memory, and by a rebuild of empty read models.

The floor is an `insert … select` of the resulting rows inside PostgreSQL, into tables with the same
columns, checks and indexes: the cost of writing rows that nobody has to compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.measure import Figure, Samples, Size, run_in_turn, time_calls
from benchmarks.server import Server
from benchmarks.turns import EVENTS_PER_TURN, fill
from eventstore import EventStore, User
from eventstore.database.pages import PAGE_ROWS
from projections import BUILT_IN, Projections
from projections.apply.replay import Replay

__all__ = ["figures"]

_USERS = Size(full=10, quick=5)
"""Several users, so that the figure includes the work that is done once per user."""

_TURNS = Size(full=400, quick=60)
"""Turns per user: 400 turns are 2,400 events and 2,000 rows, the log of a few months."""

_ROUNDS = Size(full=7, quick=3)
"""Few rounds, because each takes some seconds."""

_WITHIN_SECONDS = Size(full=40, quick=2)
"""No round starts later: on a busy machine the benchmark has fewer rounds and takes no longer."""

_TABLES = ("conversation", "message", "task")
_FLOOR = "insert … select, same rows"


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure replay and rebuild of all users of one database."""
    url = server.create_database("rebuild")
    with EventStore.connect(url) as store, server.admin("rebuild") as admin:
        users = [store.user(f"user-{number:03d}") for number in range(_USERS.choose(quick=quick))]
        for user in users:
            fill(user, user.conversations.start().id, _TURNS.choose(quick=quick))
        _prepare_floor(admin)
        floor, replay, rebuild = run_in_turn(
            lambda: _floor(admin),
            lambda: time_calls(lambda: [_replay(user) for user in users]),
            lambda: _rebuild(store, admin),
            rounds=_ROUNDS.choose(quick=quick),
            within_seconds=_WITHIN_SECONDS.choose(quick=quick),
        )
        if store.rebuild(check=True).changed:
            raise RuntimeError("the read models differ from the replay after the rebuild")
        events = store.status().events
    if events != len(users) * (_TURNS.choose(quick=quick) * EVENTS_PER_TURN + 1):
        raise RuntimeError(f"the logs have {events} events, which is not the expected number")
    title = f"{events:,} events of {len(users)} users"
    yield Figure(f"replay {title}", _FLOOR, events, "events", floor, replay)
    yield Figure(f"rebuild {title}", _FLOOR, events, "events", floor, rebuild)


def _replay(user: User) -> Replay:
    """Replay a user's events to rows in memory, page by page, as an application can."""
    replay = Replay(Projections(*BUILT_IN))
    while page := user.events(after=replay.position, limit=PAGE_ROWS):
        for event in page:
            replay.apply(event)
    return replay


def _rebuild(store: EventStore, admin: psycopg.Connection[Any]) -> Samples:
    admin.execute(_truncate("eventstore"))
    return time_calls(store.rebuild)


def _prepare_floor(admin: psycopg.Connection[Any]) -> None:
    admin.execute("create schema floor")
    for table in map(sql.Identifier, _TABLES):
        admin.execute(
            sql.SQL("create table floor.{0} (like eventstore.{0} including all)").format(table)
        )
    # Autovacuum is off on this server.
    admin.execute("vacuum analyze")


def _floor(admin: psycopg.Connection[Any]) -> Samples:
    admin.execute(_truncate("floor"))
    copies = sql.SQL("; ").join(
        sql.SQL("insert into floor.{0} select * from eventstore.{0}").format(sql.Identifier(table))
        for table in _TABLES
    )
    # One query string is one transaction, as a rebuild of one user is.
    return time_calls(lambda: admin.execute(copies))


def _truncate(schema: str) -> sql.Composed:
    names = sql.SQL(", ").join(sql.Identifier(schema, table) for table in _TABLES)
    return sql.SQL("truncate {}").format(names)
