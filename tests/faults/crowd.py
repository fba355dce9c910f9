"""
A crowd: `uv run just crowd [--users 1000] [--threads] [--pooled] [--json]`.

All users come at once to one store with a pool of 20: as tasks to an async one, or as threads to a
sync one. Each asks twice, and each time a chat
with a tool call is answered in a turn; once half of all is answered, the server crashes and comes
back. A request that fails is sent again under its key, as a client does, and counted as an error.
Afterwards each user's data must be whole, and nobody else's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Barrier, Event, Lock, Thread

from sqlmodel import select

from eventstore import AsyncEventStore, AsyncUser, EventStore, EventStoreError, Settings, User
from eventstore.testing import LocalServer, run_server
from eventstore.testing.proxy import url_of
from projections import Message, Task, ToolCall
from tests.support.pooler import POOLER_PORT, run_pooler

__all__ = ["Figures", "run_crowd"]

POOL = 20
REQUESTS = 2
ATTEMPTS = 5
LEASE_SECONDS = 1
"""A request whose turn was left by an error is continued after that."""
WAIT_SECONDS = 120.0


@dataclass
class Figures:
    """
    What was counted.

    :ivar errors: attempts that failed, by the error's class; their clients sent them again.
    :ivar unanswered: requests that were not answered by the last attempt.
    :ivar foreign: rows that a user saw and that are another's.
    :ivar incomplete: users whose messages, calls or tasks are not what they asked for.
    """

    users: int
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    foreign: int = 0
    incomplete: int = 0
    verified: bool = False
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    seconds: float = 0.0

    @property
    def well(self) -> bool:
        """Whether everybody was answered, with what is theirs."""
        return not (self.unanswered or self.foreign or self.incomplete) and self.verified


def run_crowd(server: LocalServer, url: str, users: int, *, threads: bool = False) -> Figures:
    """
    Let users chat at once, and crash the server once half of their requests are answered.

    :param url: of a migrated database without rows, directly or through a pooler.
    :param threads: each user is a thread, and all share one sync store; otherwise each is a task,
        and all share an async one.
    """
    crowd = _Crowd(users)
    settings = Settings(
        database_url=url,
        pool_max_size=POOL,
        # All of them wait for the same pool, and nobody is to be sent away.
        deadline_seconds=WAIT_SECONDS,
    )
    crash = Thread(target=crowd.crash_at_half, args=(server,))
    crash.start()
    began = time.monotonic()
    try:
        if threads:
            _ask_in_threads(crowd, settings)
        else:
            asyncio.run(_ask_in_tasks(crowd, settings))
    finally:
        crowd.half.set()
        crash.join()
    crowd.figures.seconds = time.monotonic() - began
    asyncio.run(_look_at_all(crowd.figures, settings))
    return crowd.measured()


class _Crowd:
    """What the users of a crowd share, whether they are threads or tasks."""

    def __init__(self, users: int) -> None:
        self.figures = Figures(users)
        self.half = Event()
        self._waited: list[float] = []
        self._lock = Lock()

    def crash_at_half(self, server: LocalServer) -> None:
        self.half.wait()
        server.crash()

    def failed(self, error: EventStoreError) -> None:
        with self._lock:
            self.figures.errors[type(error).__name__] += 1

    def answered(self, seconds: float) -> None:
        with self._lock:
            self._waited.append(seconds)
        if len(self._waited) * 2 >= self.figures.users * REQUESTS:
            self.half.set()

    def measured(self) -> Figures:
        figures, waited = self.figures, self._waited
        figures.answered = len(waited)
        figures.unanswered = figures.users * REQUESTS - len(waited)
        cuts = statistics.quantiles(waited, n=100)
        figures.p50, figures.p95, figures.p99 = cuts[49], cuts[94], cuts[98]
        return figures


def _ask_in_threads(crowd: _Crowd, settings: Settings) -> None:
    users = crowd.figures.users
    with EventStore.connect(settings=settings) as store, ThreadPoolExecutor(users) as pool:
        # Nobody asks before everybody is there, and nobody waits for a thread that could not start.
        together = Barrier(users, timeout=WAIT_SECONDS)

        def ask_all(number: int) -> None:
            together.wait()
            user = store.user(f"user {number}")
            for request in _requests(number):
                sent = time.monotonic()
                for _ in range(ATTEMPTS):
                    try:
                        user.conversations.start(key="chat")
                        _answer_in_thread(user, request)
                    except EventStoreError as error:
                        crowd.failed(error)
                    else:
                        crowd.answered(time.monotonic() - sent)
                        break

        list(pool.map(ask_all, range(users)))


async def _ask_in_tasks(crowd: _Crowd, settings: Settings) -> None:
    async with AsyncEventStore.connect(settings=settings) as store:

        async def ask_all(number: int) -> None:
            user = store.user(f"user {number}")
            for request in _requests(number):
                sent = time.monotonic()
                for _ in range(ATTEMPTS):
                    try:
                        await user.conversations.start(key="chat")
                        await _answer(user, request)
                    except EventStoreError as error:
                        crowd.failed(error)
                    else:
                        crowd.answered(time.monotonic() - sent)
                        break

        await asyncio.gather(*map(ask_all, range(crowd.figures.users)))


def _requests(number: int) -> list[str]:
    return [f"request {request} of user {number}" for request in range(REQUESTS)]


def _asked_by(request: str) -> dict[str, str]:
    return {"role": "user", "content": request}


def _asks_for_tool(request: str) -> dict[str, object]:
    function = {"name": "add_task", "arguments": json.dumps({"title": request})}
    calls = [{"id": request, "function": function}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def _answers(request: str) -> dict[str, str]:
    return {"role": "assistant", "content": f"done: {request}"}


def _answer_in_thread(user: User, request: str) -> None:
    turn_of = user.turn(
        "chat",
        key=request,
        items=[_asked_by(request)],
        lease_seconds=LEASE_SECONDS,
        wait_seconds=WAIT_SECONDS,
    )
    with turn_of as turn:
        while not turn.ended:
            for call in turn.pending_calls:
                # The task and the call's outcome are one append, so neither is there alone.
                with turn.transaction() as tx:
                    tx.tasks.create(request, caused_by=call)
                    tx.tool_calls.succeed(call, output="added")
            if len(turn.own_messages) == 1:
                turn.extend([_asks_for_tool(request)])
            else:
                turn.end([_answers(request)])


async def _answer(user: AsyncUser, request: str) -> None:
    turn_of = user.turn(
        "chat",
        key=request,
        items=[_asked_by(request)],
        lease_seconds=LEASE_SECONDS,
        wait_seconds=WAIT_SECONDS,
    )
    async with turn_of as turn:
        while not turn.ended:
            for call in turn.pending_calls:
                async with turn.transaction() as tx:
                    tx.tasks.create(request, caused_by=call)
                    tx.tool_calls.succeed(call, output="added")
            if len(turn.own_messages) == 1:
                await turn.extend([_asks_for_tool(request)])
            else:
                await turn.end([_answers(request)])


async def _look_at_all(figures: Figures, settings: Settings) -> None:
    async with AsyncEventStore.connect(settings=settings) as store:
        for number in range(figures.users):
            await _look(store.user(f"user {number}"), number, figures)
        figures.verified = (await store.verify()).ok


async def _look(user: AsyncUser, number: int, figures: Figures) -> None:
    """Count what a user sees that is another's, and whether all of their own is there."""
    own = _requests(number)
    rows: list[Message | Task | ToolCall] = []
    async with user.session() as session:
        rows += (await session.exec(select(Message))).all()
        rows += (await session.exec(select(Task))).all()
        rows += (await session.exec(select(ToolCall))).all()
    figures.foreign += sum(row.user_id != user.user_id for row in rows)
    said = [
        one.content for one in await user.history("chat") if one.sender in {"user", "assistant"}
    ]
    answers = [text for one in own for text in (one, None, f"done: {one}")]
    titles = sorted(one.title for one in await user.tasks.list())
    ended = [row for row in rows if isinstance(row, ToolCall) and row.status == "succeeded"]
    complete = said == answers and titles == own and len(ended) == REQUESTS
    figures.incomplete += not complete


@contextmanager
def _pooled(server: LocalServer, url: str) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="eventstore-crowd-"))
    if server.account is not None:
        shutil.chown(folder, server.account)
    try:
        with run_pooler(server.folder, server.account, folder=folder):
            yield url_of(url, host=str(folder), port=POOLER_PORT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Run the crowd; return the exit status."""
    parser = argparse.ArgumentParser(prog="just crowd", description=__doc__)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--threads", action="store_true", help="through a sync store")
    parser.add_argument("--pooled", action="store_true", help="through PgBouncer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    # An exception, unlike the default action of SIGTERM, also stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The restart is no news, and the login may make databases.
    logging.getLogger("eventstore").setLevel(logging.ERROR)
    with run_server(durable=True) as server:
        url = server.create_database()
        with _pooled(server, url) if arguments.pooled else nullcontext(url) as reached:
            figures = run_crowd(server, reached, arguments.users, threads=arguments.threads)
    if arguments.json:
        print(json.dumps(asdict(figures), indent=2))
    else:
        for name, value in asdict(figures).items():
            print(f"{name:>12}  {value if not isinstance(value, float) else f'{value:.1f} s'}")
    return 0 if figures.well else 1


if __name__ == "__main__":
    sys.exit(main())
