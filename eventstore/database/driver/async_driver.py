"""
The async driver: a pool of async connections in one event loop.

What `sync_driver` does with threads is done here with tasks; see there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from os import getpid
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from eventstore.database.connections import (
    IS_DIRECT,
    OPEN,
    SILENCE_SECONDS,
    StoreAsyncConnection,
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

__all__ = ["AsyncDriver"]


class AsyncDriver(CallTime):
    """Runs plans on a pool of async psycopg connections, in one event loop."""

    def __init__(self, conninfo: str, settings: Settings, observer: Observer | None = None) -> None:
        self.settings = settings
        self.observer = observer
        self._outage = Outage(Server(conninfo).display)
        self.pool = AsyncConnectionPool(
            with_keepalives(conninfo),
            connection_class=StoreAsyncConnection,
            configure=partial(_configure, settings),
            reconnect_failed=_connect_again,
            **pool_options(conninfo, settings, self._outage),
        )
        take_newest_first(self.pool)
        self._process = getpid()
        self._enter_scope = EnterScope(settings)
        self.seconds = settings.deadline_seconds

    async def open(self) -> None:
        """Open the pool; connections are made in the background and when asked for."""
        await self.pool.open()

    async def close(self) -> None:
        """Close every connection; requests under way fail."""
        await self.pool.close()

    async def run[T](self, plan: Plan[T], name: str = "") -> T:
        """
        Run a plan to its result.

        :param name: of the call, for the observer; without one it is not told.
        :raises EventStoreError: what the plan raises, or does not catch.
        """
        if self.observer is None or not name:
            return await self._run(plan)
        with observed(self.observer, name) as call:
            return await self._run(plan, call)

    async def _run[T](self, plan: Plan[T], call: CallReport | None = None) -> T:
        steps = interpret(plan, self, self._enter_scope, call)
        try:
            waiting = next(steps)
            while True:
                try:
                    answer = await waiting
                except BaseException as error:  # noqa: BLE001 - the interpreter decides its fate
                    waiting = steps.throw(error)
                else:
                    waiting = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    # What the interpreter asks for; see `interpreter.Io`.

    async def acquire(self, seconds: float) -> StoreAsyncConnection:
        """Take a connection from the pool, with the errors of the sync driver."""
        if getpid() != self._process:
            refuse_fork()
        try:
            return await self.pool.getconn(seconds)
        except PoolTimeout as error:
            raise no_connection(self.pool, self.settings, self._outage) from error

    async def distrust(self, lost: StoreAsyncConnection, error: ConnectionLost) -> None:
        """Drop the connections that are as old as a lost one, the leased ones at their return."""
        self._outage.lost(error)
        # Of the many callers that one restart cut off, only the first drops anything.
        if lost.opened_at > self._outage.distrusted_at:
            self._outage.distrusted_at = time.monotonic()
            await self.pool.drain()

    async def exchange(
        self,
        connection: StoreAsyncConnection,
        statements: Sequence[Statement],
        unread: int,
        until: float,
    ) -> list[Rows]:
        """Send statements as one pipeline for their rows, without those of the first `unread`."""
        connection.until = until
        connection.silence_seconds = SILENCE_SECONDS if self.stepwise else None
        return await connection.wait(run_pipeline(connection, statements, unread))

    async def release(self, connection: StoreAsyncConnection) -> None:
        """Give a connection back."""
        try:
            if connection.pgconn.pipeline_status:  # it was lost or cancelled in the middle
                connection.pgconn.finish()
            if connection.pgconn.transaction_status in OPEN:
                with suppress(psycopg.Error):
                    await connection.rollback()
        except BaseException:  # cancelled again: the pool must have it back all the same
            connection.pgconn.finish()
            raise
        finally:
            await self.pool.putconn(connection)

    def abandon(self, connection: StoreAsyncConnection) -> None:
        """Cut a connection, because its event loop runs the plan no more; the server rolls back."""
        connection.pgconn.finish()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def fan_out(self, plans: Sequence[Callable[[], Plan[Any]]], jobs: int) -> list[Any]:
        """
        Run plans in tasks and return their results in order.

        :param jobs: tasks that have a connection at once; the pool may allow fewer.
        :raises EventStoreError: the first error of any of them, once the others are cancelled.
        """
        places = asyncio.Semaphore(min(jobs, self.settings.pool_max_size))

        async def run_one(plan: Callable[[], Plan[Any]]) -> Any:
            async with places:
                return await self.run(plan())

        try:
            async with asyncio.TaskGroup() as group:  # one failure ends the others
                tasks = [group.create_task(run_one(plan)) for plan in plans]
        except BaseExceptionGroup as failed:  # as the sync driver: the first error, by itself
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]


async def _connect_again(pool: AsyncConnectionPool[Any]) -> None:
    """Have the pool try on until the server is back: somebody may be waiting for it."""
    if connections_wanted(pool):
        await pool.check()


async def _configure(settings: Settings, connection: StoreAsyncConnection) -> None:
    connection.silence_seconds = settings.deadline_seconds  # of the first question
    row = await (await connection.execute(IS_DIRECT, prepare=False)).fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        connection.prepare_threshold = None
        connection.statement_names = None
