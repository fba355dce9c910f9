"""
One test for both colours: an async store that is used as if it were sync.

`Blocked` wraps an `AsyncEventStore` (and everything it returns) so that its coroutines are run to
their result at once on a loop of the test's own. A test written against `EventStore` runs on it
unchanged, through the real async driver.
"""

from __future__ import annotations

import asyncio
import inspect
from types import TracebackType
from typing import Any, cast

from eventstore import AsyncEventStore, EventStore

__all__ = ["blocked"]


def blocked(store: AsyncEventStore, loop: asyncio.AbstractEventLoop) -> EventStore:
    """Return `store` with the face of the sync one."""
    return cast("EventStore", Blocked(store, loop))


class Blocked:
    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return self._wrap(getattr(self._inner, name))

    def __enter__(self) -> Any:
        return self._wrap(self._loop.run_until_complete(self._inner.__aenter__()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run_until_complete(self._inner.__aexit__(kind, error, trace))

    def _wrap(self, value: Any) -> Any:
        if inspect.iscoroutine(value):
            return self._wrap(self._loop.run_until_complete(value))
        if inspect.isroutine(value):
            return lambda *args, **kwargs: self._wrap(value(*args, **kwargs))
        if type(value).__module__.startswith("eventstore.store") or hasattr(value, "__aenter__"):
            return Blocked(value, self._loop)
        return value
