"""A conversation's messages: post, retract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.chat import RequestedCall, assistant_body, requested_calls
from eventstore.events.event import Event, checked
from eventstore.events.messages import MessagePosted, MessageRetracted
from eventstore.events.tool_calls import ToolCallRequested
from eventstore.log.envelope import NOW
from eventstore.store.colour import Awaiting, Blocking, OnAsyncDriver, OnDriver
from eventstore.store.context import UserContext, given_id
from eventstore.store.steps import Cause, Handle
from eventstore.store.work import Outcome, Work
from projections import Message
from projections.replay import Row
from projections.views import MessageView, message_view

__all__ = ["AsyncMessages", "MessagePlans", "MessageRecorder", "Messages", "posted_view"]


class MessageRecorder:
    """Message commands inside a transaction: recorded now, written when it ends."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def post(
        self,
        conversation: UUID | str,
        *,
        sender: str | None = None,
        content: object = None,
        tool_calls: Sequence[RequestedCall] = (),
        body: Mapping[str, Any] | None = None,
        caused_by: Cause = None,
    ) -> Handle:
        """Post a message, with the tool calls it asks for; its id is known at once."""
        sender, body = _message(sender, content, tool_calls, body)
        message_id = self._work.new_id()
        stream = self._work.context.conversation(conversation)
        event = checked(MessagePosted, message_id=message_id, sender=sender, body=body)
        posted = self._work.record(stream, event, caused_by=caused_by)
        for index, call in enumerate(requested_calls(body)):
            requested = checked(
                ToolCallRequested,
                call_id=call.id,
                message_id=message_id,
                index=index,
                name=call.name,
                arguments=call.arguments,
            )
            self._work.record(stream, requested, caused_by=posted)
        return Handle(message_id, posted.event_id)

    def retract(
        self, conversation: UUID | str, message: UUID | str, *, caused_by: Cause = None
    ) -> Handle:
        """Take a message back; looks first."""
        stream = self._work.context.conversation(conversation)
        message_id = given_id(message, "message")

        def decide(row: Row) -> Event:
            if row["conversation_id"] != stream or row["retracted_at"] is not None:
                raise NotFound("message", message_id)
            return checked(MessageRetracted, message_id=message_id)

        return self._work.decide(Message, message_id, decide, stream_id=stream, caused_by=caused_by)


@dataclass(frozen=True, slots=True)
class MessagePlans:
    """What can be done with messages, as plans."""

    context: UserContext

    def post(
        self,
        conversation: UUID | str,
        *,
        sender: str | None = None,
        content: object = None,
        tool_calls: Sequence[RequestedCall] = (),
        body: Mapping[str, Any] | None = None,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[MessageView]:
        """
        Post a message; one round trip.

        :param conversation: its id or key.
        :param sender: `user`, `assistant`, `system` or a name of your own, up to 255 characters.
        :param content: text, null or a list of parts, kept exactly: NUL and lone surrogates too.
        :param tool_calls: the calls it asks for, each recorded as requested before it runs.
        :param body: a whole chat message instead, kept exactly, whatever keys it has; its `role`
            is the sender and its `tool_calls` are recorded.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        """
        work = Work(self.context, idempotency_key)
        handle = MessageRecorder(work).post(
            conversation,
            sender=sender,
            content=content,
            tool_calls=tool_calls,
            body=body,
            caused_by=caused_by,
        )
        outcome = yield from self.context.named(conversation, work.commit())
        return posted_view(outcome, handle.id)

    def retract(
        self,
        conversation: UUID | str,
        message: UUID | str,
        *,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[None]:
        """
        Take a message back; two round trips. It leaves the history from here on, the log keeps it.

        :raises NotFound: no such conversation, or no such message in it that still stands.
        """
        work = Work(self.context, idempotency_key)
        MessageRecorder(work).retract(conversation, message, caused_by=caused_by)
        yield from work.commit()


class Messages(OnDriver[MessagePlans]):
    """A user's messages."""

    post = Blocking(MessagePlans.post)
    retract = Blocking(MessagePlans.retract)


class AsyncMessages(OnAsyncDriver[MessagePlans]):
    """A user's messages."""

    post = Awaiting(MessagePlans.post)
    retract = Awaiting(MessagePlans.retract)


def posted_view(outcome: Outcome, message_id: UUID) -> MessageView:
    """Return the view of a message that was just posted."""
    row = outcome.row(Message, message_id)
    return message_view(
        row["conversation_id"],
        row["id"],
        row["position"],
        row["sender"],
        row["body"],
        row["tool_calls"],
        row["created_at"],
        NOW,
    )


def _message(
    sender: str | None,
    content: object,
    tool_calls: Sequence[RequestedCall],
    body: Mapping[str, Any] | None,
) -> tuple[str, Mapping[str, Any]]:
    if body is None:
        if sender is None:
            raise InvalidInput("sender", "is missing; give a sender, or a body with a role")
        for number, call in enumerate(tool_calls):
            if not isinstance(call, RequestedCall):
                told = f"a {type(call).__name__}; give a RequestedCall"
                raise InvalidInput(f"tool_calls[{number}]", told)
        return sender, assistant_body(sender, content, tool_calls)
    if content is not None or tool_calls:
        raise InvalidInput("body", "was given beside content or tool_calls; give one or the other")
    if not isinstance(body, Mapping):
        raise InvalidInput("body", f"a {type(body).__name__}; give a JSON object")
    role = body.get("role")
    if sender is None and not isinstance(role, str):
        raise InvalidInput("body.role", "is missing; give it, or a sender")
    return sender or str(role), body
