"""What the pools of both drivers have in common: limits, options, and the sign of a pooler."""

from __future__ import annotations

from typing import Any

from psycopg.pq import TransactionStatus

from eventstore.database.settings import Settings

__all__ = ["IS_DIRECT", "OPEN", "at_once", "connect_options", "pool_options"]

OPEN = {TransactionStatus.INTRANS, TransactionStatus.INERROR}
"""A transaction is under way, and the pool would roll it back with a warning."""

IS_DIRECT = "select pg_catalog.pg_backend_pid()"
"""
Behind a transaction pooler a prepared statement may meet another server connection. A pooler
shows itself: the process it names is not the one that answers.
"""


def at_once(jobs: int, settings: Settings) -> int:
    """Return how many plans may run at once: those without a connection would wait for one."""
    return max(1, min(jobs, settings.pool_max_size))


def pool_options(settings: Settings) -> dict[str, Any]:
    """Return the keywords of a pool."""
    return {
        "open": False,
        "min_size": min(settings.pool_min_size, settings.pool_max_size),
        "max_size": settings.pool_max_size,
        "timeout": settings.pool_timeout_seconds,
        "max_idle": settings.max_idle_seconds,
        "reconnect_timeout": settings.pool_timeout_seconds,
        "kwargs": connect_options(settings),
    }


def connect_options(settings: Settings) -> dict[str, Any]:
    """Return the keywords of a connection."""
    return {
        "autocommit": True,
        "client_encoding": "UTF8",  # whatever PGCLIENTENCODING or the login's settings say
        "connect_timeout": settings.connect_timeout_seconds,
    }
