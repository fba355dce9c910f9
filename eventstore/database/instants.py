"""Instants: as JSON has them, and as Python can hold them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["instant_text", "readable_instant"]


def instant_text(instant: datetime) -> str:
    """Return an instant as JSON holds it: `2026-11-22T17:45:29.390533Z`."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def readable_instant(column: str) -> str:
    """
    Return the SQL of an instant that Python can hold.

    PostgreSQL also knows infinity and years before 1: nothing of ours writes them, but what was
    tampered with must be told as a difference, not as an error.
    """
    return (
        f"case when {column} is null or {column} between '0001-01-04Z' and '9999-12-28Z'"
        f" then {column} else '0001-01-03Z' end"
    )
