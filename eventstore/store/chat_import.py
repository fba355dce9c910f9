"""
Import conversations of other programs; importing them again adds what is new.

A conversation is one transaction: it is imported as a whole or not at all, and so is the tail of
one that has grown. The ids of its events are derived from its key and their number, so the log
itself tells what was imported before: an import that was killed is simply run again, and so is one
of the same export a week later. A conversation that cannot be imported stops no other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from hashlib import sha256
from uuid import UUID

from eventstore.admin.plans import AdminPlans
from eventstore.database.plan import Batch, Parallel, Plan, Statement, retrying
from eventstore.database.scope import user_scope
from eventstore.errors import (
    Conflict,
    Erased,
    InvalidInput,
    QuotaReached,
    StreamClosed,
    WrongVersion,
)
from eventstore.events.conversations import ConversationRenamed, ConversationStarted
from eventstore.events.event import make_event
from eventstore.events.fields import (
    MAX_KEY,
    MAX_TITLE,
    check_label,
    check_list,
    check_number,
    check_occurred_at,
    plain_text,
)
from eventstore.events.json_codec import loads
from eventstore.events.messages import MessagePosted
from eventstore.events.tool_calls import ToolCallRequested
from eventstore.imports.conversation import ImportedConversation, ImportFailure
from eventstore.log.append import append_together
from eventstore.log.append_request import AppendRequest, parts_of
from eventstore.log.envelope import Expected, ExpectedVersion, NewEvent
from eventstore.log.ids import NewId, conversation_id, derived_ids
from eventstore.store.context import UserContext
from eventstore.store.units.decisions import Overtaken
from eventstore.store.units.item_events import ItemEvent, item_events

__all__ = ["Imported", "import_conversations", "user_context"]

# Index: stream_pkey.
_EXISTING = "select stream_id from eventstore.stream where user_id = $1 and stream_id = any($2)"
_STREAM = "select version, closed from eventstore.stream where user_id = $1 and stream_id = $2"
# Index: event_stream.
_RECORDED = """
select event_id, position, payload::text
from eventstore.event
where user_id = $1
  and stream_id = $2
  and event_id = any($3)
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """
    What an import did, or would do.

    :ivar conversations: all that were given: imported, grown, skipped and failed.
    :ivar messages: written, like `tool_calls` and `events`.
    :ivar imported: conversations that were new.
    :ivar grown: conversations that were there, and got what is new.
    :ivar skipped: conversations that were there with all of it.
    :ivar failures: the conversations that were not imported, each with its reason.
    """

    conversations: int = 0
    messages: int = 0
    tool_calls: int = 0
    events: int = 0
    imported: int = 0
    grown: int = 0
    skipped: int = 0
    failures: tuple[ImportFailure, ...] = ()

    @property
    def failed(self) -> int:
        """How many conversations were not imported."""
        return len(self.failures)

    def __add__(self, other: Imported) -> Imported:
        return Imported(
            self.conversations + other.conversations,
            self.messages + other.messages,
            self.tool_calls + other.tool_calls,
            self.events + other.events,
            self.imported + other.imported,
            self.grown + other.grown,
            self.skipped + other.skipped,
            self.failures + other.failures,
        )


def user_context(store: AdminPlans, user_id: str) -> UserContext:
    """Return what the plans of one user of a store need to know."""
    return UserContext(user_id, store.projections, store.registry)


def import_conversations(
    store: AdminPlans,
    conversations: Sequence[tuple[str, ImportedConversation]],
    *,
    jobs: int = 1,
    dry_run: bool = False,
) -> Plan[Imported]:
    """
    Import conversations, each as a whole or not at all; one that was imported before gets its tail.

    A conversation that cannot be imported is among the `failures` of the result: a message cannot
    be stored, it would exceed the user's quota, or what is there under its key was not imported,
    has changed, or was deleted or erased.

    :param conversations: each with the id of the user it belongs to. Those of one user are imported
        in this order, so give the oldest first; `eventstore.imports` reads them from exports.
    :param jobs: how many users' conversations are imported at once.
    :param dry_run: write nothing, and return what would be written.
    :return: what was written, found and refused.
    """
    check_number(jobs, "jobs", least=1)
    of_users: dict[str, list[ImportedConversation]] = {}
    for number, pair in enumerate(check_list(conversations, "conversations", "pairs")):
        match pair:
            case [str() as user_id, ImportedConversation() as conversation]:
                of_users.setdefault(user_id, []).append(conversation)
            case _:
                raise InvalidInput(
                    f"conversations[{number}]", "give a user's id and an ImportedConversation"
                )
    plans = [
        partial(_import_of_user, user_context(store, user_id), of_user, dry_run=dry_run)
        for user_id, of_user in of_users.items()
    ]
    return sum((yield Parallel(plans, jobs)), start=Imported())


def _import_of_user(
    context: UserContext, conversations: Sequence[ImportedConversation], *, dry_run: bool
) -> Plan[Imported]:
    """Import the conversations of one user: one round trip for all of several, and one for each."""
    user_id, done = context.user_id, Imported()
    ids = [conversation_id(user_id, one.key) for one in conversations if _can_be_key(one.key)]
    existing: set[UUID] = set()
    if len(ids) > 1 or dry_run:  # a single one is found out by trying
        existing = yield from context.retrying(partial(_existing, user_id, ids))
    for conversation in conversations:
        try:
            one = _Import(context, conversation, dry_run=dry_run)
            attempt = one.grow if one.stream_id in existing else one.start
            done += yield from retrying(attempt, also=Overtaken)
        except (Conflict, InvalidInput, QuotaReached) as error:
            done += Imported(1, failures=(_failure(conversation, error),))
    return done


def _can_be_key(key: str) -> bool:
    try:
        check_label(key, "key", MAX_KEY)
    except InvalidInput:
        return False
    return True


def _existing(user_id: str, ids: Sequence[UUID]) -> Plan[set[UUID]]:
    """Return which streams exist, so that only their conversations are read and compared."""
    (rows,) = yield Batch(user_scope(user_id), (Statement(_EXISTING, (user_id, ids)),))
    return {stream_id for (stream_id,) in rows}


def _failure(
    conversation: ImportedConversation, error: Conflict | InvalidInput | QuotaReached
) -> ImportFailure:
    reason = str(error)
    if isinstance(error, Erased):
        reason = "was erased; leave it out of the import"
    elif isinstance(error, StreamClosed):
        reason = "was deleted; leave it out, or import it under another key (--key-prefix)"
    elif isinstance(error, QuotaReached):
        # Of a long conversation, the error counts the appends before it, which are undone.
        reason = f"would exceed the user's quota of {error.limit} events; raise it, see `quota`"
    return ImportFailure(conversation.location, conversation.key, reason)


class _Import:
    """
    One conversation that is being imported.

    :ivar events: of the whole conversation, in order.
    """

    def __init__(
        self, context: UserContext, conversation: ImportedConversation, *, dry_run: bool
    ) -> None:
        """
        Make its events; nothing is sent.

        :raises InvalidInput: the key or a message cannot be stored; the error has its path.
        """
        check_label(conversation.key, "key", MAX_KEY)
        self.context = context
        self.conversation = conversation
        self.stream_id = conversation_id(context.user_id, conversation.key)
        self._dry_run = dry_run
        self._key = f"import:{sha256(conversation.key.encode()).hexdigest()}"
        self._title = _storable_title(conversation.title)
        self.events = [
            self._new_event(*said)
            for said in _events(conversation, self._title, derived_ids(context.user_id, self._key))
        ]

    def start(self) -> Plan[Imported]:
        """Write the conversation, which is new; if it is not, let it grow."""
        requests = self._requests(self.events, Expected.NEW)
        if not self._dry_run:
            try:
                yield from append_together(requests)
            except (WrongVersion, StreamClosed):  # another import came first, or its reply was lost
                return (yield from self.grow())
        return replace(_count(self.events), imported=1)

    def grow(self) -> Plan[Imported]:
        """
        Write what the conversation has and the log does not.

        :raises Overtaken: another writer came in between; then it is compared again.
        :raises Conflict: what is there is something else.
        """
        version, closed, tail = yield from self._compare()
        if not tail:
            return Imported(1, skipped=1)
        if closed:
            raise StreamClosed(self.stream_id, version)
        requests = self._requests(tail, version)
        if not self._dry_run:
            try:
                yield from append_together(requests)
            except WrongVersion as error:
                raise Overtaken(error.stream_id, error.expected, error.actual) from None
        return replace(_count(tail), grown=1)

    def _compare(self) -> Plan[tuple[int, bool, list[NewEvent]]]:
        """
        Compare the conversation with the log; one round trip.

        :return: the stream's version, whether it is closed, and the events that it lacks.
        """
        user_id, renamed = self.context.user_id, self._renamed()
        ids = [event.event_id for event in (*self.events, renamed)]
        streams, rows = yield Batch(
            user_scope(user_id),
            (
                Statement(_STREAM, (user_id, self.stream_id)),
                Statement(_RECORDED, (user_id, self.stream_id, ids)),
            ),
        )
        version, closed = streams[0] if streams else (0, False)
        recorded = {event_id: (position, payload) for event_id, position, payload in rows}
        tail = self._tail(recorded)
        started = recorded[self.events[0].event_id][1]
        # A title that the export changed is taken over once, so a user may change it back.
        if (
            self._title not in {None, loads(started).get("title")}
            and renamed.event_id not in recorded
        ):
            tail.insert(0, renamed)
        return version, closed, tail

    def _tail(self, recorded: Mapping[UUID, tuple[int, str | None]]) -> list[NewEvent]:
        """
        Return the events that were not recorded yet.

        :param recorded: position and payload of those that were, by their ids.
        :raises Conflict: one has another payload, or the conversation was not imported.
        :raises Erased: one has none any more.
        """
        for position, payload in recorded.values():
            if payload is None:
                raise Erased(None, position)
        started, *others = self.events
        if started.event_id not in recorded:
            raise Conflict(
                "exists and was not imported; import it for another user or under another key "
                "(--key-prefix)"
            )
        message = -1
        for number, event in enumerate(others, 1):
            if event.event_id not in recorded:
                return self.events[number:]
            message += isinstance(event.data, MessagePosted)
            if event.data.payload_text() != recorded[event.event_id][1]:
                raise Conflict(
                    f"messages[{message}] differs from what was imported under this key: it was "
                    "edited or answered anew since; import the conversation under another key "
                    "(--key-prefix) to have both"
                )
        return []

    def _renamed(self) -> NewEvent:
        """Return the event that gives the conversation the title it has now in the export."""
        event_id = derived_ids(self.context.user_id, f"{self._key}\n{self._title}")()
        data = make_event(ConversationRenamed, title=self._title)
        # The export does not tell when it was renamed.
        return self._new_event(ItemEvent(event_id, data, None), None, None)

    def _new_event(
        self, event: ItemEvent, occurred_at: datetime | None, model: str | None
    ) -> NewEvent:
        """Return an event as it is appended."""
        said_by = {} if model is None else {"model": model}
        return NewEvent(
            stream_id=self.stream_id,
            data=event.data,
            event_id=event.event_id,
            correlation_id=self.context.correlation_id,
            causation_id=event.causation_id,
            metadata={**self.context.metadata, **said_by},
            occurred_at=occurred_at,
        )

    def _requests(
        self, events: Sequence[NewEvent], expected: ExpectedVersion
    ) -> list[tuple[AppendRequest, list[Statement]]]:
        """Return the appends of events; only the first expects something of the stream."""
        first = replace(events[0], expected=expected)
        chunks = parts_of((first, *events[1:]))
        prepared = [self.context.prepared(chunk) for chunk in chunks]
        return [(one.request, one.row_changes) for one in prepared]


def _count(events: Sequence[NewEvent]) -> Imported:
    messages = sum(isinstance(one.data, MessagePosted) for one in events)
    calls = sum(isinstance(one.data, ToolCallRequested) for one in events)
    return Imported(1, messages, calls, len(events))


def _storable_title(title: str | None) -> str | None:
    """Return a title as a conversation can have it; None if there is nothing to see in it."""
    if title is None:
        return None
    shown = plain_text(title).strip()[:MAX_TITLE]
    try:
        make_event(ConversationStarted, title=shown)
    except InvalidInput:
        return None
    return shown


def _events(
    conversation: ImportedConversation, title: str | None, new_id: NewId
) -> list[tuple[ItemEvent, datetime | None, str | None]]:
    """
    Return the events of a conversation, each with when it happened and which model said it.

    Those of its first messages are the same whatever follows, which lets a conversation grow. A
    message without a date gets that of what was said before it: exports leave out some dates of a
    conversation, and that of the import would be years off.
    """
    named = {} if title is None else {"title": title}
    messages = {f"messages[{number}]": one for number, one in enumerate(conversation.messages)}
    started = make_event(ConversationStarted, key=conversation.key, **named)
    times = [
        None if one.created_at is None else check_occurred_at(one.created_at, f"{path}.created_at")
        for path, one in messages.items()
    ]
    occurred_at = next(filter(None, times), None)
    if conversation.created_at is not None:
        occurred_at = check_occurred_at(conversation.created_at, "created_at")
    events: list[tuple[ItemEvent, datetime | None, str | None]] = [
        (ItemEvent(new_id(), started, None), occurred_at, None)
    ]
    for (path, message), said_at in zip(messages.items(), times, strict=True):
        occurred_at = said_at or occurred_at
        try:
            made = item_events(message.body, path, new_id, sender=message.sender)
        except InvalidInput as error:
            raise error if error.path == path else error.within(f"{path}.") from None
        events += [(event, occurred_at, message.model) for event in made]
    return events
