"""A user's conversations: start, rename, archive, reopen, delete; get one, list a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import WrongVersion
from eventstore.events import conversations
from eventstore.events.conversations import ConversationStarted, ConversationState
from eventstore.events.event import Event, checked
from eventstore.log.envelope import Expected
from eventstore.store.colour import Awaiting, Blocking, OnAsyncDriver, OnDriver
from eventstore.store.context import AsOf, UserContext, cut_at
from eventstore.store.steps import Cause, Handle
from eventstore.store.work import Work
from projections import Conversation
from projections.queries import get_conversation, list_conversations
from projections.replay import Row
from projections.views import ConversationView, conversation_view

__all__ = ["AsyncConversations", "ConversationPlans", "ConversationRecorder", "Conversations"]


class ConversationRecorder:
    """Conversation commands inside a transaction: recorded now, written when it ends."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def start(
        self, *, title: str | None = None, key: str | None = None, caused_by: Cause = None
    ) -> Handle:
        """Start a conversation; its id is known at once. The key must be new."""
        given = {"key": key, "title": title}
        fields = {name: value for name, value in given.items() if value is not None}
        event = checked(ConversationStarted, **fields)
        conversation_id = (
            self._work.new_id() if key is None else self._work.context.conversation(key)
        )
        started = self._work.record(
            conversation_id, event, expected=Expected.NEW, caused_by=caused_by
        )
        return Handle(conversation_id, started.event_id)

    def rename(
        self, conversation: UUID | str, title: str | None, *, caused_by: Cause = None
    ) -> Handle:
        """Change the title; looks first, the same title changes nothing."""
        return self._decide(
            conversation, lambda state: conversations.rename(state, title), caused_by
        )

    def archive(self, conversation: UUID | str, *, caused_by: Cause = None) -> Handle:
        """Put a conversation away; looks first."""
        return self._decide(conversation, conversations.archive, caused_by)

    def reopen(self, conversation: UUID | str, *, caused_by: Cause = None) -> Handle:
        """Take an archived conversation up again; looks first."""
        return self._decide(conversation, conversations.reopen, caused_by)

    def delete(self, conversation: UUID | str, *, caused_by: Cause = None) -> Handle:
        """Remove a conversation for good; looks first."""
        return self._decide(conversation, conversations.delete, caused_by)

    def _decide(
        self,
        conversation: UUID | str,
        decide: Callable[[ConversationState], Event | None],
        caused_by: Cause,
    ) -> Handle:
        return self._work.decide(
            Conversation,
            self._work.context.conversation(conversation),
            lambda row: decide(_state(row)),
            caused_by=caused_by,
        )


@dataclass(frozen=True, slots=True)
class ConversationPlans:
    """What can be done with a user's conversations, as plans."""

    context: UserContext

    def start(
        self,
        *,
        title: str | None = None,
        key: str | None = None,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[ConversationView]:
        """
        Start a conversation; one round trip.

        :param key: your own name for it, 1 to 255 characters, as a session id: starting the same
            key again returns the conversation that is there, at the cost of a second round trip.
        :raises StreamClosed: the key's conversation was deleted.
        """
        try:
            return (
                yield from self._one(
                    idempotency_key,
                    lambda record: record.start(title=title, key=key, caused_by=caused_by),
                )
            )
        except WrongVersion as conflict:
            if key is None:
                raise
            return (yield from self.get(conflict.stream_id))

    def rename(
        self,
        conversation: UUID | str,
        title: str | None,
        *,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[ConversationView]:
        """
        Change the title; two round trips.

        :raises NotFound: absent, deleted or another user's.
        """
        return self._one(
            idempotency_key, lambda record: record.rename(conversation, title, caused_by=caused_by)
        )

    def archive(
        self,
        conversation: UUID | str,
        *,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[ConversationView]:
        """
        Put a conversation away; two round trips. It still takes messages and late outcomes.

        :raises NotFound: absent, deleted or another user's.
        """
        return self._one(
            idempotency_key, lambda record: record.archive(conversation, caused_by=caused_by)
        )

    def reopen(
        self,
        conversation: UUID | str,
        *,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[ConversationView]:
        """
        Take an archived conversation up again; two round trips.

        :raises NotFound: absent, deleted or another user's.
        """
        return self._one(
            idempotency_key, lambda record: record.reopen(conversation, caused_by=caused_by)
        )

    def delete(
        self,
        conversation: UUID | str,
        *,
        caused_by: Cause = None,
        idempotency_key: str | None = None,
    ) -> Plan[None]:
        """
        Remove a conversation for good; two round trips. Its events stay in the log.

        :raises NotFound: absent, deleted already or another user's.
        """
        work = Work(self.context, idempotency_key)
        ConversationRecorder(work).delete(conversation, caused_by=caused_by)
        yield from work.commit()

    def get(self, conversation: UUID | str, *, as_of: AsOf = None) -> Plan[ConversationView]:
        """
        Return one conversation by its id or key; one round trip.

        :raises NotFound: absent, deleted or another user's, as of then.
        """
        context = self.context
        conversation_id, cut = context.conversation(conversation), cut_at(as_of)
        plan = context.retrying(
            lambda: get_conversation(
                context.user_id, conversation_id, cut, context.projections, context.registry
            )
        )
        return context.named(conversation, plan)

    def list(
        self,
        *,
        archived: bool | None = False,
        limit: int = 50,
        before: int | None = None,
        as_of: AsOf = None,
    ) -> Plan[list[ConversationView]]:
        """
        Return a page of conversations, newest activity first; one round trip.

        :param archived: False for active ones, True for archived ones, None for both.
        :param before: the `last_position` of the last one on the page before.
        """
        context = self.context
        cut = cut_at(as_of)
        return context.retrying(
            lambda: list_conversations(
                context.user_id,
                archived=archived,
                limit=limit,
                before=before,
                cut=cut,
                projections=context.projections,
                registry=context.registry,
            )
        )

    def _one(
        self, key: str | None, record: Callable[[ConversationRecorder], Handle]
    ) -> Plan[ConversationView]:
        work = Work(self.context, key)
        handle = record(ConversationRecorder(work))
        outcome = yield from work.commit()
        return conversation_view(outcome.row(Conversation, handle.id))


class Conversations(OnDriver[ConversationPlans]):
    """A user's conversations."""

    start = Blocking(ConversationPlans.start)
    rename = Blocking(ConversationPlans.rename)
    archive = Blocking(ConversationPlans.archive)
    reopen = Blocking(ConversationPlans.reopen)
    delete = Blocking(ConversationPlans.delete)
    get = Blocking(ConversationPlans.get)
    list = Blocking(ConversationPlans.list)


class AsyncConversations(OnAsyncDriver[ConversationPlans]):
    """A user's conversations."""

    start = Awaiting(ConversationPlans.start)
    rename = Awaiting(ConversationPlans.rename)
    archive = Awaiting(ConversationPlans.archive)
    reopen = Awaiting(ConversationPlans.reopen)
    delete = Awaiting(ConversationPlans.delete)
    get = Awaiting(ConversationPlans.get)
    list = Awaiting(ConversationPlans.list)


def _state(row: Row) -> ConversationState:
    return ConversationState(row["title"], row["status"])
