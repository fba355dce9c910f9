"""
An MCP server of todos, as its page in the documentation would have one written.

`python -m tests.integrations.mcp.service URL USER` serves it over stdio for one user.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import anyio
import anyio.from_thread
import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, InputRequiredResult
from pydantic import AnyHttpUrl

from eventstore import AsyncEventStore
from eventstore.integrations.mcp import (
    RecordCalls,
    current_call,
    current_transaction,
    current_user,
)

__all__ = ["Runs", "Tokens", "make_server"]


@dataclass
class Runs:
    """How often a tool ran, and where the test holds it up."""

    count: int = 0
    running: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class Tokens:
    """Verifies tokens; here one is the name of its subject, and `nobody`'s has none."""

    async def verify_token(self, token: str) -> AccessToken | None:
        subject = None if token == "nobody" else token
        return AccessToken(token=token, client_id="tests", scopes=[], subject=subject)


def make_server(  # noqa: C901 - its tools are functions in it
    database_url: str, runs: Runs, *, verified: bool = True, **options: Any
) -> MCPServer[AsyncEventStore]:
    @asynccontextmanager
    async def lifespan(_: MCPServer[AsyncEventStore]) -> AsyncIterator[AsyncEventStore]:
        async with AsyncEventStore.connect(database_url) as store:
            yield store

    here = AnyHttpUrl("http://127.0.0.1")
    auth = AuthSettings(issuer_url=here, resource_server_url=here, validate_token_resource=False)
    server = MCPServer(
        "todo",
        lifespan=lifespan,
        log_level="CRITICAL",
        extensions=[RecordCalls(lambda context: context.lifespan_context, **options)],
        token_verifier=Tokens() if verified else None,
        auth=auth if verified else None,
    )

    @server.tool()
    async def add_task(title: str) -> dict[str, Any]:
        runs.count += 1
        task = current_transaction().tasks.create(title, caused_by=current_call())
        return {"id": str(task.id), "note": None}

    @server.tool()
    def add_in_a_thread(title: str) -> str:
        before = anyio.from_thread.run(current_user().tasks.list)
        current_transaction().tasks.create(title, caused_by=current_call())
        return f"{len(before)} before"

    @server.tool()
    async def complete_task(task: str) -> str:
        current_transaction().tasks.complete(UUID(task), caused_by=current_call())
        return "completed"

    @server.tool()
    async def list_tasks() -> list[str]:
        return [one.title for one in await current_user().tasks.list()]

    @server.tool()
    async def add_slowly(title: str, context: Context) -> str:
        runs.count += 1
        current_transaction().tasks.create(title)
        await context.report_progress(1, 2, "half of it")
        runs.running.set()
        await anyio.to_thread.run_sync(runs.go_on.wait, abandon_on_cancel=True)
        return "added"

    @server.tool()
    async def refuse(title: str) -> str:
        runs.count += 1
        current_transaction().tasks.create(title)
        raise ToolError("not on a Sunday")

    @server.tool()
    async def ask_first(title: str, context: Context) -> str | InputRequiredResult:
        runs.count += 1
        if context.request_state is None:
            return InputRequiredResult(request_state="asked")
        current_transaction().tasks.create(title)
        return f"added, for I was {context.request_state}"

    @server.tool()
    async def protest() -> str:
        runs.count += 1
        raise MCPError(-32050, "out of reach", {"until": "noon"})

    @server.tool()
    async def protest_much(how: str) -> str:
        runs.count += 1
        current_transaction().tasks.create("lost")
        data: dict[str, object] = {"long": "x" * 17 * 1024 * 1024, "object": object()}
        raise MCPError(-32050, "out of reach", data[how])

    @server.tool()
    async def return_an_object() -> CallToolResult:
        runs.count += 1
        return CallToolResult(content=[], structured_content={"it": object()})

    @server.tool()
    async def delete_the_conversation(title: str) -> str:
        runs.count += 1
        current_transaction().tasks.create(title)
        await current_user().conversations.delete("mcp")
        return "deleted"

    return server


if __name__ == "__main__":
    make_server(sys.argv[1], Runs(), verified=False, user=sys.argv[2]).run("stdio")
