"""
Compare appends with those of other stores: `uv run --group peers python -m benchmarks.peers`.

All stores use one server, each in a database of its own, and take turns, so a noisy minute affects
all of them. CPU time says more than throughput on a shared machine: that of this process, and that
of its server processes, from `/proc/<pid>/schedstat`. So this benchmark needs Linux.

| side | one operation writes |
|---|---|
| the store | an event, the row of its message, and the updated row of its conversation |
| `eventsourcing` | an event, by `PostgresApplicationRecorder.insert_events` |
| OpenAI Agents SDK | an item and a session's time, by `SQLAlchemySession.add_items` |
| `eventsource-py` | an event, by `PostgreSQLEventStore.append` |

The server does not wait for its disk at COMMIT, because that takes all stores the same time.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from statistics import median
from typing import Any
from uuid import uuid4

from agents.extensions.memory import SQLAlchemySession
from eventsource import DomainEvent
from eventsource.adapters.postgresql.store import PostgreSQLEventStore
from eventsource.domain.stream_id import StreamId
from eventsource.ports.positions import ExpectedVersion
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from benchmarks.measure import Size, count_python_calls
from benchmarks.server import Server, run_server
from benchmarks.turns import EVENTS_PER_AGENT_TURN, agent_turn, text
from eventstore import AsyncEventStore, EventStore, Settings

_WRITERS = 8
_ROUNDS = Size(full=25, quick=5)
_APPENDS = Size(full=40, quick=20)
"""Of each side in one round: short rounds, so that all sides of a round meet the same noise."""
_APPENDS_OF_MANY = Size(full=160, quick=20)
"""Of each of many writers: the first 40 go to threads that start and to caches that are cold."""

type Append = Callable[[int], object]
"""Appends once; its argument is the number of the writer."""


@dataclass(frozen=True, slots=True)
class Side:
    """
    One way to append.

    :ivar append: returns an awaitable if the side is async.
    :ivar runner: of the event loop of an async side; None of a sync one.
    :ivar peer: the name of the side to which it is compared.
    """

    name: str
    database: str
    append: Append
    runner: asyncio.Runner | None = None
    peer: str | None = None


@dataclass(slots=True)
class Result:
    """
    What the rounds of a side took.

    :ivar client: CPU time of this process for one append, in µs, by round.
    :ivar server: CPU time of the server for one append, in µs, by round.
    :ivar one: appends per second by one writer, by round; `many` by `_WRITERS` on their own users.
    :ivar calls: Python functions that one append enters, those of an event loop among them.
    """

    name: str
    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)
    many: list[float] = field(default_factory=list)
    calls: int = 0

    def cpu(self) -> list[float]:
        """Return the CPU time of client and server together, by round."""
        return [client + server for client, server in zip(self.client, self.server, strict=True)]


def main() -> None:
    """Run all sides in turn and print one table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds; under a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with run_server() as server, _sides(server) as sides:
        results = _measure(server, sides, quick=arguments.quick)
        version = server.version()
    if arguments.json:
        print(json.dumps({name: asdict(one) for name, one in results.items()}, indent=2))
    else:
        _print(version, sides, results)


@contextmanager
def _sides(server: Server) -> Iterator[list[Side]]:
    with server.admin("postgres") as connection:
        connection.execute("alter system set synchronous_commit = off")
        connection.execute("select pg_reload_conf()")
        for name in ("recorder", "sessions", "events"):
            connection.execute(f"create database {name}")
    with ExitStack() as closing:
        runner = closing.enter_context(asyncio.Runner())
        yield [
            *_store(server, closing),
            *_async_store(server, closing, runner),
            *_recorder(server, closing),
            *_session(server, closing, runner),
            *_eventsource(server, closing, runner),
        ]


def _store(server: Server, closing: ExitStack) -> Iterator[Side]:
    url = server.create_database("store")
    settings = Settings(database_url=url, pool_max_size=_WRITERS)
    store = closing.enter_context(EventStore.connect(settings=settings))
    users = [store.user(f"user-{number}") for number in range(_WRITERS)]
    chats = [user.conversations.start().id for user in users]
    numbers = count()

    def post(writer: int) -> None:
        users[writer].messages.post(chats[writer], sender="user", content=text(next(numbers)))

    def turn(writer: int) -> None:
        with users[writer].transaction() as record:
            agent_turn(record, chats[writer], next(numbers))

    yield Side("messages.post", "store", post, peer="eventsourcing, 1 event")
    yield Side(
        f"agent turn, {EVENTS_PER_AGENT_TURN} events",
        "store",
        turn,
        peer=f"eventsourcing, {EVENTS_PER_AGENT_TURN} events",
    )


def _async_store(server: Server, closing: ExitStack, runner: asyncio.Runner) -> Iterator[Side]:
    url = server.create_database("async_store")
    settings = Settings(database_url=url, pool_max_size=_WRITERS)
    numbers = count()

    async def connect() -> tuple[AsyncEventStore, list[Any], list[Any]]:
        store = await AsyncEventStore.connect(settings=settings)
        users = [store.user(f"user-{number}") for number in range(_WRITERS)]
        return store, users, [(await user.conversations.start()).id for user in users]

    store, users, chats = runner.run(connect())
    closing.callback(lambda: runner.run(store.close()))

    async def post(writer: int) -> None:
        content = text(next(numbers))
        await users[writer].messages.post(chats[writer], sender="user", content=content)

    yield Side("messages.post, async", "async_store", post, runner, "Agents SDK, 1 item")


def _recorder(server: Server, closing: ExitStack) -> Iterator[Side]:
    datastore = PostgresDatastore(
        dbname="recorder",
        host=str(server.folder),
        port=5432,
        user="postgres",
        password="",
        pool_size=_WRITERS,
        max_overflow=0,
    )
    closing.callback(datastore.close)
    recorder = PostgresApplicationRecorder(datastore)
    recorder.create_table()
    ids = [uuid4() for _ in range(_WRITERS)]
    versions = [count() for _ in range(_WRITERS)]
    numbers = count()

    def insert(writer: int, events: int) -> None:
        recorder.insert_events(
            [
                StoredEvent(ids[writer], next(versions[writer]), "MessagePosted", state)
                for state in (_payload(next(numbers)) for _ in range(events))
            ]
        )

    yield Side("eventsourcing, 1 event", "recorder", lambda writer: insert(writer, 1))
    five = EVENTS_PER_AGENT_TURN
    yield Side(f"eventsourcing, {five} events", "recorder", lambda writer: insert(writer, five))


def _session(server: Server, closing: ExitStack, runner: asyncio.Runner) -> Iterator[Side]:
    engine = _engine(server, "sessions", closing, runner)
    sessions = [
        SQLAlchemySession(f"session-{number}", engine=engine, create_tables=True)
        for number in range(_WRITERS)
    ]
    numbers = count()

    def add(writer: int) -> Awaitable[object]:
        return sessions[writer].add_items([{"role": "user", "content": text(next(numbers))}])

    yield Side("Agents SDK, 1 item", "sessions", add, runner)


class MessagePosted(DomainEvent):
    """What `eventsource-py` appends."""

    event_type: str = "MessagePosted"
    aggregate_type: str = "Conversation"
    sender: str
    content: str


def _eventsource(server: Server, closing: ExitStack, runner: asyncio.Runner) -> Iterator[Side]:
    engine = _engine(server, "events", closing, runner)
    store = PostgreSQLEventStore(engine, create_schema=True)
    ids = [uuid4() for _ in range(_WRITERS)]
    versions = [count(1) for _ in range(_WRITERS)]
    numbers = count()

    def append(writer: int) -> Awaitable[object]:
        event = MessagePosted(
            aggregate_id=ids[writer],
            aggregate_version=next(versions[writer]),
            sender="user",
            content=text(next(numbers)),
        )
        stream = StreamId(aggregate_id=ids[writer], category="Conversation")
        return store.append(stream, [event], ExpectedVersion.any_())

    yield Side("eventsource-py, 1 event", "events", append, runner)


def _engine(
    server: Server, database: str, closing: ExitStack, runner: asyncio.Runner
) -> AsyncEngine:
    engine = create_async_engine(
        f"postgresql+asyncpg://postgres@/{database}?host={server.folder}", pool_size=_WRITERS
    )
    closing.callback(lambda: runner.run(engine.dispose()))
    return engine


def _payload(number: int) -> bytes:
    body = {"role": "user", "content": text(number)}
    return json.dumps({"sender": "user", "body": body}).encode()


def _measure(server: Server, sides: list[Side], *, quick: bool) -> dict[str, Result]:
    appends, of_many = _APPENDS.choose(quick=quick), _APPENDS_OF_MANY.choose(quick=quick)
    results = {side.name: Result(side.name) for side in sides}
    for side in sides:  # opens every connection of every pool
        _run_one(side, appends)
        _run_many(side, appends)
        results[side.name].calls = count_python_calls(partial(_run_one, side, 1))
    for number in range(_ROUNDS.choose(quick=quick)):
        print(f"\rround {number + 1}", end="", file=sys.stderr, flush=True)
        for side in sides:
            result = results[side.name]
            gc.collect()
            server_before, client_before = server.cpu_seconds(side.database), time.process_time()
            result.one.append(appends / _run_one(side, appends))
            client = time.process_time() - client_before
            result.client.append(client / appends * 1e6)
            result.server.append(
                (server.cpu_seconds(side.database) - server_before) / appends * 1e6
            )
            result.many.append(of_many * _WRITERS / _run_many(side, of_many))
    print(file=sys.stderr)
    return results


def _run_one(side: Side, appends: int) -> float:
    """Append with one writer and return the seconds that it took."""
    start = time.perf_counter()
    if side.runner is None:
        for _ in range(appends):
            side.append(0)
    else:
        side.runner.run(_append_all(side, 0, appends))
    return time.perf_counter() - start


def _run_many(side: Side, appends: int) -> float:
    """Append with all writers at once, each for a user of its own; return the seconds."""
    start = time.perf_counter()
    if side.runner is None:
        with ThreadPoolExecutor(_WRITERS) as threads:
            for one in [threads.submit(_repeat, side, w, appends) for w in range(_WRITERS)]:
                one.result()
    else:
        side.runner.run(_append_in_tasks(side, appends))
    return time.perf_counter() - start


def _repeat(side: Side, writer: int, appends: int) -> None:
    for _ in range(appends):
        side.append(writer)


async def _append_all(side: Side, writer: int, appends: int) -> None:
    append: Any = side.append
    for _ in range(appends):
        await append(writer)


async def _append_in_tasks(side: Side, appends: int) -> None:
    async with asyncio.TaskGroup() as group:
        for writer in range(_WRITERS):
            group.create_task(_append_all(side, writer, appends))


def _print(version: str, sides: list[Side], results: dict[str, Result]) -> None:
    table = Table(
        title=f"PostgreSQL {version}: appends of this store and of others",
        caption=f"CPU in µs for one append, medians; Python calls; appends per second of 1 and "
        f"{_WRITERS} writers; ratios: the store by the side named, median of the rounds",
    )
    for heading in ("append", "compared with"):
        table.add_column(heading)
    throughput = ("1 writer", f"{_WRITERS} writers", "ratios")
    for heading in ("client", "calls", "server", "CPU ratio", *throughput):
        table.add_column(heading, justify="right", no_wrap=True)
    for side in sides:
        mine = results[side.name]
        row = [side.name, "", f"{median(mine.client):.0f}", f"{mine.calls}"]
        row += [f"{median(mine.server):.0f}", ""]
        row += [f"{median(mine.one):,.0f}", f"{median(mine.many):,.0f}", ""]
        table.add_row(*row)
        for peer in _compared_with(side, sides):
            other = results[peer]
            ratios = f"{_ratio(mine.one, other.one):.2f}; {_ratio(mine.many, other.many):.2f}"
            cpu = f"{_ratio(mine.cpu(), other.cpu()):.2f}"
            table.add_row("", peer, "", "", "", cpu, "", "", ratios)
    Console(width=130).print(table)


def _compared_with(side: Side, sides: list[Side]) -> list[str]:
    """Return the peers of a side: the one that it names, and for one event all others of one."""
    if side.peer is None:
        return []
    of_one = [one.name for one in sides if one.peer is None and one.name[-1] != "s"]
    return of_one if side.name.startswith("messages.post") else [side.peer]


def _ratio(mine: list[float], other: list[float]) -> float:
    return median(one / two for one, two in zip(mine, other, strict=True))


if __name__ == "__main__":
    main()
