"""A conversation's tool calls: request before the tool runs, then succeed or fail; find one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid5

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.chat_formats import RequestedCall, tool_body
from eventstore.events.event import make_event
from eventstore.events.json_codec import check_json, dumps, loads
from eventstore.events.tool_calls import ToolCallFailed, ToolCallSucceeded
from eventstore.log.envelope import NOW
from eventstore.store.context import Queries
from eventstore.store.decisions import Cause
from eventstore.store.messages import MessageCommands, posted_message
from eventstore.store.sync_async import (
    AsyncCommand,
    AsyncFacade,
    AsyncMethod,
    SyncCommand,
    SyncFacade,
    SyncMethod,
)
from eventstore.store.unit_of_work import Commands, Handle
from projections.models.message import MessageView, ToolCallView, message_view

__all__ = ["AsyncToolCalls", "ToolCallCommands", "ToolCallHandle", "ToolCallQueries", "ToolCalls"]

_WITH_CALLS = """
select m.id, m.position, m.sender, m.body::text, m.tool_calls::text[], m.created_at
from eventstore.message as m
join eventstore.conversation as c
  on c.user_id = m.user_id and c.id = m.conversation_id and c.status <> 'deleted'
where m.user_id = $1
  and m.conversation_id = $2
  and m.tool_calls is not null
  and m.retracted_at is null
order by m.position desc
"""


class ToolCallReference(Protocol):
    """What identifies one call: a `ToolCallView` or a `ToolCallHandle`."""

    @property
    def conversation_id(self) -> UUID:
        """The conversation in which it was requested."""

    @property
    def message_id(self) -> UUID:
        """The message that asked for it."""

    @property
    def index(self) -> int:
        """Its index among that message's calls."""

    @property
    def id(self) -> str:
        """The model's name for it."""

    @property
    def event_id(self) -> UUID:
        """The id of the request's event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallHandle[V](Handle[V]):
    """What requesting a call in a transaction returns; `id` is the model's name for the call."""

    id: str  # type: ignore[assignment]  # a call is named by its model, not by a UUID
    conversation_id: UUID
    message_id: UUID
    index: int


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
        :param arguments: the model's text, kept verbatim, valid JSON or not; or a mapping.
        :param call_id: the model's name for the call; None makes one up.
        :param content: what the assistant says beside the call.
        :return: the call, to give to `succeed`, `fail` or `caused_by`.
        :raises NotFound: no such conversation of this user.
        :raises InvalidInput: a value does not fit or cannot be stored; nothing was written.
        """
        text = arguments if isinstance(arguments, str) else _json_text(arguments)
        call = RequestedCall(call_id or f"call_{self._work.new_id().hex}", name, text)
        message = MessageCommands(self._work).post(
            conversation,
            sender="assistant",
            content=content,
            tool_calls=[call],
            caused_by=caused_by,
        )
        requested = self._work.steps[-1]
        return ToolCallHandle(
            id=call.id,
            event_id=requested.event_id,
            view=lambda outcome: message.view(outcome).tool_calls[0],
            conversation_id=requested.stream_id,
            message_id=message.id,
            index=0,
        )

    def succeed(self, call: ToolCallReference, *, output: object) -> Handle[MessageView]:
        """
        Record what the tool returned; one round trip.

        A call ends once: the same outcome again returns the first one, another one is refused.

        :param call: what `request` or `find` returned.
        :param output: text, or any JSON value, kept exactly.
        :return: the tool's message.
        :raises IdempotencyConflict: the call has already ended with another outcome.
        :raises NotStorable: the output has no JSON form; nothing was written.
        """
        _require_reference(call)
        value = check_json(output, "output")
        body = tool_body(call.id, value)
        stored = {} if isinstance(value, str) else {"output": value}
        return self._end(call, ToolCallSucceeded, body, stored)

    def fail(self, call: ToolCallReference, *, error: object) -> Handle[MessageView]:
        """
        Record how the tool failed; one round trip.

        :param call: what `request` or `find` returned.
        :param error: text, or any JSON value, kept exactly.
        :return: the tool's message.
        :raises IdempotencyConflict: the call has already ended with another outcome.
        :raises NotStorable: the error has no JSON form; nothing was written.
        """
        _require_reference(call)
        value = check_json(error, "error")
        return self._end(call, ToolCallFailed, tool_body(call.id, value), {"error": value})

    def _end(
        self,
        call: ToolCallReference,
        kind: type[ToolCallSucceeded | ToolCallFailed],
        body: dict[str, Any],
        stored: dict[str, Any],
    ) -> Handle[MessageView]:
        reply_id = uuid5(call.event_id, "reply")  # the same on a retry
        data = make_event(
            kind,
            call_id=call.id,
            message_id=call.message_id,
            index=call.index,
            reply_id=reply_id,
            reply=body,
            **stored,
        )
        event = self._work.record(call.conversation_id, data, caused_by=call)
        self._work.default_key = self._work.default_key or f"outcome:{call.event_id}"
        return Handle(reply_id, event.event_id, lambda outcome: posted_message(outcome, reply_id))


def _require_reference(call: object) -> None:
    if not hasattr(call, "event_id") or not hasattr(call, "message_id"):
        fact = f"a {type(call).__name__}; give what request or find returned"
        raise InvalidInput("call", fact)


def _json_text(arguments: Mapping[str, Any]) -> str:
    return dumps(check_json(arguments, "arguments"))


class ToolCallQueries(Queries):
    """The queries on a user's tool calls, as plans."""

    def find(self, conversation: UUID | str, call_id: str) -> Plan[ToolCallView]:
        """
        Return the newest call with that name in a conversation; one round trip.

        This is for a process that knows only the model's name for the call. Models repeat names;
        the newest call is returned.

        :param conversation: its id or key.
        :raises NotFound: no such call, or not this user's.
        """
        context = self.context
        return context.about_conversation(
            conversation, lambda resolved: _find(context.user_id, resolved, call_id)
        )


def _find(user_id: str, conversation: UUID, call_id: str) -> Plan[ToolCallView]:
    statement = Statement(_WITH_CALLS, (user_id, conversation))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    for message_id, position, sender, body, tool_calls, created_at in rows:
        row = {
            "id": message_id,
            "conversation_id": conversation,
            "position": position,
            "sender": sender,
            "body": loads(body),
            "tool_calls": [loads(call) for call in tool_calls],
            "created_at": created_at,
        }
        for call in reversed(message_view(row, NOW).tool_calls):
            if call.id == call_id:
                return call
    raise NotFound("tool call", call_id)


class ToolCalls(SyncFacade[ToolCallQueries]):
    """A user's tool calls."""

    _commands = ToolCallCommands

    request = SyncCommand(ToolCallCommands.request)
    succeed = SyncCommand(ToolCallCommands.succeed)
    fail = SyncCommand(ToolCallCommands.fail)
    find = SyncMethod(ToolCallQueries.find)


class AsyncToolCalls(AsyncFacade[ToolCallQueries]):
    """A user's tool calls."""

    _commands = ToolCallCommands

    request = AsyncCommand(ToolCallCommands.request)
    succeed = AsyncCommand(ToolCallCommands.succeed)
    fail = AsyncCommand(ToolCallCommands.fail)
    find = AsyncMethod(ToolCallQueries.find)
