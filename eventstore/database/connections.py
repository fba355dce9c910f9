"""
psycopg connections that never wait for ever, and the options that pools and connections share.

A pooler or proxy may go silent without closing anything. No limit of the server, keepalive or
tcp_user_timeout fires then, so every wait for an answer has a limit on this side. A connection that
exceeds it is closed, and so is one whose wait is interrupted: nobody reads its answer any more.
"""

from __future__ import annotations

import os
from concurrent.futures import CancelledError
from contextlib import nullcontext
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

from eventstore.database.errors import unreachable
from eventstore.database.outage import Outage, pool_name
from eventstore.database.settings import Settings
from eventstore.errors import ConfigurationError, EventStoreError, PoolExhausted, Unavailable

__all__ = [
    "APPLICATION_NAME",
    "IS_DIRECT",
    "OPEN",
    "StoreAsyncConnection",
    "StoreConnection",
    "answer_timeouts",
    "check_process",
    "connect_options",
    "connections_wanted",
    "no_connection",
    "pool_options",
    "refuse_fork",
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

_POLL_SECONDS = 0.1
"""How often a wait looks for how long the server was silent, and whether to stop."""

_RECONNECT_SECONDS = 1.0
"""
After so long the pool gives up a connection that it cannot make, and is told to begin again. It
would double its pauses for as long as it may, and notice late that a server is back.
"""

_ANSWER_SECONDS = 5.0
"""How much longer an answer is awaited than a statement may take, unless the settings say it."""

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

_PATIENT = 20
"""Times the usual silence, for work whose statements have no time limit."""


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

    :ivar answer_timeout_seconds: silence of the server before the connection is given up.
    :ivar opened_at: when it was made, by the monotonic clock.
    :ivar stop: once it is set, a wait ends with `CancelledError`.
    """

    is_of_store = True
    """Tells the store's connections from others in the log; see `outage`."""
    answer_timeout_seconds: float | None = None
    stop: Event | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opened_at = monotonic()
        self._prepared = _OwnStatements()
        self.statement_names: dict[str, bytes] | None = {}
        self.transformer = Transformer(None)  # without a connection it reads timestamps in UTC

    def _until_silent[R](self, gen: PQGen[R]) -> PQGen[R]:
        """Pass on what can be read and written, and give up when nothing could be for too long."""
        deadline: float | None = None
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                deadline = None if ready else self._check_silence(deadline)
                wanted = gen.send(ready)
        except StopIteration as end:
            result: R = end.value
            return result

    def _check_silence(self, deadline: float | None) -> float | None:
        """Return when the wait ends, which begins now if there is no deadline yet."""
        if self.stop is not None and self.stop.is_set():
            raise CancelledError
        limit = self.answer_timeout_seconds
        if limit is None or deadline is None:
            return None if limit is None else monotonic() + limit - _POLL_SECONDS
        if monotonic() > deadline:
            self.pgconn.finish()
            raise psycopg.OperationalError(f"the server was silent for {limit:g} seconds")
        return deadline


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
        limited = gen if timeout is not None else self._until_silent(gen)
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
        limited = gen if timeout is not None else self._until_silent(gen)
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


def answer_timeouts(settings: Settings) -> tuple[float, float]:
    """
    Return the silence in seconds after which a connection is given up.

    :return: the usual one, and the one of a patient scope; so `Scope.patient` is an index into it.
    """
    usual = settings.answer_timeout_seconds
    if usual is None:
        usual = settings.statement_timeout_seconds + _ANSWER_SECONDS
    return usual, usual * _PATIENT


def pool_options(settings: Settings, outage: Outage) -> dict[str, Any]:
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
        "timeout": settings.pool_timeout_seconds,
        "max_idle": settings.max_idle_seconds,
        "reconnect_timeout": _RECONNECT_SECONDS,
        "kwargs": connect_options(settings) | {"outage": outage},
    }


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
            f"none of {settings.pool_max_size} connections became free in "
            f"{settings.pool_timeout_seconds:g} seconds; "
            "raise EVENTSTORE_POOL_MAX_SIZE or EVENTSTORE_POOL_TIMEOUT_SECONDS"
        )
    return Unavailable(
        f"no connection could be made in {settings.pool_timeout_seconds:g} seconds; check that the "
        "server answers, or raise EVENTSTORE_POOL_TIMEOUT_SECONDS"
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


def connect_options(settings: Settings) -> dict[str, Any]:
    """Return the keywords of a psycopg connection; without BEGIN a pipeline is one transaction."""
    return {
        "autocommit": True,
        "client_encoding": "UTF8",  # whatever PGCLIENTENCODING or the login's settings say
        "connect_timeout": settings.connect_timeout_seconds,
        # The URL's application_name, or PGAPPNAME, comes before it.
        "fallback_application_name": APPLICATION_NAME,
    }
