"""
Run a plan: what happens between its batches, for every driver.

The conductor turns a plan into actions (take a connection, exchange statements for rows, give it
back, sleep) and leaves only those to a driver. Transactions, scope and the fate of errors are
decided here, once, for sync and async.

A batch is an implicit transaction: PostgreSQL opens it at the pipeline's first statement and
commits at its end, so BEGIN and COMMIT cost nothing. A held batch gets an explicit pair.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, assert_never

from eventstore.database.plan import Batch, Pause, Plan, Rows, Statement
from eventstore.database.scope import SET_SCOPE, Scope
from eventstore.database.settings import Settings
from eventstore.errors import ConnectionLost, EventStoreError

__all__ = ["Acquire", "Action", "Exchange", "Release", "Sleep", "conduct"]


@dataclass(frozen=True, slots=True)
class Acquire:
    """Take a connection from the pool; answered with it."""

    suspicious: bool = False
    """A connection was just lost: check the idle ones before handing one out."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send the statements as one pipeline; answered with the rows of each."""

    connection: Any
    statements: list[Statement]


@dataclass(frozen=True, slots=True)
class Release:
    """Give the connection back; the pool rolls back what is open and drops what is broken."""

    connection: Any


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


type Action = Acquire | Exchange | Release | Sleep

_BEGIN = Statement("begin")
_BEGIN_SNAPSHOT = Statement("begin isolation level repeatable read, read only")
_COMMIT = Statement("commit")


def conduct[T](plan: Plan[T], settings: Settings) -> Generator[Action, Any, T]:
    """
    Return the plan's result after asking the driver for every action it takes.

    Errors of an exchange are thrown into the plan, after its transaction is given up.
    """
    connection: Any = None
    scope: Scope | None = None
    suspicious = False
    answer: list[Rows] | None = None
    error: EventStoreError | None = None
    try:
        while True:
            try:
                request = plan.throw(error) if error is not None else plan.send(answer)  # type: ignore[arg-type]  # a generator is started with None
            except StopIteration as end:
                result: T = end.value
                return result
            answer, error = [], None
            try:
                match request:
                    case Pause(seconds):
                        yield Sleep(seconds)
                    case Batch():
                        opening = connection is None
                        if connection is None:
                            connection = yield Acquire(suspicious)
                            suspicious, scope = False, None
                        statements, skipped = _framed(request, opening, scope, settings)
                        scope = request.scope
                        rows: list[Rows] = yield Exchange(connection, statements)
                        answer = rows[skipped : skipped + len(request.statements)]
                        if not request.hold:
                            yield Release(connection)
                            connection = None
                    case _:
                        assert_never(request)
            except EventStoreError as caught:
                error = caught
                suspicious = isinstance(caught, ConnectionLost)
                if connection is not None:
                    broken, connection = connection, None
                    yield Release(broken)
    finally:
        if connection is not None:
            yield Release(connection)


def _framed(
    batch: Batch, opening: bool, scope: Scope | None, settings: Settings
) -> tuple[list[Statement], int]:
    """Return the batch with its transaction and scope around it, and how many stand before it."""
    before: list[Statement] = []
    after: list[Statement] = []
    if opening and batch.hold:
        before.append(_BEGIN_SNAPSHOT if batch.snapshot else _BEGIN)
    if batch.scope != scope:
        before.append(_set_scope(batch.scope, settings))
    if not opening and not batch.hold:
        after.append(_COMMIT)
    return [*before, *batch.statements, *after], len(before)


def _set_scope(scope: Scope, settings: Settings) -> Statement:
    statement_seconds = 0 if scope.patient else settings.statement_timeout_seconds
    return Statement(
        SET_SCOPE,
        (
            scope.role,
            scope.user_id,
            f"{statement_seconds * 1000:.0f}",
            f"{settings.lock_timeout_seconds * 1000:.0f}",
        ),
    )
