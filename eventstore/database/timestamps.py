"""Timestamps: how JSON holds them, and how SQL selects them so that Python can hold them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

__all__ = ["as_utc", "readable_timestamp", "timestamp_text"]


def timestamp_text(timestamp: datetime) -> str:
    """Return a timestamp as JSON holds it: `2026-11-22T17:45:29.390533Z`."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_utc(value: Any) -> Any:
    """Return a timestamp with time zone in UTC, and any other value as it is."""
    if isinstance(value, datetime) and value.tzinfo is not None and value.tzinfo is not UTC:
        return value.astimezone(UTC)
    return value


def readable_timestamp(column: str) -> str:
    """
    Return the SQL that selects a timestamp with time zone so that Python can hold every value.

    PostgreSQL also has infinity and years before 1. The store writes none of these, but tampering
    can, and it must then be reported as a difference instead of failing as an error. Each such
    value is selected as one that nobody writes.
    """
    return (
        f"case when {column} is null or {column} between '0001-01-04Z' and '9999-12-28Z'"
        f" then {column} else '0001-01-03Z' end"
    )
