"""
Import whole conversations in the OpenAI chat format: each is one transaction, or not there at all.

A conversation's id in the file becomes its key, and its append carries an idempotency key made of
it. So an import that was killed is simply run again: what is there is found and skipped, and a
conversation of the same id with other content is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import batched
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan, Statement
from eventstore.errors import Erased, IdempotencyConflict, InvalidInput, WrongVersion
from eventstore.events.chat import requested_calls
from eventstore.events.conversations import ConversationStarted
from eventstore.events.event import Event, checked
from eventstore.events.limits import MAX_BATCH, MAX_KEY, check_label
from eventstore.events.messages import MessagePosted
from eventstore.events.tool_calls import ToolCallRequested, ToolCallSucceeded
from eventstore.log.append import append_together
from eventstore.log.envelope import Expected, NewEvent
from eventstore.log.identity import NewId, derived_ids
from eventstore.log.prepare import Append, prepare_append
from eventstore.store.context import UserContext
from eventstore.store.look import look
from projections.live import live_statements

__all__ = ["ChatConversation", "Imported", "import_conversation"]


@dataclass(frozen=True, slots=True)
class ChatConversation:
    """
    A conversation as a chat API has it.

    :ivar key: its id where it comes from.
    :ivar place: where that is, for error messages.
    :ivar messages: `{"role": …, "content": …, "tool_calls": […]}` and `{"role": "tool", …}`.
    """

    key: str
    messages: Sequence[Mapping[str, Any]]
    place: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import wrote; `skipped` conversations were there already, with this content."""

    conversations: int = 0
    messages: int = 0
    tool_calls: int = 0
    events: int = 0
    skipped: int = 0

    def __add__(self, other: Imported) -> Imported:
        return Imported(
            self.conversations + other.conversations,
            self.messages + other.messages,
            self.tool_calls + other.tool_calls,
            self.events + other.events,
            self.skipped + other.skipped,
        )


def import_conversation(context: UserContext, conversation: ChatConversation) -> Plan[Imported]:
    """
    Write one conversation, or find that it is there; one round trip per thousand events.

    :raises IdempotencyConflict: the key's conversation has other content.
    :raises WrongVersion: the key's conversation was started otherwise than by an import.
    :raises Erased: the key's conversation was erased.
    :raises InvalidInput: a message cannot be stored; the place is named.
    """
    place = f"{conversation.place}: " if conversation.place else ""
    try:
        check_label(conversation.key, "id", MAX_KEY)
        key = f"import:{sha256(conversation.key.encode()).hexdigest()}"
        events = _events(context, conversation, derived_ids(context.user_id, key))
        requests = _requests(context, key, events)
        written = yield from context.retrying(lambda: append_together(requests))
        if not written:
            yield from context.retrying(lambda: _require_no_more(context, key, len(requests)))
    except InvalidInput as error:
        raise error.within(place) from None
    except (Erased, IdempotencyConflict, WrongVersion) as error:
        what = (
            "was erased; leave it out of the import"
            if isinstance(error, Erased)
            else "is there with other content; import it for another user or under another id "
            "(--key-prefix)"
        )
        error.args = (f"{place}conversation {conversation.key!r} {what}",)
        raise
    if not written:
        return Imported(skipped=1)
    calls = sum(isinstance(event.data, ToolCallRequested) for event in events)
    return Imported(1, len(conversation.messages), calls, len(events))


def _require_no_more(context: UserContext, key: str, number: int) -> Plan[None]:
    """Refuse what is there and goes on: its first batches alone are like those of a shorter one."""
    more = f"{key}#{number}"
    seen = yield from look(context.user_id, more, ())
    if seen.keyed is not None:
        raise IdempotencyConflict(more, seen.keyed)


def _requests(
    context: UserContext, key: str, events: Sequence[NewEvent]
) -> list[tuple[Append, list[Statement]]]:
    requests = []
    for number, chunk in enumerate(batched(events, MAX_BATCH, strict=False)):
        request = prepare_append(context.user_id, chunk, f"{key}#{number}" if number else key)
        requests.append((request, live_statements(context.projections, request.facts)))
    return requests


def _events(context: UserContext, conversation: ChatConversation, new_id: NewId) -> list[NewEvent]:
    stream = context.conversation(conversation.key)
    pending: dict[str, list[ToolCallRequested]] = {}
    told: list[Event] = [checked(ConversationStarted, key=conversation.key)]
    for number, body in enumerate(conversation.messages):
        told += _told(body, f"messages[{number}]", new_id, pending)
    return [
        NewEvent(
            stream_id=stream,
            data=data,
            expected=Expected.ANY if number else Expected.NEW,
            event_id=new_id(),
            correlation_id=context.correlation_id,
            metadata=context.metadata,
        )
        for number, data in enumerate(told)
    ]


def _told(
    body: Mapping[str, Any],
    place: str,
    new_id: NewId,
    pending: dict[str, list[ToolCallRequested]],
) -> list[Event]:
    """Return the events of one message; calls that wait for their answer are kept in `pending`."""
    if not isinstance(body, Mapping):
        raise InvalidInput(place, f"expected a JSON object, got {type(body).__name__}")
    role = body.get("role")
    if not isinstance(role, str):
        raise InvalidInput(f"{place}.role", "is missing; give user, assistant, system or tool")
    message_id = new_id()
    if role == "tool":
        waiting = pending.get(str(body.get("tool_call_id")))
        if waiting:
            return [_answer(waiting.pop(0), message_id, body)]
    posted = checked(MessagePosted, message_id=message_id, sender=role, body=body)
    calls = [
        checked(
            ToolCallRequested,
            call_id=call.id,
            message_id=message_id,
            index=index,
            name=call.name,
            arguments=call.arguments,
        )
        for index, call in enumerate(requested_calls(body, place))
    ]
    for call in calls:
        pending.setdefault(call.call_id, []).append(call)
    return [posted, *calls]


def _answer(call: ToolCallRequested, reply_id: UUID, body: Mapping[str, Any]) -> Event:
    return checked(
        ToolCallSucceeded,
        call_id=call.call_id,
        message_id=call.message_id,
        index=call.index,
        reply_id=reply_id,
        reply=body,
    )
