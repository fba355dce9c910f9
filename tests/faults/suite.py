"""
Run clients against a store while one kind of fault happens again and again, then count.

Everything is counted from what the clients recorded and from the logs at the end, which are read
directly from the server; `verify` recomputes logs and read models besides.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eventstore import AsyncEventStore, EventStore, Settings
from eventstore.testing import LocalServer, run_proxy, url_through
from eventstore.testing.proxy import url_of
from tests.faults.clients import Client, Counted, Record, value_of
from tests.faults.history import check
from tests.faults.kinds import KINDS, Kind, Place
from tests.support.pooler import POOLER_PORT

__all__ = ["Figures", "run_kind"]

CLIENTS = 8
ACKNOWLEDGED_BETWEEN = 3
STALLED_SECONDS = 60.0
DEADLINE_SECONDS = 5.0
"""The default."""
TOLERANCE = 1.1


@dataclass
class Figures:
    """
    What was counted of one kind.

    :ivar faults: that happened; `missed` are those that found nothing to happen to.
    :ivar unknown: writes whose clients were told so, to the end.
    :ivar half_projected: problems that `verify` found.
    :ivar inconsistent: what the history has, by kind, beside what is lost and doubled.
    :ivar problems: everything that must not be, in words; empty if all is well.
    """

    kind: str
    seed: int
    faults: int = 0
    missed: int = 0
    acknowledged: int = 0
    unknown: int = 0
    refused: int = 0
    reads: int = 0
    lost: int = 0
    doubled: int = 0
    half_projected: int = 0
    late: int = 0
    inconsistent: dict[str, int] = field(default_factory=dict)
    p50: float = 0.0
    p99: float = 0.0
    longest: float = 0.0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def run_kind(server: LocalServer, name: str, faults: int, seed: int) -> Figures:
    """
    Let one kind of fault happen `faults` times while clients write and read.

    Returns after that, whatever happens: a run in which nothing is acknowledged for a minute is a
    problem, and ends.
    """
    began = time.monotonic()
    figures, record = Figures(name, seed), Record()
    url = server.create_database()
    rng = random.Random(f"{seed} {name}")
    with _place(server, KINDS[name], url, rng) as (place, clients_url):
        asyncio.run(_run(KINDS[name], place, clients_url, record, figures, faults))
    _count(record, figures)
    with EventStore.connect(server.direct(url), events=[Counted]) as store:
        _check(store, record, figures)
    server.drop_database(url)
    figures.seconds = time.monotonic() - began
    return figures


@contextmanager
def _place(
    server: LocalServer, kind: Kind, url: str, rng: random.Random
) -> Iterator[tuple[Place, str]]:
    """Yield what faults happen to, and the URL of the clients."""
    place = Place(server, server.direct(url), rng)
    if kind.through == "proxy":
        with run_proxy(server.socket) as place.proxy:
            yield place, url_through(place.proxy, url)
    elif kind.through == "pooler":
        place.pooler_folder = Path(tempfile.mkdtemp(prefix="eventstore-faults-"))
        if server.account is not None:
            shutil.chown(place.pooler_folder, server.account)
        place.start_pooler()
        try:
            yield place, url_of(url, host=str(place.pooler_folder), port=POOLER_PORT)
        finally:
            place.pooler.close()
            shutil.rmtree(place.pooler_folder, ignore_errors=True)
    else:
        yield place, place.admin_url


async def _run(
    kind: Kind, place: Place, url: str, record: Record, figures: Figures, faults: int
) -> None:
    settings = Settings(
        database_url=url,
        pool_max_size=CLIENTS // 2,
        deadline_seconds=DEADLINE_SECONDS,
    )
    sync = await asyncio.to_thread(EventStore.connect, settings=settings, events=[Counted])
    with sync, ThreadPoolExecutor(CLIENTS) as threads:
        async with AsyncEventStore.connect(settings=settings, events=[Counted]) as store:
            seed = f"{figures.seed} {figures.kind}"
            clients = [
                Client(number, (sync, store)[number % 2], record, seed, threads)
                for number in range(CLIENTS)
            ]
            running = [asyncio.create_task(one.run()) for one in clients]
            try:
                await asyncio.to_thread(_strike, kind, place, record, figures, faults)
            finally:
                record.stopped = True
                await asyncio.gather(*running)


def _strike(kind: Kind, place: Place, record: Record, figures: Figures, faults: int) -> None:
    """Let faults happen, each once writes were acknowledged since the one before."""
    while figures.faults < faults and figures.missed <= faults:
        reached = record.acknowledged + ACKNOWLEDGED_BETWEEN
        deadline = time.monotonic() + STALLED_SECONDS
        while record.acknowledged < reached:
            if time.monotonic() > deadline:
                figures.problems.append(f"nothing was acknowledged for {STALLED_SECONDS:.0f} s")
                return
            threading.Event().wait(0.001)
        if kind.strike(place):
            figures.faults += 1
        else:
            figures.missed += 1


def _count(record: Record, figures: Figures) -> None:
    writes = record.history.writes
    outcomes = Counter(one.outcome for one in writes if one.client >= 0)
    figures.acknowledged = outcomes["done"]
    figures.unknown = outcomes["unknown"]
    figures.refused = outcomes["refused"]
    figures.reads = len(record.history.reads)
    figures.late = sum(one > DEADLINE_SECONDS * TOLERANCE for one in record.seconds)
    cuts = statistics.quantiles(record.seconds, n=100)
    figures.p50, figures.p99, figures.longest = cuts[49], cuts[98], max(record.seconds)
    if figures.late:
        figures.problems.append(
            f"{figures.late} calls took longer than {DEADLINE_SECONDS} s; {figures.longest:.1f} s"
        )
    figures.problems += [f"unexpected: {one}" for one in sorted(set(record.unexpected))]


def _check(store: EventStore, record: Record, figures: Figures) -> None:
    logs = {user: list(map(value_of, store.user(user).events())) for user in store.users()}
    found = check(record.history, logs)
    kinds = Counter(one.kind for one in found)
    figures.lost, figures.doubled = kinds.pop("lost", 0), kinds.pop("doubled", 0)
    figures.inconsistent = dict(kinds)
    figures.problems += [f"{one.kind}: {one.user}: {one.detail}" for one in found]
    for value, (user, error) in record.unsettled.items():
        settled = bool(store.user(user).find_append(error))
        if settled != (value in logs.get(user, ())):
            figures.problems.append(f"find_append says {settled} of {value}, which is not so")
    verified = store.verify()
    figures.half_projected = len(verified.problems)
    figures.problems += [f"verify: {one}" for one in verified.problems]
