"""What a call of the store tells an observer, such as a service's telemetry, once it has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, runtime_checkable

from eventstore.database.plan import AboutToolCall

__all__ = [
    "CallReport",
    "DeliveryReport",
    "FeedObserver",
    "Observer",
    "observed",
    "tell_delivered",
]

_log = logging.getLogger("eventstore")


@dataclass(slots=True)
class CallReport:
    """
    What one call did; no id of a user and nothing that users wrote is in it.

    Of a tool call it has the names that a model or the service gave, never arguments or outcomes.

    :ivar name: such as `messages.post`, `user.history` or `store.rebuild`.
    :ivar seconds: from the call to its result or error.
    :ivar pool_seconds: of these, spent waiting for a connection of the pool.
    :ivar round_trips: pipelines that were sent to the server.
    :ivar retries: why an attempt was followed by another one, oldest first.
    :ivar error: with which the call ended; None if it has a result.
    :ivar tool_call: which tool call was requested, claimed or ended; None if it was none, or
        several.
    """

    name: str
    seconds: float = 0.0
    pool_seconds: float = 0.0
    round_trips: int = 0
    retries: list[Exception | None] = field(default_factory=list)
    error: BaseException | None = None
    tool_call: AboutToolCall | None = None


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """
    What a worker of a feed did with one user's batch; no id of a user is in it.

    :ivar feed: the name of the feed.
    :ivar events: how many were delivered.
    :ivar lag_seconds: how long ago the batch's oldest event had been recorded when the worker took
        it, by the server's clock.
    :ivar error: with which the handler failed at the event behind them; None if it did not.
    :ivar parked: that event is not tried again by itself, and its user waits.
    """

    feed: str
    events: int
    lag_seconds: float
    error: Exception | None = None
    parked: bool = False


type Observer = Callable[[CallReport], object]
"""
Called once for each call of the store, in the thread or task of its caller; the begin and the end
of an async turn in a task with a copy of its context.

It must not wait: the caller waits for it. What it raises is logged and does not end the call.
"""


@runtime_checkable
class FeedObserver(Protocol):
    """An observer with this method is told of feeds too; the same holds for it."""

    def delivered(self, batch: DeliveryReport) -> object:
        """Take the report of a batch that was delivered, or in which the handler failed."""


def tell_delivered(observer: Observer | None, batch: DeliveryReport) -> None:
    """Give the report of a batch to the observer, if it is one of feeds."""
    if isinstance(observer, FeedObserver):
        try:
            observer.delivered(batch)
        except Exception:  # noqa: BLE001 - a feed must not end because of an observer
            _log.exception("the observer of feeds raised an error")


@contextmanager
def observed(observer: Observer, name: str) -> Iterator[CallReport]:
    """Give a call its report, and the report to the observer when the call has ended."""
    call = CallReport(name)
    began = perf_counter()
    try:
        yield call
    except BaseException as error:
        call.error = error
        raise
    finally:
        call.seconds = perf_counter() - began
        try:
            observer(call)
        except Exception:  # noqa: BLE001 - what was committed must not fail because of an observer
            _log.exception("the observer of calls raised an error")
