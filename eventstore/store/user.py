"""One user's view of the store: everything through it is about that user and nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from eventstore.database.driver import Driver
from eventstore.database.driver_async import AsyncDriver
from eventstore.database.plan import Plan
from eventstore.database.sqlalchemy import async_session, session
from eventstore.events.jsontext import check_json
from eventstore.events.limits import MAX_BATCH
from eventstore.log.append import append
from eventstore.log.envelope import NewEvent, RecordedEvent
from eventstore.log.prepare import prepare_append
from eventstore.log.read import Selection, read_events
from eventstore.store.colour import Awaiting, Blocking, OnAsyncDriver, OnDriver
from eventstore.store.context import AsOf, UserContext, cut_at, given_id
from eventstore.store.conversations import AsyncConversations, ConversationPlans, Conversations
from eventstore.store.messages import AsyncMessages, MessagePlans, Messages
from eventstore.store.tasks import AsyncTasks, TaskPlans, Tasks
from eventstore.store.tool_calls import AsyncToolCalls, ToolCallPlans, ToolCalls
from eventstore.store.transaction import AsyncTransaction, Transaction
from eventstore.store.work import Work
from projections.audit import AuditEntry, audit
from projections.history import Source, history
from projections.live import live_statements
from projections.views import MessageView

__all__ = ["AsyncUser", "User", "UserPlans"]


@dataclass(frozen=True, slots=True)
class UserPlans:
    """What can be done for one user, as plans."""

    context: UserContext

    def history(
        self,
        conversation: UUID | str,
        *,
        source: Source = "projection",
        as_of: AsOf = None,
        limit: int | None = None,
        before: int | None = None,
    ) -> Plan[list[MessageView]]:
        """
        Return a conversation's messages, oldest first.

        :param conversation: its id or key.
        :param source: `projection` reads the read model, one round trip; `events` replays the log.
            Both give the same answer.
        :param as_of: a position or an instant: the conversation as it was then.
        :param limit: only the newest so many.
        :param before: only messages at smaller positions, for the page before.
        :raises NotFound: absent, deleted or another user's, as of then.
        """
        context = self.context
        conversation_id, cut = context.conversation(conversation), cut_at(as_of)
        plan = context.retrying(
            lambda: history(
                context.user_id,
                conversation_id,
                source=source,
                cut=cut,
                before=before,
                limit=limit,
                projections=context.projections,
                registry=context.registry,
            )
        )
        return context.named(conversation, plan)

    def append(
        self, events: Sequence[NewEvent], *, idempotency_key: str | None = None
    ) -> Plan[list[RecordedEvent]]:
        """
        Append events of any registered class; one round trip.

        :param events: 1 to 1,000, all or nothing, in order; `NewEvent.expected` is checked.
        :param idempotency_key: the same key and content again returns the first result.
        :return: the recorded events; positions follow the head without a gap.
        :raises WrongVersion: a stream is not as expected; nothing was written.
        :raises StreamClosed: a task or conversation was deleted; nothing was written.
        :raises IdempotencyConflict: the key stands for other content; nothing was written.
        :raises InvalidInput: something cannot be stored; the message names its place.
        """
        request = prepare_append(self.context.user_id, events, idempotency_key)
        for number, event in enumerate(events):
            self.context.registry.require(event.data, f"events[{number}].data")
        changes = live_statements(self.context.projections, request.facts)
        return self.context.retrying(lambda: append(request, changes))

    def events(
        self,
        *,
        stream_id: UUID | str | None = None,
        after: int = 0,
        before: int | None = None,
        types: Sequence[str] | None = None,
        as_of: AsOf = None,
        backward: bool = False,
        limit: int = MAX_BATCH,
    ) -> Plan[list[RecordedEvent]]:
        """
        Read a page of events; one round trip.

        :param stream_id: only those of one task or conversation.
        :param after: positions greater than this; the last one read, for the next page.
        :param before: positions less than this; likewise, backward.
        :param types: stored names.
        :raises UnknownEventType: an event no registered class reads; its position is named.
        """
        context = self.context
        wanted = Selection(
            stream_id=None if stream_id is None else given_id(stream_id, "stream"),
            after=after,
            before=before,
            types=types,
            cut=cut_at(as_of),
            backward=backward,
            limit=limit,
        )
        return context.retrying(lambda: read_events(context.user_id, wanted, context.registry))

    def audit(
        self, *, conversation: UUID | str | None = None, as_of: AsOf = None
    ) -> Plan[list[AuditEntry]]:
        """
        Return the tool calls in the order they were asked for, from the log alone.

        Each with its outcome, or pending, and with the events it caused. Run them again with
        `projections.audit.rerun`.

        :raises NotFound: no such conversation; one that was deleted or erased is found.
        """
        context = self.context
        chosen = None if conversation is None else context.conversation(conversation)
        cut = cut_at(as_of)
        plan = context.retrying(
            lambda: audit(context.user_id, context.registry, conversation=chosen, cut=cut)
        )
        return plan if conversation is None else context.named(conversation, plan)

    def annotated(
        self, correlation_id: UUID | None, metadata: Mapping[str, Any] | None
    ) -> UserPlans:
        """Return the same user's plans with other annotations."""
        checked = check_json(dict(metadata or {}), "metadata")
        return UserPlans(
            replace(self.context, correlation_id=correlation_id, metadata=checked)  # type: ignore[arg-type]  # a checked mapping is a dict
        )


class User(OnDriver[UserPlans]):
    """
    One user of the store.

    :ivar tasks: create, update, complete, reopen, delete, get, list.
    :ivar conversations: start, rename, archive, reopen, delete, get, list.
    :ivar messages: post, retract.
    :ivar tool_calls: request, succeed, fail, find.
    """

    def __init__(self, driver: Driver, engine: Engine, plans: UserPlans) -> None:
        super().__init__(driver, plans)
        self._engine = engine
        self.user_id = plans.context.user_id
        self.tasks = Tasks(driver, TaskPlans(plans.context))
        self.conversations = Conversations(driver, ConversationPlans(plans.context))
        self.messages = Messages(driver, MessagePlans(plans.context))
        self.tool_calls = ToolCalls(driver, ToolCallPlans(plans.context))

    history = Blocking(UserPlans.history)
    append = Blocking(UserPlans.append)
    events = Blocking(UserPlans.events)
    audit = Blocking(UserPlans.audit)

    def transaction(self, *, idempotency_key: str | None = None) -> Transaction:
        """
        Record several commands in a `with` block and append them together when it ends.

        :param idempotency_key: the same commands under the same key again change nothing.
        """
        return Transaction(self._driver, Work(self._plans.context, idempotency_key))

    def annotated(
        self, *, correlation_id: UUID | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """Return this user with annotations for all that is appended through it."""
        return type(self)(
            self._driver, self._engine, self._plans.annotated(correlation_id, metadata)
        )

    def session(self, *, read_only: bool = True) -> Session:
        """
        Return a SQLModel session on the store's pool in which only this user's rows exist.

        :param read_only: False to write tables of your own; the read models are the projectors'.
        """
        return session(self._engine, self.user_id, read_only=read_only)


class AsyncUser(OnAsyncDriver[UserPlans]):
    """
    One user of the store.

    :ivar tasks: create, update, complete, reopen, delete, get, list.
    :ivar conversations: start, rename, archive, reopen, delete, get, list.
    :ivar messages: post, retract.
    :ivar tool_calls: request, succeed, fail, find.
    """

    def __init__(self, driver: AsyncDriver, engine: AsyncEngine, plans: UserPlans) -> None:
        super().__init__(driver, plans)
        self._engine = engine
        self.user_id = plans.context.user_id
        self.tasks = AsyncTasks(driver, TaskPlans(plans.context))
        self.conversations = AsyncConversations(driver, ConversationPlans(plans.context))
        self.messages = AsyncMessages(driver, MessagePlans(plans.context))
        self.tool_calls = AsyncToolCalls(driver, ToolCallPlans(plans.context))

    history = Awaiting(UserPlans.history)
    append = Awaiting(UserPlans.append)
    events = Awaiting(UserPlans.events)
    audit = Awaiting(UserPlans.audit)

    def transaction(self, *, idempotency_key: str | None = None) -> AsyncTransaction:
        """
        Record several commands in a `with` block and append them together when it ends.

        :param idempotency_key: the same commands under the same key again change nothing.
        """
        return AsyncTransaction(self._driver, Work(self._plans.context, idempotency_key))

    def annotated(
        self, *, correlation_id: UUID | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Self:
        """Return this user with annotations for all that is appended through it."""
        return type(self)(
            self._driver, self._engine, self._plans.annotated(correlation_id, metadata)
        )

    def session(self, *, read_only: bool = True) -> AsyncSession:
        """
        Return a SQLModel session on the store's pool in which only this user's rows exist.

        :param read_only: False to write tables of your own; the read models are the projectors'.
        """
        return async_session(self._engine, self.user_id, read_only=read_only)
