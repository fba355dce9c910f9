"""
Tool calls of an MCP server are recorded, run once and answered again: real servers, real clients.

Each test over HTTP runs with a client of the newest protocol and with one of the old handshake.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import anyio.to_thread
import httpx2
import psycopg
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, CallToolResult

from eventstore import ConfigurationError, EventStore, InvalidInput, User
from eventstore.integrations.mcp import CALL_META, RecordCalls, current_call, current_user
from projections.models.tool_call import ToolCallView
from tests.integrations.mcp.service import Runs, make_server
from tests.support.proxy import Proxy, url_through
from tests.support.waiting import until
from tests.support.web_server import run_app

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(database_url: str, runs: Runs) -> Iterator[str]:
    server = make_server(database_url, runs, tool_seconds=30, wait_seconds=30)
    with run_app(server.streamable_http_app()) as url:
        yield url
        runs.go_on.set()


@pytest.fixture(params=["auto", "legacy"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recorded(database_url: str) -> Iterator[User]:
    """Alice, as the store has her."""
    with EventStore.connect(database_url) as store:
        yield store.user("alice")


@asynccontextmanager
async def client_of(name: str, url: str, mode: str = "auto") -> AsyncIterator[Client]:
    token = {"Authorization": f"Bearer {name}"}
    async with (
        httpx2.AsyncClient(headers=token, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def named(call_id: str, conversation: str | None = None) -> Any:
    where = {} if conversation is None else {"conversation": conversation}
    return {CALL_META: {"id": call_id, **where}}


def text_of(result: CallToolResult) -> str:
    return "".join(getattr(one, "text", "") for one in result.content)


def calls_of(user: User) -> list[ToolCallView]:
    return user.tool_calls.list(status=None)


async def test_a_call_is_recorded_with_what_it_changed_in_one_append(
    url: str, mode: str, recorded: User
) -> None:
    async with client_of("alice", url, mode) as alice:
        result = await alice.call_tool("add_task", {"title": "Milk"})

    assert isinstance(result.structured_content, dict)
    (entry,) = recorded.audit()
    assert (entry.name, entry.arguments, entry.status) == (
        "add_task",
        '{"title":"Milk"}',
        "succeeded",
    )
    assert entry.output["structuredContent"] == result.structured_content
    created, ended = entry.caused
    assert [created.type, ended.type] == ["TaskCreated", "ToolCallSucceeded"]
    moments = {one.recorded_at for one in recorded.events(after=created.position - 1)}
    assert (len(moments), ended.position) == (1, created.position + 1)
    assert [str(task.id) for task in recorded.tasks.list()] == [result.structured_content["id"]]
    assert recorded.conversations.list() == []  # it is archived


async def test_the_same_call_again_is_answered_with_the_stored_result(
    url: str, mode: str, runs: Runs, recorded: User
) -> None:
    async with client_of("alice", url, mode) as alice:
        first = await alice.call_tool("add_task", {"title": "Milk"}, meta=named("call_1"))
    async with client_of("alice", url, mode) as alice:
        again = await alice.call_tool("add_task", {"title": "Milk"}, meta=named("call_1"))

    assert again == first
    assert first.structured_content["note"] is None
    assert runs.count == len(recorded.tasks.list()) == 1
    assert recorded.tool_calls.find("mcp", "call_1").status == "succeeded"


async def test_retries_at_once_run_the_tool_once(
    url: str, mode: str, runs: Runs, recorded: User
) -> None:
    answers: list[CallToolResult] = []

    async def call() -> None:
        async with client_of("alice", url, mode) as alice:
            answers.append(
                await alice.call_tool("add_slowly", {"title": "Milk"}, meta=named("call_1"))
            )

    async with anyio.create_task_group() as tasks:
        for _ in range(6):
            tasks.start_soon(call)
        assert await anyio.to_thread.run_sync(runs.running.wait, 60)
        runs.go_on.set()

    assert [text_of(one) for one in answers] == ["added"] * 6
    assert runs.count == len(recorded.tasks.list()) == 1


async def test_the_same_id_for_other_arguments_is_refused(
    url: str, mode: str, recorded: User
) -> None:
    async with client_of("alice", url, mode) as alice:
        await alice.call_tool("add_task", {"title": "Milk"}, meta=named("call_1"))

        with pytest.raises(MCPError, match="'call_1' was used for another call") as refused:
            await alice.call_tool("add_task", {"title": "Eggs"}, meta=named("call_1"))
        await alice.call_tool("add_task", {"title": "Eggs"}, meta=named("call_1", "session-8"))

    assert refused.value.code == INVALID_PARAMS
    assert [task.title for task in recorded.tasks.list()] == ["Milk", "Eggs"]


async def test_errors_of_the_tool_and_of_the_protocol_are_told_apart_and_repeated(
    url: str, mode: str, runs: Runs, recorded: User
) -> None:
    async with client_of("alice", url, mode) as alice:
        for _ in range(2):
            refused = await alice.call_tool("refuse", {"title": "Milk"}, meta=named("one"))
            with pytest.raises(MCPError, match="out of reach") as protest:
                await alice.call_tool("protest", {}, meta=named("two"))
            assert refused.is_error
            assert "not on a Sunday" in text_of(refused)
            assert (protest.value.code, protest.value.data) == (-32050, {"until": "noon"})

    refusal, error = calls_of(recorded)
    assert [refusal.status, error.status] == ["failed", "failed"]
    assert refusal.error["isError"] is True
    assert error.error == {"code": -32050, "message": "out of reach", "data": {"until": "noon"}}
    assert runs.count == 2
    assert recorded.tasks.list() == []


async def test_what_the_store_refuses_as_the_tool_returns_fails_the_call(
    url: str, recorded: User
) -> None:
    async with client_of("alice", url) as alice:
        result = await alice.call_tool("complete_task", {"task": str(uuid4())})

    assert result.is_error
    assert "not found" in text_of(result)
    (call,) = calls_of(recorded)
    assert (call.status, call.error["isError"]) == ("failed", True)


async def test_a_tool_in_a_thread_reads_and_writes_for_its_user(url: str, recorded: User) -> None:
    recorded.tasks.create("Eggs")

    async with client_of("alice", url) as alice:
        result = await alice.call_tool("add_in_a_thread", {"title": "Milk"})

    assert text_of(result) == "1 before"
    assert [task.title for task in recorded.tasks.list()] == ["Eggs", "Milk"]


async def test_a_call_that_its_client_cancels_is_abandoned_and_changes_nothing(
    url: str, mode: str, runs: Runs, recorded: User
) -> None:
    reported: list[str | None] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reported.append(message)

    async with client_of("alice", url, mode) as alice:
        with anyio.move_on_after(60) as waiting:
            async with anyio.create_task_group() as tasks:

                async def call() -> None:
                    await alice.call_tool(
                        "add_slowly", {"title": "Milk"}, meta=named("one"), progress_callback=report
                    )

                tasks.start_soon(call)
                assert await anyio.to_thread.run_sync(runs.running.wait, 60)
                tasks.cancel_scope.cancel()
        assert not waiting.cancelled_caught
        await anyio.to_thread.run_sync(
            until, lambda: [one.status for one in calls_of(recorded)] == ["abandoned"]
        )
        again = await alice.call_tool("add_slowly", {"title": "Milk"}, meta=named("one"))

    assert again.is_error
    assert "abandoned" in text_of(again)
    assert reported in ([], ["half of it"])  # it may be on its way as the client goes
    assert runs.count == 1
    assert recorded.tasks.list() == []


@pytest.mark.parametrize("tool", ["add_task", "add_in_a_thread"])
@pytest.mark.parametrize("step", ["request", "claim"])
async def test_a_call_that_is_cancelled_as_it_is_recorded_is_abandoned_before_its_tool_runs(
    step: str, tool: str, database_url: str, proxy: Proxy, runs: Runs, recorded: User
) -> None:
    proxied = url_through(proxy, database_url)
    server = make_server(proxied, runs, verified=False, user="alice", conversation="tools")
    recorded.conversations.start(key="tools")
    held, cancelled = threading.Event(), threading.Event()

    def hold(_: bytes) -> bool:
        # The server has committed, and the store is not told before the client has cancelled.
        if any(step == "request" or one.claimed_until for one in calls_of(recorded)):
            held.set()
            assert cancelled.wait(60)
        return False

    async with Client(server, raise_exceptions=True) as alice:
        proxy.lose_reply = hold
        async with anyio.create_task_group() as tasks:
            meta = named("one") if step == "claim" else None
            tasks.start_soon(lambda: alice.call_tool(tool, {"title": "Milk"}, meta=meta))
            assert await anyio.to_thread.run_sync(held.wait, 60)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                cancelled.set()
        await anyio.to_thread.run_sync(
            until, lambda: [one.status for one in calls_of(recorded)] != ["pending"], 10
        )

    assert [one.status for one in calls_of(recorded)] == ["abandoned"]
    assert runs.count == 0
    assert recorded.tasks.list() == []


async def test_progress_reaches_the_client(url: str, mode: str, runs: Runs) -> None:
    reported: list[str | None] = []

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reported.append(message)
        runs.go_on.set()

    async with client_of("alice", url, mode) as alice:
        result = await alice.call_tool("add_slowly", {"title": "Milk"}, progress_callback=report)

    assert (text_of(result), reported) == ("added", ["half of it"])


async def test_a_tool_that_takes_too_long_is_stopped_and_fails(
    database_url: str, runs: Runs, recorded: User
) -> None:
    server = make_server(database_url, runs, tool_seconds=1)
    with run_app(server.streamable_http_app()) as url:
        async with client_of("alice", url) as alice:
            late = [
                await alice.call_tool("add_slowly", {"title": "Milk"}, meta=named("one"))
                for _ in range(2)
            ]

    assert late[0] == late[1]
    assert "longer than 1 seconds" in text_of(late[0])
    assert runs.count == 1
    assert [one.status for one in calls_of(recorded)] == ["failed"]
    assert recorded.tasks.list() == []


async def test_who_waits_too_long_for_another_process_is_told_to_come_again(
    database_url: str, runs: Runs, recorded: User
) -> None:
    server = make_server(database_url, runs, wait_seconds=0)
    with run_app(server.streamable_http_app()) as url:
        async with client_of("alice", url) as alice, anyio.create_task_group() as tasks:
            meta = named("one")
            tasks.start_soon(lambda: alice.call_tool("add_slowly", {"title": "Milk"}, meta=meta))
            assert await anyio.to_thread.run_sync(runs.running.wait, 60)

            with pytest.raises(MCPError, match="send it again later") as refused:
                await alice.call_tool("add_slowly", {"title": "Milk"}, meta=meta)
            runs.go_on.set()

    assert refused.value.code == INTERNAL_ERROR
    assert runs.count == 1


async def test_a_call_whose_process_died_is_run_by_the_next_one_after_its_claim(
    url: str, runs: Runs, recorded: User
) -> None:
    async with client_of("alice", url) as alice:
        await alice.call_tool("list_tasks")  # the conversation begins
        died = recorded.keyed(_key_of("one")).tool_calls.request(
            "mcp",
            name="add_task",
            arguments={"title": "Milk"},
            call_id="one",
            in_history=False,
        )
        assert recorded.tool_calls.claim(died, seconds=1).granted

        result = await alice.call_tool("add_task", {"title": "Milk"}, meta=named("one"))

    assert not result.is_error
    assert runs.count == len(recorded.tasks.list()) == 1


def _key_of(call_id: str) -> str:
    from mcp_types import CallToolRequestParams

    from eventstore.integrations.mcp import _name_of

    found = _name_of(CallToolRequestParams(name="any", _meta=named(call_id)))
    assert found
    return found.key


async def test_several_users_at_once_have_their_own_calls(
    url: str, mode: str, database_url: str
) -> None:
    names = [f"user-{number}" for number in range(5)]

    async def use(name: str) -> None:
        async with client_of(name, url, mode) as client:
            for number in range(4):
                title = f"{name} {number}"
                await client.call_tool("add_task", {"title": title}, meta=named(f"call_{number}"))

    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(use, name)

    with EventStore.connect(database_url) as store:
        for name in names:
            titles = [task.title for task in store.user(name).tasks.list()]
            assert titles == [f"{name} {number}" for number in range(4)]
        assert store.verify().ok


async def test_a_token_without_a_subject_is_refused(url: str, mode: str, runs: Runs) -> None:
    async with client_of("nobody", url, mode) as nobody:
        with pytest.raises(MCPError, match="nobody is known") as refused:
            await nobody.call_tool("add_task", {"title": "Milk"})

    assert refused.value.code == INVALID_REQUEST
    assert runs.count == 0


async def test_a_configured_user_is_refused_over_http(database_url: str, runs: Runs) -> None:
    server = make_server(database_url, runs, verified=False, user="alice")
    with run_app(server.streamable_http_app()) as url:
        async with client_of("mallory", url) as mallory:
            with pytest.raises(MCPError, match="which is for stdio"):
                await mallory.call_tool("list_tasks")


async def test_a_function_may_say_who_the_user_is(
    database_url: str, runs: Runs, recorded: User
) -> None:
    server = make_server(database_url, runs, user=lambda context: f"{context.method} alice"[11:])
    with run_app(server.streamable_http_app()) as url:
        async with client_of("issuer-2", url) as client:
            await client.call_tool("add_task", {"title": "Milk"})

    assert len(recorded.tasks.list()) == 1


async def test_over_stdio_the_configured_user_is_served(database_url: str, recorded: User) -> None:
    arguments = ["-m", "tests.integrations.mcp.service", database_url, "alice"]
    parameters = StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT)

    async with Client(stdio_client(parameters)) as client:
        for _ in range(2):
            await client.call_tool("add_task", {"title": "Milk"}, meta=named("one"))
        listed = await client.call_tool("list_tasks")

    assert text_of(listed) == "Milk"
    assert [call.name for call in calls_of(recorded)] == ["add_task", "list_tasks"]


async def test_over_stdio_nobody_is_refused(database_url: str, runs: Runs) -> None:
    server = make_server(database_url, runs, verified=False)

    async with Client(server) as client:
        with pytest.raises(MCPError, match="no configured user"):
            await client.call_tool("list_tasks")


async def test_a_name_that_is_no_name_is_refused(url: str, mode: str) -> None:
    async with client_of("alice", url, mode) as alice:
        metas: list[Any] = [{CALL_META: "one"}, {CALL_META: {"id": 1}}, named("x" * 300)]
        for meta in metas:
            with pytest.raises(MCPError) as refused:
                await alice.call_tool("list_tasks", meta=meta)
            assert refused.value.code == INVALID_PARAMS


async def test_each_round_of_a_call_that_asks_for_input_is_run_once(
    url: str, runs: Runs, recorded: User
) -> None:
    async with client_of("alice", url) as alice:
        for _ in range(2):
            result = await alice.call_tool("ask_first", {"title": "Milk"}, meta=named("one"))
            assert text_of(result) == "added, for I was asked"

    first, second = calls_of(recorded)
    assert first.output == {"resultType": "input_required", "requestState": "asked"}
    assert (second.call_id, second.status) == ("one", "succeeded")
    assert (runs.count, len(recorded.tasks.list())) == (2, 1)


async def test_a_deleted_conversation_begins_anew(url: str, recorded: User) -> None:
    async with client_of("alice", url) as alice:
        await alice.call_tool("list_tasks")
        recorded.conversations.delete("mcp")

        await alice.call_tool("add_task", {"title": "Milk"})

    assert len(recorded.tasks.list()) == 1


async def test_a_result_that_cannot_be_recorded_changes_nothing_and_is_an_error(
    url: str, runs: Runs, recorded: User, admin: psycopg.Connection
) -> None:
    async with client_of("alice", url) as alice, anyio.create_task_group() as tasks:
        errors: list[MCPError] = []

        async def call() -> None:
            try:
                await alice.call_tool("add_slowly", {"title": "Milk"}, meta=named("one"))
            except MCPError as error:
                errors.append(error)

        tasks.start_soon(call)
        assert await anyio.to_thread.run_sync(runs.running.wait, 60)
        admin.execute(
            "create function full_disk() returns trigger language plpgsql as "
            "$$ begin raise 'full' using errcode = '53100'; end $$"
        )
        admin.execute(
            "create trigger full_disk before insert on eventstore.event "
            "for each statement execute function full_disk()"
        )
        runs.go_on.set()

    assert [error.code for error in errors] == [INTERNAL_ERROR]
    assert recorded.tasks.list() == []
    assert [call.status for call in calls_of(recorded)] == ["pending"]


@pytest.mark.parametrize("how", ["long", "object"])
async def test_an_error_that_cannot_be_stored_ends_its_call_all_the_same(
    url: str, runs: Runs, recorded: User, how: str
) -> None:
    async with client_of("alice", url) as alice:
        for _ in range(2):
            with pytest.raises(MCPError):
                await alice.call_tool("protest_much", {"how": how}, meta=named("one"))

    (call,) = calls_of(recorded)
    assert (call.status, call.error["code"], runs.count) == ("failed", INTERNAL_ERROR, 1)
    assert recorded.tasks.list() == []


async def test_a_result_that_is_no_json_ends_its_call_all_the_same(
    url: str, runs: Runs, recorded: User
) -> None:
    async with client_of("alice", url) as alice:
        for _ in range(2):
            result = await alice.call_tool("return_an_object", meta=named("one"))
            assert result.is_error
            assert "JSON" in text_of(result)

    assert ([one.status for one in calls_of(recorded)], runs.count) == (["failed"], 1)


async def test_a_tool_whose_conversation_was_deleted_is_told_so(
    url: str, runs: Runs, recorded: User
) -> None:
    async with client_of("alice", url) as alice:
        result = await alice.call_tool("delete_the_conversation", {"title": "Milk"})

    assert result.is_error
    assert "closed" in text_of(result)
    assert recorded.tasks.list() == []


def test_outside_of_a_call_there_is_none() -> None:
    with pytest.raises(ConfigurationError, match="no tool call is recorded here"):
        current_call()
    with pytest.raises(ConfigurationError, match="no tool call is recorded here"):
        current_user()


@pytest.mark.parametrize("options", [{"tool_seconds": 0}, {"wait_seconds": -1}])
def test_a_time_that_is_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(options))):
        RecordCalls(lambda context: context.lifespan_context, **options)
