"""
Run a plan: what happens around and between its batches, for every driver.

Transactions, scope and the fate of errors are decided here, once, for sync and async. Everything
that waits is a method of the driver. The interpreter yields what such a method returns and gets
back its result: the sync driver returns results as they are, the async driver awaits them.

A batch is an implicit transaction: PostgreSQL opens it at the pipeline's first statement and
commits at its end, so BEGIN and COMMIT cost nothing. A held batch gets an explicit pair.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, assert_never

import psycopg

from eventstore.database.errors import classify, may_be_committed
from eventstore.database.plan import Batch, GiveWay, Parallel, Pause, Plan, Rollback, Statement
from eventstore.database.scope import EnterScope, Scope
from eventstore.errors import ConnectionLost, EventStoreError

__all__ = ["Io", "interpret"]


class Io(Protocol):
    """What a driver does; each method returns its result, or something to await for it."""

    def acquire(self) -> Any:
        """Take a connection."""

    def distrust(self, lost: Any, error: ConnectionLost) -> Any:
        """Drop the idle connections that were there when one was lost: they may be lost too."""

    def exchange(
        self, connection: Any, statements: Sequence[Statement], unread: int, patient: bool
    ) -> Any:
        """
        Send statements as one pipeline and return the rows of each.

        :param unread: so many of the first statements return nothing that the plan asked for.
        :param patient: allow the long silence of statements that have no time limit.
        """

    def release(self, connection: Any) -> Any:
        """Give a connection back, what is open rolled back; the pool drops it if it is broken."""

    def abandon(self, connection: Any) -> None:
        """Give a connection up when nobody can wait any more; what is open is rolled back."""

    def sleep(self, seconds: float) -> Any:
        """Wait."""

    def fan_out(self, plans: Sequence[Callable[[], Plan[Any]]], jobs: int) -> Any:
        """
        Run other plans on connections of their own and return their results in the given order.

        :param jobs: how many run at once; never more than the pool has connections.
        """


_BEGIN = Statement("begin", prepared=False)
_BEGIN_SNAPSHOT = Statement("begin isolation level repeatable read, read only", prepared=False)
_COMMIT = Statement("commit", prepared=False)


def interpret[T](plan: Plan[T], io: Io, enter_scope: EnterScope) -> Generator[Any, Any, T]:
    """
    Run a plan on connections of a driver and return its result.

    An error of a batch is thrown into the plan, once its transaction is given up.

    :param enter_scope: the SQL with which each transaction enters the scope of its batch.
    :return: a generator that yields what the methods of `io` return and is sent their results.
    :raises EventStoreError: what the plan raises, or does not catch; psycopg's errors are
        classified by `database.errors`, and the original is the cause.
    """
    held = _Held(io, enter_scope)
    answer: Any = None
    error: EventStoreError | None = None
    try:
        while True:
            try:
                request = plan.throw(error) if error is not None else plan.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer, error = [], None
            # Ctrl-C and other errors do not reach the plan, which might catch them and try again.
            try:
                answer = yield from held.answer(request)
            except psycopg.Error as caught:
                error = classify(caught)
                error.__cause__ = caught
                if isinstance(error, ConnectionLost):
                    held_open = isinstance(request, Batch) and request.hold
                    error.may_be_committed = not held_open and may_be_committed(caught)
            except EventStoreError as caught:
                error = caught
            if isinstance(error, ConnectionLost):
                yield from held.distrust(error)
            # The plan may catch the error and go on, but not in the transaction that failed.
            if error is not None or not _holds(request):
                yield from held.release()
    except GeneratorExit:
        # A generator that is closed may not yield, so nobody would wait for the release.
        held.abandon()
        raise
    finally:
        # A plan may raise between two batches of a transaction that it holds open.
        yield from held.release()


def _holds(request: object) -> bool:
    """Return whether a transaction stays open behind a request."""
    return isinstance(request, GiveWay) or (isinstance(request, Batch) and request.hold)


class _Held:
    """
    What a running plan holds.

    :ivar connection: of its open transaction, or None.
    :ivar scope: the scope that this transaction has entered.
    """

    def __init__(self, io: Io, enter_scope: EnterScope) -> None:
        self.io = io
        self.enter_scope = enter_scope
        self.connection: Any = None
        self.scope: Scope | None = None

    def answer(
        self, request: Batch | Rollback | Pause | GiveWay | Parallel
    ) -> Generator[Any, Any, Any]:
        """Do what the plan asks for."""
        match request:
            case Batch():
                opening = self.connection is None
                if opening:
                    self.connection = yield self.io.acquire()
                    self.scope = None
                patient = request.scope is not None and request.scope.patient
                statements, before = _framed(request, opening, self.scope, self.enter_scope)
                rows = yield self.io.exchange(self.connection, statements, before, patient)
                self.scope = request.scope
                return rows[: len(request.statements)]
            case Rollback():
                return []
            case Pause(seconds):
                return (yield self.io.sleep(seconds))
            case GiveWay():
                return (yield self.io.sleep(0))
            case Parallel(plans, jobs):
                return (yield self.io.fan_out(plans, jobs))
            case _:
                assert_never(request)

    def abandon(self) -> None:
        """Give the connection up, if there is one, without waiting."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            self.io.abandon(connection)

    def distrust(self, error: ConnectionLost) -> Generator[Any, Any]:
        """Drop the idle connections after the one that is held was lost."""
        # A restart or a NAT that forgets ends them too, and each would cost a retry: after a
        # silence, a whole limit.
        if self.connection is not None:
            yield self.io.distrust(self.connection, error)

    def release(self) -> Generator[Any, Any]:
        """Give the connection back, if there is one; what is open on it is rolled back."""
        if self.connection is not None:
            # If the release is interrupted, the next call must not give the connection back again.
            connection, self.connection = self.connection, None
            yield self.io.release(connection)


def _framed(
    batch: Batch, opening: bool, scope: Scope | None, enter_scope: EnterScope
) -> tuple[list[Statement], int]:
    """Return a batch with its transaction and scope around it, and how many stand before it."""
    statements: list[Statement] = []
    # PostgreSQL sets an isolation level before the first query only, and the scope is a query.
    if opening and batch.hold:
        statements.append(_BEGIN_SNAPSHOT if batch.snapshot else _BEGIN)
    # Inside a transaction the scope changes in an erasure alone, which enters the eraser's role.
    if batch.scope is not None and (opening or batch.scope != scope):
        statements.append(Statement(enter_scope.sql(batch.scope), (batch.scope.user_id,)))
    before = len(statements)
    statements += batch.statements
    if not opening and not batch.hold:
        statements.append(_COMMIT)
    return statements, before
