"""
A crowd: `uv run just crowd [--users 1000] [--pooled] [--json]`.

All users come at once to one async store with a pool of 20. Each asks twice, and each time a chat
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sqlmodel import select

from eventstore import AsyncEventStore, AsyncUser, EventStoreError, Settings
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


async def run_crowd(server: LocalServer, url: str, users: int) -> Figures:
    """
    Let users chat at once, and crash the server once half of their requests are answered.

    :param url: of a migrated database without rows, directly or through a pooler.
    """
    figures, waited = Figures(users), list[float]()
    settings = Settings(
        database_url=url,
        pool_max_size=POOL,
        # All of them wait for the same pool, and nobody is to be sent away.
        deadline_seconds=WAIT_SECONDS,
    )
    began = time.monotonic()
    async with AsyncEventStore.connect(settings=settings) as store:
        half = asyncio.Event()

        async def ask_all(number: int) -> None:
            user = store.user(f"user {number}")
            for request in range(REQUESTS):
                sent = time.monotonic()
                if await _ask(user, f"request {request} of user {number}", figures):
                    waited.append(time.monotonic() - sent)
                if len(waited) * 2 >= users * REQUESTS:
                    half.set()

        async def crash() -> None:
            await half.wait()
            await asyncio.to_thread(server.crash)

        await asyncio.gather(crash(), *map(ask_all, range(users)))
        figures.seconds = time.monotonic() - began
        for number in range(users):
            await _look(store.user(f"user {number}"), number, figures)
        figures.verified = (await store.verify()).ok
    figures.answered = len(waited)
    cuts = statistics.quantiles(waited, n=100)
    figures.p50, figures.p95, figures.p99 = cuts[49], cuts[94], cuts[98]
    return figures


async def _ask(user: AsyncUser, request: str, figures: Figures) -> bool:
    for _ in range(ATTEMPTS):
        try:
            await user.conversations.start(key="chat")
            await _answer(user, request)
        except EventStoreError as error:
            figures.errors[type(error).__name__] += 1
        else:
            return True
    figures.unanswered += 1
    return False


async def _answer(user: AsyncUser, request: str) -> None:
    question = {"role": "user", "content": request}
    turn_of = user.turn(
        "chat",
        key=request,
        items=[question],
        lease_seconds=LEASE_SECONDS,
        wait_seconds=WAIT_SECONDS,
    )
    async with turn_of as turn:
        while not turn.ended:
            for call in turn.pending_calls:
                # The task and the call's outcome are one append, so neither is there alone.
                async with turn.transaction() as tx:
                    tx.tasks.create(request, caused_by=call)
                    tx.tool_calls.succeed(call, output="added")
            if len(turn.own_messages) == 1:
                function = {"name": "add_task", "arguments": json.dumps({"title": request})}
                calls = [{"id": request, "function": function}]
                await turn.extend([{"role": "assistant", "content": None, "tool_calls": calls}])
            else:
                await turn.end([{"role": "assistant", "content": f"done: {request}"}])


async def _look(user: AsyncUser, number: int, figures: Figures) -> None:
    """Count what a user sees that is another's, and whether all of their own is there."""
    own = [f"request {request} of user {number}" for request in range(REQUESTS)]
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
    parser.add_argument("--pooled", action="store_true", help="through PgBouncer")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    # An exception, unlike the default action of SIGTERM, also stops the server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # The restart is no news, and the login may make databases.
    logging.getLogger("eventstore").setLevel(logging.ERROR)
    with run_server(durable=True) as server:
        url = server.create_database()
        if arguments.pooled:
            with _pooled(server, url) as through:
                figures = asyncio.run(run_crowd(server, through, arguments.users))
        else:
            figures = asyncio.run(run_crowd(server, url, arguments.users))
    if arguments.json:
        print(json.dumps(asdict(figures), indent=2))
    else:
        for name, value in asdict(figures).items():
            print(f"{name:>12}  {value if not isinstance(value, float) else f'{value:.1f} s'}")
    return 0 if figures.well else 1


if __name__ == "__main__":
    sys.exit(main())
