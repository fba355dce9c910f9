"""One user's view of the store: everything through it is about that user and nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.sync_driver import Driver
from eventstore.database.plan import Plan
from eventstore.database.sessions.engines import async_session, session
from eventstore.errors import InvalidInput, OutcomeUnknown
from eventstore.events.fields import MAX_BATCH, MAX_KEY, check_label, check_list, check_occurred_at
from eventstore.events.json_codec import check_json
from eventstore.log.append import append
from eventstore.log.envelope import NewEvent, RecordedEvent
from eventstore.log.paging import Page
from eventstore.log.read import Selection, find_append, read_event_page
from eventstore.store.commands.conversations import (
    AsyncConversations,
    ConversationQueries,
    Conversations,
)
from eventstore.store.commands.messages import AsyncMessages, MessageQueries, Messages
from eventstore.store.commands.tasks import AsyncTasks, TaskQueries, Tasks
from eventstore.store.commands.tool_calls import AsyncToolCalls, ToolCallQueries, ToolCalls
from eventstore.store.commands.turns import AsyncTurns, TurnQueries, Turns
from eventstore.store.context import (
    AsOf,
    Queries,
    UserContext,
    check_deadline,
    parse_id,
    point_in_time,
)
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_method,
    block_method,
    sync_method,
)
from eventstore.store.turns.block import AsyncTurnBlock, TurnBlock
from eventstore.store.turns.plans import TurnPlans
from eventstore.store.units.transaction import AsyncTransaction, Transaction
from eventstore.store.units.unit_of_work import UnitOfWork, check_key
from projections.model_input.arrange import Pending
from projections.model_input.formats import FormatName
from projections.models.message import MessageView
from projections.queries.history import Source, history_page, items_page
from projections.queries.model_input import model_input
from projections.queries.tool_call_audit import AuditEntry, audit

__all__ = ["AsyncUser", "User", "UserPlans"]


class UserPlans(Queries):
    """What can be done for one user beside tasks, conversations, messages and tool calls."""

    def history(
        self,
        conversation: UUID | str,
        *,
        source: Source = "projection",
        as_of: AsOf = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Plan[Page[MessageView]]:
        """
        Return a conversation's messages, oldest first; with a limit, the newest ones.

        :param conversation: its id or key.
        :param source: `projection` reads the read model in one round trip, `events` replays the
            log; both give the same answer.
        :param as_of: a position or a timestamp: the conversation as it was then.
        :param limit: only the newest so many messages; None returns all.
        :param after: `next` of a page: the messages that were said before those. A source, unlike
            the moment, may be another one than that page's.
        :return: each with its tool calls, whose outcomes are those of then.
        :raises NotFound: absent, deleted or another user's, as of then.
        :raises InvalidInput: a parameter has a wrong type or is out of range.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.about_conversation(
            conversation,
            lambda resolved: history_page(
                context.user_id,
                resolved,
                source=source,
                moment=moment,
                after=after,
                limit=limit,
                projections=context.projections,
                registry=context.registry,
            ),
        )

    def items(
        self, conversation: UUID | str, *, limit: int | None = None
    ) -> Plan[list[dict[str, Any]]]:
        """
        Return a conversation's items exactly as they came, oldest first; one round trip.

        They are the `body` of each message of `history`, which costs more for what it says of them.

        :param conversation: its id or key.
        :param limit: only the newest so many; None returns all.
        :raises NotFound: absent, deleted or another user's.
        :raises InvalidInput: the limit is no whole number, or negative.
        """
        context = self.context
        return context.about_conversation(
            conversation, lambda resolved: items_page(context.user_id, resolved, limit)
        )

    def model_input(
        self,
        conversation: UUID | str,
        *,
        limit: int | None = None,
        pending: Pending = "leave_out",
        format: FormatName | None = None,  # noqa: A002 - the word that callers look for
        as_of: AsOf = None,
    ) -> Plan[list[dict[str, Any]]]:
        """
        Return what a model is given of a conversation: the list of its next request, plain JSON.

        `history` is what was recorded, this is what an API accepts of it; one round trip.

        - Each call is followed by its answer, whatever was recorded in between and whichever way
          the call ended; parallel calls by their answers in the order of the calls.
        - Retracted messages, answers without their call, second answers, reasoning without what
          came of it, and shapes that no format knows are left out.
        - Calls without an id, or whose id the API does not take twice, get one of the store's.
        - Lone surrogates and NUL become U+FFFD, numbers are int or float; `json.dumps` takes all.

        An item in the format of the request stays as it is beyond that. One in another format is
        converted: its texts, images, calls and answers go over, what only its provider reads does
        not. A role that the API does not have, like a person's name, becomes `user`; in Anthropic's
        format so do `system` and `developer`, whose texts are better given as the request's own
        `system`.

        :param conversation: its id or key.
        :param limit: only the newest so many messages, and with them what they need: the call of an
            answer, if it is one of the 500 messages before, and the other items of a response.
        :param pending: what becomes of a call that has no result, since it is pending, was
            abandoned or its answer was retracted: `leave_out` the call (a message of which nothing
            is left goes as a whole), or `answer` it with a short error text.
        :param format: `chat_completions`, `responses` or `anthropic`. None takes the format of the
            newest item of the model's that has one, or else of the newest item that has one, or
            else Chat Completions.
        :param as_of: a position or a timestamp: what the model would have been given then.
        :raises NotFound: absent, deleted or another user's, as of then.
        :raises InvalidInput: a parameter has a wrong type or value.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.about_conversation(
            conversation,
            lambda resolved: model_input(
                context.user_id,
                resolved,
                limit=limit,
                pending=pending,
                format=format,
                moment=moment,
                projections=context.projections,
                registry=context.registry,
            ),
        )

    def append(
        self, events: Sequence[NewEvent], *, idempotency_key: str | None = None
    ) -> Plan[list[RecordedEvent]]:
        """
        Append events of any registered class; one round trip.

        :param events: 1 to 1,000, all or nothing, in order; `NewEvent.expected` is checked.
        :param idempotency_key: the same key and content again returns the first result; None makes
            one of the id of the first event, so that sending the same events again is safe.
        :return: the recorded events; their positions follow the head without a gap.
        :raises WrongVersion: a stream is not as expected; nothing was written.
        :raises StreamClosed: a task or conversation was deleted; nothing was written.
        :raises IdempotencyConflict: the key was used for other content; nothing was written.
        :raises Erased: the key was used for content that has been erased since.
        :raises InvalidInput: a value cannot be stored, or a class is not registered; the message
            has its path.
        :raises BatchTooLarge: more than 1,000 events, or 64 MiB of JSON.
        """
        events = [*check_list(events, "events", "events")]
        context = self.context
        key = context.idempotency_key if idempotency_key is None else idempotency_key
        if key is None and events and isinstance(events[0], NewEvent):
            # The caller knows the ids and may send the same events again, from any process. A
            # command draws new ids each time, so only the store's own retry repeats them.
            key = f"append:{events[0].event_id}"
        prepared = context.prepared(events, key, foreign=True)

        # There always is a key here, so an attempt need not say that it is a retry.
        def attempt() -> Plan[list[RecordedEvent]]:
            return (yield from append(prepared.request, prepared.row_changes)).events

        return context.retrying(attempt, lambda: context.outcome_unknown(prepared.request))

    def find_append(
        self, append: str | UUID | Sequence[UUID] | OutcomeUnknown
    ) -> Plan[list[RecordedEvent]]:
        """
        Return the events of one append, none if it was not written.

        Two round trips, or one by ids. An append that is still on its way is waited for: it holds
        the lock on the user's log, which this takes for a moment.

        :param append: its idempotency key, the ids of its events, or the error with which the
            command ended. Index: `event_idempotency_key`; for ids, the newest 100,000 events of the
            user along `event_pkey`.
        :return: its events in order; erased ones have an `ErasedEvent` as their data.
        :raises InvalidInput: the argument is none of these.
        """
        key: str | list[UUID]
        match append:
            case OutcomeUnknown():
                key = append.idempotency_key or [*append.event_ids]
            case str():
                key = check_label(append, "append", MAX_KEY)
            case UUID():
                key = [append]
            case [*ids] if all(isinstance(one, UUID) for one in ids):
                key = ids
            case _:
                fact = f"a {type(append).__name__}; give a key, ids of events or the error"
                raise InvalidInput("append", fact)
        context = self.context
        return context.retrying(lambda: find_append(context.user_id, key, context.registry))

    def events(
        self,
        *,
        stream_id: UUID | str | None = None,
        after: int | str | None = None,
        types: Sequence[str] | None = None,
        as_of: AsOf = None,
        backward: bool = False,
        limit: int = MAX_BATCH,
    ) -> Plan[Page[RecordedEvent]]:
        """
        Read a page of events; one round trip.

        :param stream_id: only those of one task or conversation. Index: `event_stream`, otherwise
            `event_pkey`; type and time have none.
        :param after: `next` of the page before, or a position: only events that come behind it, so
            with `backward` those at smaller positions.
        :param types: only events with one of these stored names.
        :param as_of: a position or a timestamp: only events recorded by then.
        :param backward: newest first.
        :param limit: events on a page.
        :return: in the order of their positions; erased ones have an `ErasedEvent` as their data.
        :raises UnknownEventType: no registered class reads an event; its position is named.
        :raises UnreadableEvent: a stored payload does not fit its class.
        :raises NotFound: `stream_id` is text and no UUID.
        :raises InvalidInput: a parameter has a wrong type or is out of range.
        """
        context = self.context
        wanted = Selection(
            stream_id=None if stream_id is None else parse_id(stream_id, "stream"),
            types=types,
            moment=point_in_time(as_of),
            backward=backward,
            limit=limit,
        )
        return context.retrying(
            lambda: read_event_page(context.user_id, wanted, after, context.registry)
        )

    def audit(
        self, *, conversation: UUID | str | None = None, as_of: AsOf = None
    ) -> Plan[list[AuditEntry]]:
        """
        Return the tool calls in the order they were requested, from the log alone.

        Each has its outcome, or is pending, and lists the events that it caused. They can be run
        again with `projections.queries.tool_call_audit.rerun`.

        :param conversation: only calls of this conversation, by its id or key.
        :param as_of: a position or a timestamp: the calls as they were then.
        :raises NotFound: no such conversation; one that was deleted or erased is found.
        :raises CorruptLog: an event cannot be read.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.about_one_or_all(
            conversation,
            lambda resolved: audit(
                context.user_id,
                context.projections,
                context.registry,
                conversation=resolved,
                moment=moment,
            ),
        )

    def transaction(self, *, idempotency_key: str | None = None) -> UnitOfWork:
        """
        Record several commands in a `with` block and append them together when it ends.

        :param idempotency_key: the same commands under the same key again change nothing; None
            keeps the key of `keyed`.
        :return: a block to be used once; its end raises what the append of the commands raises.
        :raises InvalidInput: the key is not text, blank or too long.
        """
        context = self.context if idempotency_key is None else self.keyed(idempotency_key)
        return UnitOfWork(context)

    def turn(
        self,
        conversation: UUID | str,
        *,
        key: str,
        items: Sequence[Mapping[str, Any]] = (),
        lease_seconds: int = 120,
        wait_seconds: float = 10.0,
        history_limit: int = 100,
    ) -> TurnPlans:
        """
        Return the block in which one request is answered, once, whoever retries it.

        ::

            said = [{"role": "user", "content": text}]
            with alice.turn(chat, key=request_id, items=said) as turn:
                while not turn.ended:
                    for call in turn.pending_calls:
                        turn.succeed(call, output=run(call.name, call.arguments))
                    reply = model(turn.model_input())
                    if reply.calls:
                        turn.extend(reply.items)
                    else:
                        turn.end(reply.items, model=reply.model, usage=reply.usage)
            return turn.answer

        Entering starts the turn, in one round trip. The turn has the conversation to itself; others
        wait. A key whose turn is completed gives that turn, with its answer, and `ended` is True.
        A turn whose process died is continued by whoever sends its key after the lease: with what
        it recorded, so that a call that has its outcome is not run again. Leaving the block ends
        the turn; an exception that leaves it makes it failed, and its key continues it at once.

        :param conversation: its id or key.
        :param key: the caller's name for the request, 1 to 255 characters, the same on each retry.
        :param items: what the user sends, recorded when the turn starts, as in `messages.extend`.
        :param lease_seconds: how long the turn is this process's, 1 to 86,400; `turn.renew` begins
            it anew. Longer than a model or a tool may take.
        :param wait_seconds: how long to wait while another turn has the conversation.
        :param history_limit: messages of the conversation to read, for the model.
        :return: a block to be used once. The answer of a turn is None once it was taken back:
            retracted, rewound, or deleted with the conversation, which may have begun anew.
        :raises InvalidInput: a parameter does not fit. The rest is raised on entering:
            `ConversationBusy` if the time is over, `NotFound` without such a conversation,
            `StreamClosed` if it was deleted, `IdempotencyConflict` if the key is another
            request's, and `TurnTakenOver` if the turn was not completed when its conversation was
            deleted, which has begun anew since.
        """
        return TurnPlans(
            self.context,
            conversation,
            key=key,
            items=items,
            lease_seconds=lease_seconds,
            wait_seconds=wait_seconds,
            history_limit=history_limit,
        )

    def annotated(
        self,
        correlation_id: UUID | None,
        metadata: Mapping[str, Any] | None,
        occurred_at: datetime | None,
    ) -> UserContext:
        """
        Return the context with other annotations; what is not given stays.

        :raises InvalidInput: an argument has a wrong type, or the time cannot be stored.
        :raises NotStorable: the metadata has a value that JSON cannot hold.
        """
        if not isinstance(correlation_id, UUID | None):
            kind = type(correlation_id).__name__
            raise InvalidInput("correlation_id", f"is a {kind}; give a UUID")
        if not isinstance(metadata, Mapping | None):
            raise InvalidInput("metadata", f"is a {type(metadata).__name__}; give a dict")
        # Checked here, where the mistake is, and not at each append. The result is a copy, so the
        # caller may change the dict afterwards.
        given: dict[str, Any] = {}
        if metadata is not None:
            given["metadata"] = check_json(dict(metadata), "metadata")
        if correlation_id is not None:
            given["correlation_id"] = correlation_id
        if occurred_at is not None:
            given["occurred_at"] = check_occurred_at(occurred_at, "occurred_at")
        return replace(self.context, **given)

    def keyed(self, idempotency_key: str | None) -> UserContext:
        """
        Return the context with another idempotency key.

        :raises InvalidInput: not text, blank or too long.
        """
        return replace(self.context, idempotency_key=check_key(idempotency_key))


class _View:
    """What gives the same user with other options, sync and async alike; nothing is sent."""

    _driver: Any
    _engine: Any
    _plans: UserPlans

    def keyed(self, idempotency_key: str) -> Self:
        """
        Return this user with an idempotency key for one command, transaction or append.

        The same command under the same key again changes nothing and returns the first answer,
        whichever process sends it::

            alice.keyed(request_id).tasks.create("Buy milk")

        :param idempotency_key: 1 to 255 characters, unique among this user's commands.
        :raises InvalidInput: not text, blank or too long.
        """
        return self._again(self._driver, self._plans.keyed(idempotency_key))

    def annotated(
        self,
        *,
        correlation_id: UUID | None = None,
        metadata: Mapping[str, Any] | None = None,
        occurred_at: datetime | None = None,
    ) -> Self:
        """
        Return this user with annotations for everything that is appended through it.

        :param correlation_id: what belongs together, like an agent's turn; None leaves it as it is.
        :param metadata: a JSON object, stored with each event; None leaves it as it is.
        :param occurred_at: when it happened, with time zone, if that is not now. Views and tables
            show it; order and `as_of` go by when it was recorded. A retry is known as one whatever
            it says here, and what was said first stays.
        :raises InvalidInput: an argument has a wrong type, or the time is not from 0001-01-04 to
            9999-12-28.
        :raises NotStorable: the metadata has a value that JSON cannot hold.
        """
        annotated = self._plans.annotated(correlation_id, metadata, occurred_at)
        return self._again(self._driver, annotated)

    def within(self, seconds: float) -> Self:
        """
        Return this user with a deadline of its own, in place of `deadline_seconds` of the settings.

        A call ends by then, with its answer or an error: waiting for a connection, connecting,
        retries and the answer all count. What a call is asked to wait, as `tool_calls.wait` is,
        does not. In a `session` each statement has that time::

            alice.within(60).audit()

        :param seconds: more than 0; work of a person who waits, or of a job.
        :raises InvalidInput: not a number, not positive, or over 1,000,000.
        """
        driver = self._driver.within(check_deadline(seconds))
        return self._again(driver, self._plans.context)

    def _again(self, driver: Any, context: UserContext) -> Self:
        view: Any = type(self)
        again: Self = view(driver, self._engine, context)
        return again


class User(_View, SyncFacade[UserPlans]):
    """
    One user of the store.

    :ivar tasks: create, update, complete, reopen, delete, get, list.
    :ivar conversations: start, rename, archive, reopen, rewind, delete, restore, fork, get, list.
    :ivar messages: post, extend, edit, draft, retract, replace_tail, pop, clear.
    :ivar tool_calls: request, claim, succeed, fail, abandon, find, get, list, wait.
    :ivar turns: get, list, usage.
    """

    def __init__(self, driver: Driver, engine: Engine, context: UserContext) -> None:
        super().__init__(driver, UserPlans(context))
        self._engine = engine
        self.user_id = context.user_id
        self.tasks = Tasks(driver, TaskQueries(context))
        self.conversations = Conversations(driver, ConversationQueries(context))
        self.messages = Messages(driver, MessageQueries(context))
        self.tool_calls = ToolCalls(driver, ToolCallQueries(context))
        self.turns = Turns(driver, TurnQueries(context))

    history = sync_method(UserPlans.history)
    items = sync_method(UserPlans.items)
    model_input = sync_method(UserPlans.model_input)
    append = sync_method(UserPlans.append)
    events = sync_method(UserPlans.events)
    find_append = sync_method(UserPlans.find_append)
    audit = sync_method(UserPlans.audit)
    transaction = block_method(UserPlans.transaction, Transaction)
    turn = block_method(UserPlans.turn, TurnBlock)

    def session(self, *, read_only: bool = True) -> Session:
        """
        Return a SQLModel session on the store's pool in which only this user's rows exist.

        Each statement has the time of a call; see `within`.

        :param read_only: False to write tables of your own; the read models belong to projectors.
        """
        seconds = self._driver.seconds
        return session(self._engine, self.user_id, read_only=read_only, seconds=seconds)


class AsyncUser(_View, AsyncFacade[UserPlans]):
    """
    One user of the store.

    :ivar tasks: create, update, complete, reopen, delete, get, list.
    :ivar conversations: start, rename, archive, reopen, rewind, delete, restore, fork, get, list.
    :ivar messages: post, extend, edit, draft, retract, replace_tail, pop, clear.
    :ivar tool_calls: request, claim, succeed, fail, abandon, find, get, list, wait.
    :ivar turns: get, list, usage.
    """

    def __init__(self, driver: AsyncDriver, engine: AsyncEngine, context: UserContext) -> None:
        super().__init__(driver, UserPlans(context))
        self._engine = engine
        self.user_id = context.user_id
        self.tasks = AsyncTasks(driver, TaskQueries(context))
        self.conversations = AsyncConversations(driver, ConversationQueries(context))
        self.messages = AsyncMessages(driver, MessageQueries(context))
        self.tool_calls = AsyncToolCalls(driver, ToolCallQueries(context))
        self.turns = AsyncTurns(driver, TurnQueries(context))

    history = async_method(UserPlans.history)
    items = async_method(UserPlans.items)
    model_input = async_method(UserPlans.model_input)
    append = async_method(UserPlans.append)
    events = async_method(UserPlans.events)
    find_append = async_method(UserPlans.find_append)
    audit = async_method(UserPlans.audit)
    transaction = block_method(UserPlans.transaction, AsyncTransaction)
    turn = block_method(UserPlans.turn, AsyncTurnBlock)

    def session(self, *, read_only: bool = True) -> AsyncSession:
        """
        Return a SQLModel session on the store's pool in which only this user's rows exist.

        Each statement has the time of a call; see `within`.

        :param read_only: False to write tables of your own; the read models belong to projectors.
        """
        seconds = self._driver.seconds
        return async_session(self._engine, self.user_id, read_only=read_only, seconds=seconds)
