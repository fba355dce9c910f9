"""
A conversation's messages: post one or several, edit, retract, replace a tail, pop, clear, draft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import (
    Conflict,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    StreamClosed,
    WrongVersion,
)
from eventstore.events.conversations import ConversationStarted
from eventstore.events.event import Event, make_event
from eventstore.events.fields import MAX_CONTENT, MAX_KEY, check_label, check_list
from eventstore.events.items import RequestedCall, assistant_body
from eventstore.events.messages import MessageRetracted, edit
from eventstore.events.tool_calls import ToolCallRequested
from eventstore.log.envelope import Expected
from eventstore.log.paging import Page
from eventstore.store.change_of_mind import (
    Point,
    decide_restart,
    expect_last,
    pop,
    rewind_to,
)
from eventstore.store.context import Queries, UserContext, parse_id
from eventstore.store.drafts import AsyncDraft, Draft, DraftPlans
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_command,
    async_method,
    block_method,
    sync_command,
    sync_method,
)
from eventstore.store.units.commands import Commands, run_command
from eventstore.store.units.decisions import Cause, require_shown
from eventstore.store.units.item_events import item_events
from eventstore.store.units.outcome import Handle, Outcome
from eventstore.store.units.unit_of_work import UnitOfWork
from projections import Message, ToolCall
from projections.apply.table_shape import Row
from projections.models.message import MessageView, full_body, posted_view
from projections.models.tool_call import ToolCallView
from projections.queries.search import search_messages

__all__ = [
    "AsyncMessages",
    "MessageCommands",
    "MessageQueries",
    "Messages",
    "ToolCallReference",
    "posted_message",
]


@runtime_checkable
class ToolCallReference(Protocol):
    """What identifies one call: a `ToolCallView` or a `ToolCallHandle`."""

    @property
    def conversation_id(self) -> UUID:
        """The conversation in which it was requested."""

    @property
    def message_id(self) -> UUID | None:
        """The message that asks for it, if one does."""

    @property
    def call_id(self) -> str:
        """The model's name for it."""

    @property
    def event_id(self) -> UUID:
        """The id of the request's event."""


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
        expected_last: UUID | str | None = None,
        calls: Sequence[ToolCallReference] = (),
        caused_by: Cause = None,
    ) -> Handle[list[MessageView]]:
        """
        Post several items in their order, all or none; one round trip.

        :param conversation: its id or key.
        :param items: as the `body` of `post`; up to 1,000 events together with their calls.
        :param start: start the conversation if there is none, for another round trip; it is named
            by its key. One that was deleted begins anew.
        :param expected_last: the id of the message that must be the last one of the history, for
            another round trip; None posts whatever came meanwhile.
        :param calls: what `tool_calls.request` returned for calls out of the history that these
            items ask for: each then stands in the item with its `call_id`, and is not requested
            again.
        :return: the messages, with the calls that were requested here as they are after the last
            item.
        :raises NotFound: no such conversation of this user, or one of `calls` is of another one.
        :raises StreamClosed: the conversation was deleted; with `start`, erased.
        :raises NotLast: another message came after `expected_last`; nothing was written.
        :raises BatchTooLarge: more than 1,000 events, or 64 MiB of JSON.
        :raises InvalidInput: an item is no JSON object or cannot be stored; the error has its
            place, and nothing was written.
        """
        work = self._work
        stream = work.conversation(conversation)
        if expected_last is not None:
            expect_last(work, conversation, expected_last)
        check_list(items, "items", "items")
        waiting: dict[str, list[UUID]] = {}
        for number, call in enumerate(check_list(calls, "calls", "tool calls")):
            if not isinstance(call, ToolCallReference):
                raise InvalidInput(f"calls[{number}]", "give what `tool_calls.request` returned")
            if call.conversation_id != stream:
                raise NotFound("tool call", call.event_id)
            waiting.setdefault(call.call_id, []).append(call.event_id)
        ids = [
            self._post(stream, None, item, f"items[{number}]", caused_by, waiting)
            for number, item in enumerate(items)
        ]

        def begin(error: Conflict | NotFound) -> Plan[list[MessageView]]:
            # A conversation that is not there does not end with the expected message either.
            if start and isinstance(conversation, str) and expected_last is None:
                return _begin(work.context, conversation, items, caused_by, error)
            raise error

        return Handle(
            stream,
            ids[-1] if ids else stream,
            lambda outcome: [posted_message(outcome, one) for one in ids],
            begin,
        )

    def replace_tail(
        self,
        conversation: UUID | str,
        items: Sequence[Mapping[str, Any]],
        *,
        after: Point,
        expected_last: UUID | str | None = None,
        caused_by: Cause = None,
    ) -> Handle[list[MessageView]]:
        """
        Put other items in the place of what follows a message, all or none.

        A rewind and new messages as one append: one round trip, two if `after` is an id or
        `expected_last` is given.

        :param conversation: its id or key.
        :param items: as in `extend`.
        :param after: the last message that stays, as in `conversations.rewind`.
        :param expected_last: the id of the message that must be the last one of the history: the
            newest that the caller has seen. None replaces whatever came meanwhile too.
        :return: the new messages.
        :raises NotLast: another message came, or the expected one was taken away; nothing was
            written.
        :raises NotFound: no such conversation of this user, or no such message in its history.
        :raises StreamClosed: the conversation was deleted.
        :raises InvalidInput: as in `extend`.
        """
        if expected_last is not None:
            expect_last(self._work, conversation, expected_last)
        rewind_to(self._work, conversation, after, "after", caused_by)
        return self.extend(conversation, items, caused_by=caused_by)

    def clear(self, conversation: UUID | str, *, caused_by: Cause = None) -> Handle[int]:
        """
        Take all messages away: a rewind to the start; one round trip.

        :param conversation: its id or key.
        :return: the position of the rewind; `as_of` one less shows what was there.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        """
        event_id = rewind_to(self._work, conversation, 0, "to", caused_by)
        return Handle(event_id, event_id, lambda outcome: outcome.event(event_id).position)

    def edit(
        self,
        conversation: UUID | str,
        message: UUID | str,
        *,
        content: object = None,
        body: Mapping[str, Any] | None = None,
        caused_by: Cause = None,
    ) -> Handle[None]:
        """
        Have a message say something else; two round trips.

        Its place and id stay, `as_of` gives the earlier text, and the log keeps both. Who said it
        stays too, and so do the calls that it asks for and those that it answers; the output of a
        call is what its tool returned, whatever the answer says now.

        :param conversation: its id or key.
        :param message: its id; text is taken too.
        :param content: text or a list of parts, as in `post`, in the place of the item's `content`;
            the rest of it stays.
        :param body: a whole item instead, of the same role and with the same calls.
        :raises NotFound: no such conversation of this user, or no such message in its history.
        :raises InvalidInput: the item asks for other calls, answers others, or is of another role;
            or a value cannot be stored. Nothing was written.
        """
        if (body is None) == (content is None):
            raise InvalidInput("body", "or content is to be given, and not both")
        content = _checked_content(content)
        if body is not None and not isinstance(body, Mapping):
            raise InvalidInput("body", f"a {type(body).__name__}; give a dict")
        stream = self._work.conversation(conversation)
        message_id = parse_id(message, "message")

        def decide(row: Row) -> Event | None:
            require_shown(row, stream, message_id)
            old = full_body(row["body"], row["sender"], row["content"])
            new = {**old, "content": content} if body is None else body
            return edit(message_id, row["sender"], old, new)

        decision = self._work.decide(
            Message, message_id, decide, stream_id=stream, with_body=True, caused_by=caused_by
        )
        return Handle(message_id, decision.event_id, lambda _: None)

    def _post(
        self,
        stream: UUID,
        sender: str | None,
        body: Mapping[str, Any],
        path: str,
        caused_by: Cause,
        waiting: Mapping[str, list[UUID]] = MappingProxyType({}),
    ) -> UUID:
        """Record an item and the calls that it asks for; return the id of its event."""
        # All are made before the first is recorded: a transaction that catches the error holds no
        # half of an item.
        events = item_events(body, path, self._work.new_id, sender=sender, waiting=waiting)
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
            require_shown(row, stream, message_id)
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
        requests = outcome.caused_by(message_id)
        calls = [
            ToolCallView.from_row(outcome.row(ToolCall, one.event_id))
            for one in requests
            if isinstance(one.data, ToolCallRequested)
        ]
    return posted_view(event, calls)


def _begin(
    context: UserContext,
    key: str,
    items: Sequence[Mapping[str, Any]],
    caused_by: Cause,
    error: Conflict | NotFound,
) -> Plan[list[MessageView]]:
    """
    Post items to a conversation that is not there: start it, or begin a deleted one anew.

    :param error: what posting them raised; raised again if neither helps.
    """

    def post_to(work: UnitOfWork) -> Handle[list[MessageView]]:
        return MessageCommands(work).extend(key, items, caused_by=caused_by)

    def started(work: UnitOfWork) -> Handle[list[MessageView]]:
        # The ids of a conversation are derived from its key, so two that start it at once meet in
        # one stream: the second one finds that it is there.
        data = make_event(ConversationStarted, key=key)
        work.record(work.conversation(key), data, expected=Expected.NEW, caused_by=caused_by)
        handle = post_to(work)
        handle.on_conflict = meanwhile
        return handle

    def restarted(work: UnitOfWork) -> Handle[list[MessageView]]:
        decide_restart(work, key, None, caused_by)
        return post_to(work)

    def meanwhile(conflict: Conflict | NotFound) -> Plan[list[MessageView]]:
        if isinstance(conflict, WrongVersion):
            return run_command(context, post_to)
        raise conflict

    # Under an idempotency key the first attempt may have done either.
    for kinds, attempt in (
        ((NotFound, IdempotencyConflict), started),
        ((StreamClosed, IdempotencyConflict), restarted),
    ):
        if isinstance(error, kinds):
            try:
                return (yield from run_command(context, attempt))
            except (IdempotencyConflict, StreamClosed, NotFound):
                continue
    raise error


class MessageQueries(Queries):
    """What is done with a user's messages and answers with what was read, as plans."""

    def search(
        self,
        text: str,
        *,
        conversation: UUID | str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> Plan[Page[MessageView]]:
        """
        Return the messages that say something, newest first.

        Each word of `text` must occur in the message, at the beginning of a word and in upper or
        lower case; a word of a script without spaces, such as Chinese or Thai, anywhere. Messages
        that were retracted, rewound, erased or deleted with their conversation are not found, and
        an edited one by what it says now.

        One round trip, or two if a message that is found asks for tool calls. It compares all
        messages of the user or of the conversation: some 3 milliseconds for a thousand.

        :param text: 1 to 500 characters.
        :param conversation: only its messages, by its id or key.
        :param limit: messages on a page.
        :param after: `next` of the page before, with the same `text` and `conversation`.
        :raises NotFound: the conversation is absent, deleted or another user's.
        :raises InvalidInput: a parameter does not fit, or `after` is no cursor of this search.
        """
        context = self.context
        return context.about_one_or_all(
            conversation,
            lambda resolved: search_messages(
                context.user_id, text, conversation=resolved, after=after, limit=limit
            ),
        )

    def pop(self, conversation: UUID | str, n: int = 1) -> Plan[list[MessageView]]:
        """
        Take the last messages away and return them; two round trips.

        One event, as in `conversations.rewind`. It answers with what it reads, so a transaction
        does not have it.

        :param conversation: its id or key.
        :param n: how many, at least 1; of fewer messages all are taken.
        :return: what was taken away, oldest first; nothing is recorded if there was nothing.
        :raises NotFound: absent, deleted or another user's.
        :raises InvalidInput: `n` is no whole number, or less than 1.
        """
        return pop(self.context, conversation, n)

    def draft(
        self,
        conversation: UUID | str,
        *,
        sender: str = "assistant",
        seconds: float = 2.0,
        caused_by: Cause = None,
    ) -> DraftPlans:
        """
        Return a message that is saved while it grows, to be used in a `with` block.

        The first text posts it; later texts edit it, at most every so many seconds, and the end of
        the block, however it ends. A save is one event with the whole text so far, and one round
        trip::

            with alice.messages.draft(chat) as draft:
                for token in model():
                    draft.write(token)

        :param conversation: its id or key.
        :param sender: as in `post`.
        :param seconds: between two saves, at least; 0 saves each text.
        :raises ConfigurationError: the user has an idempotency key, which can name one append only.
        :raises InvalidInput: the seconds are no number, or negative.
        """
        return DraftPlans(self.context, conversation, sender, seconds, caused_by)


class Messages(SyncFacade[MessageQueries]):
    """A user's messages; `User.history` reads them."""

    _commands = MessageCommands

    post = sync_command(MessageCommands.post)
    extend = sync_command(MessageCommands.extend)
    replace_tail = sync_command(MessageCommands.replace_tail)
    clear = sync_command(MessageCommands.clear)
    edit = sync_command(MessageCommands.edit)
    retract = sync_command(MessageCommands.retract)
    search = sync_method(MessageQueries.search)
    pop = sync_method(MessageQueries.pop)
    draft = block_method(MessageQueries.draft, Draft)


class AsyncMessages(AsyncFacade[MessageQueries]):
    """A user's messages; `AsyncUser.history` reads them."""

    _commands = MessageCommands

    post = async_command(MessageCommands.post)
    extend = async_command(MessageCommands.extend)
    replace_tail = async_command(MessageCommands.replace_tail)
    clear = async_command(MessageCommands.clear)
    edit = async_command(MessageCommands.edit)
    retract = async_command(MessageCommands.retract)
    search = async_method(MessageQueries.search)
    pop = async_method(MessageQueries.pop)
    draft = block_method(MessageQueries.draft, AsyncDraft)


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
