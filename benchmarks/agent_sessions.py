"""
Compare sessions of the Agents SDK: `uv run --group peers python -m benchmarks.agent_sessions`.

`EventStoreSession` against the SDK's own `SQLAlchemySession` with psycopg and with asyncpg, in one
run on one server, each in a database of its own. They take turns, operation by operation. CPU time
is that of this process and that of the server's processes, from `/proc/<pid>/schedstat`, so this
benchmark needs Linux. Round trips are counted by a proxy in a run of their own.

A turn is `Runner.run` with one tool call and a scripted model. Ours records the call before its
tool runs, and what the run cost, which theirs does not. `in memory` is a turn with a list as its
session: what the SDK itself takes, which is in each of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.extensions.memory import SQLAlchemySession
from agents.memory import Session, SessionABC
from agents.testing import ScriptedModel, assistant_message, function_call
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.measure import Size
from benchmarks.server import Server, run_server
from eventstore import AsyncEventStore, Settings
from eventstore.integrations.agents import EventStoreSession
from tests.support.proxy import run_proxy

_ROUNDS = Size(full=12, quick=3)
_NUMBERS = count()
OURS = "EventStoreSession"

type Items = Any


@dataclass(frozen=True, slots=True)
class Side:
    """A kind of session; `new` makes one that nobody used, `turn` runs a whole turn in one."""

    name: str
    database: str
    new: Callable[[], Session]
    turn: Callable[[Session], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is measured: `prepare` returns as many calls as are timed together."""

    name: str
    repeat: int
    prepare: Callable[[Side, int], Awaitable[list[Callable[[], Awaitable[object]]]]]


@dataclass(slots=True)
class Result:
    """CPU in µs for one operation, by round; round trips of one."""

    client: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    round_trips: int | None = None

    def cpu(self) -> list[float]:
        """Return the CPU time of client and server together, by round."""
        return [one + two for one, two in zip(self.client, self.server, strict=True)]


def main() -> None:
    """Run all sides in turn and print one table, or one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agent_sessions", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="few rounds; under a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    set_tracing_disabled(True)
    with run_server() as server:
        with server.admin("postgres") as connection:
            connection.execute("alter system set synchronous_commit = off")
            connection.execute("select pg_reload_conf()")
        results = asyncio.run(_measure(server, quick=arguments.quick))
        version = server.version()
    if arguments.json:
        print(json.dumps(_as_json(results), indent=2))
    else:
        _print(version, results)


async def _measure(server: Server, *, quick: bool) -> dict[tuple[str, str], Result]:
    results: dict[tuple[str, str], Result] = {}
    async with AsyncExitStack() as closing:
        sides = [one async for one in _sides(server, closing, server.folder, 5432, "cpu")]
        for number in range(_ROUNDS.choose(quick=quick) + 1):
            for side in sides if number == 1 else ():
                with server.admin(side.database) as connection:
                    connection.execute("analyze")  # as autovacuum does it, which is off here
            print(f"\rround {number}", end="", file=sys.stderr, flush=True)
            for operation in _OPERATIONS:
                for side in sides:
                    result = results.setdefault((operation.name, side.name), Result())
                    client, spent = await _run(server, side, operation)
                    if number:  # the first one warms up: connections, prepared statements
                        result.client.append(client)
                        result.server.append(spent)
        print(file=sys.stderr)
    socket = Path(server.folder) / ".s.PGSQL.5432"
    with run_proxy(socket) as proxy:
        async with AsyncExitStack() as closing:
            async for side in _sides(server, closing, "127.0.0.1", proxy.port, "trips"):
                for operation in _OPERATIONS:
                    for _ in range(8):  # past the thresholds for prepared statements
                        (call, *_) = await operation.prepare(side, 1)
                        proxy.count()
                        await call()
                        trips = proxy.count()
                    results[operation.name, side.name].round_trips = trips
    return results


async def _run(server: Server, side: Side, operation: Operation) -> tuple[float, float]:
    calls = await operation.prepare(side, operation.repeat)
    gc.collect()
    server_before, client_before = server.cpu_seconds(side.database), time.process_time()
    for call in calls:
        await call()
    client = time.process_time() - client_before
    spent = server.cpu_seconds(side.database) - server_before
    return client / len(calls) * 1e6, spent / len(calls) * 1e6


async def _sides(
    server: Server, closing: AsyncExitStack, host: object, port: int, suffix: str
) -> Any:
    name = f"store_{suffix}"
    server.create_database(name)
    url = f"postgresql://postgres@/{name}?host={host}&port={port}"
    settings = Settings(database_url=url, pool_max_size=1)
    store = await closing.enter_async_context(AsyncEventStore.connect(settings=settings))
    user = store.user("alice")

    def ours() -> Session:
        return EventStoreSession(f"session-{next(_NUMBERS)}", user)

    yield Side(OURS, name, ours, _own_turn)
    for driver in ("psycopg", "asyncpg"):
        name = f"{driver}_{suffix}"
        with server.admin("postgres") as connection:
            connection.execute(f"create database {name}")
        address = f"postgresql+{driver}://postgres@/{name}?host={host}&port={port}"
        engine = create_async_engine(address, pool_size=1, max_overflow=0)
        closing.push_async_callback(engine.dispose)
        await SQLAlchemySession("first", engine=engine, create_tables=True).get_items()

        def theirs(engine: Any = engine) -> Session:
            return SQLAlchemySession(f"session-{next(_NUMBERS)}", engine=engine)

        yield Side(f"SQLAlchemySession, {driver}", name, theirs, _plain_turn)


@function_tool
async def add_task(title: str) -> str:
    """Add a task."""
    return f"added {title}"


def _agent() -> Agent[Any]:
    number = next(_NUMBERS)
    call = function_call("add_task", {"title": "milk"}, call_id=f"call_{number}")
    model = ScriptedModel([[call], [assistant_message("Done.", item_id=f"msg_{number}")]])
    return Agent(name="todo", model=model, tools=[add_task])


async def _plain_turn(session: Session) -> None:
    await Runner.run(_agent(), "Buy milk, please", session=session)


async def _own_turn(session: Session) -> None:
    assert isinstance(session, EventStoreSession)
    async with session.turn("Buy milk, please", key=f"request-{next(_NUMBERS)}") as turn:
        await Runner.run(_agent(), turn.input, session=turn.session, hooks=turn.hooks)


def _items(number: int) -> Items:
    """
    Return items as a conversation has them: a question, a call, its output, an answer.

    Two are a call and its output, which the SDK adds together.
    """
    pair = 2
    # Models do not repeat the ids of calls.
    first = 4 * next(_NUMBERS) * 1000 + (number == pair)
    return [_item(one) for one in range(first, first + number)]


def _item(number: int) -> Items:
    match number % 4:
        case 0:
            return {"role": "user", "content": f"Please add the task number {number} to my list"}
        case 1:
            return {
                "type": "function_call",
                "call_id": f"call_{number}",
                "name": "add_task",
                "arguments": '{"title": "milk"}',
                "id": f"fc_{number}",
            }
        case 2:
            return {
                "type": "function_call_output",
                "call_id": f"call_{number - 1}",
                "output": "added milk",
            }
        case _:
            text = {"type": "output_text", "text": "Done.", "annotations": [], "logprobs": []}
            return {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "id": f"msg_{number}",
                "content": [text],
            }


async def _filled(side: Side, number: int) -> Session:
    session = side.new()
    await session.add_items(_items(number))
    return session


def _adding(number: int) -> Callable[[Side, int], Awaitable[list[Any]]]:
    async def prepare(side: Side, repeat: int) -> list[Any]:
        session = await _filled(side, 4)
        return [partial(session.add_items, _items(number)) for _ in range(repeat)]

    return prepare


def _getting(number: int) -> Callable[[Side, int], Awaitable[list[Any]]]:
    async def prepare(side: Side, repeat: int) -> list[Any]:
        session = await _filled(side, number)
        return [session.get_items] * repeat

    return prepare


async def _popping(side: Side, repeat: int) -> list[Any]:
    session = await _filled(side, repeat + 4)
    return [session.pop_item] * repeat


async def _clearing(side: Side, repeat: int) -> list[Any]:
    return [(await _filled(side, 20)).clear_session for _ in range(repeat)]


async def _turning(side: Side, repeat: int) -> list[Any]:
    session = await _filled(side, 20)
    return [lambda: side.turn(session)] * repeat


class _ListSession(SessionABC):
    """A session whose items are a list, and gone with the process."""

    def __init__(self) -> None:
        self.session_id = "list"
        self.session_settings = None
        self._items: Items = []

    async def get_items(self, limit: int | None = None) -> Items:
        return self._items[-limit:] if limit else self._items[:]

    async def add_items(self, items: Items) -> None:
        self._items += items

    async def pop_item(self) -> Any:
        return self._items.pop() if self._items else None

    async def clear_session(self) -> None:
        self._items.clear()


async def _turning_in_memory(side: Side, repeat: int) -> list[Any]:
    del side
    session = _ListSession()
    await session.add_items(_items(20))
    return [lambda: _plain_turn(session)] * repeat


_OPERATIONS = (
    Operation("add 1", 20, _adding(1)),
    Operation("add 2", 20, _adding(2)),
    Operation("get 20", 20, _getting(20)),
    Operation("pop", 20, _popping),
    Operation("clear", 20, _clearing),
    Operation("add 1,000", 2, _adding(1000)),
    Operation("get 1,000", 5, _getting(1000)),
    Operation("turn", 10, _turning),
    Operation("turn, in memory", 10, _turning_in_memory),
)


def _ratio(mine: list[float], other: list[float]) -> float:
    return median(one / two for one, two in zip(mine, other, strict=True))


def _rows(results: dict[tuple[str, str], Result]) -> Iterator[tuple[str, str, Result, float]]:
    for (operation, side), result in results.items():
        yield operation, side, result, _ratio(results[operation, OURS].cpu(), result.cpu())


def _as_json(results: dict[tuple[str, str], Result]) -> list[dict[str, Any]]:
    return [
        {
            "operation": operation,
            "session": side,
            "client_us": median(result.client),
            "server_us": median(result.server),
            "round_trips": result.round_trips,
            "ours_by_this": ratio,
        }
        for operation, side, result, ratio in _rows(results)
    ]


def _print(version: str, results: dict[tuple[str, str], Result]) -> None:
    table = Table(
        title=f"PostgreSQL {version}: sessions of the Agents SDK",
        caption="CPU in µs for one operation, medians; ours by theirs, median of the rounds",
    )
    for heading in ("operation", "session"):
        table.add_column(heading)
    for heading in ("client", "server", "round trips", "ours by this"):
        table.add_column(heading, justify="right", no_wrap=True)
    for operation, side, result, ratio in _rows(results):
        numbers = (f"{median(result.client):,.0f}", f"{median(result.server):,.0f}")
        table.add_row(operation, side, *numbers, str(result.round_trips), f"{ratio:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
