"""Fixtures of the Agents SDK's tests: an async store, and no trace that leaves the machine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from agents import set_tracing_disabled

from eventstore import AsyncEventStore, AsyncUser


@pytest.fixture(autouse=True, params=[True], ids=["tracing_disabled"])
def tracing(request: pytest.FixtureRequest) -> None:
    set_tracing_disabled(request.param)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def async_store(database_url: str) -> AsyncIterator[AsyncEventStore]:
    async with AsyncEventStore.connect(database_url) as store:
        yield store


@pytest.fixture
def alice(async_store: AsyncEventStore) -> AsyncUser:
    return async_store.user("alice")
