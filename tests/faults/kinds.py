"""
The kinds of faults, each a function that makes one fault happen and tells whether it did.

Those of the network happen at a proxy, and the others to the server's processes or to PgBouncer.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psycopg

from eventstore.testing import LocalServer, Proxy
from tests.support.pooler import run_pooler

__all__ = ["KINDS", "Kind", "Place"]

STRIKE_SECONDS = 5.0
_POLL_SECONDS = 0.002
SLOW_SECONDS = 0.02
BYTES_A_SECOND = 100_000


@dataclass
class Place:
    """
    What faults happen to.

    :ivar admin_url: of the database, directly at the server.
    :ivar proxy: between the clients and the server, where the kind asks for one.
    :ivar pooler: PgBouncer between them, where the kind asks for it, in the folder `pooler_folder`.
    """

    server: LocalServer
    admin_url: str
    random: random.Random
    proxy: Proxy | None = None
    pooler_folder: Path | None = None
    pooler: ExitStack = field(default_factory=ExitStack)
    pooler_process: subprocess.Popen[bytes] | None = None

    @property
    def network(self) -> Proxy:
        """The proxy."""
        assert self.proxy is not None
        return self.proxy

    def start_pooler(self) -> None:
        """Start PgBouncer, in place of one that has died."""
        self.pooler.close()
        run = run_pooler(self.server.folder, self.server.account, folder=self.pooler_folder)
        self.pooler_process = self.pooler.enter_context(run)

    def ask(self, sql: str) -> list[Any]:
        """Run SQL as a superuser and return the first column."""
        with psycopg.connect(self.admin_url, autocommit=True) as admin:
            done = admin.execute(sql.encode())
            return [row[0] for row in done.fetchall()] if done.description else []


class Kind(NamedTuple):
    """A kind of fault: what makes one happen, and through what the clients connect."""

    strike: Callable[[Place], bool]
    through: Literal["proxy", "server", "pooler"]


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + STRIKE_SECONDS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(_POLL_SECONDS)
    return False


def _lose(place: Place, lose: Callable[[int], None]) -> bool:
    before = place.network.lost
    lose(1)
    lost = _until(lambda: place.network.lost > before)
    lose(0)
    return lost


def drop_request(place: Place) -> bool:
    """Cut the connection before an append reaches the server: before COMMIT."""
    return _lose(place, place.network.lose_append)


def drop_reply(place: Place) -> bool:
    """Cut the connection when an append was committed, instead of its reply."""
    return _lose(place, place.network.lose_commit_reply)


def cut(place: Place) -> bool:
    """Close all connections at some moment."""
    time.sleep(place.random.uniform(0, 0.02))
    return place.network.cut() > 0


def reset(place: Place) -> bool:
    """Reset all connections at some moment."""
    time.sleep(place.random.uniform(0, 0.02))
    return place.network.cut(reset=True) > 0


def silence(place: Place) -> bool:
    """Say nothing more on the connections that are open, and leave them open."""
    time.sleep(place.random.uniform(0, 0.02))
    return place.network.forget() > 0


def delay(place: Place) -> bool:
    """Hold one piece of what is sent."""
    held: list[bytes] = []

    def hold(data: bytes) -> bool:
        if not held:
            held.append(data)
            time.sleep(place.random.uniform(SLOW_SECONDS, 10 * SLOW_SECONDS))
        return False

    way = place.random.choice(["lose_reply", "lose_request"])
    setattr(place.network, way, hold)
    struck = _until(lambda: bool(held))
    setattr(place.network, way, lambda _: False)
    return struck


def throttle(place: Place) -> bool:
    """Let through 100 kB a second on each connection, for ten pieces."""
    slowed: list[bytes] = []

    def slow(data: bytes) -> bool:
        slowed.append(b"")
        time.sleep(len(data) / BYTES_A_SECOND)
        return False

    place.network.lose_reply = place.network.lose_request = slow
    struck = _until(lambda: len(slowed) >= 10)
    place.network.lose_reply = place.network.lose_request = lambda _: False
    return struck


_TERMINATE = """
select pg_terminate_backend(pid) from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'
"""


def terminate_idle(place: Place) -> bool:
    """Terminate the sessions that wait for a command."""
    return bool(_until(lambda: bool(place.ask(_TERMINATE + "and state = 'idle'"))))


def terminate_in_transaction(place: Place) -> bool:
    """Terminate sessions that are in a transaction and wait for the lock on a user's log."""
    with psycopg.connect(place.admin_url) as holder:
        holder.execute("select from eventstore.user_log for update")
        return _until(lambda: bool(place.ask(_TERMINATE + "and wait_event_type = 'Lock'")))


def terminate_in_commit(place: Place) -> bool:
    """Terminate sessions whose transaction is committed here and waits for a standby."""
    place.ask("alter system set synchronous_standby_names = 'nobody'")
    place.ask("select pg_reload_conf()")
    try:
        return _until(lambda: bool(place.ask(_TERMINATE + "and wait_event = 'SyncRep'")))
    finally:
        place.ask("alter system reset synchronous_standby_names")
        place.ask("select pg_reload_conf()")


def shut_down(place: Place) -> bool:
    """Stop the server without a checkpoint, and start it again."""
    place.server.crash()
    return True


def kill_postmaster(place: Place) -> bool:
    """Kill the postmaster with SIGKILL, and start the server again."""
    os.kill(place.server.pid, signal.SIGKILL)
    return _until(lambda: _starts(place.server))


def _starts(server: LocalServer) -> bool:
    try:
        server.start()
    except subprocess.CalledProcessError:  # processes of the old one have not ended yet
        return False
    return True


def kill_backend(place: Place) -> bool:
    """Kill the process of one session with SIGKILL; the server ends all others and recovers."""
    try:
        pids = place.ask(
            "select pid from pg_stat_activity where datname = current_database()"
            " and pid <> pg_backend_pid() and backend_type = 'client backend'"
            " order by state = 'active' desc"
        )
        if not pids:
            return False
        os.kill(pids[0], signal.SIGKILL)
    except (psycopg.OperationalError, ProcessLookupError):
        # The server had not noticed the strike before when it answered, or the session has ended.
        return False
    return _until(lambda: _answers(place))


def _answers(place: Place) -> bool:
    try:
        return bool(place.ask("select 1"))
    except psycopg.OperationalError:
        return False


def kill_pooler(place: Place) -> bool:
    """Kill PgBouncer with SIGKILL, and start it again."""
    assert place.pooler_process is not None
    place.pooler_process.kill()
    place.pooler_process.wait()
    place.start_pooler()
    return True


KINDS: dict[str, Kind] = {
    "request dropped": Kind(drop_request, "proxy"),
    "reply dropped": Kind(drop_reply, "proxy"),
    "cut": Kind(cut, "proxy"),
    "reset": Kind(reset, "proxy"),
    "silence": Kind(silence, "proxy"),
    "delay": Kind(delay, "proxy"),
    "throttle": Kind(throttle, "proxy"),
    "idle terminated": Kind(terminate_idle, "server"),
    "transaction terminated": Kind(terminate_in_transaction, "server"),
    "commit terminated": Kind(terminate_in_commit, "server"),
    "immediate shutdown": Kind(shut_down, "server"),
    "postmaster killed": Kind(kill_postmaster, "server"),
    "backend killed": Kind(kill_backend, "server"),
    "pooler killed": Kind(kill_pooler, "pooler"),
}
