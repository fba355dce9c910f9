"""Waiting for a state, and never for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["until"]

_LOOK_SECONDS = 0.01


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Look again and again, until `condition` holds; fail if it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(_LOOK_SECONDS)
