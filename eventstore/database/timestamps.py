"""Timestamps: how JSON and PostgreSQL hold them, and how SQL selects what Python can hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["EPOCH", "as_utc", "microseconds", "readable_timestamp", "timestamp_text"]

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""From which PostgreSQL counts microseconds."""
_MICROSECOND = timedelta(microseconds=1)


def microseconds(timestamp: datetime) -> int:
    """Return a timestamp as PostgreSQL's binary form holds it: microseconds since 2000 in UTC."""
    # Division of whole numbers: a float of seconds would round the last microseconds.
    return (timestamp - EPOCH) // _MICROSECOND


def timestamp_text(timestamp: datetime) -> str:
    """
    Return a timestamp as JSON holds it: `2026-11-22T17:45:29.390533Z`.

    :param timestamp: with a time zone.
    """
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_utc(value: Any) -> Any:
    """Return a timestamp with time zone in UTC, and any other value as it is."""
    if isinstance(value, datetime) and value.tzinfo is not None and value.tzinfo is not UTC:
        return value.astimezone(UTC)
    return value


def readable_timestamp(column: str) -> str:
    """
    Return the SQL that selects a timestamp with time zone so that Python can hold every value.

    :param column: the name of the column.
    :return: an expression; it gives 0001-01-03 for each value that Python cannot hold.
    """
    # PostgreSQL also has infinity and years before 1. Only tampering writes them, and verify must
    # report it and not fail. Python's own first and last days cannot be in every time zone.
    return (
        f"case when {column} is null or {column} between '0001-01-04Z' and '9999-12-28Z'"
        f" then {column} else '0001-01-03Z' end"
    )
