"""
Engines for SQLModel sessions of the caller's own, on the pool of the store; and one for Alembic.

Every transaction of a session begins by setting role and user, like all others. It is read-only
unless asked otherwise, because read models are written by projectors alone. SQLAlchemy's events say
whose transaction it is, and the leased connection sets it. What a session has SET ends with its
transaction. Behind a pooler one exception remains: SET and then COMMIT, both in SQL of the caller's
own.
"""

from __future__ import annotations

import logging
import os
import re
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

from eventstore.database.connections import APPLICATION_NAME, check_process, connect_options
from eventstore.database.embedded import start_embedded
from eventstore.database.scope import EnterScope, user_scope
from eventstore.database.sessions.leased_connection import (
    AUTOCOMMIT_REFUSED,
    FAILED_TRANSACTION,
    UNSCOPED_TRANSACTION,
    LeasedAsyncConnection,
    LeasedConnection,
)
from eventstore.database.settings import Embedded, Settings, load_settings, parse_url
from eventstore.errors import ConfigurationError

__all__ = [
    "async_engine_on",
    "async_session",
    "engine_on",
    "migration_engine",
    "own_engine",
    "session",
]

_DIALECT = "postgresql+psycopg://"
_MIGRATING = {"autocommit": False, "fallback_application_name": f"{APPLICATION_NAME} migrate"}
_QUIET: dict[str, Any] = {
    "poolclass": pool.NullPool,
    "hide_parameters": True,  # in errors too
    "logging_name": "eventstore",
}
# SQLAlchemy logs each row of a result, once somebody sets all its loggers to DEBUG. Whoever wants
# to see users' content in the log sets the level of this one.
_sql_log = logging.getLogger("sqlalchemy.engine.Engine.eventstore")
if _sql_log.level == logging.NOTSET:
    _sql_log.setLevel(logging.WARNING)
_READ_ONLY = b"set transaction read only"
_FORGET = "reset session authorization; reset all"
# DISCARD ALL in its parts, because it would also deallocate the store's prepared statements.
_LEAVE_NOTHING = f"""
{_FORGET};
close all;
unlisten *;
discard temp;
discard sequences;
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
_ANSWER = 1.1  # so many times as long as a statement may take: the server is to say it first
_SPACE = r"(?>\s|--[^\n]*\n|/\*.*?\*/)*+"  # once skipped, not again: comments may be many
_COMMITS = re.compile(rf"{_SPACE}(commit|end|prepare\s+transaction)\b", re.IGNORECASE | re.DOTALL)
_CHAIN = re.compile(
    rf"{_SPACE}(commit|end|rollback|abort)\b.*\band\s+chain\b",
    re.IGNORECASE | re.DOTALL,
)


def own_engine(settings: Settings) -> Engine:
    """
    Return an engine with the rights of the URL's login, for migrations.

    :return: an engine without a pool; an embedded server is started for it.
    :raises ConfigurationError: the URL is wrong, or the extra `embedded` is not installed.
    :raises Unavailable: the embedded server did not start.
    """
    place = parse_url(settings.database_url)
    conninfo = start_embedded(place.path) if isinstance(place, Embedded) else place.conninfo
    return create_engine(
        _DIALECT,
        poolclass=pool.NullPool,
        creator=lambda: psycopg.connect(
            conninfo,
            **(connect_options(conninfo, settings.deadline_seconds) | _MIGRATING),
        ),
    )


def migration_engine(database_url: str | None = None) -> Engine:
    """
    Return an engine with the rights of the URL's login, for migrations of your own tables.

    :param database_url: as in `EventStore.connect`; an embedded server is started for it.
    :return: an engine without a pool, so there is nothing to close.
    :raises ConfigurationError: the URL or a setting is wrong, or the extra `embedded` is missing.
    :raises Unavailable: the embedded server did not start.
    """
    return own_engine(load_settings(database_url))


def engine_on(connections: ConnectionPool[Any], settings: Settings) -> Engine:
    """
    Return an engine whose connections are leased from the store's pool.

    :param connections: the pool of a `Driver`.
    :return: an engine that sees nobody's rows, unless `session` names a user.
    """
    process = os.getpid()

    def creator() -> LeasedConnection:
        check_process(process)
        return LeasedConnection(connections, connections.getconn())

    engine = create_engine(_DIALECT, creator=creator, **_QUIET)
    return _scoped(engine, settings)


def async_engine_on(connections: AsyncConnectionPool[Any], settings: Settings) -> AsyncEngine:
    """
    Return an async engine whose connections are leased from the store's pool.

    :param connections: the pool of an `AsyncDriver`.
    :return: an engine that sees nobody's rows, unless `async_session` names a user.
    """
    process = os.getpid()

    async def creator() -> LeasedAsyncConnection:
        check_process(process)
        return LeasedAsyncConnection(connections, await connections.getconn())

    engine = create_async_engine(_DIALECT, async_creator=creator, **_QUIET)
    _scoped(engine.sync_engine, settings)
    return engine


def session(engine: Engine, user_id: str, *, read_only: bool, seconds: float) -> Session:
    """
    Return a SQLModel session in which only `user_id`'s rows exist.

    :param engine: an engine of `engine_on`.
    :param read_only: refuse every write; False for a service's own tables.
    :param seconds: how long each statement may take.
    """
    # Used after its block, a session would lease a connection that nobody gives back.
    scoped = engine.execution_options(**_of(user_id, read_only, seconds))
    return Session(scoped, close_resets_only=False)


def async_session(
    engine: AsyncEngine, user_id: str, *, read_only: bool, seconds: float
) -> AsyncSession:
    """
    Return an async SQLModel session in which only `user_id`'s rows exist.

    :param engine: an engine of `async_engine_on`.
    :param read_only: refuse every write; False for a service's own tables.
    :param seconds: how long each statement may take.
    """
    scoped = engine.execution_options(**_of(user_id, read_only, seconds))
    return async_sessionmaker(scoped, class_=AsyncSession, close_resets_only=False)()


def _of(user_id: str, read_only: bool, seconds: float) -> dict[str, Any]:
    """Return whose the transactions of a session are, where `_enter_scope` finds it."""
    return {
        "eventstore_user": user_id,
        "eventstore_read_only": read_only,
        "eventstore_seconds": seconds,
    }


def _scoped(engine: Engine, settings: Settings) -> Engine:
    # A listener says what is to follow the next BEGIN: sent here, it would cost a round trip.
    enter_scope = EnterScope(settings)
    seconds = settings.deadline_seconds
    event.listen(engine, "connect", partial(_begin_as_nobody, enter_scope, seconds))
    event.listen(engine, "begin", partial(_enter_scope, enter_scope, seconds))
    event.listen(engine, "begin_twophase", partial(_enter_scope, enter_scope, seconds))
    event.listen(engine, "before_cursor_execute", _refuse_unscoped)
    event.listen(engine, "commit", _forget_before_commit)
    event.listen(engine, "checkin", _forget)
    return engine


def _leased_to(connection: Connection) -> Any:
    """Return what a connection of SQLAlchemy's was leased, be it detached since."""
    return _undressed(connection.connection.dbapi_connection)


def _undressed(connection: Any) -> Any:
    """Return the driver's connection, which SQLAlchemy wraps if it is async."""
    return getattr(connection, "driver_connection", connection)


def _begin_as_nobody(
    enter_scope: EnterScope, seconds: float, connection: Any, _record: object
) -> None:
    """When a connection is leased: an engine that is used past any session sees nothing."""
    leased = _undressed(connection)
    leased.silence_seconds = seconds * _ANSWER
    leased.entering = (_READ_ONLY, _scope_sql(enter_scope, "", seconds))


def _enter_scope(
    enter_scope: EnterScope, seconds: float, connection: Connection, _xid: object = None
) -> None:
    """As SQLAlchemy begins: say as whom, for how long each statement, and whether to write."""
    leased = _leased_to(connection)
    options = connection.get_execution_options()
    seconds = options.get("eventstore_seconds", seconds)
    leased.silence_seconds = seconds * _ANSWER
    scope = _scope_sql(enter_scope, options.get("eventstore_user", ""), seconds)
    if options.get("eventstore_read_only", True):
        leased.entering = (_READ_ONLY, scope)
    elif leased.read_only is None:  # what a server connection begins with may be somebody's SET
        leased.entering = (b"set transaction read write", scope)
    else:
        leased.entering = (scope,)


def _scope_sql(enter_scope: EnterScope, user_id: str, seconds: float) -> bytes:
    return enter_scope.literal_sql(user_scope(user_id), seconds).encode()


def _refuse_unscoped(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
    """Before a statement: refuse what would not be in the scope, before anything is sent."""
    leased = _leased_to(connection)
    if leased.autocommit:
        raise ConfigurationError(AUTOCOMMIT_REFUSED)
    if _CHAIN.match(statement):
        raise ConfigurationError(UNSCOPED_TRANSACTION)
    failed = leased.info.transaction_status == TransactionStatus.INERROR
    if failed and _COMMITS.match(statement):
        raise psycopg.errors.InFailedSqlTransaction(FAILED_TRANSACTION)


def _forget_before_commit(connection: Connection) -> None:
    """Undo what the session has SET, while its transaction still lasts."""
    # Behind a pooler a reset after the COMMIT may run on another server connection.
    leased = _leased_to(connection)
    if leased.info.transaction_status != TransactionStatus.INTRANS:
        return  # after an error the COMMIT is refused
    # What is deferred runs first: it belongs in the user's scope, which is reset as well.
    connection.exec_driver_sql(f"set constraints all immediate; {_FORGET}")


def _forget(connection: Any, _record: object) -> None:
    """As a connection goes back: clear what SQL of the caller's own left on the server."""
    if connection is None:  # broken, or invalidated: it is cut
        return
    leased = _undressed(connection)
    try:
        leased.clearing = True
        connection.autocommit = True
        connection.cursor().execute(_LEAVE_NOTHING)
        connection.autocommit = False
        # This comes last: every wait removes the mark, also the one for the line above.
        leased.cleared = True
    except psycopg.Error:  # not cleared, it is cut as SQLAlchemy closes it
        return
    except BaseException:  # a cancelled task, Ctrl-C: SQLAlchemy does no more about it
        connection.close()
        raise
    finally:
        leased.clearing = False
