"""The first step of a superuser who changes history: disable the triggers that forbid it."""

from __future__ import annotations

import psycopg

__all__ = ["disarm"]


def disarm(admin: psycopg.Connection) -> None:
    """Disable the append-only triggers, as an owner can; `eventstore doctor` reports it."""
    for table in ("event", "user_log", "stream"):
        admin.execute(f"alter table eventstore.{table} disable trigger user")
