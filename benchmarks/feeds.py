"""
A feed under faults: `uv run python -m benchmarks.feeds [--users 500] [--events 200] [--workers 4]`.

Worker processes deliver the events of all users while they are appended. Workers are killed with
SIGKILL and started again, and the server is shut down in the middle of everything. The handler
notes each event in a file, so what was delivered is known whoever dies. Then it is counted: an
event that is missing was skipped, one that is there twice was doubled, and the first delivery of
each of a user's events must come in the order of their positions.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from uuid import uuid4

from benchmarks.server import Server, run_server
from eventstore import Event, EventStore, NewEvent, RecordedEvent, Settings, Unavailable

__all__ = ["Noted", "main"]

_PER_APPEND = 20
_WRITERS = 4
_LEASE_SECONDS = 2
_HANDLER_SECONDS = 0.001
"""A call of another service takes longer; without it nobody is killed while he delivers."""
_KILL_SECONDS = (0.5, 1.5)
_KILLS_PER_CRASH = 8
_LIMIT_SECONDS = 900


class Noted(Event, type="Noted", stream_kind="note"):
    """An event that no projector reads."""

    text: str


def work(database_url: str, file: str) -> None:
    """Deliver until killed; each event is one line of a file that all workers append to."""
    logging.getLogger("eventstore").setLevel(logging.CRITICAL)  # each outage is a line otherwise
    notes = os.open(file, os.O_WRONLY | os.O_APPEND)

    def handler(event: RecordedEvent) -> None:
        time.sleep(_HANDLER_SECONDS)
        os.write(notes, f"{event.user_id} {event.position}\n".encode())

    while True:
        try:
            with EventStore.connect(database_url, events=[Noted]) as store:
                store.subscribe(
                    "search", handler, lease_seconds=_LEASE_SECONDS, poll_seconds=0.2
                ).run()
        except Unavailable:
            continue  # the server was away as this process began


class _Workers:
    """The worker processes, one of which is killed now and then."""

    def __init__(self, url: str, file: Path, number: int) -> None:
        # Forked from a process that has imported everything: imports take longer than a kill.
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["eventstore.store.store"])
        self._arguments = (url, str(file))
        self._running = [self._start() for _ in range(number)]

    def _start(self) -> BaseProcess:
        process = self._context.Process(target=work, args=self._arguments, daemon=True)
        process.start()
        return process

    def kill_one(self) -> None:
        number = random.randrange(len(self._running))
        self._running[number].kill()
        self._running[number].join()
        self._running[number] = self._start()

    def end(self) -> None:
        for one in self._running:
            one.kill()
            one.join()


def _write(store: EventStore, users: int, events: int) -> None:
    """Append the events of all users, a few at a time, whatever happens to the server."""
    streams = [uuid4() for _ in range(users)]

    def append(number: int) -> None:
        new = [
            NewEvent(stream_id=streams[number], data=Noted(text="x" * 250))
            for _ in range(_PER_APPEND)
        ]
        while True:
            try:
                # The ids are the same each time, so an append that was committed is found.
                store.user(f"user {number}").append(new)
            except Unavailable:
                continue
            return

    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in range(events // _PER_APPEND):
            list(pool.map(append, random.sample(range(users), users)))


def run(server: Server, users: int, events: int, workers: int) -> dict[str, object]:
    """Append and deliver under faults; return the figures."""
    url, file = server.create_database("feeds"), server.folder / "delivered"
    file.touch()
    total, began, kills, crashes = users * events, time.monotonic(), 0, 0
    settings = Settings(database_url=url, pool_max_size=_WRITERS + 1)
    with EventStore.connect(settings=settings, events=[Noted]) as store:
        running = _Workers(url, file, workers)
        try:
            with ThreadPoolExecutor(1) as pool:
                writing: Future[None] = pool.submit(_write, store, users, events)
                while not writing.done() or _lines(file) < total or store.feeds()[0].events_behind:
                    if time.monotonic() - began > _LIMIT_SECONDS:
                        break  # what is missing is counted
                    time.sleep(random.uniform(*_KILL_SECONDS))
                    if writing.done() and _lines(file) >= total:
                        continue  # the last ones come without faults
                    running.kill_one()
                    kills += 1
                    if kills % _KILLS_PER_CRASH == 0:
                        server.crash()
                        crashes += 1
                writing.result()
        finally:
            running.end()
        seconds = time.monotonic() - began
        figures = _count(file, users, events)
        settled = time.monotonic()
        alone = store.subscribe("alone", lambda _: None).catch_up()
        seconds_alone = time.monotonic() - settled
        left = store.feeds()
    return {
        "users": users,
        "events": total,
        "workers": workers,
        "workers_killed": kills,
        "server_crashes": crashes,
        **figures,
        "behind": sum(one.events_behind for one in left),
        "seconds": round(seconds, 1),
        "events_per_second_alone": round(alone / seconds_alone),
    }


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n")


def _count(file: Path, users: int, events: int) -> dict[str, int]:
    seen: dict[str, dict[int, None]] = defaultdict(dict)  # by user, in the order of first delivery
    lines = file.read_text().splitlines()
    for line in lines:
        user, _, position = line.rpartition(" ")
        seen[user].setdefault(int(position))
    delivered = sum(map(len, seen.values()))
    return {
        "delivered": delivered,
        "skipped": users * events - delivered,
        "doubled": len(lines) - delivered,
        "users_out_of_order": sum([*one] != sorted(one) for one in seen.values()),
    }


def main() -> None:
    """Run, print the figures as JSON, and end with status 1 if an event is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--events", type=int, default=200, help="of each user")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    random.seed(options.seed)
    with run_server() as server:
        figures = run(server, options.users, options.events, options.workers)
    print(json.dumps({"seed": options.seed, **figures}, indent=2))
    sys.exit(bool(figures["skipped"] or figures["users_out_of_order"] or figures["behind"]))


if __name__ == "__main__":
    main()
