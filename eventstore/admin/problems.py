"""A problem: what verify reports."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One thing in a log or a read model that is wrong.

    :ivar kind: in the log `gap`, `version`, `payload`, `hash`, `time`, `head`,
        `stream`, `erasure`, `anchor`, `hidden` or `unreadable`; in a read model `missing_row`,
        `extra_row` or `changed_row`; `more` if there are too many to list.
    :ivar detail: what is wrong, without any stored content.
    :ivar position: of the event, for a problem of the log.
    :ivar table: of the row, with its `key`, for a problem of a read model or of `stream`.
    """

    kind: str
    user_id: str
    detail: str
    position: int | None = None
    table: str | None = None
    key: tuple[str, ...] | None = None
