"""
One user with a very long log, beside one with a short log: `python -m benchmarks.large_user`.

Each read, command and work of an administrator runs once on either log, in an async store. Beside
it the event loop is watched for the longest time in which it ran nothing else, and another process
keeps writing as the same user and notes how long each write took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory, TemporaryFile

from rich.console import Console
from rich.table import Table

from benchmarks.server import Server, run_server
from benchmarks.turns import EVENTS_PER_TURN, fill
from eventstore import AsyncEventStore, EventStore, StreamClosed

_SHORT = 1_000
_USER = "alice"
_TURNS_OF_A_CONVERSATION = 50
_PAUSE_SECONDS = 0.02
"""Between two writes of the process that writes meanwhile."""

_TICK_SECONDS = 0.001

type Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Measured:
    """
    What one work took, in seconds and bytes.

    :ivar stall: the longest time in which the event loop ran nothing else.
    :ivar write: the longest time that a write of the same user took meanwhile.
    :ivar refused: writes that failed meanwhile.
    :ivar memory: what the process grew by while it ran.
    """

    seconds: float
    stall: float
    write: float
    refused: int
    memory: int


def main() -> None:
    """Measure both logs and print one table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=100_000, help="of the long log")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        _write(arguments.write)
        return
    with run_server() as server:
        short = _measure_log(server, "short", _SHORT)
        long = _measure_log(server, "long", arguments.events)
    if arguments.json:
        logs = {str(_SHORT): short, str(arguments.events): long}
        print(json.dumps({n: {k: asdict(v) for k, v in one.items()} for n, one in logs.items()}))
    else:
        _print(short, long, arguments.events)


def _measure_log(server: Server, database: str, events: int) -> dict[str, Measured]:
    url = server.create_database(database)
    with EventStore.connect(url) as store:
        user = store.user(_USER)
        for number in range(max(1, events // EVENTS_PER_TURN // _TURNS_OF_A_CONVERSATION)):
            chat = user.conversations.start(key=f"chat {number}").id
            fill(user, chat, min(_TURNS_OF_A_CONVERSATION, events // EVENTS_PER_TURN))
            if sys.stderr.isatty():
                print(f"\r{number}", end="", file=sys.stderr)
    with server.admin(database) as admin:
        admin.execute("vacuum analyze")
    command = [sys.executable, "-m", "benchmarks.large_user", "--write", url]
    with TemporaryFile("w+") as written:
        # A pipe would fill up, for it is read at the end.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=written, text=True) as writer:
            measured = asyncio.run(_measure(url))
            writer.communicate()
        written.seek(0)
        lines = written.readlines()
    writes = [json.loads(line) for line in lines]
    return {
        name: Measured(
            end - begin,
            stall,
            max((w[1] for w in writes if w[0] < end and w[0] + w[1] > begin), default=0.0),
            sum(not w[2] for w in writes if begin < w[0] < end),
            memory,
        )
        for name, begin, end, stall, memory in measured
    }


def _write(url: str) -> None:
    """Write as the user until standard input ends; print begin, seconds and success of each."""
    with EventStore.connect(url) as store:
        user, erased = store.user(_USER), 0
        item = {"role": "user", "content": "still here"}
        while not select([sys.stdin], [], [], _PAUSE_SECONDS)[0]:
            begin = time.monotonic()
            done = True
            try:
                user.messages.extend(f"busy {erased}", [item], start=True)
            except StreamClosed:
                erased += 1
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted and shown
                print(f"{type(error).__name__}: {error}"[:120], file=sys.stderr)
                done = False
            print(json.dumps([begin, time.monotonic() - begin, done]))


async def _measure(url: str) -> list[tuple[str, float, float, float, int]]:
    found = []
    async with AsyncEventStore.connect(url) as store:
        with TemporaryDirectory() as folder:
            for name, work in _works(store, Path(folder)):
                await asyncio.sleep(0.1)
                before = _memory()
                watch = asyncio.create_task(_watch())
                await asyncio.sleep(0)
                begin = time.monotonic()
                await work()
                end = time.monotonic()
                watch.cancel()
                stall, largest = await watch
                found.append((name, begin, end, stall, max(0, largest - before)))
                if sys.stderr.isatty():
                    print(f"\r{name}: {end - begin:.2f} s ", end="", file=sys.stderr)
    return found


async def _watch() -> tuple[float, int]:
    """Return the longest time between two ticks, and the largest memory, when cancelled."""
    longest, largest = 0.0, 0
    try:
        while True:
            begin = time.monotonic()
            await asyncio.sleep(_TICK_SECONDS)
            longest = max(longest, time.monotonic() - begin - _TICK_SECONDS)
            largest = max(largest, _memory())
    except asyncio.CancelledError:
        return longest, largest


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _works(store: AsyncEventStore, folder: Path) -> Iterator[tuple[str, Step]]:
    user = store.user(_USER)
    chat = "chat 0"
    middle = 500

    async def post() -> None:
        await user.messages.post(chat, sender="user", content="hello")

    async def task() -> None:
        made = await user.tasks.create("one more")
        await user.tasks.update(made.id, title="another one")

    async def export() -> None:
        with (folder / "export.json").open("w") as file:
            await store.export(_USER, file.write)

    yield "connect, first read", lambda: user.conversations.list(limit=1)
    yield "post a message", post
    yield "create and update a task", task
    yield "history, limit 50", lambda: user.history(chat, limit=50)
    yield "history, limit 50, from events", lambda: user.history(chat, limit=50, source="events")
    yield "history of 200 messages", lambda: user.history(chat)
    yield "history as of an earlier moment", lambda: user.history(chat, as_of=middle)
    yield "model input, limit 50", lambda: user.model_input(chat, limit=50)
    yield "conversations.list", user.conversations.list
    yield "tasks.list, open", lambda: user.tasks.list(completed=False)
    yield "tasks as of an earlier moment", lambda: user.tasks.list(as_of=middle)
    yield "tasks.counts", user.tasks.counts
    yield "messages.search", lambda: user.within(60).messages.search("list after")
    yield "events of a rare type", lambda: user.events(types=["ConversationArchived"], limit=50)
    yield "tool_calls.list, limit 50", lambda: user.tool_calls.list(status=None, limit=50)
    yield "audit of a conversation", lambda: user.audit(conversation=chat)
    yield "verify", lambda: store.verify(_USER)
    yield "rebuild, nothing to repair", lambda: store.rebuild(_USER)
    yield "export", export
    yield "erase a conversation", lambda: store.erase(_USER, conversation="chat 1", ordered_by="op")
    yield "erase the user", lambda: store.erase(_USER, ordered_by="op")


def _print(short: dict[str, Measured], long: dict[str, Measured], events: int) -> None:
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(
        title=f"One user: a log of {_SHORT:,} events and one of {events:,}",
        caption="stall: longest time in which the event loop ran nothing else; write: longest time"
        " of a write of the same user meanwhile, and how many failed",
    )
    for heading in ("", "short", "long", "stall", "write", "failed", "memory"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, one in long.items():
        table.add_row(
            name,
            f"{short[name].seconds * 1000:,.1f} ms",
            f"{one.seconds * 1000:,.1f} ms",
            f"{one.stall * 1000:,.0f} ms",
            f"{one.write * 1000:,.0f} ms",
            f"{one.refused}",
            f"{one.memory / 2**20:,.0f} MiB",
        )
    console.print(table)


if __name__ == "__main__":
    main()
