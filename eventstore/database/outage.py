"""
What is said while a server is away: one warning when it is gone, and one when it is back.

The pool tries again every second and logs every try, for each of its connections. That is dropped
here, for pools of the store and for no other pool of the process. The warnings go to the logger
`eventstore`; where the application configures no logging, Python prints them to standard error.
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

__all__ = ["Outage", "pool_name"]

_log = logging.getLogger("eventstore")
_numbers = count(1)
_PREFIX = "eventstore-"


class Outage:
    """
    Whether connections to one server can be made.

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
        self._lock = Lock()  # a pool connects in several threads

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Note how an attempt to connect ends; the first failure is logged, and the return too."""
        with self._lock:
            self.connecting += 1
        try:
            yield
        except psycopg.Error as error:
            self._begin(error)
            raise
        finally:
            with self._lock:
                self.connecting -= 1
        self._end()

    def _begin(self, error: psycopg.Error) -> None:
        with self._lock:
            first, self.error = self.error is None, error
            if not first:
                return
            self._since = monotonic()
        reason = (str(error).splitlines() or ["no reason given"])[0]
        _log.warning(
            "%s: no connection can be made: %s; trying again every second", self.server, reason
        )

    def _end(self) -> None:
        with self._lock:
            error, self.error = self.error, None
        if error is not None:
            seconds = monotonic() - self._since
            _log.warning("%s: connected again, after %.0f seconds", self.server, seconds)


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
