"""
Earlier moments in the read models: the last position of a moment, as SQL.

The tables say when things happened, which may be years before they were recorded, or after it. So
what was there at a moment is told by positions alone (docs/decisions/0028).
"""

from __future__ import annotations

__all__ = ["END", "moment_position"]

END = 2**63 - 1
"""The last position of now, which leaves nothing out."""


def moment_position(position: int, timestamp: int) -> str:
    """
    Return the SQL of the last position of a moment; $1 is the user.

    :param position: the number of the parameter that has the moment's position, null for no bound.
    :param timestamp: likewise of its timestamp. Indexes: user_log_pkey and event_pkey.
    """
    # A sub-select is worked out once for a statement, and not for each row.
    return (
        f"(select coalesce(least(${position}::bigint,"
        f" eventstore.position_at($1, ${timestamp}::timestamptz)), {END}))"
    )
