"""
What changes a conversation's history: rewind, a new start under an old key, pop, fork.

`rewind_to`, `expect_last` and `decide_restart` add steps to a unit of work, for several commands.
`pop` and `fork` are plans of their own, because they answer with, or copy, what they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.database.errors import AlreadyAppended
from eventstore.database.plan import Plan, Rollback, retrying
from eventstore.errors import (
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    NotLast,
    OutcomeUnknown,
    StreamClosed,
    WrongVersion,
)
from eventstore.events import conversations
from eventstore.events.conversations import (
    ConversationRewound,
    ConversationState,
)
from eventstore.events.event import Event
from eventstore.events.fields import check_number
from eventstore.events.messages import MessagePosted
from eventstore.events.tool_calls import (
    ToolCallAbandoned,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.append import append_together, first_result
from eventstore.log.append_request import parts_of
from eventstore.log.envelope import NOW, Expected, NewEvent, PointInTime
from eventstore.log.ids import NewId, derived_ids, resolve_conversation, uuid7, with_given_reference
from eventstore.log.read import Selection, read_events
from eventstore.store.context import UserContext, parse_id
from eventstore.store.units.decisions import (
    Cause,
    Decision,
    Overtaken,
    require_shown,
    state_of,
)
from eventstore.store.units.read_for_decision import read_for_decision
from eventstore.store.units.unit_of_work import UnitOfWork
from projections import Conversation, Message
from projections.apply.table_shape import Row
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallView
from projections.queries.history import history, messages_of_page, page_statements

__all__ = ["Point", "decide_restart", "expect_last", "fork", "pop", "rewind_to"]

type Point = MessageView | UUID | str | int
"""A place in a history: its last message, as a view or by its id, or a position in the log."""

FORKED = "the conversation was forked while this call was pending"
"""The `error` of the copy of a pending call: the tool runs for the conversation it came from."""


def rewind_to(
    work: UnitOfWork, conversation: UUID | str, to: Point, path: str, caused_by: Cause
) -> UUID:
    """
    Add the step that rewinds a conversation; return the id of its event.

    :param to: the last message that stays; as an id of a message it makes the step a decision.
    :param path: the parameter's name, for error messages.
    :raises NotFound: the message is another conversation's; at the commit if it is not in the
        history.
    :raises InvalidInput: the position is none; at the commit if the message has none yet.
    """
    stream = work.conversation(conversation)
    match to:
        case MessageView():
            if to.conversation_id != stream:
                raise NotFound("message", to.id)
            data = ConversationRewound(position=to.position, message_id=to.id)
        case int():
            data = ConversationRewound(position=check_number(to, path))
        case _:
            return _rewind_to_id(work, stream, parse_id(to, "message"), path, caused_by)
    return work.record(stream, data, caused_by=caused_by).event_id


def _rewind_to_id(
    work: UnitOfWork, stream: UUID, message_id: UUID, path: str, caused_by: Cause
) -> UUID:
    def decide(row: Row) -> Event:
        require_shown(row, stream, message_id)
        if not row["position"]:
            fact = "is posted in this transaction and has no position yet; leave out what follows"
            raise InvalidInput(path, fact)
        return ConversationRewound(position=row["position"], message_id=message_id)

    return work.decide(Message, message_id, decide, stream_id=stream, caused_by=caused_by).event_id


def expect_last(work: UnitOfWork, conversation: UUID | str, message: UUID | str) -> None:
    """
    Add the step that requires a conversation to end with a message.

    What this unit of work itself adds does not count.

    :raises NotLast: at the commit: it ends with another one, or has none.
    """
    expected = parse_id(message, "message")

    def decide(row: Row) -> None:
        # A retry is decided on what its stream was, which has no such column: the first attempt
        # was written, so the message was the last one then.
        last = row.get("last_message_id", expected)
        if last != expected:
            raise NotLast(expected, last)

    work.decide(Conversation, work.conversation(conversation), decide)


def decide_restart(work: UnitOfWork, key: str, title: str | None, caused_by: Cause) -> Decision:
    """
    Add the step that begins the deleted conversation with a key anew.

    Nothing is recorded for a conversation that is not deleted.

    :raises NotFound: at the commit: it was erased.
    """
    return work.decide(
        Conversation,
        work.conversation(key),
        lambda row: conversations.restart(state_of(ConversationState, row), title),
        of_deleted=True,
        caused_by=caused_by,
    )


def pop(context: UserContext, conversation: UUID | str, count: int) -> Plan[list[MessageView]]:
    """
    Take the last messages away and return them, oldest first; two round trips.

    :raises NotFound: the conversation is absent, deleted or another user's.
    :raises IdempotencyConflict: the key of the context was used for something else.
    """
    check_number(count, "n", least=1)
    stream = resolve_conversation(context.user_id, conversation)
    return with_given_reference(_pop(context, stream, count), conversation, stream)


def _pop(context: UserContext, stream: UUID, count: int) -> Plan[list[MessageView]]:
    key = context.idempotency_key
    # One more than is taken away: the last one that stays.
    page = page_statements(context.user_id, stream, NOW, None, count + 1)

    overtaken = False

    def attempt() -> Plan[list[MessageView]]:
        nonlocal overtaken
        state = yield from read_for_decision(
            context.user_id, key, (), (), others=page, streams=(stream,), lock=overtaken
        )
        if key is not None and state.existing_position is not None:
            yield Rollback()  # of the lock, if it was taken
            return (yield from _popped_before(context, stream, key, state.existing_position))
        messages = messages_of_page(stream, NOW, state.others)
        staying, popped = messages[:-count], messages[-count:]
        if not popped:
            yield Rollback()
            return []
        work = UnitOfWork(context)
        rewound = ConversationRewound(position=0)
        if staying:
            last = staying[-1]
            rewound = ConversationRewound(position=last.position, message_id=last.id)
        work.record(stream, rewound, expected=state.versions[stream])
        # The append is sent again by itself after a lost connection, for longer than this attempt
        # is made again. Reading again would find other messages, if the first append was written.
        try:
            yield from work.commit()
        except WrongVersion as conflict:
            overtaken = True
            raise Overtaken(conflict.stream_id, conflict.expected, conflict.actual) from None
        except IdempotencyConflict:
            # Of two attempts with one key at once the second one finds what the first one did.
            raise Overtaken(stream, state.versions[stream], state.versions[stream]) from None
        return popped

    try:
        return (yield from retrying(attempt, also=Overtaken))
    except Overtaken as conflict:
        raise WrongVersion(conflict.stream_id, conflict.expected, conflict.actual) from None


def _popped_before(
    context: UserContext, stream: UUID, key: str, position: int
) -> Plan[list[MessageView]]:
    """Return what an earlier attempt took away, as it was then."""
    first = Selection(after=position - 1, limit=1)
    (event,) = yield from read_events(context.user_id, first, context.registry)
    if not isinstance(event.data, ConversationRewound) or event.stream_id != stream:
        raise IdempotencyConflict(key, position)
    before = yield from _history(context, stream, PointInTime(position=position - 1))
    return [one for one in before if one.position > event.data.position]


def _history(context: UserContext, stream: UUID, moment: PointInTime) -> Plan[list[MessageView]]:
    return history(
        context.user_id,
        stream,
        source="projection",
        moment=moment,
        before=None,
        limit=None,
        projections=context.projections,
        registry=context.registry,
    )


def fork(
    context: UserContext,
    conversation: UUID | str,
    *,
    at: Point | None,
    moment: PointInTime,
    key: str | None,
    title: str | None,
) -> Plan[UUID]:
    """
    Copy the messages of a conversation up to a point into a new one; return its id.

    One round trip reads, and one for each thousand events writes; all in one transaction.

    :param at: the last message that is copied; None copies all.
    :param moment: what is copied is the conversation as of then.
    :param key: of the new conversation.
    :raises NotFound: no such conversation, or no such message in its history.
    :raises WrongVersion: the new key has a conversation.
    :raises IdempotencyConflict: the key of the context was used for other content.
    """
    stream = resolve_conversation(context.user_id, conversation)
    reading = context.retrying(lambda: _history(context, stream, moment))
    messages = yield from with_given_reference(reading, conversation, stream)
    copied = _up_to(messages, at)
    idempotency_key = context.idempotency_key
    new_id = uuid7 if idempotency_key is None else derived_ids(context.user_id, idempotency_key)
    forked = new_id() if key is None else resolve_conversation(context.user_id, key)
    started = conversations.start(key, title)
    origin = {"conversation": str(stream), "position": copied[-1].position if copied else 0}
    events = [
        NewEvent(
            stream_id=forked,
            data=started,
            expected=Expected.NEW,
            event_id=new_id(),
            correlation_id=context.correlation_id,
            metadata={**context.metadata, "forked_from": origin},
            occurred_at=context.occurred_at,
        )
    ]
    for event_id, data, cause, happened_at in _copies(copied, new_id):
        events.append(
            NewEvent(
                stream_id=forked,
                data=data,
                event_id=event_id,
                correlation_id=context.correlation_id,
                causation_id=cause,
                metadata=context.metadata,
                occurred_at=happened_at or context.occurred_at,
            )
        )
    requests = []
    # One transaction of several appends is sent again as a whole, and is recognised by their keys.
    for number, chunk in enumerate(parts_of(events)):
        own_key = f"fork:{forked}#{number}"
        chunk_key = idempotency_key if idempotency_key is not None and not number else own_key
        prepared = context.prepared(chunk, chunk_key)
        requests.append((prepared.request, prepared.row_changes))

    def attempt() -> Plan[None]:
        try:
            yield from append_together(requests)
        except AlreadyAppended:
            for request, _ in requests:
                yield from first_result(request)

    def unknown() -> OutcomeUnknown:
        return context.outcome_unknown(*(request for request, _ in requests))

    try:
        yield from context.retrying(attempt, unknown)
    except StreamClosed as error:
        raise StreamClosed(error.stream_id, error.version, key) from None
    return forked


def _up_to(messages: Sequence[MessageView], at: Point | None) -> Sequence[MessageView]:
    if at is None:
        return messages
    if isinstance(at, int):
        check_number(at, "at")
        return [one for one in messages if one.position <= at]
    message_id = at.id if isinstance(at, MessageView) else parse_id(at, "message")
    for number, one in enumerate(messages):
        if one.id == message_id:
            return messages[: number + 1]
    raise NotFound("message", message_id)


def _copies(
    messages: Sequence[MessageView], new_id: NewId
) -> Iterator[tuple[UUID, Event, UUID | None, datetime | None]]:
    """
    Yield the events that make a copy of messages and calls, with their ids, causes and times.

    What was said was said when it was: the copies show the times of what they copy.
    """
    for message in messages:
        message_id = new_id()
        posted = MessagePosted(sender=message.sender, body=message.body)
        yield message_id, posted, None, message.created_at
        for call in message.tool_calls:
            request_id = new_id()
            requested = ToolCallRequested(
                call_id=call.call_id,
                name=call.name,
                arguments=call.arguments,
                message_id=message_id,
                index=call.index,
            )
            yield request_id, requested, message_id, call.requested_at
            # It ends at once, so that the copy of its answer, which follows, ends no other call.
            yield new_id(), _outcome(call, request_id), request_id, call.finished_at


def _outcome(call: ToolCallView, request_id: UUID) -> Event:
    about: dict[str, Any] = {"call_id": call.call_id, "request_event_id": request_id}
    match call.status:
        case "succeeded":
            return ToolCallSucceeded(**about, output=call.output)
        case "failed":
            return ToolCallFailed(**about, error=call.error)
        case "abandoned":
            return ToolCallAbandoned(**about, error=call.error)
        case "pending":
            return ToolCallAbandoned(**about, error=FORKED)
