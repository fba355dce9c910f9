"""Timestamps: how JSON holds them, and how SQL selects them so that Python can hold them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

__all__ = ["as_utc", "readable", "readable_timestamp", "timestamp_text"]


def timestamp_text(timestamp: datetime) -> str:
    """Return a timestamp as JSON holds it: `2026-11-22T17:45:29.390533Z`."""
    return timestamp.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_utc(value: Any) -> Any:
    """Return a timestamp with time zone in UTC, and any other value as it is."""
    if isinstance(value, datetime) and value.tzinfo is not None and value.tzinfo is not UTC:
        return value.astimezone(UTC)
    return value


def readable_timestamp(column: str) -> str:
    """Return the SQL that selects a timestamp with time zone which Python can hold."""
    return readable(column, "timestamp with time zone")


def readable(column: str, sql_type: str) -> str:
    """
    Return the SQL that selects a column so that Python can hold every value.

    PostgreSQL also has infinity, years before 1, the time 24:00 and intervals of millions of
    years. The store writes none of these, but tampering can, and it must then be reported as a
    difference instead of failing as an error. Each such value is selected as one that nobody
    writes.

    :param sql_type: the column's type as PostgreSQL spells it, without modifiers.
    """
    bounds = _BOUNDS.get(sql_type)
    if bounds is None:
        return column
    first, last, substitute = bounds
    return (
        f"case when {column} is null or {column} between '{first}' and '{last}'"
        f" then {column} else '{substitute}' end"
    )


_BOUNDS = {
    "timestamp with time zone": ("0001-01-04Z", "9999-12-28Z", "0001-01-03Z"),
    "timestamp without time zone": ("0001-01-02", "9999-12-31 23:59:59.999999", "0001-01-01"),
    "date": ("0001-01-02", "9999-12-31", "0001-01-01"),
    "time without time zone": ("00:00", "23:59:59.999998", "23:59:59.999999"),
    "interval": ("-999999998 days", "999999998 days", "-999999999 days"),
}
"""By type: the first and the last value that is selected as it is, and the substitute."""
