"""
What is leased to a session: a psycopg connection of its own around the socket of a pooled one.

SQLAlchemy hands the driver's connection to whoever asks, and people keep what they are handed. So
what is leased is not what the pool has, and it keeps four promises:

- whatever opens a transaction on it (a statement, COPY, a cursor, a pipeline, two phases), BEGIN
  and the scope leave together; one that SQL begins in its place (AND CHAIN, or BEGIN after COMMIT)
  is rolled back before anybody asks it anything;
- what an error has failed is not committed in silence: PostgreSQL would answer with a rollback;
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
from psycopg.pq import ExecStatus, Format, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from eventstore.database.connections import (
    StoreAsyncConnection,
    StoreConnection,
    check_process,
)

__all__ = [
    "AUTOCOMMIT_REFUSED",
    "FAILED_TRANSACTION",
    "UNSCOPED_TRANSACTION",
    "LeasedAsyncConnection",
    "LeasedConnection",
]

AUTOCOMMIT_REFUSED = (
    "a session cannot run in AUTOCOMMIT: its user is set for one transaction; "
    "leave the isolation level, and commit when you are done"
)
UNSCOPED_TRANSACTION = (
    "AND CHAIN, or BEGIN after COMMIT, begins a transaction that is nobody's; leave it"
)
FAILED_TRANSACTION = (
    "a statement of this transaction failed and its error was caught, so all of it would be "
    "rolled back; roll back, and run the whole transaction again"
)
_COMMITS = (b"COMMIT", b"PREPARE TRANSACTION")
_ENDS = {b"COMMIT", b"ROLLBACK", b"PREPARE TRANSACTION"}
_WHOSE = b"select pg_catalog.current_setting('eventstore.user_id', true)"


class _Leased(BaseConnection[Any]):
    """What sync and async connections have in common: see the module."""

    entering: Sequence[bytes] = ()
    """What follows each BEGIN."""

    clearing = False
    """Set to send what clears the server, outside any scope."""

    cleared = False
    """Set once nothing is left on the server, so that the socket may go back to the pool."""

    ended = False
    """Set by its cursors when a transaction ends in SQL: another one may be open since."""

    _pooled: Any = None
    _handlers: Any = None

    def _borrow(self, pooled: StoreConnection | StoreAsyncConnection) -> None:
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
            # Threshold and handlers stand in objects that both share, so a change would stay.
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

    def _watched[R](self, gen: PQGen[R]) -> PQGen[R]:
        """Do what was asked for, and roll back what it began that is in no scope."""
        self.cleared = False  # what is sent now may leave something on the server
        if self.ended:  # in a pipeline, where it could not be looked at
            yield from self._require_scope()
        try:
            result = yield from gen
        except psycopg.ProgrammingError:  # the driver's, after it was done: COPY, or a stream
            self.ended = self.ended or self.pgconn.transaction_status == TransactionStatus.INTRANS
            yield from self._require_scope()
            raise
        yield from self._require_scope()
        return result

    def _require_scope(self) -> PQGen[None]:
        if not self.ended or self.pgconn.pipeline_status:
            return
        self.ended = False
        if self.pgconn.transaction_status != TransactionStatus.INTRANS:
            return
        # The answers to AND CHAIN and to ROLLBACK TO SAVEPOINT do not tell whose it is.
        self.pgconn.send_query(_WHOSE)
        if [one.get_value(0, 0) for one in (yield from execute(self.pgconn))] == [b""]:
            self.pgconn.send_query(b"rollback")
            yield from execute(self.pgconn)
            raise psycopg.ProgrammingError(UNSCOPED_TRANSACTION)

    def _start_query(self) -> PQGen[None]:
        if self._autocommit and not self.clearing:
            raise psycopg.ProgrammingError(AUTOCOMMIT_REFUSED)  # psycopg cleans up after its own
        yield from super()._start_query()

    def _exec_command(self, command: Any, result_format: Format = Format.TEXT) -> PQGen[Any]:
        if self.pgconn.transaction_status == TransactionStatus.INERROR:
            text = command if isinstance(command, bytes) else command.as_bytes()
            if text.startswith(_COMMITS):
                raise psycopg.errors.InFailedSqlTransaction(FAILED_TRANSACTION)
        if command != self._begin_statement:
            return (yield from super()._exec_command(command, result_format))
        # `executemany` uses a pipeline, in which a message has one command.
        if self._pipeline:
            for one in (command, *self.entering):
                yield from super()._exec_command(one)
            return None
        # One message, so that nothing comes between BEGIN and the scope.
        self._check_connection_ok()
        self.pgconn.send_query(b"; ".join((command, *self.entering)))
        for result in (yield from execute(self.pgconn)):
            if result.status == ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
        return None


class _Cursor(psycopg.Cursor[Any]):
    """Tells its connection of a transaction that ends in SQL."""

    def _set_results(self, results: list[PGresult]) -> None:
        super()._set_results(results)
        _note(self._conn, results)


class _AsyncCursor(psycopg.AsyncCursor[Any]):
    """Tells its async connection of a transaction that ends in SQL."""

    def _set_results(self, results: list[PGresult]) -> None:
        super()._set_results(results)
        _note(self._conn, results)


def _note(connection: Any, results: list[PGresult]) -> None:
    if any(one.command_status in _ENDS for one in results):
        connection.ended = True


class LeasedConnection(_Leased, StoreConnection):
    """Around a sync connection of `pool`."""

    def __init__(self, pool: ConnectionPool[Any], pooled: StoreConnection) -> None:
        # Read before psycopg's constructor, which puts the wrapper's handlers into `pgconn`.
        self._handlers = pooled.pgconn.notice_handler, pooled.pgconn.notify_handler
        Connection.__init__(self, pooled.pgconn)
        self.cursor_factory = _Cursor
        self._to = pool
        self._borrow(pooled)

    def wait[R](self, gen: PQGen[R], *how: Any, **options: Any) -> R:
        """
        Wait as `StoreConnection` does, as long as the lease lasts.

        :raises psycopg.InterfaceError: the connection was given back.
        :raises psycopg.ProgrammingError: the statement began a transaction that is in no scope.
        :raises ConfigurationError: the process has forked since.
        """
        self._require()
        return super().wait(self._watched(gen), *how, **options)

    def close(self) -> None:
        """Give it back; cut it, if it was not cleared."""
        if (pooled := self._returned()) is not None:
            self._to.putconn(pooled)


class LeasedAsyncConnection(_Leased, StoreAsyncConnection):
    """Around an async connection of `pool`."""

    def __init__(self, pool: AsyncConnectionPool[Any], pooled: StoreAsyncConnection) -> None:
        self._handlers = pooled.pgconn.notice_handler, pooled.pgconn.notify_handler
        AsyncConnection.__init__(self, pooled.pgconn)
        self.cursor_factory = _AsyncCursor
        self._to = pool
        self._loop = asyncio.get_running_loop()
        self._borrow(pooled)

    async def wait[R](self, gen: PQGen[R], *how: Any, **options: Any) -> R:
        """
        Wait as `StoreAsyncConnection` does, as long as the lease lasts.

        :raises psycopg.InterfaceError: the connection was given back; otherwise as
            `LeasedConnection.wait`.
        """
        self._require()
        return await super().wait(self._watched(gen), *how, **options)

    async def close(self) -> None:
        """Give it back; cut it, if it was not cleared."""
        if (pooled := self._returned()) is not None:
            await self._to.putconn(pooled)

    def __del__(self, *_: Any) -> None:
        """Give the place in the pool back, if a session was forgotten: nobody else would."""
        # The garbage collector may run in any thread, and the pool belongs to one event loop.
        if (pooled := self._returned()) is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.create_task, self._to.putconn(pooled))
