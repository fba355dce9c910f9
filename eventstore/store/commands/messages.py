"""A conversation's messages: post, retract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from eventstore.errors import InvalidInput, NotFound
from eventstore.events.chat_formats import RequestedCall, assistant_body, requested_calls
from eventstore.events.event import Event, make_event
from eventstore.events.messages import MessagePosted, MessageRetracted
from eventstore.events.tool_calls import ToolCallRequested
from eventstore.store.context import Queries, parse_id
from eventstore.store.decisions import Cause
from eventstore.store.sync_async import AsyncFacade, SyncFacade, async_command, sync_command
from eventstore.store.unit_of_work import Commands, Handle, Outcome
from projections import Message, ToolCall
from projections.apply.table_shape import Row
from projections.models.message import MessageView, posted_view
from projections.models.tool_call import ToolCallView

__all__ = ["AsyncMessages", "MessageCommands", "Messages", "posted_message"]


class MessageCommands(Commands):
    """The commands on messages."""

    def post(
        self,
        conversation: UUID | str,
        *,
        sender: str | None = None,
        content: object = None,
        tool_calls: Sequence[RequestedCall] = (),
        body: Mapping[str, Any] | None = None,
        caused_by: Cause = None,
    ) -> Handle[MessageView]:
        """
        Post a message, with the tool calls that it asks for; one round trip.

        :param conversation: its id or key.
        :param sender: `user`, `assistant`, `system` or a name of your own, up to 255 characters;
            beside a `body` it goes before the body's `role`.
        :param content: text, null or a list of parts, kept exactly, NUL and lone surrogates too.
        :param tool_calls: the calls that the message asks for; each is recorded as requested
            before it runs.
        :param body: a whole chat message instead, kept exactly, whatever keys it has. Its `role`
            is the sender, and its `tool_calls` are recorded.
        :return: the message, with its calls as pending.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        :raises InvalidInput: a value does not fit or cannot be stored; nothing was written.
        """
        sender, body = _sender_and_body(sender, content, tool_calls, body)
        stream = self._work.conversation(conversation)
        data = make_event(MessagePosted, sender=sender, body=body)
        posted = self._work.record(stream, data, caused_by=caused_by)
        message_id = posted.event_id
        for index, call in enumerate(requested_calls(body)):
            requested = make_event(
                ToolCallRequested,
                call_id=call.id,
                name=call.name,
                arguments=call.arguments,
                message_id=message_id,
                index=index,
            )
            # The cause is how `posted_message` finds the calls of a message again.
            self._work.record(stream, requested, caused_by=posted)
        return Handle(message_id, message_id, lambda outcome: posted_message(outcome, message_id))

    def retract(
        self, conversation: UUID | str, message: UUID | str, *, caused_by: Cause = None
    ) -> Handle[None]:
        """
        Withdraw a message; two round trips. It leaves the history from here on, not the log.

        :param conversation: its id or key.
        :param message: its id; text is taken too.
        :raises NotFound: no such conversation of this user, or no such message in it that was not
            retracted already.
        """
        stream = self._work.conversation(conversation)
        message_id = parse_id(message, "message")

        def decide(row: Row) -> Event:
            # The row was read by the message's id alone, so it may be of another conversation.
            if row["conversation_id"] != stream or row["retracted_at"] is not None:
                raise NotFound("message", message_id)
            return make_event(MessageRetracted, message_id=message_id)

        decision = self._work.decide(
            Message, message_id, decide, stream_id=stream, caused_by=caused_by
        )
        return Handle(message_id, decision.event_id, lambda _: None)


def posted_message(outcome: Outcome, message_id: UUID) -> MessageView:
    """
    Return the view of a message that was just posted, with the calls that it asks for.

    :param message_id: the id of the message's event, which is the message's too.
    """
    event = outcome.event(message_id)
    calls: Sequence[ToolCallView] = ()
    # A single event is a message without calls, the usual case, and needs no rows replayed.
    if len(outcome.recorded) > 1:
        requests = (one for one in outcome.recorded if one.causation_id == message_id)
        calls = [
            ToolCallView.from_row(outcome.row(ToolCall, one.event_id))
            for one in requests
            if isinstance(one.data, ToolCallRequested)
        ]
    return posted_view(event, calls)


class Messages(SyncFacade[Queries]):
    """A user's messages; `User.history` reads them."""

    _commands = MessageCommands

    post = sync_command(MessageCommands.post)
    retract = sync_command(MessageCommands.retract)


class AsyncMessages(AsyncFacade[Queries]):
    """A user's messages; `AsyncUser.history` reads them."""

    _commands = MessageCommands

    post = async_command(MessageCommands.post)
    retract = async_command(MessageCommands.retract)


def _sender_and_body(
    sender: str | None,
    content: object,
    tool_calls: Sequence[RequestedCall],
    body: Mapping[str, Any] | None,
) -> tuple[str, Mapping[str, Any]]:
    """Return sender and body of a message that is given as a body or in parts."""
    if body is None:
        if sender is None:
            raise InvalidInput("sender", "is missing; give a sender, or a body with a role")
        for number, call in enumerate(tool_calls):
            if not isinstance(call, RequestedCall):
                fact = f"a {type(call).__name__}; give a RequestedCall"
                raise InvalidInput(f"tool_calls[{number}]", fact)
        return sender, assistant_body(sender, content, tool_calls)
    if content is not None or tool_calls:
        raise InvalidInput("body", "was given beside content or tool_calls; give one or the other")
    if not isinstance(body, Mapping):
        raise InvalidInput("body", f"a {type(body).__name__}; give a dict, as model_dump() does")
    role = body.get("role")
    if sender is None and not isinstance(role, str):
        raise InvalidInput("body.role", "is missing; give it, or a sender")
    return sender or str(role), body
