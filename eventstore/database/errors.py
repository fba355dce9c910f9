"""
Classify psycopg's errors into the error tree of the store.

The SQLSTATE decides, where there is one; the error of a broken connection has none. `VE001` to
`VE004` and `VE006` are raised by the SQL function `append_events`, with the values of the error as
JSON in DETAIL; `VE005` is raised by a downgrade that would destroy events.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
import psycopg
import psycopg_pool

from eventstore.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigurationError,
    ConnectionLost,
    DatabaseFault,
    EventStoreError,
    InvalidInput,
    LoginRefused,
    QuotaReached,
    SchemaMissing,
    SerializationFailed,
    StorageFull,
    StreamClosed,
    TimedOut,
    Unavailable,
    WrongVersion,
)

__all__ = [
    "MORE_TIME",
    "AlreadyAppended",
    "classify",
    "may_be_committed",
    "sqlstate_of",
    "unreachable",
]

MORE_TIME = "give the call more time: EVENTSTORE_DEADLINE_SECONDS, or user.within(seconds)"


class WrongKind(InvalidInput):
    """
    A stream is of another kind than its event; callers know the base class.

    :ivar stream_id: the stream.
    """

    def __init__(self, stream_id: UUID, fact: str) -> None:
        super().__init__("stream", fact)
        self.stream_id = stream_id


class AlreadyAppended(EventStoreError):
    """
    The events of an append, or its idempotency key, are in the log already.

    The plan of the append catches this error and loads the first result, so it reaches no caller.
    """


def classify(error: psycopg.Error) -> EventStoreError:
    """
    Return the error of the store that stands for an error of psycopg.

    The caller raises it `from error`, so that the cause stays visible.

    :return: an error whose message has the fact and the remedy, and never a row's values.
    """
    # To psycopg this is an OperationalError without SQLSTATE, like a lost connection.
    if isinstance(error, psycopg_pool.PoolClosed):
        return ConfigurationError("the store is closed; call EventStore.connect() again")
    state = error.sqlstate or ""
    if state in _STATES_OF_APPEND:
        return _STATES_OF_APPEND[state](_detail(error))
    if _is_stale(error):
        # A retry helps here, because it runs on a new connection.
        return ConnectionLost(f"a prepared statement no longer fits the server: {_message(error)}")
    if (violation := _constraint_violation(state, error.diag)) is not None:
        return violation
    for prefix, make in _BY_STATE:
        if state.startswith(prefix):
            classified = make(_message(error))
            if isinstance(classified, DatabaseFault):
                classified.sqlstate = state
            return classified
    # A bare DatabaseError without SQLSTATE is libpq's, which could not make sense of an answer.
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if not state and (lost or type(error) is psycopg.DatabaseError):
        return ConnectionLost(f"the database connection was lost: {_message(error)}")
    fault = DatabaseFault(f"the database failed: {_message(error)} (SQLSTATE {state or 'none'})")
    fault.sqlstate = error.sqlstate
    return fault


def may_be_committed(error: psycopg.Error) -> bool:
    """
    Return whether a transaction may have been committed although its request ended in an error.

    :return: True if the connection broke, which may be while the commit was on its way; with any
        other error the server refused a statement.
    """
    return not error.sqlstate or error.sqlstate.startswith(_DURING_COMMIT)


def sqlstate_of(error: EventStoreError) -> str | None:
    """Return the SQLSTATE with which PostgreSQL refused; None if it was not PostgreSQL."""
    return getattr(error.__cause__, "sqlstate", None)


def _is_stale(error: psycopg.Error) -> bool:
    """
    Return whether a prepared statement can no longer be run on its connection.

    :return: True if a pooler gave the connection another server, or a migration changed a table.
    """
    return error.sqlstate == "26000" or (
        error.sqlstate == "0A000" and "cached plan must not change" in _message(error)
    )


def unreachable(error: psycopg.Error) -> EventStoreError:
    """
    Return the error of a connection that could not be made.

    Of a server that answered and refused, libpq keeps the text and no SQLSTATE.

    :param error: psycopg's error of the attempt; the first line of its message is repeated.
    :return: `LoginRefused` if the server refused login, password or database, else `Unavailable`.
    """
    for refused, remedy in _REFUSED_LOGINS:
        if (found := refused.search(str(error))) is not None:
            return LoginRefused(f"the server refused the login: {found[0]}; {remedy}")
    return Unavailable(
        f"the database cannot be reached: {_message(error)}; "
        "check the URL, and that the server runs"
    )


def _constraint_violation(state: str, diag: psycopg.errors.Diagnostic) -> EventStoreError | None:
    """Return the error of a violated constraint, if callers can do something about it."""
    table, name = f"{diag.schema_name}.{diag.table_name}", diag.constraint_name
    match state:
        case "23505":
            return AlreadyExists(diag.table_name or "?")
        case "23503":
            return InvalidInput(
                table, f"violates {name}: the referenced row does not exist, or would be deleted"
            )
        case _:
            return None


def _message(error: psycopg.Error) -> str:
    """Return the first line of the server's message: DETAIL and CONTEXT may quote row values."""
    return error.diag.message_primary or (str(error).splitlines() or ["no message"])[0]


def _detail(error: psycopg.Error) -> dict[str, Any]:
    detail: dict[str, Any] = orjson.loads(error.diag.message_detail or "{}")
    return detail


_STATES_OF_APPEND: dict[str, Callable[[dict[str, Any]], EventStoreError]] = {
    "VE001": lambda detail: WrongVersion(
        UUID(detail["stream_id"]),
        {0: "new", -1: "exists"}.get(detail["expected"], detail["expected"]),
        detail["actual"],
    ),
    "VE002": lambda detail: StreamClosed(UUID(detail["stream_id"]), detail["version"]),
    "VE003": lambda _: AlreadyAppended("the events are in the log already"),
    "VE004": lambda detail: WrongKind(
        UUID(detail["stream_id"]),
        f"{detail['stream_id']} is a {detail['kind']}, not a {detail['sent']}",
    ),
    "VE006": lambda detail: QuotaReached(detail["events"], detail["adding"], detail["limit"]),
}

_CHECK_LOGIN = "check login and password in the URL, and that pg_hba.conf lets them in"
_CHECK_DATABASE = "check the database's name in the URL, or create it"

# In the words of PostgreSQL, PgBouncer and Supabase's pooler. A server that speaks another language
# is `Unavailable`, with its own words in the message.
_REFUSED_LOGINS = (
    (
        re.compile(
            r'role "[^"]*" does not exist|role "[^"]*" is not permitted to log in|no such user'
            r"|[\w-]+ authentication failed(?: for user \"[^\"]*\")?|no password supplied"
            r"|no pg_hba\.conf entry[^\n]*|pg_hba\.conf rejects[^\n]*|tenant or user not found",
            re.IGNORECASE,
        ),
        _CHECK_LOGIN,
    ),
    (re.compile(r'database "[^"]*" does not exist|no such database[^\n]*'), _CHECK_DATABASE),
    (re.compile(r'permission denied for database "[^"]*"'), "grant connect on it to the login"),
)

_ROLES = "EVENTSTORE_APPLICATION_ROLE and the other two roles as they were when it ran"

_DURING_COMMIT = ("57P", "08")
"""States with which a connection may end while its commit waits; others refuse the statement."""

# The first prefix that fits decides, so a longer one stands before its shorter one.
_BY_STATE: tuple[tuple[str, Callable[[str], EventStoreError]], ...] = (
    ("VE005", lambda text: ConfigurationError(f"{text}; export them, then drop it by hand")),
    ("40", lambda text: SerializationFailed(f"{text}; run the transaction again")),
    # A TimedOut is not tried again: each further attempt could take its whole limit once more.
    ("55P03", lambda text: TimedOut(f"{text}: another append of this user holds the lock")),
    ("57014", lambda text: TimedOut(f"{text}; {MORE_TIME}")),
    ("53100", lambda text: StorageFull(f"{text}; free or buy space; reading still works")),
    ("53300", lambda text: ConnectionLost(f"the server accepts no more connections: {text}")),
    ("53", lambda text: DatabaseFault(f"the server is out of a resource: {text}")),
    ("57P", lambda text: ConnectionLost(f"the server closed the connection: {text}")),
    ("08", lambda text: ConnectionLost(f"the database connection failed: {text}")),
    (
        "25006",  # some providers make a project read-only at its storage limit
        lambda text: ConnectionLost(f"the server is read-only, a standby or out of space: {text}"),
    ),
    (
        "25P04",
        lambda text: TimedOut(f"{text}; raise or reset transaction_timeout of the login"),
    ),
    ("25P03", lambda text: ConnectionLost(f"the transaction was idle for too long: {text}")),
    ("28", lambda text: LoginRefused(f"the server refused the login: {text}; {_CHECK_LOGIN}")),
    ("3D000", lambda text: LoginRefused(f"{text}; {_CHECK_DATABASE}")),
    # The append-only triggers refuse a change of history.
    ("23001", lambda text: AccessDenied(f"{text}; `eventstore erase` removes content for good")),
    (
        "42501",
        lambda text: AccessDenied(f"{text}; see Isolation in the documentation for grants"),
    ),
    # The scope names a role that does not exist.
    ("22023", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`, or set {_ROLES}")),
    # A value that a column of a projector's table cannot hold; after the colon stands the value.
    (
        "22",
        lambda text: InvalidInput("row change", f"{text.partition(': ')[0]}; see the projector"),
    ),
    ("42P01", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
    ("42883", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
    ("42703", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
    ("3F000", lambda text: SchemaMissing(f"{text}; run `eventstore migrate`")),
)
