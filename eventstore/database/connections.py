"""
psycopg connections that do not wait for ever.

A pooler or proxy may go silent without closing anything: no server-side limit, keepalive or
tcp_user_timeout then fires. So every wait for an answer has a limit on this side. A connection
that exceeds it is closed, and the request may be settled on another.

A pipeline ends with Sync and nothing after it. psycopg sends a Flush behind the Sync; where that
comes late, PgBouncer takes it for new work, gives the client a server connection, and waits for a
Sync that the next request may send on another connection: the one is held, the other waits.
"""

from __future__ import annotations

import math
import os
import time
from concurrent.futures import CancelledError
from threading import Event
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncPipeline, Connection, Pipeline
from psycopg._pipeline_base import BasePipeline, PendingResult  # both colours' ends
from psycopg.abc import PQGen
from psycopg.generators import send
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGresult

from eventstore.database.settings import Settings
from eventstore.errors import ConfigurationError

__all__ = [
    "IS_DIRECT",
    "OPEN",
    "LimitedAsyncConnection",
    "LimitedConnection",
    "at_once",
    "check_process",
    "connect_options",
    "pool_options",
]

_POLL_SECONDS = 0.1


def check_process(opened_in: int) -> None:
    """
    Refuse connections that were opened before a fork.

    Two processes on one socket read each other's answers: one user would get another's rows.
    """
    if os.getpid() != opened_in:
        raise ConfigurationError(
            "this store was connected before the process forked; "
            "call EventStore.connect() in each worker process"
        )


class _EndsWithSync(BasePipeline):
    def _exit_gen(self) -> PQGen[None]:
        self._enqueue_sync()
        try:
            yield from self._communicate_gen()
        except psycopg.Error:  # of the server's: the Sync was sent all the same
            yield from self._answers()
            raise
        yield from self._answers()

    def _process_results(self, queued: PendingResult, results: list[PGresult]) -> None:
        """
        Await the Sync's own answer too where an error at COMMIT comes before it.

        The Sync is the last of what was sent, so that nothing else is left to be answered.
        """
        if queued is None and not self.result_queue and results[0].status == ExecStatus.FATAL_ERROR:
            self.result_queue.append(None)
        super()._process_results(queued, results)

    def _answers(self) -> PQGen[None]:
        # The socket may not have taken everything yet, and reading alone would not send it.
        yield from send(self.pgconn)
        yield from self._fetch_gen(flush=False)


class _ToTheSync(_EndsWithSync, Pipeline):
    pass


class _ToTheSyncAsync(_EndsWithSync, AsyncPipeline):
    pass


class LimitedConnection(Connection[Any]):
    """A sync connection whose waits end after `answer_timeout_seconds`, or once `stop` is set."""

    answer_timeout_seconds: float | None = None
    stop: Event | None = None

    def wait[R](
        self, gen: PQGen[R], interval: float = _POLL_SECONDS, timeout: float | None = None
    ) -> R:
        """Wait as psycopg does, but not longer than the limit; cut what is interrupted."""
        limited = gen if timeout is not None else _until_silent(gen, self)
        try:
            return super().wait(limited, interval, timeout)
        except psycopg.Error:
            raise
        except BaseException:  # Ctrl-C, a signal handler's error, `stop`: nobody reads the answer
            self.pgconn.finish()
            raise

    def pipeline(self) -> Any:
        """Return psycopg's pipeline, without the Flush behind its Sync."""
        self._pipeline = self._pipeline or _ToTheSync(self)
        return super().pipeline()


class LimitedAsyncConnection(AsyncConnection[Any]):
    """An async connection whose waits end after `answer_timeout_seconds`."""

    answer_timeout_seconds: float | None = None
    stop: None = None  # a task is cancelled instead

    async def wait[R](
        self,
        gen: PQGen[R],
        interval: float = _POLL_SECONDS,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's own signature
    ) -> R:
        """Wait as psycopg does, but not longer than the limit."""
        limited = gen if timeout is not None else _until_silent(gen, self)
        return await super().wait(limited, interval, timeout)

    def pipeline(self) -> Any:
        """Return psycopg's pipeline, without the Flush behind its Sync."""
        self._pipeline = self._pipeline or _ToTheSyncAsync(self)
        return super().pipeline()


def _until_silent[R](
    gen: PQGen[R], connection: LimitedConnection | LimitedAsyncConnection
) -> PQGen[R]:
    """
    Pass on what can be read and written, and give up when nothing could be for too long.

    The connection is closed then, so that nothing waits on it again; where another thread wants
    the work stopped, too.
    """
    moved_at = time.monotonic()
    try:
        wanted = next(gen)
        while True:
            if connection.stop is not None and connection.stop.is_set():
                raise CancelledError
            ready = yield wanted
            now = time.monotonic()
            if ready:
                moved_at = now
            elif now - moved_at > (connection.answer_timeout_seconds or math.inf):
                connection.pgconn.finish()
                raise psycopg.OperationalError(
                    f"the server was silent for {connection.answer_timeout_seconds:g} seconds"
                )
            wanted = gen.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


OPEN = {TransactionStatus.INTRANS, TransactionStatus.INERROR}
"""A transaction is under way, and the pool would roll it back with a warning."""

IS_DIRECT = "select pg_catalog.pg_backend_pid()"
"""
Behind a transaction pooler a prepared statement may meet another server connection. A pooler
shows itself: the process it names is not the one that answers.
"""


def at_once(jobs: int, settings: Settings) -> int:
    """Return how many plans may run at once: those without a connection would wait for one."""
    return max(1, min(jobs, settings.pool_max_size))


def pool_options(settings: Settings) -> dict[str, Any]:
    """Return the keywords of a pool."""
    return {
        "open": False,
        "min_size": min(settings.pool_min_size, settings.pool_max_size),
        "max_size": settings.pool_max_size,
        "timeout": settings.pool_timeout_seconds,
        "max_idle": settings.max_idle_seconds,
        "reconnect_timeout": settings.pool_timeout_seconds,
        "kwargs": connect_options(settings),
    }


def connect_options(settings: Settings) -> dict[str, Any]:
    """Return the keywords of a connection."""
    return {
        "autocommit": True,
        "client_encoding": "UTF8",  # whatever PGCLIENTENCODING or the login's settings say
        "connect_timeout": settings.connect_timeout_seconds,
    }
