"""
How fast events become rows again: replayed in memory, and rebuilt over emptied read models.

The floor is `insert … select` of the resulting rows inside PostgreSQL, into tables with the same
columns, checks and indexes: what writing them costs if nobody has to work them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.measure import Figure, Samples, Size, in_turn, timed
from benchmarks.server import Server
from benchmarks.turns import EVENTS_PER_TURN, fill
from eventstore import EventStore, User
from eventstore.database.pages import PAGE_ROWS
from projections import BUILT_IN, Projections
from projections.apply.replay import Replay

__all__ = ["figures"]

_USERS = Size(full=10, quick=5)
"""So many that the work done once a user is in the figure, as in a real rebuild."""

_TURNS = Size(full=400, quick=60)
"""A user: 2,400 events and 2,000 rows, the log of a few months."""

_ROUNDS = Size(full=7, quick=3)
"""A round takes some seconds."""

_WITHIN_SECONDS = Size(full=40, quick=2)
"""No further round after that: a busy machine gets fewer rounds, not a longer run."""

_TABLES = ("conversation", "message", "task")
_FLOOR = "insert … select, same rows"


def figures(server: Server, *, quick: bool) -> Iterator[Figure]:
    """Measure replay and rebuild of all users in a database of their own."""
    url = server.create_database("rebuild")
    with EventStore.connect(url) as store, server.admin("rebuild") as admin:
        users = [store.user(f"user-{number:03d}") for number in range(_USERS.of(quick=quick))]
        for user in users:
            fill(user, user.conversations.start().id, _TURNS.of(quick=quick))
        _prepare_floor(admin)
        floor, replay, rebuild = in_turn(
            lambda: _floor(admin),
            lambda: timed(lambda: [_replay(user) for user in users]),
            lambda: _rebuild(store, admin),
            rounds=_ROUNDS.of(quick=quick),
            within_seconds=_WITHIN_SECONDS.of(quick=quick),
        )
        if store.rebuild(check=True).changed:
            raise RuntimeError("the read models are not what the rebuild should have made")
        events = store.status().events
    if events != len(users) * (_TURNS.of(quick=quick) * EVENTS_PER_TURN + 1):
        raise RuntimeError(f"{events} events in the log")
    title = f"{events:,} events of {len(users)} users"
    yield Figure(f"replay {title}", _FLOOR, events, "events", floor, replay)
    yield Figure(f"rebuild {title}", _FLOOR, events, "events", floor, rebuild)


def _replay(user: User) -> Replay:
    """Page through a user's events as an application can, to rows in memory."""
    replay = Replay(Projections(*BUILT_IN))
    while page := user.events(after=replay.position, limit=PAGE_ROWS):
        replay.apply(page)
    return replay


def _rebuild(store: EventStore, admin: psycopg.Connection[Any]) -> Samples:
    admin.execute(_truncate("eventstore"))
    return timed(store.rebuild)


def _prepare_floor(admin: psycopg.Connection[Any]) -> None:
    admin.execute("create schema floor")
    for table in map(sql.Identifier, _TABLES):
        admin.execute(
            sql.SQL("create table floor.{0} (like eventstore.{0} including all)").format(table)
        )
    admin.execute("vacuum analyze")


def _floor(admin: psycopg.Connection[Any]) -> Samples:
    admin.execute(_truncate("floor"))
    copies = sql.SQL("; ").join(
        sql.SQL("insert into floor.{0} select * from eventstore.{0}").format(sql.Identifier(table))
        for table in _TABLES
    )
    return timed(lambda: admin.execute(copies))  # sent as one, it is one transaction


def _truncate(schema: str) -> sql.Composed:
    names = sql.SQL(", ").join(sql.Identifier(schema, table) for table in _TABLES)
    return sql.SQL("truncate {}").format(names)
