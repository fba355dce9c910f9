"""
SQLAlchemy on our terms: sessions of the caller's own on the same pool, and an engine for Alembic.

A session's every transaction begins by setting role and user, like all others, and is read-only
unless asked otherwise: read models are written by projectors alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import Connection, Engine, create_engine, event, pool, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.ext.asyncio.session import async_sessionmaker
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from eventstore.database.connections import check_process
from eventstore.database.embedded import start_embedded
from eventstore.database.scope import APPLICATION_ROLE
from eventstore.database.settings import Settings
from eventstore.database.url import Embedded, parse_url

__all__ = ["async_engine_on", "async_session", "engine_on", "own_engine", "session"]

_DIALECT = "postgresql+psycopg://"
_SCOPE = text(
    "select set_config('role', :role, true), set_config('eventstore.user_id', :user, true),"
    " set_config('statement_timeout', :statement, true), set_config('lock_timeout', :lock, true)"
)


def own_engine(settings: Settings) -> Engine:
    """Return an engine with the rights of the URL's login; starts an embedded server."""
    place = parse_url(settings.database_url)
    conninfo = start_embedded(place.path) if isinstance(place, Embedded) else place.conninfo
    return create_engine(
        _DIALECT, poolclass=pool.NullPool, creator=lambda: psycopg.connect(conninfo)
    )


def engine_on(connections: ConnectionPool[Any], settings: Settings) -> Engine:
    """Return an engine whose connections come from, and go back to, `connections`."""
    engine = create_engine(
        _DIALECT, poolclass=pool.NullPool, creator=_transactional(connections.getconn)
    )
    event.listen(engine, "begin", partial(_enter_scope, settings))
    return engine


def async_engine_on(connections: AsyncConnectionPool[Any], settings: Settings) -> AsyncEngine:
    """Return an async engine whose connections come from, and go back to, `connections`."""
    process = os.getpid()

    async def creator() -> Any:
        check_process(process)
        connection = await connections.getconn()
        await connection.set_autocommit(False)
        return connection

    engine = create_async_engine(_DIALECT, poolclass=pool.NullPool, async_creator=creator)
    event.listen(engine.sync_engine, "begin", partial(_enter_scope, settings))
    return engine


def session(engine: Engine, user_id: str, *, read_only: bool) -> Session:
    """Return a SQLModel session in which only `user_id`'s rows exist."""
    return Session(_for_user(engine, user_id, read_only))


def async_session(engine: AsyncEngine, user_id: str, *, read_only: bool) -> AsyncSession:
    """Return an async SQLModel session in which only `user_id`'s rows exist."""
    scoped = engine.execution_options(eventstore_user=user_id, eventstore_read_only=read_only)
    return async_sessionmaker(scoped, class_=AsyncSession)()


def _for_user(engine: Engine, user_id: str, read_only: bool) -> Engine:
    return engine.execution_options(eventstore_user=user_id, eventstore_read_only=read_only)


def _transactional(getconn: Callable[[], Any]) -> Callable[[], Any]:
    process = os.getpid()

    def creator() -> Any:
        check_process(process)
        connection = getconn()
        connection.autocommit = False  # the driver switches it back
        return connection

    return creator


def _enter_scope(settings: Settings, connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("eventstore_read_only", True):
        connection.exec_driver_sql("set transaction read only")
    # Without a user the scope is nobody: an engine used directly sees nothing.
    connection.execute(
        _SCOPE,
        {
            "role": APPLICATION_ROLE,
            "user": options.get("eventstore_user", ""),
            "statement": f"{settings.statement_timeout_seconds * 1000:.0f}",
            "lock": f"{settings.lock_timeout_seconds * 1000:.0f}",
        },
    )
