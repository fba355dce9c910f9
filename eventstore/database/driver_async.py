"""
The async driver: a pool of async connections in one event loop, and the actions of the conductor.

What `driver` does with threads is done here with tasks; see there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, assert_never

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from eventstore.database.connections import (
    IS_DIRECT,
    OPEN,
    LimitedAsyncConnection,
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
from eventstore.database.pipeline import exchange_async
from eventstore.database.plan import Plan
from eventstore.database.settings import Settings
from eventstore.errors import Unavailable

__all__ = ["AsyncDriver"]


class AsyncDriver:
    """Runs plans on a pool of async psycopg connections, in one event loop."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self.settings = settings
        self._conninfo = conninfo
        self._process = os.getpid()
        self.pool = AsyncConnectionPool(
            conninfo,
            connection_class=LimitedAsyncConnection,
            configure=partial(_configure_async, settings),
            **pool_options(settings),
        )

    async def open(self) -> None:
        """Open the pool; connections are made in the background and when asked for."""
        await self.pool.open()

    async def close(self) -> None:
        """Close every connection; requests under way fail."""
        await self.pool.close()

    async def run[T](self, plan: Plan[T]) -> T:
        """Run `plan` to its result."""
        actions = interpret(plan, self.settings)
        action = next(actions)
        while not isinstance(action, Done):
            action = await self._step(actions, action)
        result: T = action.result
        return result

    async def _step(self, actions: Generator[Action, Any], action: Action) -> Action:
        try:
            answer = await self._perform(action)
        except psycopg.Error as error:
            known = classify(error)
            known.__cause__ = error
            return actions.throw(known)
        except BaseException as error:  # noqa: BLE001 - a cancelled task must give it back too
            return actions.throw(error)
        return actions.send(answer)

    async def _perform(self, action: Action) -> object:
        match action:
            case Acquire(suspicious):
                if suspicious:
                    await self.pool.check()
                return await self._connection()
            case Exchange(connection, statements, timeout_seconds):
                connection.answer_timeout_seconds = timeout_seconds
                return await exchange_async(connection, statements)
            case Release(connection):
                await self._release(connection)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
            case FanOut(plans, jobs):
                return await self._fan_out(plans, at_once(jobs, self.settings))
            case Done(result):
                return result
            case _:
                assert_never(action)
        return None

    async def _connection(self) -> LimitedAsyncConnection:
        check_process(self._process)
        try:
            return await self.pool.getconn()
        except PoolTimeout as error:
            raise await self._no_connection() from error

    async def _release(self, connection: LimitedAsyncConnection) -> None:
        try:
            if connection.pgconn.pipeline_status:  # cancelled as it was begun
                connection.pgconn.finish()
            if connection.pgconn.transaction_status in OPEN:
                with suppress(psycopg.Error):
                    await connection.rollback()
        except BaseException:  # cancelled again: the pool must have it back all the same
            connection.pgconn.finish()
            raise
        finally:
            await self.pool.putconn(connection)

    async def _no_connection(self) -> Unavailable:
        """Ask the server itself: a pool does not tell why no connection came."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                self._conninfo, **connect_options(self.settings)
            )
            await connection.close()
        except psycopg.Error as error:
            return unreachable(error)
        return pool_exhausted(self.settings)

    async def _fan_out(self, plans: Sequence[Callable[[], Plan[Any]]], jobs: int) -> list[Any]:
        places = asyncio.Semaphore(jobs)

        async def one(plan: Callable[[], Plan[Any]]) -> Any:
            async with places:
                return await self.run(plan())

        try:
            async with asyncio.TaskGroup() as group:  # one failure ends the others
                tasks = [group.create_task(one(plan)) for plan in plans]
        except BaseExceptionGroup as failed:  # as the sync driver: the first error, by itself
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]


async def _configure_async(settings: Settings, connection: LimitedAsyncConnection) -> None:
    connection.answer_timeout_seconds = settings.answer_timeout_seconds
    cursor = await connection.execute(IS_DIRECT, prepare=False)
    row = await cursor.fetchone()
    if row is None or row[0] != connection.info.backend_pid:
        connection.prepare_threshold = None
