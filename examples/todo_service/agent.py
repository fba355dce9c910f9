"""
The agent: it answers one request in a turn, and changes tasks over the MCP server only.

A scripted model stands in for a real one, so that the service needs no key and no network. Give
`Agent` the name of a real model instead, and the rest stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import anyio
from agents import Agent, RawResponsesStreamEvent, RunConfig, Runner
from agents.items import TResponseOutputItem
from agents.mcp import MCPServerStreamableHttp
from agents.testing import ModelCall, ModelStep, ScriptedModel, assistant_message, function_call
from openai.types.responses import ResponseTextDeltaEvent

from eventstore import AsyncUser
from eventstore.integrations.agents import EventStoreSession, SessionTurn
from eventstore.integrations.mcp import tool_call_meta

LEASE_SECONDS = 30
"""After so long, a turn whose process died is continued by whoever sends its request again."""


@dataclass(frozen=True, slots=True)
class Tools:
    """
    Where the MCP server is, and as whom the agent calls it.

    :ivar token: of the user whose request the agent answers: it can do what they can, no more.
    """

    url: str
    token: str


async def answer(user: AsyncUser, chat: str, text: str, *, key: str, tools: Tools) -> str:
    """
    Answer what a user says, once for each `key`, however often it is sent.

    :raises ConversationBusy: another request of this chat, or this one, is still being answered.
    """
    async with turn_of(user, chat, text, key=key) as turn:
        if not turn.ended:
            async with mcp_client(chat, tools) as mcp:
                await Runner.run(agent(turn, mcp), turn.input, **options(turn))
    return answer_of(turn)


async def stream_answer(turn: SessionTurn, chat: str, tools: Tools) -> AsyncGenerator[str]:
    """Yield the pieces of an answer as the model says them, or an earlier answer at once."""
    if turn.ended:
        yield answer_of(turn)
        return
    pieces: asyncio.Queue[str | None] = asyncio.Queue()

    async def run() -> None:
        async with mcp_client(chat, tools) as mcp:
            running = Runner.run_streamed(agent(turn, mcp), turn.input, **options(turn))
            async for event in running.stream_events():
                if isinstance(event, RawResponsesStreamEvent):
                    said = event.data
                    if isinstance(said, ResponseTextDeltaEvent):
                        pieces.put_nowait(said.delta)

    # The task that opens the MCP client must close it, and a generator may be closed by another.
    speaking = asyncio.create_task(run())
    speaking.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (piece := await pieces.get()) is not None:
            yield piece
        await speaking  # raises what it raised
    finally:
        speaking.cancel()
        # A request whose client is gone is cancelled again at each wait that is not shielded.
        with anyio.CancelScope(shield=True):
            await asyncio.wait([speaking])
        if not speaking.cancelled():
            speaking.exception()  # it was raised above, or nobody is there to be told


def turn_of(user: AsyncUser, chat: str, text: str, *, key: str) -> SessionTurn:
    """Return the turn in which a request is answered; it begins when it is entered."""
    return EventStoreSession(chat, user).turn(text, key=key, lease_seconds=LEASE_SECONDS)


def agent(turn: SessionTurn, mcp: MCPServerStreamableHttp) -> Agent[None]:
    # Calls that were left open when a process died keep their ids.
    return Agent(name="todo", model=turn.continued(scripted_model()), mcp_servers=[mcp])


def options(turn: SessionTurn) -> dict[str, Any]:
    """Return what each run is given: where it is recorded, and that no trace goes to OpenAI."""
    config = RunConfig(tracing_disabled=True)
    return {"session": turn.session, "hooks": turn.hooks, "run_config": config}


def answer_of(turn: SessionTurn) -> str:
    return "" if turn.answer is None else text_of(turn.answer.body)


def mcp_client(chat: str, tools: Tools) -> MCPServerStreamableHttp:
    """Return the client of the MCP server, which names each call by the id the model gave it."""
    return MCPServerStreamableHttp(
        {
            "url": tools.url,
            "headers": {"Authorization": f"Bearer {tools.token}"},
            "timeout": 120,
        },
        tool_meta_resolver=tool_call_meta(chat),
        # A call whose first process died waits until the claim of that process is over.
        client_session_timeout_seconds=120,
        # A call that could not be made fails the turn, which can be continued; the model is told of
        # what a tool refuses, and not of that.
        failure_error_function=None,
    )


def scripted_model() -> ScriptedModel:
    """Return the stand-in for a model: it calls the tools that the text asks for, and reports."""
    return ScriptedModel([ModelStep.respond(_respond)] * 5)


def _respond(request: ModelCall) -> list[TResponseOutputItem]:
    items: list[Any] = list(request.input) if isinstance(request.input, list) else []
    outputs = []
    while items and items[-1].get("type") == "function_call_output":
        outputs.append(text_of({"content": items.pop()["output"]}))
    if outputs:
        return [assistant_message(" ".join(reversed(outputs)))]
    verb, _, rest = (text_of(items[-1]) if items else "").strip().partition(" ")
    titles = [title.strip() for title in rest.split(",") if title.strip()]
    match verb.casefold():
        case "add" if titles:
            return [_call("add_task", title=title) for title in titles]
        case "done" if titles:
            return [_call("complete_task", title=title) for title in titles]
        case "list":
            return [_call("list_tasks")]
        case _:
            return [assistant_message("Say “add milk, bread”, “done milk” or “list”.")]


def _call(name: str, **arguments: str) -> TResponseOutputItem:
    return function_call(name, arguments, call_id=f"call_{uuid4().hex}")


def text_of(item: dict[str, Any]) -> str:
    """Return the text of an item, whose content may be a list of parts."""
    match item.get("content"):
        case str() as text:
            return text
        case list() as parts:
            return "".join(str(part.get("text", "")) for part in parts)
        case dict() as part:
            return str(part.get("text", ""))
        case _:
            return ""
