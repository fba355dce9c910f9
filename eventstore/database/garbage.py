"""
Postpone full collections of Python's garbage collector while a long log is read or replayed.

A full collection looks at every object of the process, and whenever the objects have grown by a
quarter there is one more. The rows of a long log are a million objects that all live. To look at
them takes a second, in which no other thread and no event loop of the process runs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

__all__ = ["postpone_full_collections"]

_SELDOM = 100
"""
Collections of middle age before there is a full one: some two million new objects that live.

A part of a log has fewer. Where works overlap all the time, or one is abandoned, full collections
are ten times as rare as Python has them, and still come.
"""

_lock = Lock()
_works = 0
_own = _ours = 0
"""The threshold that the process had before the works that are going on, and what they made it."""


@contextmanager
def postpone_full_collections() -> Iterator[None]:
    """
    Have full collections be rare until the work inside has ended, and all that runs beside it.

    Young objects are collected as ever, and what no cycle holds is freed at once. The thresholds
    belong to the process, so cycles of the service that have grown old wait as well. Nothing is
    done where there is no such threshold, as in a Python whose collector works in small steps.
    """
    global _works, _own, _ours  # noqa: PLW0603 - the thresholds are the process's too
    with _lock:
        _works += 1
        now = gc.get_threshold()[2]
        # Python counts on where it passes over a full collection, because little has grown old.
        rare = gc.get_count()[2] + _SELDOM
        if _works == 1:
            _own, _ours = now, max(now, rare) if now else 0
            _set_threshold(_ours)
        elif rare < now == _ours:  # there has been a full collection since the first work began
            _ours = rare
            _set_threshold(_ours)
    try:
        yield
    finally:
        with _lock:
            _works -= 1
            # Whoever set another one meanwhile keeps it.
            if _works == 0 and gc.get_threshold()[2] == _ours:
                _set_threshold(_own)


def _set_threshold(number: int) -> None:
    """Set how many collections of middle age bring a full one."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, number)
