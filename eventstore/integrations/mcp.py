"""
MCP: each tool call of a server is recorded, run once, and answered again if it comes again.

::

    server = MCPServer("todo", extensions=[RecordCalls(store)])

    @server.tool()
    async def add_task(title: str) -> str:
        return str(current_transaction().tasks.create(title, caused_by=current_call()).id)

A call is recorded before its tool runs and ends once: with what the tool returned, with its error,
with an error of the protocol, or abandoned, if its client cancelled it. What the tool puts into
`current_transaction` is written together with the outcome, in one append, or not at all.

A client that names its calls in `_meta` (`tool_call_meta` does so for an agent of the OpenAI Agents
SDK) may send one again: of those that come at once, one runs the tool, and the rest are answered
with what it returned. Without a name, a call that comes again is another call.

Assumes that a tool which does more than write to the store can be told to do it again: one whose
process dies between its effect and the outcome runs again, when its call comes again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Protocol

import anyio
import anyio.lowlevel
from mcp.server import ServerRequestContext
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    CallToolRequestParams,
    CallToolResult,
    InputRequiredResult,
    TextContent,
)
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from eventstore import (
    AsyncEventStore,
    AsyncUser,
    ConfigurationError,
    Conflict,
    Erased,
    EventStoreError,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    StreamClosed,
)
from eventstore.store.units.transaction import TransactionCommands
from projections.models.tool_call import ToolCallView

__all__ = [
    "CALL_META",
    "RecordCalls",
    "current_call",
    "current_transaction",
    "current_user",
    "tool_call_meta",
]

CALL_META = "todo-eventstore/call"
"""The key in `_meta` under which a client names a call: `{"id": …, "conversation": …}`."""

type RequestContext = ServerRequestContext[Any, Any]
type StoreOf = Callable[[RequestContext], AsyncEventStore]
type UserOf = Callable[[RequestContext], str | None]

_LONGEST_PAUSE_SECONDS = 0.5
_ENDING_SECONDS = 10.0
_CLAIM_MARGIN_SECONDS = 30


@dataclass(frozen=True, slots=True)
class _Running:
    """The call whose tool runs, and what is written together with its outcome."""

    user: AsyncUser
    call: ToolCallView
    transaction: TransactionCommands


_running: ContextVar[_Running] = ContextVar("running_call")


def current_user() -> AsyncUser:
    """
    Return the user whose call the tool serves, to read, or to write apart from the outcome.

    A tool that is no coroutine runs in a thread, and awaits it by `anyio.from_thread.run`.

    :raises ConfigurationError: not within a tool of a server that records calls.
    """
    return _current().user


def current_call() -> ToolCallView:
    """
    Return the call that the tool serves, to be named as a cause: `caused_by=current_call()`.

    :raises ConfigurationError: not within a tool of a server that records calls.
    """
    return _current().call


def current_transaction() -> TransactionCommands:
    """
    Return the transaction of the call: what is recorded in it is written with the outcome.

    Its commands send nothing, and so are not awaited and may be used by a tool in a thread. They
    return handles, whose `id` is known at once. If the tool fails, nothing is written; if the store
    refuses a command as the tool has returned (a task that is absent, a deleted one), the call
    fails with that error.

    :raises ConfigurationError: not within a tool of a server that records calls.
    """
    return _current().transaction


def _current() -> _Running:
    running = _running.get(None)
    if running is None:
        raise ConfigurationError(
            "no tool call is recorded here; call this in a tool of "
            "MCPServer(extensions=[RecordCalls(store)])"
        )
    return running


class RecordCalls(Extension):
    """
    The extension of an MCP server that records its tool calls; for `MCPServer(extensions=[…])`.

    A call takes two round trips, before and after its tool; one with a name four, and three again.

    :param store: the async store, or a function that is given the context of a request and returns
        it, for a server that is made before its store is connected: one that its lifespan connects
        is `lambda context: context.lifespan_context`.
    :param user: whose calls they are. None takes the subject of the verified token; a call without
        one is refused. Text is one user, for stdio, and refused over HTTP. A function is given the
        context of the request, and returns the user's id, or None to refuse: of a service whose
        tokens come from several issuers, say, because a subject is unique within one only.
    :param conversation: the key of the conversation that a user's calls are recorded in; it is
        started if there is none, as an archived one, and stands in no list of active ones.
    :param tool_seconds: how long a tool may take, 1 to 604,000. One that takes longer is stopped,
        and its call fails; one that is no coroutine cannot be stopped, and must not take longer.
        When a process died, its calls can be run again after so long, and 30 seconds.
    :param wait_seconds: how long a call that comes again waits for the first one.
    :raises InvalidInput: a number is out of range.
    """

    identifier = "todo-eventstore/record-calls"

    def __init__(
        self,
        store: AsyncEventStore | StoreOf,
        *,
        user: str | UserOf | None = None,
        conversation: str = "mcp",
        tool_seconds: int = 120,
        wait_seconds: float = 60.0,
    ) -> None:
        if not 1 <= tool_seconds <= 604_000:  # noqa: PLR2004 - a claim lasts a week at most
            raise InvalidInput("tool_seconds", f"{tool_seconds}; give 1 to 604,000 seconds")
        if wait_seconds < 0:
            raise InvalidInput("wait_seconds", f"{wait_seconds}; give 0 or more")
        self._store = store
        self._user = user
        self._conversation = conversation
        self._tool_seconds = tool_seconds
        self._wait_seconds = wait_seconds

    def settings(self) -> dict[str, Any]:
        """Tell clients under which key of `_meta` they may name a call."""
        return {"callMeta": CALL_META}

    def user_of(self, context: RequestContext) -> AsyncUser:
        """
        Return the user who sends a request: for resources and prompts, as tools have
        `current_user`.

        :param context: `ctx.request_context` of the handler's `Context`.
        :raises MCPError: nobody is known to have sent it.
        """
        match self._user:
            case None:
                token = get_access_token()
                name = None if token is None else token.subject
            case str() as name:
                # Whoever reached the port would be this user.
                if context.request is not None:
                    raise MCPError(
                        INVALID_REQUEST,
                        "this server has one configured user, which is for stdio; over HTTP verify "
                        "tokens, or give RecordCalls a function",
                    )
            case user_of:
                name = user_of(context)
        if name is None:
            raise MCPError(
                INVALID_REQUEST,
                "nobody is known to send this request: no verified token with a subject, and no "
                "configured user",
            )
        store = self._store if isinstance(self._store, AsyncEventStore) else self._store(context)
        return store.user(name)

    async def intercept_tool_call(
        self, params: CallToolRequestParams, ctx: RequestContext, call_next: CallNext
    ) -> HandlerResult:
        """
        Record a call, run its tool unless that was done, and record the outcome.

        :raises MCPError: no user, a name that was used for another call, arguments that cannot be
            stored, another process that did not end the call in time, or no database.
        """
        name = _name_of(params)
        try:
            user = self.user_of(ctx)
            # Cancelled in between, it may be recorded, and nobody would know to end it.
            with anyio.CancelScope(shield=True):
                call = await self._requested(user, params, name)
            # Nobody but this request can mean a call without a name.
            if call.status == "pending" and name is not None:
                call = await self._claimed(user, call)
        except EventStoreError as error:
            raise _refusal(error, name) from error
        if call.status != "pending":
            return _answer(call)
        return await self._run(user, call, ctx, call_next)

    async def _requested(
        self, user: AsyncUser, params: CallToolRequestParams, name: _Name | None
    ) -> ToolCallView:
        """Record that the call was asked for, or find it, if it has a name that is known."""
        recorder = user if name is None else user.keyed(name.key)
        if name is not None and name.conversation is not None:
            recorder = recorder.annotated(metadata={"agent_conversation": name.conversation})

        async def request() -> ToolCallView:
            return await recorder.tool_calls.request(
                self._conversation,
                name=params.name,
                arguments=params.arguments or {},
                call_id=None if name is None else name.id,
                in_history=False,
            )

        try:
            return await request()
        except (NotFound, StreamClosed):
            # The first call of this user, or the first one after they deleted the conversation.
            await user.conversations.start(key=self._conversation, title="MCP")
            await user.conversations.archive(self._conversation)
            return await request()

    async def _claimed(self, user: AsyncUser, call: ToolCallView) -> ToolCallView:
        """Take the call, or wait for whoever has it; return it as ended, or as ours to run."""
        deadline = time.monotonic() + self._wait_seconds
        seconds = self._tool_seconds + _CLAIM_MARGIN_SECONDS
        while True:
            # Cancelled in between, it may be claimed by nobody, and whoever sends it again waits.
            with anyio.CancelScope(shield=True):
                claim = await user.tool_calls.claim(call, seconds=seconds)
            if claim.granted or claim.call.status != "pending":
                return claim.call
            left = deadline - time.monotonic()
            if left <= 0:
                raise MCPError(
                    INTERNAL_ERROR,
                    f"the call {call.call_id!r:.80} is still being run; send it again later",
                )
            # The clock of the claim is the server's, so ours only says when to ask again.
            until = claim.call.claimed_until or datetime.now(UTC)
            over = (until - datetime.now(UTC)).total_seconds()
            await user.tool_calls.wait(call, seconds=min(left, max(over, _LONGEST_PAUSE_SECONDS)))

    async def _run(
        self, user: AsyncUser, call: ToolCallView, ctx: RequestContext, call_next: CallNext
    ) -> HandlerResult:
        """Run the tool and record what came of it, whatever it was."""
        block = user.transaction()
        transaction = await block.__aenter__()
        reset = _running.set(_Running(user, call, transaction))
        result: HandlerResult = None
        try:
            with anyio.move_on_after(self._tool_seconds) as limit:
                # A tool may await nothing, and so would change what its client has given up.
                await anyio.lowlevel.checkpoint_if_cancelled()
                result = await call_next(ctx)
            if limit.cancelled_caught:
                result = _tool_error(f"took longer than {self._tool_seconds} seconds: stopped")
        except BaseException as error:
            # What a tool still does in its transaction is refused from now on.
            await block.__aexit__(type(error), error, error.__traceback__)
            await _record(_ended_by(error, user, call))
            raise
        finally:
            _running.reset(reset)
        # What has run is recorded even if the client cancels the call now.
        with anyio.CancelScope(shield=True):
            answer = await _end(user, call, block, transaction, result)
        return answer  # noqa: RET504 - a return in a scope that may swallow is none to mypy


async def _end(
    user: AsyncUser,
    call: ToolCallView,
    block: Any,
    transaction: TransactionCommands,
    result: HandlerResult,
) -> HandlerResult:
    """Record what the tool returned, with what it changed, and return what the client is told."""
    try:
        stored = _stored(result)
        if getattr(result, "is_error", False):
            await user.tool_calls.fail(call, error=stored)
        else:
            transaction.tool_calls.succeed(call, output=stored)
            await block.__aexit__(None, None, None)
    except IdempotencyConflict:
        # This process was so slow that another one ran the call: the first outcome counts.
        return _answer(await user.tool_calls.get(call.id))
    except (Conflict, NotFound, InvalidInput) as error:
        # The store refuses a change. It is the tool's to have known, and the model's to read.
        return await _refused(user, call, str(error))
    except PydanticSerializationError:
        return await _refused(user, call, "the tool returned what JSON cannot hold")
    except EventStoreError as error:
        raise _refusal(error, None) from error
    return result


async def _refused(user: AsyncUser, call: ToolCallView, text: str) -> CallToolResult:
    """Fail a call whose tool ran, and return what the client is told."""
    refused = _tool_error(text)
    # Where the conversation was deleted meanwhile, there is nothing left to record it in.
    with suppress(NotFound, StreamClosed):
        await user.tool_calls.fail(call, error=_stored(refused))
    return refused


async def _ended_by(error: BaseException, user: AsyncUser, call: ToolCallView) -> None:
    """Record that a call ended with an exception."""
    match error:
        case MCPError():
            shown: Any = error.error
        case Exception():
            shown = {"code": INTERNAL_ERROR, "message": "Internal server error"}
        case _:  # cancelled by the client, or because the server stops
            await user.tool_calls.abandon(call, reason="cancelled")
            return
    try:
        await user.tool_calls.fail(call, error=_stored(shown))
    except (InvalidInput, PydanticSerializationError):
        # Left pending, it would be run again by whoever sends it again.
        shown = {"code": INTERNAL_ERROR, "message": "failed with an error that cannot be stored"}
        await user.tool_calls.fail(call, error=shown)


async def _record(outcome: Any) -> None:
    """Record an outcome within an exception that goes on, also if the task is cancelled."""
    # Without it the call is found as pending, and its claim runs out.
    with anyio.move_on_after(_ENDING_SECONDS, shield=True), suppress(EventStoreError):
        await outcome


def _stored(value: BaseModel | Mapping[str, Any] | None) -> Any:
    """Return a result, or an error of the protocol, as it is on the wire."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return value


def _answer(call: ToolCallView) -> HandlerResult:
    """Return what was recorded of a call that has ended, as its first client was told it."""
    match call.status, call.output if call.status == "succeeded" else call.error:
        case "succeeded", {"resultType": "input_required"} as stored:
            return InputRequiredResult.model_validate(stored)
        case "succeeded" | "failed", {"content": list()} as stored:
            return CallToolResult.model_validate(stored)
        case "failed", {"code": int() as code, "message": str() as message, **more}:
            raise MCPError(code, message, more.get("data"))
        case "succeeded", dict() | None as stored:
            return stored
        case status, reason:
            return _tool_error(
                f"the call {call.call_id!r:.80} {status} ({reason!s:.200}), and its tool may have "
                "run in part; look at what it did, and call it under another id"
            )


def _tool_error(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=text)], is_error=True)


def _refusal(error: EventStoreError, name: _Name | None) -> MCPError:
    """Return the error of the protocol for one of the store's, which quotes no content."""
    match error:
        case IdempotencyConflict() | Erased() if name is not None:
            text = f"the call id {name.id!r:.80} was used for another call; use a new one"
            return MCPError(INVALID_PARAMS, text)
        case InvalidInput():
            return MCPError(INVALID_PARAMS, str(error))
        case _:
            return MCPError(INTERNAL_ERROR, f"the call could not be recorded: {error}")


@dataclass(frozen=True, slots=True)
class _Name:
    """
    What a client calls a call.

    :ivar id: the id that the model gave it.
    :ivar conversation: that of the agent in which it was asked for; models repeat ids elsewhere.
    :ivar key: names the call, and the round of it, if it asks for input.
    """

    id: str
    conversation: str | None
    key: str


def _name_of(params: CallToolRequestParams) -> _Name | None:
    meta: Mapping[str, Any] = params.meta or {}
    match meta.get(CALL_META):
        case None:
            return None
        case {"id": str() as call_id, **more} if isinstance(
            conversation := more.get("conversation"), str | None
        ):
            # A call that asked for input is sent again with it: another request, to be run.
            given = params.model_dump(mode="json", include={"input_responses", "request_state"})
            named = json.dumps([conversation, call_id, *(given[one] for one in sorted(given))])
            digest = sha256(named.encode()).hexdigest()
            return _Name(call_id, conversation, f"mcp:{digest}")
        case _:
            raise MCPError(INVALID_PARAMS, f'_meta["{CALL_META}"]: give an id, which is text')


class _ToolMetaContext(Protocol):
    """What the OpenAI Agents SDK gives a `tool_meta_resolver`: its `MCPToolMetaContext`."""

    @property
    def run_context(self) -> Any:
        """The run's context; in a call of a tool, its `ToolContext`."""


def tool_call_meta(
    conversation: str | Callable[[Any], str | None] | None = None,
    *,
    call_id: Callable[[Any], str] | None = None,
) -> Callable[[_ToolMetaContext], dict[str, Any]]:
    """
    Return the `tool_meta_resolver` of an agent's MCP server, which names each call in `_meta`.

    ::

        MCPServerStreamableHttp(params, tool_meta_resolver=tool_call_meta("session-7"))

    The name is the id that the model gave the call, as it stands in the items of the session, so a
    session's item and the server's call are found by one id.

    :param conversation: the key of the agent's conversation, or a function of the run's context
        that returns it. Without one, ids must not be repeated in any conversation of the user's.
    :param call_id: a function of the run's context that returns the name, for models that repeat
        their ids within a conversation.
    """

    def resolve(context: _ToolMetaContext) -> dict[str, Any]:
        run = context.run_context
        named: dict[str, Any] = {"id": run.tool_call_id if call_id is None else call_id(run)}
        where = conversation(run) if callable(conversation) else conversation
        if where is not None:
            named["conversation"] = where
        return {CALL_META: named}

    return resolve
