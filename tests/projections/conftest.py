"""Stores for the tests of rebuilds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from eventstore import EventStore


@pytest.fixture
def sync_store(database_url: str) -> Iterator[EventStore]:
    """The built-in store through the sync driver alone, which threads can share."""
    with EventStore.connect(database_url) as store:
        yield store
