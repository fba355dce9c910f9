"""
What is said while a server is away: one warning when it is gone, and one when it is back.

The pool tries again every second and logs every try, for each of its connections. That is dropped
here, for pools of the store and for no other pool of the process. The warnings go to the logger
`eventstore`; where the application configures no logging, Python prints them to standard error.
"""

from __future__ import annotations

import logging
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
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self._since: float | None = None
        self._lock = Lock()  # a pool connects in several threads

    def begin(self, error: psycopg.Error) -> None:
        """Note that a connection could not be made; the first time it is logged."""
        with self._lock:
            if self._since is not None:
                return
            self._since = monotonic()
        reason = (str(error).splitlines() or ["no reason given"])[0]
        _log.warning(
            "%s: no connection can be made: %s; trying again every second", self.server, reason
        )

    def end(self) -> None:
        """Note that a connection was made; if none could be before, it is logged."""
        if self._since is None:  # nearly always, and without the lock
            return
        with self._lock:
            since, self._since = self._since, None
        if since is not None:
            seconds = monotonic() - since
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
