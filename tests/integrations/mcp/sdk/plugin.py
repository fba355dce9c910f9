"""
A pytest plugin that puts `RecordCalls` into every server that the SDK's own tests make.

Each call is given a name of its own, so it is claimed, and comes a second time when it has ended:
what a test sees is the second answer, as it was read from the store. It must be the first one.

A low-level `Server` has no extensions, and many tests of cancelling and progress. Its handler of
tool calls is wrapped by the function with which `MCPServer` does so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from mcp.server import MCPServer, Server
from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, compose_tool_call_handler
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, CallToolRequestParams
from pydantic import BaseModel
from report import Report  # type: ignore[import-not-found]  # by its folder, as this file is

from eventstore import AsyncEventStore
from eventstore.integrations.mcp import CALL_META, RecordCalls, RequestContext

URL = os.environ.get("EVENTSTORE_SDK_TESTS_URL", "")

_stores: dict[asyncio.AbstractEventLoop, asyncio.Task[AsyncEventStore]] = {}
_calls = 0
_differences: list[str] = []


async def _store() -> AsyncEventStore:
    # A pool belongs to one event loop, and these tests have several.
    loop = asyncio.get_running_loop()
    if loop not in _stores:
        # In a task of its own, because a service connects before it has calls, and these tests
        # refuse what blocks the loop in a call.
        _stores[loop] = loop.create_task(_connected())
    return await asyncio.shield(_stores[loop])


async def _connected() -> AsyncEventStore:
    return await AsyncEventStore.connect(URL)


_close_runner = asyncio.Runner.close


def _close_store_and_runner(self: asyncio.Runner) -> None:
    # A loop that ends with an open pool in it may wait for the pool's tasks forever.
    with suppress(RuntimeError):
        connected = _stores.pop(self.get_loop(), None)
        if connected is not None:
            self.run(_closed(connected))
    _close_runner(self)


async def _closed(connected: asyncio.Task[AsyncEventStore]) -> None:
    await (await connected).close()


class Twice(RecordCalls):
    """Runs each call, and answers with what is stored of it."""

    def __init__(self) -> None:
        # Each server has a user of its own, who has no calls and no conversation yet.
        user_id = str(uuid4())
        super().__init__(lambda _: self._connected, user=lambda _: user_id)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: RequestContext, call_next: CallNext
    ) -> HandlerResult:
        global _calls  # noqa: PLW0603 - how a test is known to have called a tool
        _calls += 1
        self._connected = await _store()
        meta = {**(params.meta or {}), CALL_META: {"id": str(uuid4())}}
        named = params.model_copy(update={"meta": meta})
        first = await _came_of(super().intercept_tool_call(named, ctx, call_next))
        again = await _came_of(super().intercept_tool_call(named, ctx, _refuse))
        if _on_wire(again) != _on_wire(first):
            _differences.append(f"{_on_wire(again)} was answered after {_on_wire(first)}")
        if isinstance(again, Exception):
            raise again
        return again


async def _came_of(call: Awaitable[HandlerResult]) -> HandlerResult | Exception:
    try:
        return await call
    except Exception as error:  # noqa: BLE001 - it is compared, and raised
        return error


async def _refuse(_: RequestContext) -> HandlerResult:
    raise AssertionError("a call that has ended was run again")


def _on_wire(answer: HandlerResult | Exception) -> Any:
    match answer:
        case MCPError():
            return answer.error.model_dump(mode="json")
        case Exception():
            return {"code": INTERNAL_ERROR, "message": "Internal server error", "data": None}
        case BaseModel():
            return answer.model_dump(mode="json", by_alias=True)
        case _:
            return answer


_init = MCPServer.__init__
_init_low = Server.__init__


def _with_ours(
    self: Any, *args: Any, extensions: Sequence[Extension] | None = None, **more: Any
) -> None:
    _init(self, *args, extensions=[Twice(), *(extensions or ())], **more)


def _with_ours_low(self: Any, *args: Any, **more: Any) -> None:
    _init_low(self, *args, **more)
    # As MCPServer does it, which then does so again for a handler of its own.
    entry = self.get_request_handler("tools/call")
    if entry is not None:
        handler = compose_tool_call_handler([Twice()], entry.handler)
        self.add_request_handler("tools/call", CallToolRequestParams, handler)


def pytest_configure(config: pytest.Config) -> None:
    report = Report(
        Path(__file__).with_name("left_out.toml"),
        uses=lambda: _calls,
        used="calls through the store",
        unused="call no tool that we are in front of",
    )
    config.pluginmanager.register(report, "eventstore-report")
    config.pluginmanager.register(_Ends(), "eventstore-ends")
    asyncio.Runner.close = _close_store_and_runner  # type: ignore[method-assign]  # in its place
    Server.__init__ = _with_ours_low  # type: ignore[method-assign]  # in its place
    MCPServer.__init__ = _with_ours  # type: ignore[method-assign]  # in its place


class _Ends:
    """Fails if a call of any test did not end, or was answered otherwise the second time."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        with psycopg.connect(URL) as connection:
            query = "select status, count(*) from eventstore.tool_call group by status order by 1"
            self.counts = dict(connection.execute(query).fetchall())
        if "pending" in self.counts or _differences:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        report = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        terminalreporter.write_line(f"calls that were recorded: {report or 'none'}")
        for difference in _differences:
            terminalreporter.write_line(f"not the same: {difference:.400}")
