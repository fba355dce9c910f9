"""Instants, dates and spans: as JSON has them, and as Python can hold them."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["instant_text", "readable", "readable_instant"]


def instant_text(instant: datetime) -> str:
    """Return an instant as JSON holds it: `2026-11-22T17:45:29.390533Z`."""
    return instant.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def readable_instant(column: str) -> str:
    """Return the SQL of a timestamp with time zone that Python can hold; see `readable`."""
    return readable(column, "timestamp with time zone")


def readable(column: str, sql_type: str) -> str:
    """
    Return the SQL of a column whose values Python can hold.

    PostgreSQL also knows infinity, years before 1, 24 o'clock and spans of millions of years:
    nothing of ours writes them, but what was tampered with must be told as a difference, not as an
    error. A value of the type that nobody writes stands in for them.
    """
    bounds = _BOUNDS.get(sql_type)
    if bounds is None:
        return column
    first, last, instead = bounds
    return (
        f"case when {column} is null or {column} between '{first}' and '{last}'"
        f" then {column} else '{instead}' end"
    )


_BOUNDS = {
    "timestamp with time zone": ("0001-01-04Z", "9999-12-28Z", "0001-01-03Z"),
    "timestamp without time zone": ("0001-01-02", "9999-12-31 23:59:59.999999", "0001-01-01"),
    "date": ("0001-01-02", "9999-12-31", "0001-01-01"),
    "time without time zone": ("00:00", "23:59:59.999998", "23:59:59.999999"),
    "interval": ("-999999998 days", "999999998 days", "-999999999 days"),
}
"""The first and the last that is read as it is, and what stands in for all others."""
