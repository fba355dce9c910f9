"""
A chat service on the async store: it posts messages, asks a model and runs the tools it calls.

    python examples/async_service.py

A scripted model stands in for a real one. In the second request, the process dies after the model
has called a tool and before the tool has run. When the same request is sent again, the call is
finished and nothing is recorded twice.

Uses the database in EVENTSTORE_DATABASE_URL (after `eventstore migrate`), or else a PostgreSQL in a
temporary folder.
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
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallView

type ToolRunner = Callable[[AsyncUser, ToolCallView], Awaitable[None]]
"""Runs one tool call and records its outcome."""


async def answer_request(
    user: AsyncUser, chat: str, text: str, *, request_id: str, run: ToolRunner
) -> str:
    """
    Answer one request of a user; a request that was interrupted may be sent again.

    The user's message has the id of the request as its idempotency key, and each tool call has the
    id of its own event. So a repeated request records nothing twice.
    """
    await user.conversations.start(key=chat)
    request = await user.keyed(request_id).messages.post(chat, sender="user", content=text)
    while True:
        history = await user.history(chat)
        calls = [call for message in history for call in message.tool_calls]
        if pending := [call for call in calls if call.status == "pending"]:
            # The model has just requested these calls, or a process died before it ran them.
            for call in pending:
                await run(user, call)
        elif answer := find_answer(history, request.position):
            return answer
        else:
            reply = await scripted_model([message.body for message in history])
            await user.messages.post(chat, body=reply)


def find_answer(history: list[MessageView], position: int) -> str | None:
    """Return the first text of the assistant after `position`, or None if there is none yet."""
    for message in history:
        if message.position > position and message.sender == "assistant" and not message.tool_calls:
            return str(message.content)
    return None


async def run_tool(user: AsyncUser, call: ToolCallView) -> None:
    """Run a tool call and record its effects and its outcome in one append."""
    key = str(call.id)  # not `call.call_id`, because models use the same name again
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
    except (LookupError, TypeError, ValueError) as error:  # also NotFound and InvalidInput
        reason = f"{type(error).__name__}: {error}"
        await user.keyed(key).tool_calls.fail(call, error=reason)


async def scripted_model(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """Stand in for a model: call one tool, and then answer that the work is done."""
    last = messages[-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": "Done."}
    arguments = json.dumps({"title": last["content"]})
    function = {"name": "add_task", "arguments": arguments}
    call = {"id": "call_0", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


async def die(_: AsyncUser, call: ToolCallView) -> None:
    """Stand in for a process that dies after the call was recorded and before the tool has run."""
    raise ConnectionError(f"killed before {call.name} ran")


async def main(database_url: str) -> None:
    chat = f"session-{uuid4()}"  # a key that a frontend or an agent framework has chosen
    async with AsyncEventStore.connect(database_url) as store:
        alice = store.user("alice")
        print(await answer_request(alice, chat, "Buy milk", request_id=f"{chat}/1", run=run_tool))
        try:
            await answer_request(alice, chat, "Buy bread", request_id=f"{chat}/2", run=die)
        except ConnectionError as error:
            print(error)
        # The first retry runs the tool; the second one finds the answer and asks no model.
        for _ in range(2):
            print(
                await answer_request(alice, chat, "Buy bread", request_id=f"{chat}/2", run=run_tool)
            )

        for message in await alice.history(chat):
            calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
            print(f"  {message.sender:<10} {message.content or calls}")
        for entry in await alice.audit(conversation=chat):
            print(f"  {entry.name}: {entry.status}, caused {[one.type for one in entry.caused]}")
        print("verified:", (await store.verify("alice")).ok)


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL of the configured database, or of a temporary server that is removed again."""
    if configured := os.environ.get("EVENTSTORE_DATABASE_URL"):
        yield configured
        return
    with TemporaryDirectory(prefix="eventstore-example-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "postgresql"
        yield f"embedded:{path}"
        stop_embedded(path)


if __name__ == "__main__":
    with database() as url:
        asyncio.run(main(url))
