"""One user's view of the store: everything through it is about that user and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import Session
from sqlmodel.ext.asyncio.session import AsyncSession

from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.sync_driver import Driver
from eventstore.database.sessions.engines import async_session, session
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
    UserContext,
    check_deadline,
)
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_method,
    block_method,
    sync_method,
)
from eventstore.store.turns.block import AsyncTurnBlock, TurnBlock
from eventstore.store.units.transaction import AsyncTransaction, Transaction
from eventstore.store.user_plans import UserPlans

__all__ = ["AsyncUser", "User"]


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
