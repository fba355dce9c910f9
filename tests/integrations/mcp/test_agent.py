"""An agent of the OpenAI Agents SDK and an MCP server name a call by one id."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from agents import Agent, Runner, set_tracing_disabled
from agents.mcp import MCPServerStreamableHttp
from agents.testing import ScriptedModel, assistant_message, function_call

from eventstore import EventStore
from eventstore.integrations.mcp import tool_call_meta
from tests.integrations.mcp.service import Runs, make_server
from tests.support.web_server import run_app

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(database_url: str, runs: Runs) -> Iterator[str]:
    set_tracing_disabled(disabled=True)
    with run_app(make_server(database_url, runs).streamable_http_app()) as url:
        yield url


async def test_the_id_of_an_item_finds_the_servers_call(
    url: str, runs: Runs, database_url: str
) -> None:
    model = ScriptedModel(
        [
            [function_call("add_task", {"title": "Milk"}, call_id="call_7")],
            [assistant_message("Done.")],
        ]
    )
    mcp = MCPServerStreamableHttp(
        {"url": f"{url}/mcp", "headers": {"Authorization": "Bearer alice"}},
        tool_meta_resolver=tool_call_meta(lambda run: run.context["session"]),
        client_session_timeout_seconds=60,
    )
    async with mcp:
        agent = Agent(name="todo", model=model, mcp_servers=[mcp])
        result = await Runner.run(agent, "Buy milk", context={"session": "session-7"})

    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        items = [dict(item) for item in result.to_input_list()]
        alice.messages.extend("session-7", items, start=True)
        (item,) = alice.tool_calls.list(conversation="session-7", status=None)
        call = alice.tool_calls.find("mcp", item.call_id)
        events = alice.events(types=["ToolCallRequested"])
    assert (item.call_id, item.arguments) == ("call_7", '{"title":"Milk"}')
    assert (call.name, call.status) == ("add_task", "succeeded")
    assert events[0].metadata == {"agent_conversation": "session-7"}
    assert runs.count == 1


def test_a_name_may_be_of_the_services_own() -> None:
    context = SimpleNamespace(run_context={"call": "unique", "session": None})

    resolve = tool_call_meta(lambda run: run["session"], call_id=lambda run: str(run["call"]))

    assert resolve(context) == {"todo-eventstore/call": {"id": "unique"}}
