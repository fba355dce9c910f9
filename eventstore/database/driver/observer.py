"""What a call of the store tells an observer, such as a service's telemetry, once it has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

__all__ = ["CallReport", "Observer", "observed"]

_log = logging.getLogger("eventstore")


@dataclass(slots=True)
class CallReport:
    """
    What one call did; no id of a user and nothing that users wrote is in it.

    :ivar name: such as `messages.post`, `user.history` or `store.rebuild`.
    :ivar seconds: from the call to its result or error.
    :ivar pool_seconds: of these, spent waiting for a connection of the pool.
    :ivar round_trips: pipelines that were sent to the server.
    :ivar retries: why an attempt was followed by another one, oldest first.
    :ivar error: with which the call ended; None if it has a result.
    """

    name: str
    seconds: float = 0.0
    pool_seconds: float = 0.0
    round_trips: int = 0
    retries: list[Exception | None] = field(default_factory=list)
    error: BaseException | None = None


type Observer = Callable[[CallReport], object]
"""
Called once for each call of the store, in the thread or task of its caller.

It must not wait: the caller waits for it. What it raises is logged and does not end the call.
"""


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
