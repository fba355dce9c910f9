"""A chat service on FastAPI, as its page in the documentation would have one written."""

# FastAPI evaluates annotations, and these name local values, so they are not postponed.
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

import anyio.to_thread
from fastapi import Body, Depends, FastAPI, Header
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlmodel import Session, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from eventstore import AsyncActiveTurn, AsyncUser, Settings, User
from eventstore.integrations.fastapi import (
    RequestKey,
    eventstore_lifespan,
    health_routes,
    problem_handlers,
    rows_of,
    sync_rows_of,
    sync_user_of,
    turn_response,
    user_of,
)
from projections import Task
from projections.models.conversation import ConversationView
from projections.models.message import MessageView
from projections.models.task import TaskView

__all__ = ["Model", "make_service"]


@dataclass
class Model:
    """A model that says two words, and in between waits for the test if it asks for that."""

    requests: int = 0
    paused: bool = False
    speaking: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    async def speak(self, _: list[dict[str, Any]]) -> AsyncGenerator[str]:
        self.requests += 1
        yield "Hello "
        if self.paused:
            self.speaking.set()
            await anyio.to_thread.run_sync(self.go_on.wait, abandon_on_cancel=True)
        yield "there"


class Said(BaseModel):
    text: str


class Title(BaseModel):
    title: str


async def verified_subject(
    authorization: Annotated[str | None, Header()] = None,
) -> str | None:
    """Verify who sends a request; here a token is a name."""
    return authorization.removeprefix("Bearer ") if authorization else None


CurrentUser = Annotated[AsyncUser, Depends(user_of(verified_subject))]
Rows = Annotated[AsyncSession, Depends(rows_of(CurrentUser))]
SyncCurrentUser = Annotated[User, Depends(sync_user_of(verified_subject))]
SyncRows = Annotated[Session, Depends(sync_rows_of(SyncCurrentUser))]


def make_service(database_url: str, model: Model, **settings: Any) -> FastAPI:  # noqa: C901 - routes
    app = FastAPI(
        lifespan=eventstore_lifespan(
            stores="both", settings=Settings(database_url=database_url, **settings)
        ),
        exception_handlers=problem_handlers(),
    )
    app.include_router(health_routes())

    @app.post("/chats/{key}")
    async def start(key: str, user: CurrentUser) -> ConversationView:
        return await user.conversations.start(key=key)

    @app.post("/chats/{key}/messages")
    async def say(key: str, said: Said, user: CurrentUser, request: RequestKey) -> MessageView:
        question = {"role": "user", "content": said.text}
        async with user.turn(key, key=request, items=[question], wait_seconds=20) as turn:
            if not turn.ended:
                words = "".join([piece async for piece in model.speak(turn.model_input())])
                await turn.end([{"role": "assistant", "content": words}])
        assert turn.answer
        return turn.answer

    @app.post("/chats/{key}/stream")
    async def stream(
        key: str,
        said: Said,
        user: CurrentUser,
        request: RequestKey,
        rows: Rows,
        ends: bool = True,
    ) -> StreamingResponse:
        tasks = (await rows.exec(select(Task))).all()

        async def speak(turn: AsyncActiveTurn) -> AsyncGenerator[str]:
            if turn.ended:
                assert turn.answer
                yield turn.answer.content
                return
            words = ""
            async for piece in model.speak(turn.model_input()):
                words += piece
                yield piece
            answer = [{"role": "assistant", "content": f"{words}, {len(tasks)} tasks"}]
            await (turn.end(answer) if ends else turn.extend(answer))

        question = {"role": "user", "content": said.text}
        turn = user.turn(key, key=request, items=[question], wait_seconds=0)
        return await turn_response(turn, speak)

    @app.get("/chats/{key}/messages")
    async def history(key: str, user: CurrentUser, limit: int | None = None) -> list[MessageView]:
        return await user.history(key, limit=limit)

    @app.post("/chats/{key}/items")
    async def post(key: str, item: Annotated[Any, Body()], user: CurrentUser) -> MessageView:
        return await user.messages.post(key, body=item)

    @app.post("/tasks")
    async def create(task: Title, user: CurrentUser, request: RequestKey) -> TaskView:
        return await user.keyed(request).tasks.create(task.title)

    @app.post("/tasks/batch")
    async def batch(count: int, user: CurrentUser) -> int:
        async with user.transaction() as tx:
            for number in range(count):
                tx.tasks.create(f"Task {number}")
        return count

    @app.get("/tasks")
    async def tasks(user: CurrentUser) -> list[TaskView]:
        return await user.tasks.list()

    @app.get("/tasks/titles")
    async def titles(rows: Rows) -> list[str]:
        return list((await rows.exec(select(Task.title).order_by(col(Task.position)))).all())

    @app.get("/tasks/late")
    async def late(rows: Rows) -> StreamingResponse:
        async def read() -> AsyncGenerator[str]:
            yield str((await rows.exec(select(Task.title))).all())

        return StreamingResponse(read())

    @app.get("/tasks/{task}")
    async def task(task: UUID, user: CurrentUser) -> TaskView:
        return await user.tasks.get(task)

    @app.post("/sync/tasks")
    def sync_create(task: Title, user: SyncCurrentUser, request: RequestKey) -> TaskView:
        return user.keyed(request).tasks.create(task.title)

    @app.get("/sync/tasks/titles")
    def sync_titles(rows: SyncRows) -> list[str]:
        return list(rows.exec(select(Task.title).order_by(col(Task.position))).all())

    @app.post("/sync/chats/{key}/messages")
    def sync_say(key: str, said: Said, user: SyncCurrentUser, request: RequestKey) -> MessageView:
        with user.turn(key, key=request, items=[{"role": "user", "content": said.text}]) as turn:
            if not turn.ended:
                turn.end([{"role": "assistant", "content": "Hello"}])
        assert turn.answer
        return turn.answer

    return app
