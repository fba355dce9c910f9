"""
SQLAlchemy on our terms: sessions of the caller's own on the same pool, and an engine for Alembic.

A session's every transaction begins by setting role and user, like all others, and is read-only
unless asked otherwise: read models are written by projectors alone. Whether a transaction has begun
is asked of the connection before each statement, because SQL of the caller's own may end one
unseen. What a session has SET ends with its transaction. Behind a pooler one exception remains:
SET and then COMMIT, both in SQL of the caller's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import Connection, Engine, create_engine, event, pool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.ext.asyncio.session import async_sessionmaker
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from eventstore.database.connections import check_process
from eventstore.database.embedded import start_embedded
from eventstore.database.scope import SET_SCOPE, scope_values, user_scope
from eventstore.database.settings import Settings
from eventstore.database.url import Embedded, parse_url
from eventstore.errors import ConfigurationError

__all__ = ["async_engine_on", "async_session", "engine_on", "own_engine", "session"]

_DIALECT = "postgresql+psycopg://"
_SCOPE = (
    re.sub(r"\$\d", "%s", SET_SCOPE) + ", pg_catalog.set_config('transaction_read_only', %s, true)"
)
_FORGET = "reset session authorization; reset all"
_LEAVE_NOTHING = f"""
{_FORGET};
close all;
unlisten *;
discard temp;
do $$
declare v_name text;
begin
    perform pg_catalog.pg_advisory_unlock_all();
    for v_name in select name from pg_catalog.pg_prepared_statements where from_sql loop
        execute pg_catalog.format('deallocate %I', v_name);
    end loop;
end
$$
"""
_NOBODYS = "AND CHAIN, or BEGIN after COMMIT, begins a transaction that is nobody's; leave it"
_CHAIN = re.compile(
    r"(\s|--[^\n]*\n|/\*.*?\*/)*(commit|end|rollback|abort)\b.*\band\s+chain\b",
    re.IGNORECASE | re.DOTALL,
)


def own_engine(settings: Settings) -> Engine:
    """Return an engine with the rights of the URL's login; starts an embedded server."""
    place = parse_url(settings.database_url)
    conninfo = start_embedded(place.path) if isinstance(place, Embedded) else place.conninfo
    return create_engine(
        _DIALECT,
        poolclass=pool.NullPool,
        creator=lambda: psycopg.connect(conninfo, client_encoding="UTF8"),
    )


def engine_on(connections: ConnectionPool[Any], settings: Settings) -> Engine:
    """Return an engine whose connections come from, and go back to, `connections`."""
    creator = _transactional(connections, settings)
    engine = create_engine(_DIALECT, poolclass=pool.NullPool, creator=creator)
    return _scoped(engine, settings)


def async_engine_on(connections: AsyncConnectionPool[Any], settings: Settings) -> AsyncEngine:
    """Return an async engine whose connections come from, and go back to, `connections`."""
    process = os.getpid()

    async def creator() -> Any:
        check_process(process)
        connection = await connections.getconn()
        try:
            connection.answer_timeout_seconds = settings.answer_timeout_seconds
            await connection.set_autocommit(False)
        except BaseException:
            connection.pgconn.finish()
            await connections.putconn(connection)
            raise
        return connection

    engine = create_async_engine(_DIALECT, poolclass=pool.NullPool, async_creator=creator)
    _scoped(engine.sync_engine, settings)
    return engine


def session(engine: Engine, user_id: str, *, read_only: bool) -> Session:
    """Return a SQLModel session in which only `user_id`'s rows exist."""
    return Session(engine.execution_options(**_of(user_id, read_only)))


def async_session(engine: AsyncEngine, user_id: str, *, read_only: bool) -> AsyncSession:
    """Return an async SQLModel session in which only `user_id`'s rows exist."""
    scoped = engine.execution_options(**_of(user_id, read_only))
    return async_sessionmaker(scoped, class_=AsyncSession)()


def _of(user_id: str, read_only: bool) -> dict[str, Any]:
    """Return whose the transactions of a session are, where `_enter_scope` finds it."""
    return {"eventstore_user": user_id, "eventstore_read_only": read_only}


def _transactional(connections: ConnectionPool[Any], settings: Settings) -> Callable[[], Any]:
    process = os.getpid()

    def creator() -> Any:
        check_process(process)
        connection = connections.getconn()
        try:
            connection.answer_timeout_seconds = settings.answer_timeout_seconds
            connection.autocommit = False  # the driver switches it back
        except BaseException:
            connection.pgconn.finish()
            connections.putconn(connection)
            raise
        return connection

    return creator


def _scoped(engine: Engine, settings: Settings) -> Engine:
    event.listen(engine, "before_cursor_execute", partial(_enter_scope, settings))
    event.listen(engine, "after_cursor_execute", _still_scoped)
    event.listen(engine, "commit", _forget_before_commit)
    event.listen(engine, "checkin", _forget)
    return engine


def _enter_scope(
    settings: Settings,
    connection: Connection,
    _cursor: object,
    statement: str,
    *_parameters: object,
) -> None:
    """Before a statement: if no transaction is open, this one opens it, so set its scope first."""
    driver: Any = connection.connection.driver_connection
    if driver.autocommit:
        raise ConfigurationError(
            "a session cannot run in AUTOCOMMIT: its user is set for one transaction; "
            "leave the isolation level, and commit when you are done"
        )
    if _CHAIN.match(statement):
        raise ConfigurationError(_NOBODYS)
    if driver.info.transaction_status != TransactionStatus.IDLE:
        return
    options = connection.get_execution_options()
    # Without a user the scope is nobody: an engine used directly sees nothing.
    scope = user_scope(options.get("eventstore_user", ""))
    read_only = "on" if options.get("eventstore_read_only", True) else "off"
    cursor = connection.connection.cursor()
    cursor.execute(_SCOPE, (*scope_values(scope, settings), read_only))
    cursor.close()


def _still_scoped(connection: Connection, cursor: Any, *_: object) -> None:
    """After a statement: if it ended a transaction and another one is open, that is nobody's."""
    driver: Any = connection.connection.driver_connection
    if driver.info.transaction_status != TransactionStatus.INTRANS:
        return
    inner = getattr(cursor, "_cursor", cursor)  # in SQLAlchemy's async clothes
    if not isinstance(inner, psycopg.Cursor | psycopg.AsyncCursor):
        return  # a server-side cursor runs queries only
    results = inner._results  # noqa: SLF001 - to be asked without waiting in either colour
    if not any(one.command_status in {b"COMMIT", b"ROLLBACK"} for one in results):
        return
    asking = connection.connection.cursor()
    asking.execute("select pg_catalog.current_setting('eventstore.user_id', true)")
    scoped = asking.fetchone() != ("",)  # as after ROLLBACK TO SAVEPOINT
    asking.close()
    if not scoped:
        connection.connection.rollback()
        raise ConfigurationError(_NOBODYS)


def _forget_before_commit(connection: Connection) -> None:
    """SET would outlive the transaction, and behind a pooler meet anybody: undo it while in it."""
    driver: Any = connection.connection.driver_connection
    if driver.info.transaction_status != TransactionStatus.INTRANS:
        return  # after an error COMMIT rolls back, and SET with it
    # What is deferred runs first: it belongs in the user's scope, which is reset as well.
    connection.connection.cursor().execute(f"set constraints all immediate; {_FORGET}")


def _forget(connection: Any, _record: object) -> None:
    """As a connection goes back: undo what SQL of the caller's own committed unseen."""
    if connection is None:  # broken; the pool has dropped it
        return
    try:
        connection.autocommit = True
        connection.cursor().execute(_LEAVE_NOTHING)
    except psycopg.Error:  # cut it: `close` would give it to the pool, which SQLAlchemy will do
        _cut(connection)
    except BaseException:  # a cancelled task, Ctrl-C: SQLAlchemy does no more about it
        _cut(connection)
        connection.close()
        raise


def _cut(connection: Any) -> None:
    getattr(connection, "driver_connection", connection).pgconn.finish()
