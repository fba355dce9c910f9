"""
Import whole conversations in the OpenAI chat format.

A conversation is one transaction: it is imported whole or not at all. Its id in the file becomes
its key, and its append has an idempotency key made from that. So an import that was killed is
simply run again: what exists is found and skipped, and a conversation with the same id and other
content is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import batched
from typing import Any

from eventstore.admin.plans import AdminPlans
from eventstore.database.plan import Parallel, Plan, Statement
from eventstore.errors import Erased, IdempotencyConflict, InvalidInput, WrongVersion
from eventstore.events.conversations import ConversationStarted
from eventstore.events.event import make_event
from eventstore.events.fields import MAX_BATCH, MAX_KEY, check_label
from eventstore.events.tool_calls import ToolCallRequested
from eventstore.log.append import append_together
from eventstore.log.append_request import AppendRequest, prepare_append
from eventstore.log.envelope import Expected, NewEvent
from eventstore.log.ids import NewId, derived_ids, resolve_conversation
from eventstore.store.context import UserContext
from eventstore.store.item_events import ItemEvent, item_events
from eventstore.store.read_for_decision import read_for_decision
from projections.apply.live import live_statements

__all__ = ["ChatConversation", "Imported", "import_conversations", "user_context"]


@dataclass(frozen=True, slots=True)
class ChatConversation:
    """
    A conversation in the OpenAI chat format.

    :ivar key: its id where it comes from.
    :ivar messages: `{"role": …, "content": …, "tool_calls": […]}` and `{"role": "tool", …}`.
    :ivar location: where it comes from, for error messages.
    """

    key: str
    messages: Sequence[Mapping[str, Any]]
    location: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import wrote; `skipped` conversations existed already, with the same content."""

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


def user_context(store: AdminPlans, user_id: str) -> UserContext:
    """Return what the plans of one user of a store need to know."""
    return UserContext(user_id, store.projections, store.registry, store.settings.retry_seconds)


def import_conversations(
    store: AdminPlans, conversations: Sequence[tuple[str, ChatConversation]], *, jobs: int = 1
) -> Plan[Imported]:
    """
    Import conversations in the OpenAI chat format, each whole or not at all.

    :param conversations: each with the id of the user it belongs to.
    :param jobs: how many are imported at once.
    :return: what was written; a conversation that exists already is skipped.
    :raises IdempotencyConflict: the conversation with a key has other content; others may have
        been imported. `WrongVersion` if it was not imported but started.
    :raises StreamClosed: a conversation that was started with a key, not imported, was deleted.
    :raises Erased: it was imported, and erased since.
    :raises InvalidInput: a message cannot be stored; the error has its path.
    """
    plans = [
        partial(_import_conversation, user_context(store, user_id), conversation)
        for user_id, conversation in conversations
    ]
    return sum((yield Parallel(plans, jobs)), start=Imported())


def _import_conversation(context: UserContext, conversation: ChatConversation) -> Plan[Imported]:
    """Import one conversation, or find that it exists; one round trip per thousand events."""
    location = f"{conversation.location}: " if conversation.location else ""
    try:
        check_label(conversation.key, "id", MAX_KEY)
        # A digest, because an id may be as long as a key may be, and the prefix comes on top.
        key = f"import:{sha256(conversation.key.encode()).hexdigest()}"
        events = _events(context, conversation, derived_ids(context.user_id, key))
        requests = _requests(context, key, events)
        written = yield from context.retrying(lambda: append_together(requests))
        if not written:
            # A conversation that is stored with more messages has all of these appends too.
            yield from context.retrying(lambda: _require_no_more(context, key, len(requests)))
    except InvalidInput as error:
        raise error.within(location) from None
    except (Erased, IdempotencyConflict, WrongVersion) as error:
        # The class stays for those who catch it. Its text names a key or a stream that the
        # importer has never seen, so it is replaced by the conversation and where it stands.
        fact = (
            "was erased; leave it out of the import"
            if isinstance(error, Erased)
            else "exists with other content; import it for another user or under another id "
            "(--key-prefix)"
        )
        error.args = (f"{location}conversation {conversation.key!r} {fact}",)
        raise
    if not written:
        return Imported(skipped=1)
    calls = sum(isinstance(event.data, ToolCallRequested) for event in events)
    return Imported(1, len(conversation.messages), calls, len(events))


def _require_no_more(context: UserContext, key: str, number: int) -> Plan[None]:
    """Refuse a conversation that was imported with more appends than this one has."""
    next_key = f"{key}#{number}"
    state = yield from read_for_decision(context.user_id, next_key, (), ())
    if state.existing_position is not None:
        raise IdempotencyConflict(next_key, state.existing_position)


def _requests(
    context: UserContext, key: str, events: Sequence[NewEvent]
) -> list[tuple[AppendRequest, list[Statement]]]:
    projections = context.projections
    requests = []
    # Each append has a key of its own, with its number. A long conversation is still written in
    # one transaction, see `append_together`.
    for number, chunk in enumerate(batched(events, MAX_BATCH, strict=False)):
        request = prepare_append(context.user_id, chunk, f"{key}#{number}" if number else key)
        changes = [projections.project(envelope) for envelope in request.envelopes]
        requests.append((request, live_statements(projections, request.envelopes, changes)))
    return requests


def _events(context: UserContext, conversation: ChatConversation, new_id: NewId) -> list[NewEvent]:
    stream = resolve_conversation(context.user_id, conversation.key)
    started = make_event(ConversationStarted, key=conversation.key)
    events = [ItemEvent(new_id(), started, None)]
    for number, body in enumerate(conversation.messages):
        events += item_events(body, f"messages[{number}]", new_id)
    return [
        NewEvent(
            stream_id=stream,
            data=data,
            # NEW refuses a conversation that was started under this key without an import.
            expected=Expected.ANY if number else Expected.NEW,
            event_id=event_id,
            correlation_id=context.correlation_id,
            causation_id=causation_id,
            metadata=context.metadata,
        )
        for number, (event_id, data, causation_id) in enumerate(events)
    ]
