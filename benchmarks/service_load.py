"""
The example service under load: `uv run python -m benchmarks.service_load [--users 100]`.

Users chat at once over HTTP, a third of all requests is sent more than once, and the process of the
service is killed twice meanwhile. Then everything that was recorded is counted: each request must
have been answered once, whatever happened to it on the way.

The service runs as its readers start it, in a process of its own and on an embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psycopg

from eventstore import AsyncEventStore, NotFound
from eventstore.database.embedded import start_embedded, stop_embedded

__all__ = ["Figures", "Service", "run_load"]

ROOT = Path(__file__).parents[1]
SECRET = "of the load"
CHAT = "todo"
LIMIT_SECONDS = 600


class Service:
    """
    The example service in a process of its own, which can be killed and started again.

    :ivar log: what it prints.
    :ivar ready: whether it serves.
    """

    def __init__(self, database_url: str, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._environment = {
            **os.environ,
            "EVENTSTORE_DATABASE_URL": database_url,
            "TODO_SERVICE_SECRET": SECRET,
            "TODO_SERVICE_URL": self.url,
        }
        self.log = log
        self.ready = False
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it serves."""
        command = [sys.executable, "-m", "examples.todo_service"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        self.ready = True

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process: as an operator does, or with SIGKILL, of which it learns nothing."""
        self.ready = False
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None


@dataclass
class Figures:
    """
    What was counted.

    :ivar requests: with a key of their own, which must be answered once each.
    :ivar sent: how often they were sent, those included that got no answer.
    :ivar repeated: the requests that their clients sent more than once without need.
    :ivar runs: how often a tool ran; more often than there are calls where its process died.
    :ivar problems: what must not be; empty if all is well.
    """

    users: int
    requests: int = 0
    sent: int = 0
    repeated: int = 0
    kills: int = 0
    runs: int = 0
    run_again: int = 0
    continued: int = 0
    looks: int = 0
    most_idle: int = 0
    seconds: float = 0
    waited: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the figures as text."""
        cuts = statistics.quantiles(self.waited, n=20) if len(self.waited) > 1 else [0.0] * 19
        refused = ", ".join(f"{what}: {count}" for what, count in sorted(self.refused.items()))
        said = f"""
            {self.users} users, {self.requests} requests, {self.seconds:.0f} s
            {self.repeated} requests sent again without need; {self.sent} attempts in all
            {self.kills} times killed; attempts without an answer: {refused or "none"}
            from first attempt to answer: p50 {cuts[9]:.2f} s, p95 {cuts[18]:.2f} s
            {self.continued} turns continued after their process died
            {self.runs} runs of tools, {self.run_again} of them again, as the first left no outcome
            at most {self.most_idle} connections idle in transaction, seen in {self.looks} looks
        """
        return [*map(str.strip, said.strip().splitlines()), *self.problems]


async def run_load(
    service: Service, database_url: str, *, users: int, each: int, kills: int, seed: int = 7
) -> Figures:
    """
    Have users chat, kill the service meanwhile, and count what was recorded.

    :param service: started; it is stopped at the end.
    :param database_url: the service's, of a superuser.
    :param each: requests of each user, one after another.
    """
    figures = Figures(users)
    chance = random.Random(seed)
    names = [f"user-{number}" for number in range(users)]
    began = time.monotonic()
    async with asyncio.timeout(LIMIT_SECONDS), _watched(service, database_url, figures):
        killer = asyncio.create_task(_kill(service, figures, users * each, kills))
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=service.url, limits=limits) as client:
            chats = [
                _chat(client, name, each, figures, random.Random(chance.random())) for name in names
            ]
            await asyncio.gather(*chats)
            await killer
            figures.seconds = time.monotonic() - began
            for name in names:
                await _look_for_others(client, name, figures)
    await asyncio.to_thread(service.stop)
    log = await asyncio.to_thread(service.log.read_text)
    await _count(database_url, log, names, each, figures)
    return figures


async def _kill(service: Service, figures: Figures, requests: int, kills: int) -> None:
    """Kill the service when some of all requests are answered, and start it again."""
    for number in range(1, kills + 1):
        while len(figures.waited) < requests * number // (kills + 1):  # noqa: ASYNC110 - a count
            await asyncio.sleep(0.01)
        service.stop(signal.SIGKILL)
        figures.kills += 1
        await asyncio.to_thread(service.start)


async def _chat(
    client: httpx.AsyncClient, name: str, each: int, figures: Figures, chance: random.Random
) -> None:
    """Be one user: log in, and send some requests, a third of them more than once."""
    cookie = await _logged_in(client, name)
    for number in range(each):
        title = f"{name} task {number}"
        figures.requests += 1
        start = time.monotonic()
        send = [
            _answered(client, name, cookie, number, title, figures, chance),
        ]
        again = chance.random() < 1 / 3
        if again:
            figures.repeated += 1
            send.append(_answered(client, name, cookie, number, title, figures, chance))
        late = again and chance.random() < 0.5
        if late:  # a client that has forgotten that it was answered
            answers = [await one for one in send]
        else:
            answers = await asyncio.gather(*send)
        figures.waited.append(time.monotonic() - start)
        if set(answers) != {f"Added “{title}”."}:
            figures.problems.append(f"{title} was answered with {set(answers)}")


async def _logged_in(client: httpx.AsyncClient, name: str) -> str:
    while True:
        try:
            response = await client.post("/login", data={"name": name}, timeout=60)
        except httpx.TransportError:
            await asyncio.sleep(0.2)
            continue
        return response.headers["set-cookie"].partition(";")[0].partition("=")[2]


async def _answered(
    client: httpx.AsyncClient,
    name: str,
    token: str,
    number: int,
    title: str,
    figures: Figures,
    chance: random.Random,
) -> str:
    """Send a request until it is answered, always under the same key."""
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"{name}/{number}"}
    path = f"/api/chats/{CHAT}/messages"
    while True:
        figures.sent += 1
        try:
            response = await client.post(
                path, json={"text": f"add {title}"}, headers=headers, timeout=120
            )
        except httpx.TransportError as error:
            figures.refused[type(error).__name__] += 1
            await asyncio.sleep(chance.uniform(0.5, 1.5))
            continue
        if response.is_success:
            return str(response.json()["text"])
        figures.refused[str(response.status_code)] += 1
        if response.status_code not in {409, 500, 503}:
            return f"{response.status_code} {response.text}"
        await asyncio.sleep(float(response.headers.get("Retry-After", 1)) * chance.random())


async def _look_for_others(client: httpx.AsyncClient, name: str, figures: Figures) -> None:
    """Look at a user's pages: nobody else may be in them."""
    token = await _logged_in(client, name)
    for path in (f"/chats/{CHAT}", f"/chats/{CHAT}/audit"):
        headers = {"Authorization": f"Bearer {token}"}
        page = (await client.get(path, headers=headers, timeout=60)).text
        shown = set(re.findall(r"user-\d+", page))
        if shown != {name}:
            figures.problems.append(f"{name} is shown {sorted(shown)} at {path}")


@asynccontextmanager
async def _watched(service: Service, database_url: str, figures: Figures) -> AsyncIterator[None]:
    """Look all the time whether a connection of the service is idle in a transaction."""

    async def watch() -> None:
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as admin:
            while True:
                cursor = await admin.execute(
                    "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
                    " and datname = current_database() and pid <> pg_backend_pid()"
                )
                (idle,) = await cursor.fetchone() or (0,)
                # While it starts, it migrates the embedded server, in a transaction of course.
                if service.ready:
                    figures.looks += 1
                    figures.most_idle = max(figures.most_idle, idle)
                await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    if figures.most_idle:
        figures.problems.append("connections were idle in transaction")


async def _count(
    database_url: str, log: str, names: list[str], each: int, figures: Figures
) -> None:
    """Count what was recorded, user by user, against what was sent."""
    runs: dict[str, list[float]] = {}
    for line in log.splitlines():
        if found := re.match(r"(\S+ \S+) \S+ run (\S+)$", line):
            at = datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").astimezone()
            runs.setdefault(found[2], []).append(at.timestamp())
    figures.runs = sum(map(len, runs.values()))
    figures.run_again = figures.runs - len(runs)
    async with AsyncEventStore.connect(database_url) as store:
        for name in names:
            try:
                wrong = await _wrong(store, name, each, runs, figures)
            except NotFound as error:
                wrong = [str(error)]
            figures.problems += [f"{name}: {one}" for one in wrong]
        if not (await store.verify()).ok:
            figures.problems.append("the log, or its tables, are not what they should be")


async def _wrong(
    store: AsyncEventStore,
    name: str,
    each: int,
    runs: dict[str, list[float]],
    figures: Figures,
) -> list[str]:
    """Return what is wrong with what one user has."""
    user = store.user(name)
    titles = [f"{name} task {number}" for number in range(each)]
    wrong = []

    turns = await user.turns.list(CHAT, limit=each + 1)
    figures.continued += sum(turn.attempt > 1 for turn in turns)
    if sorted(turn.key for turn in turns) != sorted(f"{name}/{n}" for n in range(each)):
        wrong.append(f"its turns are {sorted(turn.key for turn in turns)}")
    if {turn.status for turn in turns} != {"completed"}:
        wrong.append(f"its turns are {Counter(turn.status for turn in turns)}")
    if sorted(task.title for task in await user.tasks.list()) != sorted(titles):
        wrong.append(f"its tasks are {[task.title for task in await user.tasks.list()]}")

    said: Counter[Any] = Counter(
        message.body.get("type", message.sender) for message in await user.history(CHAT)
    )
    kinds = ("user", "function_call", "function_call_output", "message")
    if said != dict.fromkeys(kinds, each):
        wrong.append(f"its chat has {said}")

    calls = await user.audit(conversation="mcp")
    own = await user.audit(conversation=CHAT)
    if {call.call_id for call in calls} != {call.call_id for call in own} or len(calls) != each:
        wrong.append(f"{len(calls)} calls of the server, {len(own)} of the session")
    if {call.status for call in [*calls, *own]} != {"succeeded"}:
        wrong.append(f"its calls are {Counter(call.status for call in [*calls, *own])}")
    made = [[one.type for one in call.caused].count("TaskCreated") for call in calls]
    if made != [1] * each:
        wrong.append(f"its calls made {made} tasks")
    ended = {
        str(call.id): call.finished_at
        for call in await user.tool_calls.list(conversation="mcp", status=None, limit=2 * each)
    }
    for call_id, finished in ended.items():
        late = [at for at in runs.get(call_id, []) if finished and at > finished.timestamp()]
        if late or call_id not in runs:
            wrong.append(f"a tool ran {len(late)} times after its outcome was recorded: {call_id}")
    return wrong


def main() -> int:
    """Run the load, print the figures, and tell whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2)
    given = parser.parse_args()
    with TemporaryDirectory(prefix="eventstore-load-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "postgresql"
        # The load keeps the server running, as another process that uses the database would.
        admin_url = start_embedded(data)
        service = Service(f"embedded:{data}", Path(folder) / "log")
        try:
            service.start()
            load = run_load(
                service, admin_url, users=given.users, each=given.each, kills=given.kills
            )
            figures = asyncio.run(load)
        finally:
            service.stop()
            stop_embedded(data)
    print(*figures.lines(), sep="\n")
    return 1 if figures.problems else 0


if __name__ == "__main__":
    sys.exit(main())
