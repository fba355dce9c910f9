"""
The MCP server: the tools by which an agent, or any other MCP client, changes a user's tasks.

A tool does not know how often it is called. What it records in `current_transaction` is written in
one append with the outcome of the call, and a call that comes again is answered from the record.
"""

from __future__ import annotations

import logging

from mcp.server import MCPServer
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import AnyHttpUrl

from eventstore.integrations.mcp import (
    RecordCalls,
    StoreOf,
    current_call,
    current_transaction,
    current_user,
)

from .login_stub import LoginStub

TOOL_SECONDS = 10

_log = logging.getLogger(__name__)


def make_tools(store: StoreOf, login: LoginStub, resource: str) -> MCPServer:
    """
    Return the MCP server.

    :param store: gives the store of the application, which is not connected yet.
    :param resource: the server's own URL; only tokens for it are accepted.
    """
    url = AnyHttpUrl(resource)
    server = MCPServer(
        "todo",
        extensions=[RecordCalls(store, tool_seconds=TOOL_SECONDS)],
        token_verifier=login,
        auth=AuthSettings(issuer_url=url, resource_server_url=url, validate_token_resource=True),
        log_level="WARNING",
    )

    @server.tool()
    async def add_task(title: str) -> str:
        """Add a task to the list."""
        call = current_call()
        _log.info("run %s", call.id)
        current_transaction().tasks.create(title, caused_by=call)
        return f"Added “{title}”."

    @server.tool()
    async def complete_task(title: str) -> str:
        """Complete the task with this title."""
        call = current_call()
        _log.info("run %s", call.id)
        for task in await current_user().tasks.list(completed=False):
            if task.title.casefold() == title.casefold():
                current_transaction().tasks.complete(task.id, caused_by=call)
                return f"Completed “{task.title}”."
        raise ToolError(f"There is no open task “{title}”.")

    @server.tool()
    async def list_tasks() -> str:
        """List the tasks that are open."""
        titles = [task.title for task in await current_user().tasks.list(completed=False)]
        return f"Open: {', '.join(titles)}." if titles else "Nothing is open."

    return server
