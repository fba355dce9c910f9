"""
Classify what psycopg raises into the store's error tree: once, here.

By SQLSTATE where there is one; a broken connection has none. The `VE…` states are raised by our
own SQL function `append_events` and carry their facts as JSON in DETAIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
import psycopg
import psycopg_pool

from eventstore.database.settings import Settings
from eventstore.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigurationError,
    ConnectionLost,
    DatabaseFault,
    EventStoreError,
    InvalidInput,
    PoolExhausted,
    SchemaMissing,
    SerializationFailed,
    StorageFull,
    StreamClosed,
    TimedOut,
    Unavailable,
    WrongVersion,
)

__all__ = ["AlreadyAppended", "classify", "is_stale", "pool_exhausted", "unreachable"]


class AlreadyAppended(EventStoreError):
    """
    The append's idempotency key is in the log: its first result is to be loaded.

    Caught by the append plan, never seen by callers.
    """


def classify(error: psycopg.Error) -> EventStoreError:
    """Return the store's error for `error`; the caller raises it `from error`."""
    if isinstance(error, psycopg_pool.PoolClosed):
        return ConfigurationError("the store is closed; call EventStore.connect() again")
    state = error.sqlstate or ""
    if state in _OWN_STATES:
        return _OWN_STATES[state](_facts(error))
    if is_stale(error):
        return ConnectionLost(f"what was prepared no longer fits: {_message(error)}")
    if (broken := _constraint(state, error.diag)) is not None:
        return broken
    for prefix, make in _BY_STATE:
        if state.startswith(prefix):
            known = make(_message(error))
            if isinstance(known, DatabaseFault):
                known.sqlstate = state
            return known
    if not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return ConnectionLost(f"the database connection was lost: {_message(error)}")
    fault = DatabaseFault(f"the database failed: {_message(error)} (SQLSTATE {state or 'none'})")
    fault.sqlstate = error.sqlstate
    return fault


def is_stale(error: psycopg.Error) -> bool:
    """Tell whether a statement that was prepared before is gone, or its table is another now."""
    return error.sqlstate == "26000" or (
        error.sqlstate == "0A000" and "cached plan must not change" in _message(error)
    )


def pool_exhausted(settings: Settings) -> PoolExhausted:
    """Return the error of a pool whose server answers while none of its connections is free."""
    return PoolExhausted(
        f"none of {settings.pool_max_size} connections became free in "
        f"{settings.pool_timeout_seconds:g} seconds; "
        "raise EVENTSTORE_POOL_MAX_SIZE or EVENTSTORE_POOL_TIMEOUT_SECONDS"
    )


def unreachable(error: psycopg.Error) -> Unavailable:
    """Return the error of a server that takes no connection."""
    return Unavailable(
        f"the database cannot be reached: {_message(error)}; "
        "check the URL, and that the server runs"
    )


def _constraint(state: str, diag: psycopg.errors.Diagnostic) -> EventStoreError | None:
    """Return the error of a constraint that was in the way, if it was one that is known."""
    table, name = f"{diag.schema_name}.{diag.table_name}", diag.constraint_name
    match state:
        case "23505":
            return AlreadyExists(diag.table_name or "?")
        case "23503" if table == "eventstore.message":
            return InvalidInput("conversation_id", "no such conversation; start it first")
        case "23503":
            told = f"breaks {name}: a row that it points to is not there, or goes before it"
            return InvalidInput(table, told)
        case "23514" if name == "event_not_erased":
            return Unavailable("the schema is being downgraded, so nothing is erased; try again")
        case _:
            return None


def _message(error: psycopg.Error) -> str:
    """Return the first line of the server's message: DETAIL and CONTEXT may quote row values."""
    return error.diag.message_primary or (str(error).splitlines() or ["no message"])[0]


def _facts(error: psycopg.Error) -> dict[str, Any]:
    facts: dict[str, Any] = orjson.loads(error.diag.message_detail or "{}")
    return facts


_OWN_STATES: dict[str, Callable[[dict[str, Any]], EventStoreError]] = {
    "VE001": lambda facts: WrongVersion(
        UUID(facts["stream_id"]),
        int(facts["expected"]) if facts["expected"].isdigit() else facts["expected"],
        facts["actual"],
    ),
    "VE002": lambda facts: StreamClosed(UUID(facts["stream_id"]), facts["version"]),
    "VE003": lambda facts: AlreadyAppended(facts["idempotency_key"]),
    "VE004": lambda facts: InvalidInput(
        "stream", f"{facts['stream_id']} is a {facts['kind']}, the append said {facts['sent']}"
    ),
}

_NAMES = "EVENTSTORE_APPLICATION_ROLE and its like as they were for the migration"
_BY_STATE: tuple[tuple[str, Callable[[str], EventStoreError]], ...] = (
    ("VE005", lambda text: ConfigurationError(f"{text}; export them, then drop it by hand")),
    ("40", lambda text: SerializationFailed(f"{text}; run the transaction again")),
    ("55P03", lambda text: TimedOut(f"{text}: another append of this user holds the lock")),
    ("57014", lambda text: TimedOut(f"{text}; raise EVENTSTORE_STATEMENT_TIMEOUT_SECONDS")),
    ("53100", lambda text: StorageFull(f"{text}; free or buy space, reading still works")),
    ("53300", lambda text: ConnectionLost(f"the server takes no more connections: {text}")),
    ("53", lambda text: DatabaseFault(f"the server is out of a resource: {text}")),
    ("57P", lambda text: ConnectionLost(f"the server closed the connection: {text}")),
    ("08", lambda text: ConnectionLost(f"the database connection failed: {text}")),
    ("25006", lambda text: ConnectionLost(f"the server is read-only, perhaps a standby: {text}")),
    ("25P03", lambda text: ConnectionLost(f"the transaction was idle too long: {text}")),
    ("28", lambda text: Unavailable(f"the server refused the login: {text}; check the URL")),
    ("3D000", lambda text: Unavailable(f"{text}; check the database name in the URL")),
    ("23001", lambda text: AccessDenied(f"{text}; `eventstore erase` removes content for good")),
    ("42501", lambda text: AccessDenied(f"{text}; see docs/isolation.md for roles and grants")),
    ("22023", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`, or set {_NAMES}")),
    ("42P01", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
    ("42883", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
    ("42703", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
    ("3F000", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
)
