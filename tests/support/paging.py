"""Page through a list, as a web client does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventstore import Page

__all__ = ["everything"]


def everything[T](ask: Callable[..., Page[T]], **options: Any) -> list[T]:
    """
    Return the rows of all pages of a list, in the order in which they come.

    :param ask: returns a page, such as `alice.tasks.list`.
    """
    page = ask(**options)
    rows = list(page)
    while page.more:
        assert len(rows) < 10_000, "a cursor that stands still"
        assert page, "an empty page that says that more follow"
        page = ask(**options, after=page.next)
        rows += page
    return rows
