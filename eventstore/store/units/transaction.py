"""
Transactions: several commands, one append.

Nothing is sent until the block ends, and leaving it by an exception writes nothing. Ids are known
at once, so later commands can refer to earlier ones. If any command is a decision, one more round
trip reads what all of them depend on.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self
from uuid import UUID

from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.sync_driver import Driver
from eventstore.errors import ConfigurationError
from eventstore.events.event import Event
from eventstore.log.envelope import Expected, ExpectedVersion, RecordedEvent
from eventstore.store.commands.conversations import ConversationCommands
from eventstore.store.commands.messages import MessageCommands
from eventstore.store.commands.tasks import TaskCommands
from eventstore.store.commands.tool_calls import ToolCallCommands
from eventstore.store.units.commands import Commands
from eventstore.store.units.decisions import Cause
from eventstore.store.units.outcome import Handle
from eventstore.store.units.unit_of_work import UnitOfWork

__all__ = ["AsyncTransaction", "Transaction", "TransactionCommands"]


class TransactionCommands(Commands):
    """
    What a transaction offers, sync and async alike: its commands do not touch the database.

    :ivar tasks: the commands on tasks; `conversations`, `messages` and `tool_calls` likewise.
    :ivar recorded: the recorded events, once the block has ended.
    """

    def __init__(self, work: UnitOfWork) -> None:
        super().__init__(work)
        self.tasks = TaskCommands(work)
        self.conversations = ConversationCommands(work)
        self.messages = MessageCommands(work)
        self.tool_calls = ToolCallCommands(work)
        self.recorded: list[RecordedEvent] = []
        self._begun = False

    def begin(self) -> Self:
        """
        Take the commands of one block.

        :raises ConfigurationError: a block was run before.
        """
        # The unit of work still holds the steps of the first block, and would write them again.
        if self._begun:
            raise ConfigurationError(
                "a transaction is used once; call user.transaction() for another one"
            )
        self._begun = True
        return self

    def append(
        self,
        stream_id: UUID,
        event: Event,
        *,
        expected: ExpectedVersion = Expected.ANY,
        caused_by: Cause = None,
        event_id: UUID | None = None,
    ) -> Handle[None]:
        """
        Append an event of any registered class to a stream.

        :param stream_id: a task, a conversation, or a stream of your own.
        :param expected: what the stream must be like; checked at its first event in the append.
        :param caused_by: the event, or the tool call, that led to it.
        :param event_id: its id, a UUIDv7 that was drawn before; None draws one.
        :raises InvalidInput: the event's class is not registered.
        :raises ConfigurationError: the block has ended.
        """
        # Commands make built-in events only. This one could be written and never be read back.
        self._work.context.registry.require(event, "event")
        made = self._work.record(
            stream_id, event, expected=expected, caused_by=caused_by, event_id=event_id
        )
        return Handle(stream_id, made.event_id, lambda _: None)


class Transaction:
    """`with user.transaction() as tx:` commits when the block ends."""

    def __init__(self, driver: Driver, work: UnitOfWork) -> None:
        self._driver = driver
        self._work = work
        self._commands = TransactionCommands(work)

    def __enter__(self) -> TransactionCommands:
        return self._commands.begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # First of all, so that no command is taken between the append and its answer.
        self._work.end()
        # After an exception nothing has to be undone, because nothing was sent yet.
        if error is None and self._work.steps:
            outcome = self._driver.run(self._work.commit(), "transaction.commit")
            self._commands.recorded = outcome.recorded


class AsyncTransaction:
    """`async with user.transaction() as tx:` commits when the block ends."""

    def __init__(self, driver: AsyncDriver, work: UnitOfWork) -> None:
        self._driver = driver
        self._work = work
        self._commands = TransactionCommands(work)

    async def __aenter__(self) -> TransactionCommands:
        return self._commands.begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # While the append is awaited, another task may still hold the transaction.
        self._work.end()
        if error is None and self._work.steps:
            outcome = await self._driver.run(self._work.commit(), "transaction.commit")
            self._commands.recorded = outcome.recorded
