"""What a call costs in round trips to the database, counted by a proxy."""

from __future__ import annotations

from typing import Any

import pytest
from mcp.client.client import Client
from mcp.server import MCPServer

from eventstore import AsyncEventStore, Settings
from eventstore.integrations.mcp import CALL_META, RecordCalls, current_transaction
from tests.support.proxy import Proxy, url_through

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("name", "round_trips"), [({}, 2), ({CALL_META: {"id": "one"}}, 4)])
async def test_a_call_takes_two_round_trips_four_with_a_name_and_three_again(
    name: Any, round_trips: int, database_url: str, proxy: Proxy
) -> None:
    settings = Settings(database_url=url_through(proxy, database_url), pool_max_size=1)
    async with AsyncEventStore.connect(settings=settings) as store:
        server = MCPServer("todo", extensions=[RecordCalls(store, user="alice")])

        @server.tool()
        async def add_task(title: str) -> str:
            return str(current_transaction().tasks.create(title).id)

        async with Client(server) as client:
            await client.call_tool("add_task", {"title": "Eggs"})  # the conversation begins
            proxy.count()

            await client.call_tool("add_task", {"title": "Milk"}, meta=name)
            taken = proxy.count()
            await client.call_tool("add_task", {"title": "Milk"}, meta=name)

    assert (taken, proxy.count()) == (round_trips, 3 if name else 2)
