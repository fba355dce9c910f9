"""
A store opened with either driver, so that one test covers the sync and the async store.

`SyncWrapper` wraps an `AsyncEventStore`, and everything that it returns, and runs each coroutine to
its result on an event loop of the test. A test that is written against `EventStore` therefore runs
unchanged through the real async driver.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, cast

from eventstore import AsyncEventStore, EventStore

__all__ = ["SyncWrapper", "open_store", "sync_view"]


@contextmanager
def open_store(
    driver: str, database_url: str | None = None, **options: Any
) -> Iterator[EventStore]:
    """
    Open a store with the `sync` or the `async` driver, and close it at the end.

    :param options: the keyword arguments of `EventStore.connect`.
    """
    if driver == "sync":
        with EventStore.connect(database_url, **options) as store:
            yield store
        return
    connecting = AsyncEventStore.connect(database_url, **options)
    with closing(asyncio.new_event_loop()) as loop, SyncWrapper(connecting, loop) as store:
        yield store


def sync_view(store: AsyncEventStore, loop: asyncio.AbstractEventLoop) -> EventStore:
    """Return an async store with the methods of the sync one."""
    return cast("EventStore", SyncWrapper(store, loop))


class SyncWrapper:
    """An async object whose coroutines and context managers are run to their end by the caller."""

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
        # The objects of the facade and all async context managers have coroutines of their own.
        if type(value).__module__.startswith("eventstore.store") or hasattr(value, "__aenter__"):
            return SyncWrapper(value, self._loop)
        return value
