"""
Run a plan: what happens around and between its batches, for every driver.

Transactions, scope, the deadline and the fate of errors are decided here, once, for sync and async.
Everything that waits is a method of the driver. The interpreter yields what such a method returns
and gets back its result: the sync driver returns results as they are, the async driver awaits them.

A batch is an implicit transaction: PostgreSQL opens it at the pipeline's first statement and
commits at its end, so BEGIN and COMMIT cost nothing. A held batch gets an explicit pair.

A call has one deadline: waiting for a connection, connecting, every statement and every retry end
by it. An attempt has nine tenths of what is left, and less of a short call, so that there is time
to find out on another connection about a commit whose answer did not come. Work on whole logs has
no end that could be foretold: there each step has the time of a call, statements have no limit, and
retries go on for the time of a call after the first failure.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from copy import copy
from time import monotonic
from typing import Any, Protocol, Self, assert_never

import psycopg

from eventstore.database.driver.observer import CallReport
from eventstore.database.errors import classify, may_be_committed
from eventstore.database.plan import (
    AboutToolCall,
    Batch,
    GiveWay,
    Parallel,
    Pause,
    Plan,
    Retry,
    Rollback,
    Rows,
    Statement,
)
from eventstore.database.scope import EnterScope, Scope
from eventstore.errors import ConnectionLost, EventStoreError, TimedOut, Unavailable

__all__ = ["CallTime", "Io", "interpret"]


class CallTime:
    """
    How much time the calls of a driver have.

    :ivar seconds: the time of a call.
    :ivar stepwise: each step has that time, and not the whole.
    """

    seconds: float
    stepwise: bool = False

    def within(self, seconds: float) -> Self:
        """Return a driver on the same pool whose calls have so much time."""
        driver = copy(self)
        driver.seconds, driver.stepwise = seconds, False
        return driver

    def by_steps(self) -> Self:
        """Return a driver on the same pool for work on whole logs; see the module."""
        driver = copy(self)
        driver.stepwise = True
        return driver


class Io(Protocol):
    """
    What a driver does; each method returns its result, or something to await for it.

    :ivar seconds: as of `CallTime`, and so is `stepwise`.
    """

    seconds: float
    stepwise: bool

    def acquire(self, seconds: float) -> Any:
        """Take a connection, and wait for one for so long."""

    def distrust(self, lost: Any, error: ConnectionLost) -> Any:
        """Drop the idle connections that were there when one was lost: they may be lost too."""

    def exchange(
        self, connection: Any, statements: Sequence[Statement], unread: int, until: float
    ) -> Any:
        """
        Send statements as one pipeline and return the rows of each.

        :param unread: so many of the first statements return nothing that the plan asked for.
        :param until: when to give up, by the monotonic clock; not for a stepwise driver.
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


# Of the time of an attempt. A lock comes first, so that the error says what was waited for, and the
# server before the client, because only the server can say that nothing was written.
_LOCK, _STATEMENT = 0.89, 0.92

_REST, _REST_SECONDS = 0.1, 0.2
"""
What an attempt leaves of the time, to settle what became of it: this part, or these seconds if they
are more, but at most half.
"""

_ATTEMPT_SECONDS, _ATTEMPT = 0.1, 0.05
"""With less time left, or a smaller part of the call's, no further attempt is begun."""

_BEGIN = Statement("begin", prepared=False)
_BEGIN_SNAPSHOT = Statement("begin isolation level repeatable read, read only", prepared=False)
_COMMIT = Statement("commit", prepared=False)


def interpret[T](  # noqa: C901 - the fate of each error
    plan: Plan[T], io: Io, enter_scope: EnterScope, call: CallReport | None = None
) -> Generator[Any, Any, T]:
    """
    Run a plan on connections of a driver and return its result.

    An error of a batch is thrown into the plan, once its transaction is given up.

    :param enter_scope: the SQL with which each transaction enters the scope of its batch.
    :param call: notes what the call does, for an observer; None if there is none.
    :return: a generator that yields what the methods of `io` return and is sent their results.
    :raises EventStoreError: what the plan raises, or does not catch; psycopg's errors are
        classified by `database.errors`, and the original is the cause.
    """
    held = _Held(io, enter_scope, call)
    answer: Any = None
    error: EventStoreError | None = None
    try:
        while True:
            try:
                request = plan.throw(error) if error is not None else plan.send(answer)
            except Unavailable as unavailable:
                held.tell_time(unavailable)
                raise
            except StopIteration as end:
                result: T = end.value
                return result
            answer, error = [], None
            # Ctrl-C and other errors do not reach the plan, which might catch them and try again.
            try:
                if isinstance(request, Batch):
                    answer = yield from held.exchange(request)
                else:
                    answer = yield from held.answer(request)
            except psycopg.Error as caught:
                error = _classified(caught, held_open=request.hold)
            except EventStoreError as caught:
                error = caught
            if error is not None:
                yield from held.fail(error)
            elif not request.hold and held.connection is not None:
                yield from held.release()
    except GeneratorExit:
        # A generator that is closed may not yield, so nobody would wait for the release.
        held.abandon()
        raise
    finally:
        # What ended the call did not reach the plan, whose own blocks must end all the same.
        plan.close()
        # A plan may raise between two batches of a transaction that it holds open.
        if held.connection is not None:
            yield from held.release()


def _classified(caught: psycopg.Error, *, held_open: bool) -> EventStoreError:
    """
    Return the error of the store for what a batch failed with.

    :param held_open: the batch was not to commit.
    """
    error = classify(caught)
    error.__cause__ = caught
    if isinstance(error, ConnectionLost):
        error.may_be_committed = not held_open and may_be_committed(caught)
    return error


class _Held:
    """
    What a running plan holds.

    :ivar connection: of its open transaction, or None.
    :ivar scope: the scope that this transaction has entered.
    :ivar began: when the call began, by the monotonic clock.
    :ivar until: when it ends: its deadline.
    :ivar met: the last two errors of its batches.
    :ivar call: what is noted for an observer, if there is one.
    """

    def __init__(self, io: Io, enter_scope: EnterScope, call: CallReport | None) -> None:
        self.began = monotonic()
        self.until = self.began + io.seconds
        self.met: tuple[EventStoreError | None, ...] = (None,)
        self.io = io
        self.enter_scope = enter_scope
        self.call = call
        self.connection: Any = None
        self.scope: Scope | None = None

    def answer(
        self, request: Rollback | Pause | Retry | GiveWay | Parallel | AboutToolCall
    ) -> Generator[Any, Any, Any]:
        """Do what the plan asks for beside batches."""
        match request:
            case Rollback():
                return []
            case Pause(seconds):
                yield self.io.sleep(seconds)
                self.until = monotonic() + self.io.seconds
                return []
            case Retry():
                return (yield from self._retry(request))
            case GiveWay():
                return (yield self.io.sleep(0))
            case AboutToolCall():
                if self.call is not None:
                    self.call.tool_call = request
                return []
            case Parallel(plans, jobs):
                return (yield self.io.fan_out(plans, jobs))
            case _:
                assert_never(request)

    def exchange(self, batch: Batch) -> Generator[Any, Any, list[Rows]]:
        """Send a batch, on a connection that is taken for it if none is held."""
        io = self.io
        if io.stepwise:
            self.until = monotonic() + io.seconds
        if opening := self.connection is None:
            self._time_left()
            began = monotonic()
            try:
                self.connection = yield io.acquire(self.until - began)
            finally:
                if self.call is not None:
                    self.call.pool_seconds += monotonic() - began
            self.scope = None
        if self.call is not None:
            self.call.round_trips += 1
        left = self._time_left()
        rest = max(left * _REST, min(_REST_SECONDS, left / 2))
        statements, before = self._framed(batch, opening, left - rest)
        rows: list[Rows] = yield io.exchange(self.connection, statements, before, self.until - rest)
        self.scope = batch.scope
        return rows[: len(batch.statements)]

    def _time_left(self) -> float:
        left = self.until - monotonic()
        if left <= 0:  # a replay took it, or other tasks of the event loop
            raise TimedOut(f"the {self.io.seconds:g} seconds of this call are over")
        return left

    def _retry(self, request: Retry) -> Generator[Any, Any, bool]:
        """Wait before another attempt, if there is time for one; keep half of it for that."""
        until = request.since + self.io.seconds if self.io.stepwise else self.until
        left = until - monotonic()
        # One that is cut off while it commits would only make an outcome unknown.
        if left < max(_ATTEMPT_SECONDS, self.io.seconds * _ATTEMPT):
            return False
        if self.call is not None:
            self.call.retries.append(self.met[-1])
        yield self.io.sleep(min(request.seconds, left / 2))
        return True

    def _framed(self, batch: Batch, opening: bool, seconds: float) -> tuple[list[Statement], int]:
        """Return a batch with its transaction and scope around it, and how many stand before it."""
        statements: list[Statement] = []
        # PostgreSQL sets an isolation level before the first query only, and the scope is a query.
        if opening and batch.hold:
            statements.append(_BEGIN_SNAPSHOT if batch.snapshot else _BEGIN)
        # Inside a transaction the scope changes in an erasure alone, which enters the eraser's
        # role. The limits stay as they were at its begin: what ends a later statement is `until`.
        if batch.scope is not None and (opening or batch.scope != self.scope):
            statement_seconds = 0 if self.io.stepwise else seconds * _STATEMENT
            entering = self.enter_scope.sql(
                batch.scope,
                seconds * _LOCK,
                statement_seconds,
                planned_once=batch.planned_once,
            )
            statements.append(Statement(*entering))
        before = len(statements)
        statements += batch.statements
        if not opening and not batch.hold:
            statements.append(_COMMIT)
        return statements, before

    def tell_time(self, error: Unavailable) -> None:
        """Have the error of a call say how long it tried, and what it met before."""
        if not self.io.stepwise:
            before = self.met[0] if error is self.met[-1] else self.met[-1]
            error.tell_time(monotonic() - self.began, before)

    def abandon(self) -> None:
        """Give the connection up, if there is one, without waiting."""
        if self.connection is not None:
            connection, self.connection = self.connection, None
            self.io.abandon(connection)

    def fail(self, error: EventStoreError) -> Generator[Any, Any]:
        """Give up the transaction that failed: the plan may catch the error and go on without."""
        self.met = (self.met[-1], error)
        if self.connection is not None:
            if isinstance(error, ConnectionLost):
                # A restart or a NAT that forgets ends the idle connections too, and each would
                # cost a retry: after a silence, a whole limit.
                yield self.io.distrust(self.connection, error)
            yield from self.release()

    def release(self) -> Generator[Any, Any]:
        """Give the connection back; what is open on it is rolled back."""
        # If the release is interrupted, the next call must not give the connection back again.
        connection, self.connection = self.connection, None
        yield self.io.release(connection)
