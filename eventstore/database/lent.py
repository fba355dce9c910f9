"""
What a session is lent: a psycopg connection of its own around the socket of a pooled one.

SQLAlchemy hands the driver's connection to whoever asks, and people keep what they are handed. So
what is lent is not what the pool has, and it keeps three promises:

- whatever opens a transaction on it (a statement, COPY, a cursor, a pipeline, two phases), BEGIN
  and the scope leave together: there is no transaction that is nobody's;
- once it is given back it refuses everything, and so does every cursor that was made of it;
- the socket goes back to the pool as it came, or is cut: adapters, handlers and options of
  transactions were this wrapper's, and what the server kept must have been `cleared`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, BaseConnection, Connection
from psycopg.abc import PQGen
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from eventstore.database.connections import (
    LimitedAsyncConnection,
    LimitedConnection,
    check_process,
)

__all__ = ["AUTOCOMMIT_REFUSED", "LentAsyncConnection", "LentConnection"]

AUTOCOMMIT_REFUSED = (
    "a session cannot run in AUTOCOMMIT: its user is set for one transaction; "
    "leave the isolation level, and commit when you are done"
)


class _Lent(BaseConnection[Any]):
    """What both colours do: see the module."""

    entering: Sequence[bytes] = ()
    """What follows each BEGIN."""

    clearing = False
    """Set to send what clears the server, outside any scope."""

    cleared = False
    """Set once nothing is left on the server, so that the socket may go back to the pool."""

    _pooled: Any = None
    _handlers: Any = None

    def _borrow(self, pooled: LimitedConnection | LimitedAsyncConnection) -> None:
        self._pooled = pooled
        self._process = os.getpid()
        self._prepared = pooled._prepared  # noqa: SLF001 - what the server knows by name
        self._threshold = pooled.prepare_threshold

    def _returned(self) -> Any:
        """Return the pooled connection, as it was or cut; None if it went back already."""
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            if not self.cleared:
                pooled.pgconn.finish()
            pooled.prepare_threshold = self._threshold
            pooled.pgconn.notice_handler, pooled.pgconn.notify_handler = self._handlers
        return pooled

    def _require(self) -> None:
        check_process(self._process)
        if self._pooled is None:
            raise psycopg.InterfaceError(
                "the session that had this connection is closed; somebody else may have it now"
            )

    @property
    def closed(self) -> bool:
        """True if the connection is closed, or was given back."""
        return self._pooled is None or super().closed

    def pipeline(self) -> Any:
        """Refuse: until its answers are read, nobody knows whether a transaction is open."""
        raise psycopg.NotSupportedError("a session has no pipelines; send one statement at a time")

    def _start_query(self) -> PQGen[None]:
        if self._autocommit and not self.clearing:
            raise psycopg.ProgrammingError(AUTOCOMMIT_REFUSED)  # the driver's: it goes on after it
        yield from super()._start_query()

    def _exec_command(self, command: Any, result_format: Format = Format.TEXT) -> PQGen[Any]:
        if command != self._begin_statement:
            return (yield from super()._exec_command(command, result_format))
        if self._pipeline:
            for one in (command, *self.entering):
                yield from super()._exec_command(one)
            return None
        self._check_connection_ok()
        self.pgconn.send_query(b"; ".join((command, *self.entering)))
        for result in (yield from execute(self.pgconn)):
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        return None


class LentConnection(_Lent, LimitedConnection):
    """Around a sync connection of `pool`."""

    def __init__(self, pool: ConnectionPool[Any], pooled: LimitedConnection) -> None:
        self._handlers = pooled.pgconn.notice_handler, pooled.pgconn.notify_handler
        Connection.__init__(self, pooled.pgconn)
        self._to = pool
        self._borrow(pooled)

    def wait[R](self, gen: PQGen[R], *how: Any, **options: Any) -> R:
        """Wait, as long as it is lent."""
        self._require()
        return super().wait(gen, *how, **options)

    def close(self) -> None:
        """Give it back; cut it, if it was not cleared."""
        if (pooled := self._returned()) is not None:
            self._to.putconn(pooled)


class LentAsyncConnection(_Lent, LimitedAsyncConnection):
    """Around an async connection of `pool`."""

    def __init__(self, pool: AsyncConnectionPool[Any], pooled: LimitedAsyncConnection) -> None:
        self._handlers = pooled.pgconn.notice_handler, pooled.pgconn.notify_handler
        AsyncConnection.__init__(self, pooled.pgconn)
        self._to = pool
        self._loop = asyncio.get_running_loop()
        self._borrow(pooled)

    async def wait[R](self, gen: PQGen[R], *how: Any, **options: Any) -> R:
        """Wait, as long as it is lent."""
        self._require()
        return await super().wait(gen, *how, **options)

    async def close(self) -> None:
        """Give it back; cut it, if it was not cleared."""
        if (pooled := self._returned()) is not None:
            await self._to.putconn(pooled)

    def __del__(self, *_: Any) -> None:
        """Give the place in the pool back, if a session was forgotten: nobody else would."""
        if (pooled := self._returned()) is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.create_task, self._to.putconn(pooled))
