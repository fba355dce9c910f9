"""
The loop of a chat service on the async store: said, asked, recorded, run, answered.

    python examples/async_service.py

A scripted model stands in for a real one. In the second request the process dies after the model
asked for a tool and before the tool ran: the same request, sent again, finishes the call and
doubles nothing.

Uses EVENTSTORE_DATABASE_URL (after `eventstore migrate`), or a server in a temporary folder.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID, uuid4

from eventstore import AsyncEventStore, AsyncUser
from eventstore.database.embedded import stop_embedded
from projections.models.message import MessageView, ToolCallView

type Tools = Callable[[AsyncUser, ToolCallView], Awaitable[None]]
"""Runs one call and records its outcome."""


async def turn(user: AsyncUser, chat: str, text: str, *, request_id: str, run: Tools) -> str:
    """
    Answer one request of the user's.

    What comes from outside is keyed by the request, each tool call by its own event. So the whole
    turn may be run again at any point.
    """
    await user.conversations.start(key=chat)
    said = await user.keyed(request_id).messages.post(chat, sender="user", content=text)
    while True:
        history = await user.history(chat)
        calls = [call for message in history for call in message.tool_calls]
        if pending := [call for call in calls if call.status == "pending"]:
            for call in pending:  # just asked for, or left by a process that died
                await run(user, call)
        elif answer := answer_after(history, said.position):
            return answer
        else:
            reply = await scripted_model([message.body for message in history])
            await user.messages.post(chat, body=reply)


def answer_after(history: list[MessageView], position: int) -> str | None:
    """Return what the assistant said, other than asking for tools, after `position`."""
    for message in history:
        if message.position > position and message.sender == "assistant" and not message.tool_calls:
            return str(message.content)
    return None


async def run_tool(user: AsyncUser, call: ToolCallView) -> None:
    """Do what the model asked for, and record what came of it, in one append."""
    key = str(call.event_id)  # not call.id: models repeat those
    try:
        arguments = json.loads(call.arguments)
        async with user.transaction(idempotency_key=key) as tx:
            match call.name:
                case "add_task":
                    task = tx.tasks.create(arguments["title"], caused_by=call)
                    tx.tool_calls.succeed(call, output={"task_id": task.id})
                case "complete_task":
                    tx.tasks.complete(UUID(arguments["task_id"]), caused_by=call)
                    tx.tool_calls.succeed(call, output={"completed": True})
                case _:
                    tx.tool_calls.fail(call, error=f"there is no tool {call.name}")
    except (LookupError, TypeError, ValueError) as error:  # NotFound and InvalidInput among them
        told = f"{type(error).__name__}: {error}"
        await user.keyed(key).tool_calls.fail(call, error=told)


async def scripted_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Stand in for a model: asks for one tool, then says that it is done."""
    last = messages[-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": "Done."}
    arguments = json.dumps({"title": last["content"]})
    function = {"name": "add_task", "arguments": arguments}
    asked = {"id": "call_0", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [asked]}


async def killed(_: AsyncUser, call: ToolCallView) -> None:
    """Stand in for a process that dies here, the call recorded and the tool not run."""
    raise ConnectionError(f"killed before {call.name} ran")


async def main(database_url: str) -> None:
    chat = f"session-{uuid4()}"  # as a frontend or an agent framework names it
    async with AsyncEventStore.connect(database_url) as store:
        alice = store.user("alice")
        print(await turn(alice, chat, "Buy milk", request_id=f"{chat}/1", run=run_tool))
        try:
            await turn(alice, chat, "Buy bread", request_id=f"{chat}/2", run=killed)
        except ConnectionError as error:
            print(error)
        for _ in range(2):  # the second retry finds the answer and asks nobody
            print(await turn(alice, chat, "Buy bread", request_id=f"{chat}/2", run=run_tool))

        for message in await alice.history(chat):
            asked = [f"{call.name}({call.arguments})" for call in message.tool_calls]
            print(f"  {message.sender:<10} {message.content or asked}")
        for entry in await alice.audit(conversation=chat):
            print(f"  {entry.name}: {entry.status}, caused {[one.type for one in entry.caused]}")
        print("verified:", (await store.verify("alice")).ok)


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL to use; a server in a temporary folder is stopped and removed at the end."""
    if given := os.environ.get("EVENTSTORE_DATABASE_URL"):
        yield given
        return
    with TemporaryDirectory(prefix="eventstore-example-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "postgresql"
        yield f"embedded:{path}"
        stop_embedded(path)


if __name__ == "__main__":
    with database() as url:
        asyncio.run(main(url))
