"""A conversation's tool calls: request before the tool runs, then succeed or fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID, uuid5

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.chat import RequestedCall, tool_body
from eventstore.events.event import checked
from eventstore.events.jsontext import check_json, dumps, loads
from eventstore.events.tool_calls import ToolCallFailed, ToolCallSucceeded
from eventstore.log.envelope import NOW
from eventstore.store.colour import Awaiting, Blocking, OnAsyncDriver, OnDriver
from eventstore.store.context import UserContext
from eventstore.store.messages import MessageRecorder, posted_view
from eventstore.store.steps import Cause, Handle
from eventstore.store.work import Work
from projections.views import MessageView, ToolCallView, message_view

__all__ = ["AsyncToolCalls", "ToolCallHandle", "ToolCallPlans", "ToolCallRecorder", "ToolCalls"]

_WITH_CALL = """
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
    """What names one call: a `ToolCallView` or a `ToolCallHandle`."""

    @property
    def conversation_id(self) -> UUID:
        """The conversation it was asked for in."""

    @property
    def message_id(self) -> UUID:
        """The message that asked for it."""

    @property
    def index(self) -> int:
        """Its place among that message's calls."""

    @property
    def id(self) -> str:
        """The model's name for it."""

    @property
    def event_id(self) -> UUID:
        """The request's event."""


@dataclass(frozen=True, slots=True)
class ToolCallHandle:
    """What a call requested inside a transaction is known by."""

    conversation_id: UUID
    message_id: UUID
    index: int
    id: str
    event_id: UUID


class ToolCallRecorder:
    """Tool-call commands inside a transaction: recorded now, written when it ends."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def request(
        self,
        conversation: UUID | str,
        *,
        name: str,
        arguments: str | Mapping[str, Any],
        call_id: str | None = None,
        content: object = None,
        caused_by: Cause = None,
    ) -> ToolCallHandle:
        """Record that the model asks for a tool, in a message of the assistant's."""
        text = arguments if isinstance(arguments, str) else _written(arguments)
        call = RequestedCall(call_id or f"call_{self._work.new_id().hex}", name, text)
        message = MessageRecorder(self._work).post(
            conversation,
            sender="assistant",
            content=content,
            tool_calls=[call],
            caused_by=caused_by,
        )
        requested = self._work.steps[-1]
        return ToolCallHandle(requested.stream_id, message.id, 0, call.id, requested.event_id)

    def succeed(self, call: ToolCallReference, *, output: object) -> Handle:
        """Record what the tool returned, and the tool's message that says so."""
        _require_reference(call)
        value = check_json(output, "output")
        body = tool_body(call.id, value)
        stored = {} if isinstance(value, str) else {"output": value}
        return self._end(call, ToolCallSucceeded, body, stored)

    def fail(self, call: ToolCallReference, *, error: object) -> Handle:
        """Record how the tool failed, and the tool's message that says so."""
        _require_reference(call)
        value = check_json(error, "error")
        return self._end(call, ToolCallFailed, tool_body(call.id, value), {"error": value})

    def _end(
        self,
        call: ToolCallReference,
        kind: type[ToolCallSucceeded | ToolCallFailed],
        body: dict[str, Any],
        stored: dict[str, Any],
    ) -> Handle:
        reply_id = uuid5(call.event_id, "reply")  # the same on a retry
        event = checked(
            kind,
            call_id=call.id,
            message_id=call.message_id,
            index=call.index,
            reply_id=reply_id,
            reply=body,
            **stored,
        )
        recorded = self._work.record(call.conversation_id, event, caused_by=call)
        self._work.default_key = self._work.default_key or f"outcome:{call.event_id}"
        return Handle(reply_id, recorded.event_id)


def _require_reference(call: object) -> None:
    if not hasattr(call, "event_id") or not hasattr(call, "message_id"):
        told = f"a {type(call).__name__}; give what request or find returned"
        raise InvalidInput("call", told)


@dataclass(frozen=True, slots=True)
class ToolCallPlans:
    """What can be done with tool calls, as plans."""

    context: UserContext

    def request(
        self,
        conversation: UUID | str,
        *,
        name: str,
        arguments: str | Mapping[str, Any],
        call_id: str | None = None,
        content: object = None,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[ToolCallView]:
        """
        Record that the model asks for a tool, before the tool runs; one round trip.

        Several calls of one message are posted with it: see `messages.post`.

        :param arguments: the model's text, kept verbatim, valid JSON or not; or a mapping.
        :param call_id: the model's name for the call; made up if there is none.
        :param content: what the assistant says beside the call.
        :return: the call, to give to `succeed`, `fail` or `caused_by`.
        :raises NotFound: no such conversation of this user.
        """
        work = Work(self.context, idempotency_key)
        handle = ToolCallRecorder(work).request(
            conversation,
            name=name,
            arguments=arguments,
            call_id=call_id,
            content=content,
            caused_by=caused_by,
        )
        outcome = yield from self.context.named(conversation, work.commit())
        return posted_view(outcome, handle.message_id).tool_calls[0]

    def succeed(
        self, call: ToolCallReference, *, output: object, idempotency_key: str | None = None
    ) -> Plan[MessageView]:
        """
        Record what the tool returned; one round trip.

        A call ends once: the same outcome again returns the first, another one is refused.

        :param output: text, or any JSON value, kept exactly.
        :return: the tool's message.
        :raises IdempotencyConflict: the call has already ended otherwise.
        """
        work = Work(self.context, idempotency_key)
        handle = ToolCallRecorder(work).succeed(call, output=output)
        return (yield from _reply(work, handle))

    def fail(
        self, call: ToolCallReference, *, error: object, idempotency_key: str | None = None
    ) -> Plan[MessageView]:
        """
        Record how the tool failed; one round trip.

        :param error: text, or any JSON value, kept exactly.
        :return: the tool's message.
        :raises IdempotencyConflict: the call has already ended otherwise.
        """
        work = Work(self.context, idempotency_key)
        handle = ToolCallRecorder(work).fail(call, error=error)
        return (yield from _reply(work, handle))

    def find(self, conversation: UUID | str, call_id: str) -> Plan[ToolCallView]:
        """
        Return the newest call of that name in a conversation; one round trip.

        For a process that has only the model's id. Models repeat ids: the newest call counts.

        :raises NotFound: none, or not this user's.
        """
        context = self.context
        conversation_id = context.conversation(conversation)
        return context.retrying(lambda: _find(context.user_id, conversation_id, call_id))


class ToolCalls(OnDriver[ToolCallPlans]):
    """A user's tool calls."""

    request = Blocking(ToolCallPlans.request)
    succeed = Blocking(ToolCallPlans.succeed)
    fail = Blocking(ToolCallPlans.fail)
    find = Blocking(ToolCallPlans.find)


class AsyncToolCalls(OnAsyncDriver[ToolCallPlans]):
    """A user's tool calls."""

    request = Awaiting(ToolCallPlans.request)
    succeed = Awaiting(ToolCallPlans.succeed)
    fail = Awaiting(ToolCallPlans.fail)
    find = Awaiting(ToolCallPlans.find)


def _reply(work: Work, handle: Handle) -> Plan[MessageView]:
    outcome = yield from work.commit()
    return posted_view(outcome, handle.id)


def _find(user_id: str, conversation: UUID, call_id: str) -> Plan[ToolCallView]:
    (rows,) = yield Batch(user_scope(user_id), (Statement(_WITH_CALL, (user_id, conversation)),))
    for message_id, position, sender, body, calls, created_at in rows:
        view = message_view(
            conversation,
            message_id,
            position,
            sender,
            loads(body),
            map(loads, calls),
            created_at,
            NOW,
        )
        for call in reversed(view.tool_calls):
            if call.id == call_id:
                return call
    raise NotFound("tool call", call_id)


def _written(arguments: Mapping[str, Any]) -> str:
    return dumps(check_json(arguments, "arguments"))
