"""A conversation's messages: post one or several, retract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import InvalidInput, NotFound, WrongVersion
from eventstore.events.conversations import ConversationStarted
from eventstore.events.event import Event, make_event
from eventstore.events.fields import MAX_CONTENT, MAX_KEY, check_label
from eventstore.events.items import RequestedCall, assistant_body
from eventstore.events.messages import MessageRetracted
from eventstore.events.tool_calls import (
    ToolCallRequested,
)
from eventstore.log.envelope import Expected
from eventstore.store.context import Queries, parse_id
from eventstore.store.decisions import Cause
from eventstore.store.item_events import item_events
from eventstore.store.sync_async import AsyncFacade, SyncFacade, async_command, sync_command
from eventstore.store.unit_of_work import Commands, Handle, Outcome, UnitOfWork, run_command
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
            beside a body that has a role it is that role, or left out.
        :param content: text of up to 4,000,000 characters, None or a list of parts; kept exactly,
            NUL and lone surrogates too.
        :param tool_calls: the calls that the message asks for; each is recorded as requested
            before it runs.
        :param body: a whole item instead, kept exactly, whatever its shape: a chat message, an item
            of the Responses API, a message of Anthropic's blocks, the result of an MCP tool. Its
            role is the sender, the calls that it asks for are recorded, and those that it answers
            end (`eventstore.events.items`).
        :return: the message, with its calls as pending.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        :raises InvalidInput: a value does not fit or cannot be stored; nothing was written.
        """
        if body is None:
            body = _body_of_parts(sender, content, tool_calls)
        elif content is not None or tool_calls:
            raise InvalidInput(
                "body", "was given beside content or tool_calls; give one or the other"
            )
        elif sender is not None and isinstance(body, Mapping):
            role = body.get("role")
            if isinstance(role, str) and role != sender:
                fact = "differs from body.role; leave it out, or give the same"
                raise InvalidInput("sender", fact)
        stream = self._work.conversation(conversation)
        message_id = self._post(stream, sender, body, "body", caused_by)
        return Handle(message_id, message_id, lambda outcome: posted_message(outcome, message_id))

    def extend(
        self,
        conversation: UUID | str,
        items: Sequence[Mapping[str, Any]],
        *,
        start: bool = False,
        caused_by: Cause = None,
    ) -> Handle[list[MessageView]]:
        """
        Post several items in their order, all or none; one round trip.

        :param conversation: its id or key.
        :param items: as the `body` of `post`; up to 1,000 events together with their calls.
        :param start: start the conversation if there is none, for another round trip; it is named
            by its key.
        :return: the messages, with their calls as they are after the last item.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        :raises BatchTooLarge: more than 1,000 events.
        :raises InvalidInput: an item is no JSON object or cannot be stored; the error has its
            place, and nothing was written.
        """
        work = self._work
        stream = work.conversation(conversation)
        ids = [
            self._post(stream, None, item, f"items[{number}]", caused_by)
            for number, item in enumerate(items)
        ]

        def start_first(error: WrongVersion | NotFound) -> Plan[list[MessageView]]:
            if not start or not isinstance(error, NotFound) or not isinstance(conversation, str):
                raise error
            return run_command(work.context, started)

        def started(anew: UnitOfWork) -> Handle[list[MessageView]]:
            # The ids of a conversation are derived from its key, so two that start it at once meet
            # in one stream: the second one finds that it is there.
            started = make_event(ConversationStarted, key=conversation)
            anew.record(stream, started, expected=Expected.NEW, caused_by=caused_by)
            handle = MessageCommands(anew).extend(conversation, items, caused_by=caused_by)
            handle.on_conflict = lambda _: run_command(
                work.context,
                lambda again: MessageCommands(again).extend(
                    conversation, items, caused_by=caused_by
                ),
            )
            return handle

        return Handle(
            stream,
            ids[-1] if ids else stream,
            lambda outcome: [posted_message(outcome, one) for one in ids],
            start_first,
        )

    def _post(
        self,
        stream: UUID,
        sender: str | None,
        body: Mapping[str, Any],
        path: str,
        caused_by: Cause,
    ) -> UUID:
        """Record an item and the calls that it asks for; return the id of its event."""
        # All are made before the first is recorded: a transaction that catches the error holds no
        # half of an item.
        events = item_events(body, path, self._work.new_id, sender=sender)
        for event_id, data, causation_id in events:
            cause = caused_by if causation_id is None else causation_id
            self._work.record(stream, data, caused_by=cause, event_id=event_id)
        return events[0].event_id

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
    extend = sync_command(MessageCommands.extend)
    retract = sync_command(MessageCommands.retract)


class AsyncMessages(AsyncFacade[Queries]):
    """A user's messages; `AsyncUser.history` reads them."""

    _commands = MessageCommands

    post = async_command(MessageCommands.post)
    extend = async_command(MessageCommands.extend)
    retract = async_command(MessageCommands.retract)


def _body_of_parts(
    sender: str | None, content: object, tool_calls: Sequence[RequestedCall]
) -> dict[str, Any]:
    """Return the body of a message that is given in parts."""
    if sender is None:
        raise InvalidInput("sender", "is missing; give a sender, or a body with a role")
    for number, call in enumerate(tool_calls):
        if not isinstance(call, RequestedCall):
            fact = f"a {type(call).__name__}; give a RequestedCall"
            raise InvalidInput(f"tool_calls[{number}]", fact)
        # In an item as it came, what is no label is made one; a caller is told.
        check_label(call.id, f"tool_calls[{number}].id", MAX_KEY, empty=True)
        check_label(call.name, f"tool_calls[{number}].name", MAX_KEY, empty=True)
    return assistant_body(sender, _checked_content(content), tool_calls)


def _checked_content(content: object) -> object:
    if content is None or isinstance(content, list | tuple):
        return content
    if not isinstance(content, str):
        fact = f"a {type(content).__name__}; give text, None or a list of parts"
        raise InvalidInput("content", fact)
    if len(content) > MAX_CONTENT:
        fact = f"{len(content)} characters, the limit is {MAX_CONTENT}; store a reference"
        raise InvalidInput("content", fact)
    return content
