"""
The sync driver: a pool of connections, threads for what runs side by side, and the actions of the
conductor.

Connections are autocommit, so that a pipeline is one implicit transaction.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from threading import Event
from typing import Any, assert_never

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from eventstore.database.connections import (
    IS_DIRECT,
    OPEN,
    LimitedConnection,
    at_once,
    check_process,
    connect_options,
    pool_options,
)
from eventstore.database.errors import classify, pool_exhausted, unreachable
from eventstore.database.interpreter import (
    Acquire,
    Action,
    Done,
    Exchange,
    FanOut,
    Release,
    Sleep,
    interpret,
)
from eventstore.database.pipeline import exchange
from eventstore.database.plan import Plan
from eventstore.database.settings import Settings
from eventstore.errors import Unavailable

__all__ = ["Driver"]


class Driver:
    """Runs plans on a pool of psycopg connections; safe to share between threads."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self.settings = settings
        self._conninfo = conninfo
        self._process = os.getpid()
        self.pool = ConnectionPool(
            conninfo,
            connection_class=LimitedConnection,
            configure=partial(_configure, settings),
            **pool_options(settings),
        )

    def open(self) -> None:
        """Open the pool; connections are made in the background and when asked for."""
        self.pool.open()

    def close(self) -> None:
        """Close every connection; requests under way fail."""
        self.pool.close()

    def run[T](self, plan: Plan[T], *, stop: Event | None = None) -> T:
        """
        Run `plan` to its result.

        :param stop: once it is set, the plan ends at its next wait, with `CancelledError`.
        """
        actions = interpret(plan, self.settings)
        action = next(actions)
        while not isinstance(action, Done):
            action = self._step(actions, action, stop)
        result: T = action.result
        return result

    def _step(self, actions: Generator[Action, Any], action: Action, stop: Event | None) -> Action:
        try:
            answer = self._perform(action, stop)
        except psycopg.Error as error:
            known = classify(error)
            known.__cause__ = error
            return actions.throw(known)
        except BaseException as error:  # noqa: BLE001 - Ctrl-C too must give the connection back
            return actions.throw(error)
        return actions.send(answer)

    def _perform(self, action: Action, stop: Event | None) -> object:
        match action:
            case Acquire(suspicious):
                if suspicious:
                    self.pool.check()
                return self._connection()
            case Exchange(connection, statements, timeout_seconds):
                connection.answer_timeout_seconds, connection.stop = timeout_seconds, stop
                try:
                    return exchange(connection, statements)
                finally:
                    connection.stop = None
            case Release(connection):
                self._release(connection)
            case Sleep(seconds):
                time.sleep(seconds)
            case FanOut(plans, jobs):
                return self._fan_out(plans, at_once(jobs, self.settings))
            case Done(result):
                return result
            case _:
                assert_never(action)
        return None

    def _connection(self) -> LimitedConnection:
        check_process(self._process)
        try:
            return self.pool.getconn()
        except PoolTimeout as error:
            raise self._no_connection() from error

    def _release(self, connection: LimitedConnection) -> None:
        try:
            if connection.pgconn.pipeline_status:  # interrupted as it was begun
                connection.pgconn.finish()
            if connection.pgconn.transaction_status in OPEN:  # the pool would log it
                with suppress(psycopg.Error):
                    connection.rollback()
        except BaseException:  # Ctrl-C again: the pool must have it back all the same
            connection.pgconn.finish()
            raise
        finally:
            self.pool.putconn(connection)

    def _no_connection(self) -> Unavailable:
        """Ask the server itself: a pool does not tell why no connection came."""
        try:
            psycopg.connect(self._conninfo, **connect_options(self.settings)).close()
        except psycopg.Error as error:
            return unreachable(error)
        return pool_exhausted(self.settings)

    def _run_beside(self, plan: Callable[[], Plan[Any]], stop: Event) -> Any:
        return self.run(plan(), stop=stop)

    def _fan_out(self, plans: Sequence[Callable[[], Plan[Any]]], jobs: int) -> list[Any]:
        if jobs == 1:
            return [self.run(plan()) for plan in plans]
        stop = Event()
        with ThreadPoolExecutor(jobs, "eventstore") as workers:
            running = [workers.submit(self._run_beside, plan, stop) for plan in plans]
            try:
                for done in as_completed(running):
                    done.result()
            except BaseException:  # one failure, or Ctrl-C, ends the others
                stop.set()
                workers.shutdown(wait=False, cancel_futures=True)
                raise
        return [done.result() for done in running]


def _configure(settings: Settings, connection: LimitedConnection) -> None:
    connection.answer_timeout_seconds = settings.answer_timeout_seconds  # from the first question
    row = connection.execute(IS_DIRECT, prepare=False).fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        connection.prepare_threshold = None
