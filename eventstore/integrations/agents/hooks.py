"""Hooks that record tool calls, and what a tool is given to record what it does."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agents import (
    Agent,
    FunctionTool,
    ModelResponse,
    RunConfig,
    RunContextWrapper,
    RunHooks,
    Tool,
    ToolErrorFormatterArgs,
)
from agents.run_context import AgentHookContext
from agents.tool import (
    ToolErrorFunction,
    default_tool_error_function,
    default_tool_timeout_error_message,
    resolve_function_tool_failure_error_function,
    set_function_tool_failure_error_function,
)
from agents.tool_context import ToolContext

from eventstore import ConfigurationError
from eventstore.integrations.agents.run import RecordedCall, Run, run_of
from eventstore.store.commands.conversations import ConversationCommands
from eventstore.store.commands.messages import MessageCommands
from eventstore.store.commands.tasks import TaskCommands
from eventstore.store.commands.tool_calls import ToolCallCommands
from eventstore.store.sync_async import settled
from eventstore.store.units.transaction import TransactionCommands

__all__ = ["RecordToolCalls", "Recording", "current_call", "recording"]


_log = logging.getLogger("eventstore.agents")


class RunSession(Protocol):
    """A session that knows the runs in which it is used: an `EventStoreSession`."""

    def run_of(self, wrapper: RunContextWrapper[Any]) -> Run | None:
        """Return the run of a context."""


class RecordToolCalls(RunHooks[Any]):
    """
    Hooks that record each call of a local tool before the tool runs, and its outcome after.

    The calls stand in the conversation of the run's `EventStoreSession`. A call whose outcome is
    not recorded is pending: its process died, or the run was ended while the tool ran. A tool that
    raises or takes too long is recorded as failed, also where the model is told so in a result.
    What the run's model calls cost is recorded as a turn, which is completed with the final output.

    An append that fails ends the run: a tool whose call cannot be recorded does not run.

    To do more at these moments, derive from this class and call its methods too.

    :param session: needed for a run that goes on after a person has approved a call, because the
        SDK runs the tool before it asks the session anything; otherwise found by the run.
    """

    def __init__(self, session: RunSession | None = None) -> None:
        self._session = session

    def _run(self, context: RunContextWrapper[Any]) -> Run | None:
        run = run_of(context)
        return self._session.run_of(context) if run is None and self._session else run

    async def on_llm_end(
        self, context: RunContextWrapper[Any], agent: Agent[Any], response: ModelResponse
    ) -> None:
        """Take in what a request to the model has cost."""
        run = self._run(context)
        if run is not None:
            run.responded(response, _model_name(agent.model))

    async def on_tool_start(self, context: RunContextWrapper[Any], agent: Any, tool: Tool) -> None:
        """
        Record a call before its tool runs.

        :raises ConfigurationError: the run has no `EventStoreSession`.
        """
        del agent
        # The tools that the SDK runs itself, like a shell, have no id here; their items have.
        if not isinstance(context, ToolContext):
            return
        run = self._run(context) or _require_run(context)
        await settled(run.request(context.tool_call_id, context.tool_name, context.tool_arguments))
        _watch_failures(context, tool)

    async def on_tool_end(
        self, context: RunContextWrapper[Any], agent: Any, tool: Tool, result: object
    ) -> None:
        """Record what a tool returned."""
        del agent
        if isinstance(context, ToolContext):
            run, failed = _require_run(context), _timed_out(tool, result)
            await settled(run.end(context.tool_call_id, result, failed=failed))

    async def on_agent_end(self, context: AgentHookContext[Any], agent: Any, output: Any) -> None:
        """Take in that the turn is completed; it ends with the last items."""
        del agent, output
        run = self._run(context)
        # While a tool runs, it is an agent inside of the tool that has ended.
        if run is not None and not run.running:
            run.final = True


def current_call(context: RunContextWrapper[Any]) -> RecordedCall:
    """
    Return the recorded call whose tool runs, for `caused_by` of what the tool does.

    :param context: what the tool is given.
    :raises ConfigurationError: the call was not recorded, or has ended.
    """
    run = _require_run(context)
    call_id = getattr(context, "tool_call_id", None)
    call = run.running.get(call_id) if isinstance(call_id, str) else None
    if call is None:
        raise _misused(
            "no call is recorded for this context; give the run hooks=RecordToolCalls(), and the "
            "context that the tool was given, before its outcome is recorded"
        )
    return call


@dataclass(slots=True)
class Recording:
    """
    What a tool does in one append with its outcome; the commands are those of a transaction.

    :ivar call: the recorded call, for `caused_by`.
    :ivar output: what the call is recorded to return.
    """

    call: RecordedCall
    tasks: TaskCommands
    conversations: ConversationCommands
    messages: MessageCommands
    tool_calls: ToolCallCommands
    append: Callable[..., Any]
    output: object = None


@asynccontextmanager
async def recording(context: RunContextWrapper[Any]) -> AsyncIterator[Recording]:
    """
    Return a block that writes what a tool changes and the outcome of its call in one append.

    ::

        async with recording(context) as tx:
            task = tx.tasks.create(title, caused_by=tx.call)
            tx.output = {"task_id": str(task.id)}

    An exception that leaves the block writes nothing of it, and fails the call. A block for a call
    that has ended meanwhile writes nothing and raises, so that its change is not made twice.

    :param context: what the tool is given.
    :raises ConfigurationError: the call was not recorded, or has ended.
    :raises IdempotencyConflict: somebody else has ended the call; nothing was written.
    """
    run, call = _require_run(context), current_call(context)
    transaction = run.writer.transaction()
    tx: TransactionCommands = await transaction.__aenter__()
    changes = Recording(call, tx.tasks, tx.conversations, tx.messages, tx.tool_calls, tx.append)
    try:
        yield changes
        tx.tool_calls.succeed(call, output=changes.output)
    except BaseException as error:
        await transaction.__aexit__(type(error), error, error.__traceback__)
        raise
    await settled(transaction.__aexit__(None, None, None))
    run.ended_by_tool(call)


def _require_run(context: RunContextWrapper[Any]) -> Run:
    run = run_of(context)
    if run is None:
        raise _misused(
            "the run uses no EventStoreSession, in whose conversation its calls are recorded; give "
            "it one as its session, and a run that is resumed hooks=RecordToolCalls(session) too"
        )
    return run


def _misused(problem: str) -> ConfigurationError:
    """Return an error that is logged too: of one in a tool the SDK tells the model alone."""
    _log.error("%s", problem)
    return ConfigurationError(problem)


def _model_name(model: object) -> str | None:
    name = model if isinstance(model, str) else getattr(model, "model", None)
    return name if isinstance(name, str) and name else None


def _timed_out(tool: Tool, result: object) -> bool:
    seconds = tool.timeout_seconds if isinstance(tool, FunctionTool) else None
    if seconds is None:
        return False
    return result == default_tool_timeout_error_message(
        tool_name=tool.name, timeout_seconds=seconds
    )


def _watch_failures(context: ToolContext[Any], tool: Tool) -> None:
    """
    Have the store told of what a tool raises.

    The hook is not: where the model is told of a failure it gets the text, and otherwise it is not
    called. What formats the text is called with the error, so that is where it is recorded.
    """
    if not isinstance(tool, FunctionTool):
        return
    formatter = resolve_function_tool_failure_error_function(tool)
    # Only of a tool that was given no function does the SDK ask the formatter of the run.
    if formatter is default_tool_error_function and tool._use_default_failure_error_function:  # noqa: SLF001 - nothing else tells
        # The text of the SDK's own stays what it is, and so does what the SDK derives from that.
        config = context.run_config or RunConfig()
        given = config.tool_error_formatter

        async def report(args: ToolErrorFormatterArgs[Any]) -> str | None:
            if args.kind == "tool_exception":
                await _record_failure(context, args.error or args.default_message)
            message = None if given is None else given(args)
            return await message if inspect.isawaitable(message) else message

        context.run_config = replace(config, tool_error_formatter=report)
    elif not isinstance(formatter, _Watched):
        # Of all runs, once: it tells by the context which call failed.
        set_function_tool_failure_error_function(tool, _Watched(formatter))
    timed_out = tool.timeout_error_function
    if timed_out is not None and not isinstance(timed_out, _Watched):
        tool.timeout_error_function = _Watched(timed_out)


class _Watched:
    """A tool's own function for failures, which the store is told of first."""

    def __init__(self, formatter: ToolErrorFunction | None) -> None:
        self._formatter = formatter

    async def __call__(self, context: RunContextWrapper[Any], error: Exception) -> Any:
        await _record_failure(context, error)
        if self._formatter is None:
            return None  # the SDK raises the error then, as without a function
        message = self._formatter(context, error)
        return await message if inspect.isawaitable(message) else message


async def _record_failure(context: RunContextWrapper[Any], error: object) -> None:
    run = run_of(context)
    if run is not None and isinstance(context, ToolContext):
        shown = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error
        await settled(run.end(context.tool_call_id, shown, failed=True))
