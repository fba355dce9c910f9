"""
FastAPI: a store for the application, a user for each request, and errors as problem responses.

::

    app = FastAPI(lifespan=eventstore_lifespan(), exception_handlers=problem_handlers())
    CurrentUser = Annotated[AsyncUser, Depends(user_of(verified_subject))]

A request has a connection only while it reads or writes. A user's view, a turn and a streamed
answer have none between two round trips, and a session of `rows_of` is closed before the response
begins, so nothing is held while a model speaks.

Assumes that the dependency which `user_of` is given has verified who sends the request.
"""

# Annotations are not postponed here: FastAPI evaluates them, and some name local values.
import asyncio
import re
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any, Literal, Protocol, get_args

import anyio
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.params import Depends as Dependency
from fastapi.responses import JSONResponse, StreamingResponse
from psycopg.errors import DiskFull
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketState

from eventstore import (
    AsyncEventStore,
    AsyncUser,
    BatchTooLarge,
    ConfigurationError,
    Conflict,
    ConversationBusy,
    Event,
    EventRegistry,
    EventStore,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    QuotaReached,
    Settings,
    StorageFull,
    Unavailable,
    User,
)
from eventstore.database.driver.observer import Observer
from projections import Projector

__all__ = [
    "Problem",
    "RequestKey",
    "current_store",
    "current_sync_store",
    "eventstore_lifespan",
    "health_routes",
    "problem_handlers",
    "request_key",
    "rows_of",
    "sync_rows_of",
    "sync_user_of",
    "turn_response",
    "user_of",
]

type Stores = Literal["async", "sync", "both"]
type Subject = Callable[..., str | None] | Callable[..., Awaitable[str | None]]
"""A dependency of the service's that verifies a request and returns whose it is."""
type Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class EndingTurn(Protocol):
    """What a streamed response needs of a turn: that of `user.turn`, or of an agent's session."""

    @property
    def ended(self) -> bool:
        """Whether its end is recorded."""

    async def end(self) -> object:
        """Record its end."""


type Speak[T: EndingTurn] = Callable[[T], AsyncGenerator[str]]

_ENDING_SECONDS = 10.0
"""How long a turn is ended for, once its request is gone."""


def eventstore_lifespan(
    database_url: str | None = None,
    *,
    stores: Stores = "async",
    projectors: Sequence[Projector] = (),
    events: Sequence[type[Event]] | EventRegistry = (),
    settings: Settings | None = None,
    observer: Observer | None = None,
) -> Lifespan:
    """
    Return a lifespan that connects a store as the application starts, and closes it at the end.

    Within a lifespan of your own: `async with eventstore_lifespan()(app): yield`.

    :param stores: `async` for routes that are coroutines, `sync` for those that are not, or `both`:
        two stores, each with a pool of its own.
    :param database_url: this and the rest as in `AsyncEventStore.connect`, with its errors, which
        keep the application from starting.
    """
    options: dict[str, Any] = {
        "projectors": projectors,
        "events": events,
        "settings": settings,
        "observer": observer,
    }

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if stores != "sync":
                store = AsyncEventStore.connect(database_url, **options)
                app.state.eventstore = await stack.enter_async_context(store)
                stack.callback(delattr, app.state, "eventstore")
            if stores != "async":
                # Connecting and closing block, and the loop has other tasks.
                sync = await asyncio.to_thread(EventStore.connect, database_url, **options)
                stack.push_async_callback(asyncio.to_thread, sync.close)
                app.state.sync_eventstore = sync
                stack.callback(delattr, app.state, "sync_eventstore")
            yield

    return lifespan


async def current_store(connection: HTTPConnection) -> AsyncEventStore:
    """
    Return the application's async store: a dependency, for what no user does.

    A sub-application that is mounted has a state of its own: give it the store of the outer one by
    `dependency_overrides[current_store]`.

    :raises ConfigurationError: the application has none.
    """
    return _store(connection, "eventstore", AsyncEventStore, "async")


async def current_sync_store(connection: HTTPConnection) -> EventStore:
    """
    Return the application's sync store, likewise.

    :raises ConfigurationError: the application has none.
    """
    return _store(connection, "sync_eventstore", EventStore, "sync")


def _store[S](connection: HTTPConnection, name: str, kind: type[S], stores: Stores) -> S:
    store = getattr(connection.app.state, name, None)
    if not isinstance(store, kind):
        raise ConfigurationError(
            f"the application has no {stores} store; give it "
            f"FastAPI(lifespan=eventstore_lifespan(stores={stores!r})), or `both`"
        )
    return store


def user_of(subject: Subject) -> Callable[..., Awaitable[AsyncUser]]:
    """
    Return the dependency that gives a route the user who sends the request.

    ::

        CurrentUser = Annotated[AsyncUser, Depends(user_of(verified_subject))]

    :param subject: a dependency that verifies the request and returns its user's id, never one that
        takes the id from a path, a body or a model. None is answered with 401.
    """

    async def user(
        store: Annotated[AsyncEventStore, Depends(current_store)],
        verified: Annotated[str | None, Depends(subject)],
    ) -> AsyncUser:
        return store.user(_known(verified))

    return user


def sync_user_of(subject: Subject) -> Callable[..., Awaitable[User]]:
    """
    Return the dependency that gives a route which is no coroutine its user.

    :param subject: as in `user_of`.
    """

    # A coroutine all the same: it does not wait, and so needs no thread.
    async def user(
        store: Annotated[EventStore, Depends(current_sync_store)],
        verified: Annotated[str | None, Depends(subject)],
    ) -> User:
        return store.user(_known(verified))

    return user


def _known(verified: str | None) -> str:
    if verified is None:
        challenge = {"WWW-Authenticate": "Bearer"}
        raise HTTPException(HTTPStatus.UNAUTHORIZED, "log in", challenge)
    return verified


def rows_of(user: object, *, read_only: bool = True) -> Callable[..., Awaitable[AsyncSession]]:
    """
    Return the dependency that gives a route a SQLModel session in which only its user's rows exist.

    The session is closed when the route returns and before the response begins, so a response that
    is streamed holds no connection; then the session refuses to be used. Errors in it are
    SQLAlchemy's; of these `problem_handlers` answers `OperationalError`.

    :param user: the annotation of the user, `Annotated[AsyncUser, Depends(…)]`, or what `user_of`
        returned.
    :param read_only: False to write tables of your own, and commit.
    :raises ConfigurationError: `user` has no dependency.
    """
    given: Any = _dependency(user)

    async def session(user: AsyncUser = given) -> AsyncIterator[AsyncSession]:
        async with user.session(read_only=read_only) as rows:
            yield rows

    # The scope is set on an inner dependency, because that of the outer one is the caller's to
    # write, and by default lasts until the last byte of a streamed response is sent.
    async def rows(
        session: Annotated[AsyncSession, Depends(session, scope="function")],
    ) -> AsyncSession:
        return session

    return rows


def sync_rows_of(user: object, *, read_only: bool = True) -> Callable[..., Awaitable[Session]]:
    """
    Return the dependency that gives a route which is no coroutine a SQLModel session.

    :param user: as in `rows_of`, of a `User`; the rest too.
    """
    given: Any = _dependency(user)

    def session(user: User = given) -> Iterator[Session]:
        with user.session(read_only=read_only) as rows:
            yield rows

    async def rows(session: Annotated[Session, Depends(session, scope="function")]) -> Session:
        return session

    return rows


def _dependency(user: object) -> Dependency:
    found = [one for one in get_args(user) if isinstance(one, Dependency)]
    if not found and callable(user):
        found = [Dependency(user)]
    if not found:
        raise ConfigurationError(
            f"{user!r:.80} has no dependency; give Annotated[AsyncUser, Depends(user_of(…))]"
        )
    return found[0]


# A path parameter of the same name would be taken for this one, so the name is not just `key`.
async def request_key(
    idempotency_key: Annotated[
        str,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=257,
            description="Names the request, the same on each retry: up to 255 characters.",
        ),
    ],
) -> str:
    """
    Return what the header `Idempotency-Key` names: the key of a turn or of a command.

    ::

        async with user.turn(chat, key=key, items=[said]) as turn: ...
        await user.keyed(key).tasks.create(title)

    A key in quotation marks, as the draft of the IETF writes it, is the same key as without.
    FastAPI answers a request without the header with 422.
    """
    quoted = re.fullmatch(r'"(.+)"', idempotency_key)
    return quoted[1] if quoted else idempotency_key


RequestKey = Annotated[str, Depends(request_key)]
"""The annotation of a parameter that gets the request's `Idempotency-Key`."""


class Problem(BaseModel):
    """
    What an error is answered with, as `application/problem+json` (RFC 9457).

    :ivar type: names the class of the error: `urn:eventstore:NotFound`.
    :ivar detail: the error's message, which quotes no content.
    :ivar path: where in the input the value is, if one was refused.
    """

    type: str
    title: str
    status: int
    detail: str
    path: str | None = None


_STATUSES: Mapping[type[Exception], HTTPStatus] = {
    InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    BatchTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    QuotaReached: HTTPStatus.INSUFFICIENT_STORAGE,
    StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    OperationalError: HTTPStatus.SERVICE_UNAVAILABLE,
}

type Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


def problem_handlers(*, retry_after_seconds: int = 2) -> dict[int | type[Exception], Handler]:
    """
    Return the handlers that answer the store's errors, for `FastAPI(exception_handlers=…)`.

    404 `NotFound`, 409 `Conflict`, 413 `BatchTooLarge`, 422 `InvalidInput`, 503 `Unavailable` and
    an `OperationalError` of a session, 507 `StorageFull`, `QuotaReached` and a full disk in a
    session. The rest is for you to repair and not for the client to read: configuration, rights, a
    log that cannot be read. It is answered with 500 by Starlette, and the server logs it. A
    WebSocket that was accepted is closed by the server, with an error in its log.

    :param retry_after_seconds: the `Retry-After` of a 503, and of a `ConversationBusy`. An
        `OutcomeUnknown` of a command without a key has none: to send it again may double it.
    """

    async def answer(connection: Request, error: Exception) -> JSONResponse:
        # A WebSocket that was accepted takes no response. Of another kind, because an error of the
        # store would be given to this handler again, by the application around the route.
        if getattr(connection, "application_state", None) is WebSocketState.CONNECTED:
            raise RuntimeError("the WebSocket was accepted before this error") from error
        status = next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)
        full = isinstance(error, OperationalError) and isinstance(error.orig, DiskFull)
        if full:
            status = HTTPStatus.INSUFFICIENT_STORAGE
        # The message of SQLAlchemy's quotes the statement.
        detail = status.description if isinstance(error, OperationalError) else str(error)
        problem = Problem(
            type=f"urn:eventstore:{type(error).__name__}",
            title=status.phrase,
            status=status,
            detail=detail,
            path=getattr(error, "path", None),
        )
        # Sent again without its key, what may have been written would be written twice.
        unsafe = isinstance(error, OutcomeUnknown) and error.idempotency_key is None
        wait = isinstance(error, Unavailable | OperationalError | ConversationBusy)
        return JSONResponse(
            problem.model_dump(exclude_none=True),
            status,
            {"Retry-After": str(retry_after_seconds)} if wait and not unsafe and not full else None,
            "application/problem+json",
        )

    return dict.fromkeys(_STATUSES, answer)


class Health(BaseModel):
    """That the process runs, or that it can serve requests; `read-only` is without writes."""

    status: Literal["ok", "read-only"] = "ok"


def health_routes(*, health: str = "/health", ready: str = "/ready") -> APIRouter:
    """
    Return the routes that an orchestrator asks, for `app.include_router(…)`.

    `GET /health` says that the process answers, and asks no database: a process that is started
    anew does not bring a database back. `GET /ready` is `store.health()`, in one round trip: the
    server, the login, its role and the schema. If it cannot, the error is answered as anywhere:
    503 without a database or with a pending migration, 500 without a schema. A server that takes no
    writes is 200 with the status `read-only`, because reading goes on.

    :param health: the path of the first one.
    :param ready: the path of the second one.
    """
    routes = APIRouter(tags=["health"])

    @routes.get(health)
    async def alive() -> Health:
        return Health()

    @routes.get(ready, responses={HTTPStatus.SERVICE_UNAVAILABLE: {"model": Problem}})
    async def can_serve(connection: Request) -> Health:
        state = connection.app.state
        found = []
        if hasattr(state, "eventstore") or not hasattr(state, "sync_eventstore"):
            found.append(await (await current_store(connection)).health())
        if hasattr(state, "sync_eventstore"):
            found.append(await asyncio.to_thread(state.sync_eventstore.health))
        for one in found:
            if one.migration_pending:
                raise Unavailable(
                    f"the schema is at revision {one.revision}, and this release needs {one.head}; "
                    "run `eventstore migrate`"
                )
        return Health(status="read-only" if any(one.read_only for one in found) else "ok")

    return routes


async def turn_response[T: EndingTurn](
    turn: AbstractAsyncContextManager[T],
    speak: Speak[T],
    *,
    media_type: str = "text/plain; charset=utf-8",
    headers: Mapping[str, str] | None = None,
) -> StreamingResponse:
    """
    Return the response in which a turn is answered while its answer grows.

    The turn begins before the response, so a conversation that is busy or absent, and a key that is
    another request's, still have a status of their own. A turn that `speak` has not ended ends with
    it. If `speak` raises, or the client goes away, the turn is recorded as failed, and its key
    continues it at once.

    ::

        async def speak(turn: AsyncActiveTurn) -> AsyncGenerator[str]:
            if turn.ended:  # a retry
                yield turn.answer.text if turn.answer else ""
                return
            async for piece in model(turn.model_input()):
                yield piece
            await turn.end([…])

        return await turn_response(user.turn(chat, key=key, items=[said]), speak)

    :param turn: what `user.turn(…)` returned, not entered, or `session.turn(…)` of an
        `EventStoreSession`.
    :param speak: is given the turn and yields the pieces of the response. Nothing of the turn's is
        held while it waits for the model.
    :param media_type: `text/event-stream`, if the pieces are events.
    :raises ConversationBusy: these and the rest as on entering `user.turn`.
    """
    return _TurnResponse(turn, await turn.__aenter__(), speak, media_type, headers)


class _TurnResponse[T: EndingTurn](StreamingResponse):
    def __init__(
        self,
        block: AbstractAsyncContextManager[T],
        turn: T,
        speak: Speak[T],
        media_type: str,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._pieces = self._spoken_pieces(turn, speak)
        super().__init__(self._pieces, headers=headers, media_type=media_type)
        self._block = block
        self._spoken = False

    async def _spoken_pieces(self, turn: T, speak: Speak[T]) -> AsyncGenerator[str]:
        async with aclosing(speak(turn)) as pieces:
            async for piece in pieces:
                yield piece
        # Before the response ends: who has all of it can rely on its being recorded.
        if not turn.ended:
            await turn.end()
        self._spoken = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raised: BaseException | None = None
        try:
            await super().__call__(scope, receive, send)
        except BaseException as error:
            raised = error
            raise
        finally:
            # Starlette does not say that the client went away: it cancels the pieces and returns.
            if raised is None and not self._spoken:
                raised = ClientDisconnect()
            # What cancels a request here cancels every further wait in it too.
            with anyio.move_on_after(_ENDING_SECONDS, shield=True):
                await self._pieces.aclose()
                kind = None if raised is None else type(raised)
                await self._block.__aexit__(kind, raised, None)
