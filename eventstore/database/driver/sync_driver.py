"""
The sync driver: a pool of connections, and threads for what runs side by side.

It runs plans as the interpreter says. Connections are autocommit, so that a pipeline is one
implicit transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from copy import copy
from functools import partial
from os import getpid
from threading import Event
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from eventstore.database.connections import (
    IS_DIRECT,
    OPEN,
    SILENCE_SECONDS,
    StoreConnection,
    connections_wanted,
    no_connection,
    pool_options,
    refuse_fork,
    take_newest_first,
    with_keepalives,
)
from eventstore.database.driver.interpreter import CallTime, interpret
from eventstore.database.driver.observer import CallReport, Observer, observed
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.outage import Outage
from eventstore.database.plan import Plan, Rows, Statement
from eventstore.database.scope import EnterScope
from eventstore.database.settings import Server, Settings
from eventstore.errors import ConnectionLost

__all__ = ["Driver"]


class Driver(CallTime):
    """Runs plans on a pool of psycopg connections; safe to share between threads."""

    def __init__(self, conninfo: str, settings: Settings, observer: Observer | None = None) -> None:
        self.settings = settings
        self.observer = observer
        self._outage = Outage(Server(conninfo).display)
        self.pool = ConnectionPool(
            with_keepalives(conninfo),
            connection_class=StoreConnection,
            configure=partial(_configure, settings),
            reconnect_failed=_connect_again,
            **pool_options(conninfo, settings, self._outage),
        )
        take_newest_first(self.pool)
        self._process = getpid()
        self._enter_scope = EnterScope(settings)
        self.seconds = settings.deadline_seconds
        self._stop: Event | None = None

    def open(self) -> None:
        """Open the pool; connections are made in the background and when asked for."""
        self.pool.open()

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        self.pool.close()

    def run[T](self, plan: Plan[T], name: str = "") -> T:
        """
        Run a plan to its result, in the calling thread.

        :param name: of the call, for the observer; without one it is not told.
        :raises EventStoreError: what the plan raises, or does not catch.
        """
        if self.observer is None or not name:
            return self._run(plan)
        with observed(self.observer, name) as call:
            return self._run(plan, call)

    def _run[T](self, plan: Plan[T], call: CallReport | None = None) -> T:
        steps = interpret(plan, self, self._enter_scope, call)
        answer: Any = None
        try:
            while True:
                answer = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    # What the interpreter asks for; see `interpreter.Io`.

    def acquire(self, seconds: float) -> StoreConnection:
        """
        Take a connection from the pool, and wait for one for so long.

        :raises ConfigurationError: the process has forked since, or the store is closed.
        :raises PoolExhausted: none became free in time.
        :raises Unavailable: the server accepts no connection.
        """
        if getpid() != self._process:
            refuse_fork()
        try:
            return self.pool.getconn(seconds)
        except PoolTimeout as error:
            raise no_connection(self.pool, self.settings, self._outage) from error

    def distrust(self, lost: StoreConnection, error: ConnectionLost) -> None:
        """Drop the connections that are as old as a lost one, the leased ones at their return."""
        self._outage.lost(error)
        # Of the many callers that one restart cut off, only the first drops anything.
        if lost.opened_at > self._outage.distrusted_at:
            self._outage.distrusted_at = time.monotonic()
            self.pool.drain()

    def exchange(
        self,
        connection: StoreConnection,
        statements: Sequence[Statement],
        unread: int,
        until: float,
    ) -> list[Rows]:
        """Send statements as one pipeline for their rows, without those of the first `unread`."""
        connection.stop = self._stop
        connection.until = until
        connection.silence_seconds = SILENCE_SECONDS if self.stepwise else None
        return connection.wait(run_pipeline(connection, statements, unread))

    def release(self, connection: StoreConnection) -> None:
        """Give a connection back."""
        try:
            if connection.pgconn.pipeline_status:  # it was lost or interrupted in the middle
                connection.pgconn.finish()
            if connection.pgconn.transaction_status in OPEN:  # the pool would log it
                with suppress(psycopg.Error):
                    connection.rollback()
        except BaseException:  # Ctrl-C again: the pool must have it back all the same
            connection.pgconn.finish()
            raise
        finally:
            connection.stop = None
            self.pool.putconn(connection)

    def abandon(self, connection: StoreConnection) -> None:
        """Give a connection back, which waits for nobody else here."""
        self.release(connection)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def fan_out(self, plans: Sequence[Callable[[], Plan[Any]]], jobs: int) -> list[Any]:
        """
        Run plans in threads and return their results in order.

        :param jobs: threads at most; the pool may allow fewer.
        :raises EventStoreError: the first error of any of them, once the others have stopped.
        """
        jobs = min(jobs, self.settings.pool_max_size)
        if jobs <= 1:
            return [self.run(plan()) for plan in plans]
        # The copy shares the pool, and its `stop` does not end the work of other threads.
        worker = copy(self)
        worker._stop = stop = Event()  # noqa: SLF001 - its own class
        with ThreadPoolExecutor(jobs, "eventstore") as threads:
            running = [threads.submit(_run, worker, plan) for plan in plans]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:  # one failure, or Ctrl-C, ends the others
                stop.set()
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return [done.result() for done in running]


def _run(driver: Driver, plan: Callable[[], Plan[Any]]) -> Any:
    return driver.run(plan())


def _connect_again(pool: ConnectionPool[Any]) -> None:
    """Have the pool try on until the server is back: somebody may be waiting for it."""
    if connections_wanted(pool):
        pool.check()


def _configure(settings: Settings, connection: StoreConnection) -> None:
    connection.silence_seconds = settings.deadline_seconds  # of the first question
    row = connection.execute(IS_DIRECT, prepare=False).fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        connection.prepare_threshold = None
        connection.statement_names = None
