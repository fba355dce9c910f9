"""
Run a plan: what happens between its batches, for every driver.

The conductor turns a plan into actions (take a connection, exchange statements for rows, give it
back, sleep) and leaves only those to a driver. Transactions, scope and the fate of errors are
decided here, once, for sync and async.

A batch is an implicit transaction: PostgreSQL opens it at the pipeline's first statement and
commits at its end, so BEGIN and COMMIT cost nothing. A held batch gets an explicit pair.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

from eventstore.database.plan import Batch, Parallel, Pause, Plan, Rollback, Statement
from eventstore.database.scope import SET_SCOPE, Scope, scope_values
from eventstore.database.settings import Settings
from eventstore.errors import ConnectionLost, EventStoreError

__all__ = ["Acquire", "Action", "Done", "Exchange", "FanOut", "Release", "Sleep", "interpret"]


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
    timeout_seconds: float
    """Silence of the server before the connection is given up: it may be gone without a word."""


@dataclass(frozen=True, slots=True)
class Release:
    """Give the connection back, what is open rolled back; the pool drops it if it is broken."""

    connection: Any


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class FanOut:
    """Run other plans, `jobs` at once; answered with their results in order."""

    plans: Sequence[Callable[[], Plan[Any]]]
    jobs: int


@dataclass(frozen=True, slots=True)
class Done:
    """The plan has ended; always the last action."""

    result: Any


type Action = Acquire | Exchange | Release | Sleep | FanOut | Done

_BEGIN = Statement("begin", prepared=False)
_BEGIN_SNAPSHOT = Statement("begin isolation level repeatable read, read only", prepared=False)
_COMMIT = Statement("commit", prepared=False)
_PATIENT = 20  # times the usual wait, for work that has no statement limit


def interpret(plan: Plan[Any], settings: Settings) -> Generator[Action, Any]:
    """
    Ask the driver for every action the plan takes, the last one being `Done`.

    Errors of an exchange are thrown into the plan, after its transaction is given up.
    """
    course = _PlanRun(settings)
    answer: list[Any] | None = None
    error: EventStoreError | None = None
    try:
        while True:
            try:
                request = plan.throw(error) if error is not None else plan.send(answer)  # type: ignore[arg-type]  # a generator is started with None
            except StopIteration as end:
                result = end.value
                break
            answer = error = None
            try:
                answer = yield from course.serve(request)
            except EventStoreError as caught:
                error = caught
                course.suspicious = isinstance(caught, ConnectionLost)
                yield from course.release()
    finally:
        yield from course.release()
    yield Done(result)


class _PlanRun:
    """The connection a plan holds, if it holds one, and the scope that is set on it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.connection: Any = None
        self.scope: Scope | None = None
        self.suspicious = False

    def serve(
        self, request: Batch | Rollback | Pause | Parallel
    ) -> Generator[Action, Any, list[Any]]:
        """Turn one request of the plan into actions and return the answer."""
        match request:
            case Rollback():
                yield from self.release()
                return []
            case Pause(seconds):
                yield Sleep(seconds)
                return []
            case Parallel(plans, jobs):
                results: list[Any] = yield FanOut(plans, jobs)
                return results
            case Batch():
                return (yield from self._exchange(request))
            case _:
                assert_never(request)

    def release(self) -> Generator[Action, Any]:
        """Give the connection back, if one is held."""
        if self.connection is not None:
            held, self.connection = self.connection, None
            yield Release(held)

    def _exchange(self, batch: Batch) -> Generator[Action, Any, list[Any]]:
        opening = self.connection is None
        if opening:
            self.connection = yield Acquire(self.suspicious)
            self.suspicious, self.scope = False, None
        statements, skipped = _framed(batch, opening, self.scope, self.settings)
        self.scope = batch.scope
        patience = _PATIENT if batch.scope is not None and batch.scope.patient else 1
        timeout = self.settings.answer_timeout_seconds * patience
        rows: list[Any] = yield Exchange(self.connection, statements, timeout)
        if not batch.hold:
            yield from self.release()
        return rows[skipped : skipped + len(batch.statements)]


def _framed(
    batch: Batch, opening: bool, scope: Scope | None, settings: Settings
) -> tuple[list[Statement], int]:
    """Return the batch with its transaction and scope around it, and how many stand before it."""
    before: list[Statement] = []
    after: list[Statement] = []
    if opening and batch.hold:
        before.append(_BEGIN_SNAPSHOT if batch.snapshot else _BEGIN)
    if batch.scope is not None and batch.scope != scope:
        before.append(_set_scope(batch.scope, settings))
    if not opening and not batch.hold:
        after.append(_COMMIT)
    return [*before, *batch.statements, *after], len(before)


def _set_scope(scope: Scope, settings: Settings) -> Statement:
    return Statement(SET_SCOPE, scope_values(scope, settings))
