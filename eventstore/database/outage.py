"""
What is logged of connections: that a server is away and is back, and what was lost or found none.

However often it happens, each of these is one line a minute at most, with the number of times. The
pool tries again every second and logs every try, for each of its connections. That is dropped here,
for pools of the store and for no other pool of the process. The warnings go to the logger
`eventstore.connections`; where the application configures no logging, Python prints them to
standard error.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Lock
from time import monotonic
from typing import override

import psycopg

from eventstore.errors import EventStoreError

__all__ = ["Outage", "pool_name"]

_log = logging.getLogger("eventstore.connections")
_numbers = count(1)
_PREFIX = "eventstore-"
_EVERY_SECONDS = 60.0


class _OnceAMinute:
    """Counts what happens, and says when to tell how often it has."""

    def __init__(self) -> None:
        self._count = 0
        self._next = 0.0

    def due(self) -> int:
        """Count once more; return how often it happened since it was told, or 0 to tell nothing."""
        self._count += 1
        if monotonic() < self._next:
            return 0
        self._next = monotonic() + _EVERY_SECONDS
        count, self._count = self._count, 0
        return count


class Outage:
    """
    Whether connections to one server can be made, and what is logged of it.

    :ivar server: its name in the log.
    :ivar error: why the last connection could not be made; None if it was.
    :ivar connecting: connections that are being made.
    :ivar distrusted_at: when connections were dropped because one was lost.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.error: psycopg.Error | None = None
        self.connecting = 0
        self.distrusted_at = 0.0
        self._since = 0.0
        self._attempts = 0
        self._requests = 0
        self._announced = False
        self._again = _OnceAMinute()
        self._lost = _OnceAMinute()
        self._exhausted = _OnceAMinute()
        self._lock = Lock()  # a pool connects in several threads

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note how an attempt to connect ends: failures are logged, and the return too."""
        with self._lock:
            self.connecting += 1
        try:
            yield
        except psycopg.Error as error:
            self._failed(error)
            raise
        finally:
            with self._lock:
                self.connecting -= 1
        self._connected()

    def lost(self, error: EventStoreError) -> None:
        """Note that a connection broke while it was in use."""
        with self._lock:
            count = self._lost.due()
        if count == 1:
            self._warn("a connection was lost: %s", error)
        elif count:
            self._warn("%d more connections were lost, the last one: %s", count, error)

    def refused(self) -> None:
        """Note that a request failed because no connection can be made."""
        with self._lock:
            self._requests += 1

    def exhausted(self, connections: int) -> None:
        """
        Note that a request failed because all connections are leased.

        :param connections: how many the pool has.
        """
        with self._lock:
            count = self._exhausted.due()
        if count:
            requests = "1 request" if count == 1 else f"{count} requests"
            self._warn("%s failed, because none of %d connections was free", requests, connections)

    def _failed(self, error: psycopg.Error) -> None:
        now = monotonic()
        with self._lock:
            if self.error is None:
                self._since, self._attempts, self._requests, self._announced = now, 0, 0, False
            self.error = error
            self._attempts += 1
            # Not counted anew with each outage: a server at its limit refuses now and then.
            due, seconds = self._again.due(), now - self._since
            self._announced = self._announced or bool(due)
            attempts, requests = self._attempts, self._requests
        reason = (str(error).splitlines() or ["no reason given"])[0]
        if due and attempts == 1:
            self._warn("no connection can be made: %s; trying again every second", reason)
        elif due:
            self._warn(
                "no connection for %.0f seconds: %d attempts and %d requests failed: %s",
                seconds,
                attempts,
                requests,
                reason,
            )

    def _connected(self) -> None:
        with self._lock:
            error, self.error = self.error, None
            seconds = monotonic() - self._since
            attempts, requests = self._attempts, self._requests
        if error is not None and self._announced:
            self._warn(
                "connected again, after %.0f seconds: %d attempts and %d requests failed",
                seconds,
                attempts,
                requests,
            )

    def _warn(self, text: str, *values: object) -> None:
        _log.warning(f"%s: {text}", self.server, *values)


def pool_name() -> str:
    """Return a name for a pool, by which its records are known among those of other pools."""
    return f"{_PREFIX}{next(_numbers)}"


class _WithoutOurTries(logging.Filter):
    """Drops what psycopg_pool warns of connections that our pools lost or could not make."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        first = record.args[0] if isinstance(record.args, tuple) and record.args else None
        if record.levelno != logging.WARNING:
            return True
        if isinstance(first, psycopg.BaseConnection):
            return not (first.closed and getattr(first, "is_of_store", False))
        return not (isinstance(first, str) and first.startswith(_PREFIX))


# A filter of the logger, and no level or handler, because these are the application's.
logging.getLogger("psycopg.pool").addFilter(_WithoutOurTries())
