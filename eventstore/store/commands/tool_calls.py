"""A conversation's tool calls: request before the tool runs, then succeed or fail; find one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid5

from eventstore.database.plan import Plan
from eventstore.errors import OUTCOME_KEY, InvalidInput
from eventstore.events.chat_formats import RequestedCall, tool_body
from eventstore.events.event import make_event
from eventstore.events.json_codec import check_json, checked_text
from eventstore.events.tool_calls import ToolCallFailed, ToolCallSucceeded
from eventstore.store.commands.messages import MessageCommands, posted_message
from eventstore.store.context import Queries
from eventstore.store.decisions import Cause
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_command,
    async_method,
    sync_command,
    sync_method,
)
from eventstore.store.unit_of_work import Commands, Handle
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallView
from projections.queries.tool_calls import find_tool_call

__all__ = ["AsyncToolCalls", "ToolCallCommands", "ToolCallHandle", "ToolCallQueries", "ToolCalls"]


class ToolCallReference(Protocol):
    """What identifies one call: a `ToolCallView` or a `ToolCallHandle`."""

    @property
    def conversation_id(self) -> UUID:
        """The conversation in which it was requested."""

    @property
    def call_id(self) -> str:
        """The model's name for it."""

    @property
    def event_id(self) -> UUID:
        """The id of the request's event."""


@dataclass(slots=True, kw_only=True)
class ToolCallHandle[V](Handle[V]):
    """What requesting a call in a transaction returns; `call_id` is the model's name for it."""

    conversation_id: UUID
    message_id: UUID
    call_id: str


class ToolCallCommands(Commands):
    """The commands on tool calls."""

    def request(
        self,
        conversation: UUID | str,
        *,
        name: str,
        arguments: str | Mapping[str, Any],
        call_id: str | None = None,
        content: object = None,
        caused_by: Cause = None,
    ) -> ToolCallHandle[ToolCallView]:
        """
        Record that the model asks for a tool, before the tool runs; one round trip.

        The request is a message of the assistant. A message with several calls is posted with
        `messages.post`.

        :param conversation: its id or key.
        :param name: the tool's, up to 255 characters.
        :param arguments: the model's text, kept verbatim, valid JSON or not; or a mapping.
        :param call_id: the model's name for the call; None makes one up.
        :param content: what the assistant says beside the call.
        :return: the call, to give to `succeed`, `fail` or `caused_by`.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        :raises InvalidInput: a value does not fit or cannot be stored; nothing was written.
        """
        text = arguments if isinstance(arguments, str) else _json_text(arguments)
        # The name is made of an id of the unit of work, so a retry under a key makes the same one.
        call = RequestedCall(call_id or f"call_{self._work.new_id().hex}", name, text)
        message = MessageCommands(self._work).post(
            conversation,
            sender="assistant",
            content=content,
            tool_calls=[call],
            caused_by=caused_by,
        )
        # `post` adds the message first and then its only call.
        requested = self._work.steps[-1]
        return ToolCallHandle(
            id=requested.event_id,
            event_id=requested.event_id,
            view=lambda outcome: message.view(outcome).tool_calls[0],
            conversation_id=requested.stream_id,
            message_id=message.id,
            call_id=call.id,
        )

    def succeed(self, call: ToolCallReference, *, output: object) -> Handle[MessageView]:
        """
        Record what the tool returned; one round trip.

        A call ends once: the same outcome again returns the first one, another one is refused.

        :param call: what `request` or `find` returned.
        :param output: text, or any JSON value, kept exactly.
        :return: the tool's message.
        :raises IdempotencyConflict: the call has already ended with another outcome.
        :raises AlreadyExists: it has already ended, and this append has a key of the caller's.
        :raises StreamClosed: the conversation was deleted.
        :raises NotFound: the call is another user's.
        :raises NotStorable: the output has no JSON form; nothing was written.
        """
        _require_reference(call)
        value = check_json(output, "output")
        body = tool_body(call.call_id, value)
        # A text stands in the reply already, as it is. Another value stands there as JSON text
        # only, so it is stored beside it.
        stored = {} if isinstance(value, str) else {"output": value}
        return self._end(call, ToolCallSucceeded, body, stored)

    def fail(self, call: ToolCallReference, *, error: object) -> Handle[MessageView]:
        """
        Record how the tool failed; one round trip.

        :param call: what `request` or `find` returned.
        :param error: text, or any JSON value, kept exactly.
        :return: the tool's message.
        :raises IdempotencyConflict: the call has already ended with another outcome.
        :raises AlreadyExists: it has already ended, and this append has a key of the caller's.
        :raises StreamClosed: the conversation was deleted.
        :raises NotFound: the call is another user's.
        :raises NotStorable: the error has no JSON form; nothing was written.
        """
        _require_reference(call)
        value = check_json(error, "error")
        return self._end(call, ToolCallFailed, tool_body(call.call_id, value), {"error": value})

    def _end(
        self,
        call: ToolCallReference,
        kind: type[ToolCallSucceeded | ToolCallFailed],
        body: dict[str, Any],
        stored: dict[str, Any],
    ) -> Handle[MessageView]:
        data = make_event(
            kind,
            call_id=call.call_id,
            request_event_id=call.event_id,
            reply=body,
            **stored,
        )
        # The same on a retry, from any process. So a second outcome that no key stops meets the
        # first one's row of `message`.
        message_id = uuid5(call.event_id, "outcome")
        self._work.record(call.conversation_id, data, caused_by=call, event_id=message_id)
        if all(step.event_id != call.event_id for step in self._work.steps):
            # Somebody else may end a call that was requested before; one that is new nobody knows.
            # An append has one key: that of the first call which it ends.
            self._work.default_key = self._work.default_key or f"{OUTCOME_KEY}{call.event_id}"
        return Handle(message_id, message_id, lambda outcome: posted_message(outcome, message_id))


def _require_reference(call: object) -> None:
    if not hasattr(call, "event_id") or not hasattr(call, "call_id"):
        fact = f"a {type(call).__name__}; give what request or find returned"
        raise InvalidInput("call", fact)


def _json_text(arguments: Mapping[str, Any]) -> str:
    return checked_text(arguments, "arguments")


class ToolCallQueries(Queries):
    """The queries on a user's tool calls, as plans."""

    def find(self, conversation: UUID | str, call_id: str) -> Plan[ToolCallView]:
        """
        Return the newest call with that name in a conversation; one round trip.

        This is for a process that knows only the model's name for the call. Models repeat names;
        the newest call is returned. Index: `tool_call_call_id`.

        :param conversation: its id or key.
        :param call_id: the model's name for the call.
        :raises NotFound: no such call, or not this user's.
        """
        context = self.context
        return context.about_conversation(
            conversation, lambda resolved: find_tool_call(context.user_id, resolved, call_id)
        )


class ToolCalls(SyncFacade[ToolCallQueries]):
    """A user's tool calls."""

    _commands = ToolCallCommands

    request = sync_command(ToolCallCommands.request)
    succeed = sync_command(ToolCallCommands.succeed)
    fail = sync_command(ToolCallCommands.fail)
    find = sync_method(ToolCallQueries.find)


class AsyncToolCalls(AsyncFacade[ToolCallQueries]):
    """A user's tool calls."""

    _commands = ToolCallCommands

    request = async_command(ToolCallCommands.request)
    succeed = async_command(ToolCallCommands.succeed)
    fail = async_command(ToolCallCommands.fail)
    find = async_method(ToolCallQueries.find)
