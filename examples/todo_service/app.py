"""
The web application: pages for people, a route for programs, and the MCP server beside them.

TODO_SERVICE_URL is where it is served, and TODO_SERVICE_SECRET what logins are signed with; without
it they end with the process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import quote
from uuid import uuid4

from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel

from eventstore import (
    AsyncEventStore,
    AsyncUser,
    ConversationBusy,
    IdempotencyConflict,
    NotFound,
)
from eventstore.integrations.agents import SessionTurn
from eventstore.integrations.fastapi import (
    RequestKey,
    eventstore_lifespan,
    health_routes,
    problem_handlers,
    turn_response,
    user_of,
)
from projections.models.message import MessageView
from projections.queries.tool_call_audit import AuditEntry

from .agent import Tools, answer, stream_answer, turn_of
from .login_stub import COOKIE, LoginStub
from .pages import Unsent, audit_page, chat_page, login_page
from .tools import make_tools

# The agent sends its user's token there, so it is configured, and never read from a request.
URL = os.environ.get("TODO_SERVICE_URL", "http://127.0.0.1:8000")
MCP_URL = f"{URL}/mcp"


def connected_store(_: object) -> AsyncEventStore:
    store: AsyncEventStore = app.state.eventstore  # the lifespan connects it
    return store


login = LoginStub(os.environ.get("TODO_SERVICE_SECRET") or secrets.token_hex(), MCP_URL)
mcp = make_tools(connected_store, login, MCP_URL)
# Stateless, so that a client may come to any process, and to the next one after a restart.
mcp_app = mcp.streamable_http_app(stateless_http=True, json_response=True)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with eventstore_lifespan()(app), mcp.session_manager.run():
        yield


async def log_in_first(request: Request, error: HTTPException) -> Response:
    if "text/html" in request.headers.get("Accept", ""):
        return RedirectResponse("/login", 303)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


CurrentUser = Annotated[AsyncUser, Depends(user_of(login.verified_subject))]
app = FastAPI(lifespan=lifespan, exception_handlers={**problem_handlers(), 401: log_in_first})
app.include_router(health_routes())


class Said(BaseModel):
    """What a user says, and what the agent answers."""

    text: str


@app.post("/api/chats/{chat}/messages")
async def say(chat: str, said: Said, user: CurrentUser, key: RequestKey) -> Said:
    return Said(text=await answer(user, chat, said.text, key=key, tools=tools_of(user)))


@app.post("/api/chats/{chat}/stream")
async def stream(chat: str, said: Said, user: CurrentUser, key: RequestKey) -> StreamingResponse:
    def speak(turn: SessionTurn) -> AsyncGenerator[str]:
        return stream_answer(turn, chat, tools_of(user))

    return await turn_response(turn_of(user, chat, said.text, key=key), speak)


def tools_of(user: AsyncUser) -> Tools:
    return Tools(MCP_URL, login.token(user.user_id))


@app.get("/")
async def home() -> RedirectResponse:
    return RedirectResponse("/chats/todo", 303)


@app.get("/login", response_class=HTMLResponse)
async def show_login() -> str:
    return login_page()


@app.post("/login")
async def log_in(name: Annotated[str, Form()]) -> RedirectResponse:
    response = RedirectResponse("/", 303)
    # Lax keeps the cookie from forms that stand on other sites.
    response.set_cookie(COOKIE, login.token(name), httponly=True, samesite="lax")
    return response


@app.post("/logout")
async def log_out() -> RedirectResponse:
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@app.get("/chats/{chat}", response_class=HTMLResponse)
async def show_chat(chat: str, user: CurrentUser) -> str:
    return await chat_page_of(user, chat)


@app.post("/chats/{chat}")
async def send(
    chat: str, user: CurrentUser, text: Annotated[str, Form()], key: Annotated[str, Form()]
) -> Response:
    try:
        await answer(user, chat, text, key=key, tools=tools_of(user))
    except ConversationBusy as error:
        page = await chat_page_of(user, chat, Unsent(text, key, str(error)))
        return HTMLResponse(page, 503)
    except IdempotencyConflict as error:  # another text, under the key of one that was sent
        page = await chat_page_of(user, chat, Unsent(text, str(uuid4()), str(error)))
        return HTMLResponse(page, 409)
    # The page is fetched anew, so that reloading it sends nothing again.
    return RedirectResponse(f"/chats/{quote(chat, safe='')}", 303)


@app.get("/chats/{chat}/audit", response_class=HTMLResponse)
async def show_audit(chat: str, user: CurrentUser) -> str:
    return audit_page(chat, await messages_of(user, chat), await calls_of(user))


async def chat_page_of(user: AsyncUser, chat: str, unsent: Unsent | None = None) -> str:
    messages, tasks = await messages_of(user, chat), await user.tasks.list()
    return chat_page(user.user_id, chat, messages, tasks, unsent)


async def messages_of(user: AsyncUser, chat: str) -> Sequence[MessageView]:
    """Return what was said in a chat; nothing in one that nobody has begun."""
    try:
        return await user.history(chat)
    except NotFound:
        return []


async def calls_of(user: AsyncUser) -> Sequence[AuditEntry]:
    """Return the calls of the MCP server that a user has made, from the log."""
    try:
        return await user.audit(conversation="mcp")
    except NotFound:
        return []


# The last one, because it is asked for every path that no route has.
app.mount("/", mcp_app)
