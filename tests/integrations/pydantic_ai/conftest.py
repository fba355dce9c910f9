"""A store that knows the event of the adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from eventstore import AsyncEventStore
from eventstore.integrations.pydantic_ai import AgentConversationSaved


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[AsyncEventStore]:
    async with AsyncEventStore.connect(database_url, events=[AgentConversationSaved]) as store:
        yield store
