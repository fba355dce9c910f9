"""What verify finds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One thing that is not as it must be.

    :ivar kind: `gap`, `version`, `payload`, `request`, `hash`, `time`, `head`, `stream`, `erasure`,
        `anchor`, `hidden` or `unreadable` in the log; `missing_row`, `extra_row` or `changed_row`
        in a read model; `more` if there are too many to name.
    :ivar position: of the event, for problems of the log.
    :ivar table: of the row, with its `key`, for problems of a read model or of `stream`.
    """

    kind: str
    user_id: str
    detail: str
    position: int | None = None
    table: str | None = None
    key: tuple[str, ...] | None = None
