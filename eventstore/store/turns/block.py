"""
Turns: one request of a user, answered once, whoever retries it.

`plans` says what a turn does. Here are the `with` block that runs one and what it gives, for
sync and async code.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Any
from uuid import UUID

from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.sync_driver import Driver
from eventstore.errors import EventStoreError
from eventstore.events.items import read_item
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_method,
    block_method,
    settled,
    sync_method,
)
from eventstore.store.turns.plans import TurnPlans
from eventstore.store.units.transaction import AsyncTransaction, Transaction
from projections.model_input.arrange import Pending, arrange
from projections.model_input.formats import FormatName
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallView
from projections.models.turn import TurnView

__all__ = ["ActiveTurn", "AsyncActiveTurn", "AsyncTurnBlock", "TurnBlock"]


_CANCELLED_SECONDS = 1.0
"""How long a cancelled caller is made to wait, beside what is under way, for its turn to fail."""


class _Known:
    """What a turn knows without asking the database, sync and async alike."""

    _plans: TurnPlans

    @property
    def id(self) -> UUID:
        """The turn's id, which is the `correlation_id` of all that is recorded in it."""
        return self._plans.id

    @property
    def event_id(self) -> UUID:
        """The same, so that a turn can be named as a cause."""
        return self._plans.id

    @property
    def ended(self) -> bool:
        """Whether the turn is completed, by this process or before."""
        return self._plans.turn.status == "completed"

    @property
    def attempt(self) -> int:
        """How many processes have worked on it, this one included."""
        return self._plans.turn.attempt

    @property
    def record(self) -> TurnView:
        """The turn as it was recorded last: its status, model, usage and error."""
        return self._plans.turn

    @property
    def messages(self) -> list[MessageView]:
        """
        The newest messages of the conversation, oldest first, those of this turn among them.

        As many as its `history_limit` when it begins, and then what it appends. If others have
        written to the conversation, an append of the turn reads them again, in another round trip.
        """
        return self._plans.messages

    def model_input(
        self,
        *,
        pending: Pending = "leave_out",
        format: FormatName | None = None,  # noqa: A002 - the word that callers look for
    ) -> list[dict[str, Any]]:
        """
        Return what the model is given of `messages`, as `User.model_input` does; no round trip.

        An answer whose call stands before the `history_limit` is left out.

        :param pending: `leave_out` calls without a result, or `answer` them with a short text.
        :param format: `chat_completions`, `responses`, `anthropic`, or None for that of the items.
        :raises InvalidInput: a parameter has another value.
        """
        return arrange(self._plans.messages, pending=pending, format=format)

    @property
    def own_messages(self) -> list[MessageView]:
        """The messages of this turn."""
        return [one for one in self._plans.messages if one.correlation_id == self.id]

    @property
    def pending_calls(self) -> list[ToolCallView]:
        """The calls of this turn that have not ended: those to run next."""
        return [one for one in self._plans.calls if one.status == "pending"]

    @property
    def answer(self) -> MessageView | None:
        """The last message of this turn that the model said to the user; None before that."""
        said = [
            one
            for one in self.own_messages[self._plans.sent :]
            if one.sender == "assistant"
            and not one.tool_calls
            and one.body.get("type") != "reasoning"
            and read_item(one.body).text
        ]
        return said[-1] if said else None


class ActiveTurn(_Known, SyncFacade[TurnPlans]):
    """What `with user.turn(…) as turn` gives."""

    extend = sync_method(TurnPlans.extend)
    succeed = sync_method(TurnPlans.succeed)
    fail = sync_method(TurnPlans.fail)
    renew = sync_method(TurnPlans.renew)
    end = sync_method(TurnPlans.end)
    transaction = block_method(TurnPlans.transaction, Transaction)


class AsyncActiveTurn(_Known, AsyncFacade[TurnPlans]):
    """What `async with user.turn(…) as turn` gives."""

    extend = async_method(TurnPlans.extend)
    succeed = async_method(TurnPlans.succeed)
    fail = async_method(TurnPlans.fail)
    renew = async_method(TurnPlans.renew)
    end = async_method(TurnPlans.end)
    transaction = block_method(TurnPlans.transaction, AsyncTransaction)


class TurnBlock:
    """`with user.turn(…) as turn:`; an exception that leaves it fails the turn."""

    def __init__(self, driver: Driver, plans: TurnPlans) -> None:
        self._driver, self._plans = driver, plans

    def __enter__(self) -> ActiveTurn:
        self._driver.run(self._plans.begin(), "turn.begin")
        return ActiveTurn(self._driver, self._plans)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            if self._plans.turn.status == "running":
                self._driver.run(self._plans.end(), "turn.end")
            return
        # The first error is what the caller must see. Without the event the lease runs out.
        with suppress(EventStoreError):
            self._driver.run(self._plans.fail_turn(error), "turn.end")


class AsyncTurnBlock:
    """`async with user.turn(…) as turn:`; an exception that leaves it fails the turn."""

    def __init__(self, driver: AsyncDriver, plans: TurnPlans) -> None:
        self._driver, self._plans = driver, plans

    async def __aenter__(self) -> AsyncActiveTurn:
        beginning = self._driver.run(self._plans.begin(), "turn.begin")
        try:
            await settled(beginning, self._plans.stop_waiting)
        except asyncio.CancelledError as cancelled:
            await self._fail(cancelled)  # nobody will work on it, and a retry must not wait
            raise
        return AsyncActiveTurn(self._driver, self._plans)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            await self._fail(error)
        elif self._plans.turn.status == "running":
            try:
                await settled(self._driver.run(self._plans.end(), "turn.end"))
            except asyncio.CancelledError as cancelled:
                await self._fail(cancelled)  # unless it has ended
                raise

    async def _fail(self, error: BaseException) -> None:
        driver = self._driver
        if isinstance(error, asyncio.CancelledError):
            driver = driver.within(min(_CANCELLED_SECONDS, driver.seconds))
        try:
            await settled(driver.run(self._plans.fail_turn(error), "turn.end"))
        except EventStoreError:
            return  # as in the sync block
        except asyncio.CancelledError:
            # An event loop that ends cancels all its tasks, this append's too. Of two that are
            # written after all, the second finds the turn ended.
            with suppress(EventStoreError):
                await settled(driver.run(self._plans.fail_turn(error), "turn.end"))
            raise
