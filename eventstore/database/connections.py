"""
psycopg connections that never wait for ever, and the options that pools and connections share.

A pooler or proxy may go silent without closing anything. No limit of the server, keepalive or
tcp_user_timeout fires then, so every wait for an answer has a limit on this side. A connection that
exceeds it is closed, and so is one whose wait is interrupted: nobody reads its answer any more.
That of a call is its deadline (see `driver.interpreter`); who has none is content with any bytes.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import CancelledError
from contextlib import nullcontext
from math import ceil, inf
from threading import Event
from time import monotonic
from typing import Any, NoReturn, Self

import psycopg
from psycopg import AsyncConnection, BaseConnection, Connection, waiting
from psycopg._preparing import PrepareManager
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool.base import BasePool

from eventstore.database.errors import MORE_TIME, unreachable
from eventstore.database.outage import Outage, pool_name
from eventstore.database.settings import Settings
from eventstore.errors import ConfigurationError, EventStoreError, PoolExhausted, Unavailable

__all__ = [
    "APPLICATION_NAME",
    "IS_DIRECT",
    "OPEN",
    "SILENCE_SECONDS",
    "StoreAsyncConnection",
    "StoreConnection",
    "check_process",
    "connect_options",
    "connections_wanted",
    "no_connection",
    "pool_options",
    "refuse_fork",
    "take_newest_first",
    "with_keepalives",
]

OPEN = {TransactionStatus.INTRANS, TransactionStatus.INERROR}
"""A transaction is under way, and the pool would roll it back with a warning."""

APPLICATION_NAME = "eventstore"
"""What an operator sees of a connection in pg_stat_activity, unless the URL names it."""

IS_DIRECT = "select pg_catalog.pg_backend_pid()"
"""
Behind a transaction pooler a prepared statement may meet another server process. A pooler shows
itself: the process that it named at the start is not the one that answers.
"""

_POLL_SECONDS = 0.05
"""How often a wait looks at the time, and whether to stop."""

_RECONNECT_SECONDS = 0.5
"""
After so long the pool gives up a connection that it cannot make, and is told to begin again. It
would double its pauses for as long as it may, and notice late that a server is back.
"""

_KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""
In seconds: an idle connection is remembered on its way, or is found dead, before anybody needs it.
There is no `tcp_user_timeout`: the kernel counts the full buffer of a server that is at work too,
so it would cut large appends that wait for a lock. Who wants it puts it into the URL.
"""

SILENCE_SECONDS = 600.0
"""How long a server may be silent over a statement without a limit, as of a verification."""


class _OwnStatements(PrepareManager):
    """Psycopg's list of the statements that it prepared itself; the store's own are not in it."""

    def clear(self) -> bool:
        """
        Have only what is in the list deallocated.

        :return: whether psycopg has anything to send.
        """
        # psycopg calls this at a ROLLBACK and would have DEALLOCATE ALL sent, the store's included.
        self._counts.clear()
        names = [*self._names.values()]
        self._names.clear()
        self._to_flush.extend(names)
        return bool(names)


class _StoreConnection(BaseConnection[Any]):
    """
    What sync and async connections have in common; see `pipeline.HasPipeline`.

    :ivar until: when an answer is given up, by the monotonic clock.
    :ivar silence_seconds: silence after which it is given up, in place of `until`; None for that.
    :ivar opened_at: when it was made, by the monotonic clock.
    :ivar stop: once it is set, a wait ends with `CancelledError`.
    """

    is_of_store = True
    """Tells the store's connections from others in the log; see `outage`."""
    until: float = inf
    silence_seconds: float | None = None
    stop: Event | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opened_at = monotonic()
        self._prepared = _OwnStatements()
        self.statement_names: dict[str, bytes] | None = {}
        self.transformer = Transformer(None)  # without a connection it reads timestamps in UTC

    def _in_time[R](self, gen: PQGen[R]) -> PQGen[R]:
        """Pass on what can be read and written, and give up when it takes too long."""
        silence = self.silence_seconds
        until = self.until if silence is None else monotonic() + silence
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now = monotonic()
                if ready and silence is not None:
                    until = now + silence
                elif now > until:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                elif not ready and self.stop is not None and self.stop.is_set():
                    raise CancelledError
                wanted = gen.send(ready)
        except StopIteration as end:
            result: R = end.value
            return result


class StoreConnection(_StoreConnection, Connection[Any]):
    """A sync connection whose waits end, and which can run pipelines."""

    @classmethod
    def connect(  # type: ignore[override]  # psycopg names every keyword of its own
        cls, conninfo: str = "", *, outage: Outage | None = None, **options: Any
    ) -> Self:
        """Connect as psycopg does, and tell the outage whether it went well."""
        with nullcontext() if outage is None else outage.watch():
            return super().connect(conninfo, **options)

    def wait[R](
        self, gen: PQGen[R], interval: float = _POLL_SECONDS, timeout: float | None = None
    ) -> R:
        """
        Wait as psycopg does, but not longer than the limit; cut what is interrupted.

        :param interval: seconds between two looks at the limit and at `stop`.
        :param timeout: seconds in all, as psycopg's; the limit on silence does not apply then.
        :raises psycopg.OperationalError: the server was silent for too long; the socket is closed.
        :raises CancelledError: `stop` was set; the socket is closed.
        """
        # psycopg gives a timeout where silence is no fault, as in a wait for notifications.
        limited = gen if timeout is not None else self._in_time(gen)
        try:
            return waiting.wait(limited, self.pgconn.socket, interval=interval, timeout=timeout)
        except (psycopg.Error, EventStoreError):
            raise
        except BaseException:  # Ctrl-C, a signal handler's error, `stop`: nobody reads the answer
            # psycopg would read on, and a Sync sent after all would commit half of the pipeline.
            self.pgconn.finish()
            raise


class StoreAsyncConnection(_StoreConnection, AsyncConnection[Any]):
    """An async connection whose waits end, and which can run pipelines."""

    @classmethod
    async def connect(  # type: ignore[override]  # psycopg names every keyword of its own
        cls, conninfo: str = "", *, outage: Outage | None = None, **options: Any
    ) -> Self:
        """Connect as psycopg does, and tell the outage whether it went well."""
        with nullcontext() if outage is None else outage.watch():
            return await super().connect(conninfo, **options)

    async def wait[R](
        self,
        gen: PQGen[R],
        interval: float = _POLL_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's own signature
    ) -> R:
        """
        Wait as `StoreConnection` does; cut what is cancelled.

        :param timeout: as for `StoreConnection.wait`.
        :raises psycopg.OperationalError: the server was silent for too long; the socket is closed.
        """
        limited = gen if timeout is not None else self._in_time(gen)
        try:
            return await waiting.wait_async(
                limited, self.pgconn.socket, interval=interval, timeout=timeout
            )
        except (psycopg.Error, EventStoreError):
            raise
        except BaseException:  # nobody reads the answer any more
            self.pgconn.finish()
            raise


def check_process(opened_in: int) -> None:
    """
    Refuse connections that were opened in another process, before a fork.

    :param opened_in: the id of that process.
    :raises ConfigurationError: this is another process.
    """
    if os.getpid() != opened_in:
        refuse_fork()


def refuse_fork() -> NoReturn:
    """
    Refuse connections that were opened before a fork.

    Two processes on one socket read each other's answers: one user would get another's rows.

    :raises ConfigurationError: always.
    """
    raise ConfigurationError(
        "this store was connected before the process forked; "
        "call EventStore.connect() in each worker process"
    )


def pool_options(conninfo: str, settings: Settings, outage: Outage) -> dict[str, Any]:
    """
    Return the keywords of a psycopg pool, sync or async.

    :param outage: is told of every connection that is made.
    :return: a pool made with them is not open yet; its size and limits are the settings'.
    """
    return {
        "open": False,
        "name": pool_name(),
        "min_size": settings.pool_min_size,
        "max_size": settings.pool_max_size,
        "timeout": settings.deadline_seconds,  # of sessions; calls say what is left of their time
        "max_idle": settings.max_idle_seconds,
        "reconnect_timeout": _RECONNECT_SECONDS,
        "kwargs": connect_options(conninfo, settings.deadline_seconds) | {"outage": outage},
    }


class _NewestFirst(deque[Any]):
    """The idle connections of a pool, the one that was given back last in front."""

    append = deque.appendleft


def take_newest_first(pool: BasePool) -> None:
    """
    Have a pool give out the connection that was given back last, as PgBouncer does.

    psycopg's pools take turns. Then every call meets a server process whose memory has gone cold
    since its last one: with eight connections and one caller this costs two fifths more CPU there.
    An idle connection is not renewed then: a pool checks its age when it is given back, and those
    that nobody needs wait behind, to be closed after `max_idle_seconds`, down to `pool_min_size`.

    :param pool: one that is not open yet.
    """
    pool._pool = _NewestFirst()  # noqa: SLF001 - psycopg has no option for it


def no_connection(pool: BasePool, settings: Settings, outage: Outage) -> EventStoreError:
    """
    Return why a wait for a connection of a pool was in vain.

    The server is not asked: at an overload, a question from each caller would open more connections
    than the pool may have.

    :return: `PoolExhausted` if all connections are leased; otherwise what `unreachable` makes of
        the last attempt to connect.
    """
    if (error := outage.error) is not None:
        outage.refused()
        return unreachable(error)
    stats = pool.get_stats()
    leased = stats["pool_size"] - stats["pool_available"] - outage.connecting
    if leased >= settings.pool_max_size:
        outage.exhausted(settings.pool_max_size)
        return PoolExhausted(
            f"none of {settings.pool_max_size} connections became free in time; raise "
            f"EVENTSTORE_POOL_MAX_SIZE, or {MORE_TIME}"
        )
    return Unavailable(
        f"no connection could be made in time; check that the server answers, or {MORE_TIME}"
    )


def connections_wanted(pool: BasePool) -> bool:
    """
    Return whether a pool that gave up connecting should begin again, which its `check` does.

    One that has an idle connection need not, and `check` would ask that one first.
    """
    return not pool.get_stats()["pool_available"]


def with_keepalives(conninfo: str) -> str:
    """Return a connection string with the kernel's keepalives, where it says nothing of them."""
    return make_conninfo("", **(_KEEPALIVES | conninfo_to_dict(conninfo)))


def connect_options(conninfo: str, seconds: float) -> dict[str, Any]:
    """
    Return the keywords of a psycopg connection; without BEGIN a pipeline is one transaction.

    :param conninfo: a `connect_timeout` in it stands.
    :param seconds: in which to connect otherwise, rounded up to 1 at least: 0 would be for ever.
    """
    options: dict[str, Any] = {
        "autocommit": True,
        "client_encoding": "UTF8",  # whatever PGCLIENTENCODING or the login's settings say
        # The URL's application_name, or PGAPPNAME, comes before it.
        "fallback_application_name": APPLICATION_NAME,
    }
    if "connect_timeout" not in conninfo_to_dict(conninfo):
        options["connect_timeout"] = max(1, ceil(seconds))
    return options
