"""
A chat service on the async store: it answers requests, asks a model and runs the tools it calls.

    python examples/async_service.py

A scripted model stands in for a real one. In the second request, the process dies after the model
has called a tool and before the tool has run. When the same request is sent again, the call is
finished and nothing is recorded twice. Requests at once on one conversation wait for each other.

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

from eventstore import AsyncActiveTurn, AsyncEventStore, AsyncUser
from eventstore.database.embedded import stop_embedded
from projections.models.tool_call import ToolCallView

type ToolRunner = Callable[[AsyncActiveTurn, ToolCallView], Awaitable[None]]
"""Runs one tool call and records its outcome."""


async def answer_request(
    user: AsyncUser, chat: str, text: str, *, request_id: str, run: ToolRunner
) -> str:
    """
    Answer one request of a user; a request that was interrupted may be sent again.

    The turn has the id of the request as its key. So a repeated request gets the recorded answer,
    or goes on where the first attempt stopped.
    """
    await user.conversations.start(key=chat)
    question = {"role": "user", "content": text}
    async with user.turn(chat, key=request_id, items=[question]) as turn:
        while not turn.ended:
            for call in turn.pending_calls:
                await run(turn, call)
            reply, usage = await scripted_model(turn.model_input())
            if reply.get("tool_calls"):
                await turn.extend([reply])
            else:
                await turn.end([reply], model="scripted", usage=usage)
    return str(turn.answer.content) if turn.answer else ""


async def run_tool(turn: AsyncActiveTurn, call: ToolCallView) -> None:
    """Run a tool call and record its effects and its outcome in one append."""
    try:
        arguments = json.loads(call.arguments)
        async with turn.transaction() as tx:
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
        await turn.fail(call, error=f"{type(error).__name__}: {error}")


async def scripted_model(
    messages: list[dict[str, Any]],
) -> tuple[dict[str, Any], dict[str, int]]:
    """Stand in for a model: call one tool, and then answer that the work is done; tell the cost."""
    usage = {"input_tokens": 20 * len(messages), "output_tokens": 5}
    last = messages[-1]
    if last["role"] == "tool":
        return {"role": "assistant", "content": "Done."}, usage
    arguments = json.dumps({"title": last["content"]})
    function = {"name": "add_task", "arguments": arguments}
    call = {"id": "call_0", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}, usage


async def die(_: AsyncActiveTurn, call: ToolCallView) -> None:
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
        # One of the two retries runs the tool; the other one waits, and asks no model.
        retries = [
            answer_request(alice, chat, "Buy bread", request_id=f"{chat}/2", run=run_tool)
            for _ in range(2)
        ]
        print(*await asyncio.gather(*retries))

        for message in await alice.history(chat):
            calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
            print(f"  {message.sender:<10} {message.content or calls}")
        for entry in await alice.audit(conversation=chat):
            print(f"  {entry.name}: {entry.status}, caused {[one.type for one in entry.caused]}")
        for turn in await alice.turns.list(chat):
            print(f"  {turn.key[-1]}: {turn.status}, begun {turn.attempt} times, {turn.usage}")
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
