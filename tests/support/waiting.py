"""Waiting for a condition, with a limit."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["until"]

_POLL_SECONDS = 0.01


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `condition` returns True; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} seconds"
        time.sleep(_POLL_SECONDS)
