"""
A transaction: several commands, one append.

Nothing is sent until the block ends; leaving it by an exception writes nothing. Ids are known at
once, so later commands can refer to earlier ones. If any command must look first, one more round
trip reads what all of them look at.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self
from uuid import UUID

from eventstore.database.driver import Driver
from eventstore.database.driver_async import AsyncDriver
from eventstore.errors import ConfigurationError
from eventstore.events.event import Event
from eventstore.log.envelope import Expected, ExpectedVersion, RecordedEvent
from eventstore.store.conversations import ConversationRecorder
from eventstore.store.messages import MessageRecorder
from eventstore.store.steps import Cause, Handle
from eventstore.store.tasks import TaskRecorder
from eventstore.store.tool_calls import ToolCallRecorder
from eventstore.store.work import Work

__all__ = ["AsyncTransaction", "Recorder", "Transaction"]


class Recorder:
    """
    The commands of a transaction, the same for sync and async: they do not touch the database.

    :ivar recorded: the events, once the block has ended.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self.tasks = TaskRecorder(work)
        self.conversations = ConversationRecorder(work)
        self.messages = MessageRecorder(work)
        self.tool_calls = ToolCallRecorder(work)
        self.recorded: list[RecordedEvent] = []
        self._begun = False

    def begin(self) -> Self:
        """
        Take the commands of one block.

        :raises ConfigurationError: of a second one, which would write the first one's again.
        """
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
    ) -> Handle:
        """Append an event of any registered class to a stream."""
        self._work.context.registry.require(event, "event")
        made = self._work.record(stream_id, event, expected=expected, caused_by=caused_by)
        return Handle(stream_id, made.event_id)


class Transaction:
    """`with user.transaction() as tx:` commits when the block ends."""

    def __init__(self, driver: Driver, work: Work) -> None:
        self._driver = driver
        self._work = work
        self._recorder = Recorder(work)

    def __enter__(self) -> Recorder:
        return self._recorder.begin()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._work.steps:
            self._recorder.recorded = self._driver.run(self._work.commit()).recorded


class AsyncTransaction:
    """`async with user.transaction() as tx:` commits when the block ends."""

    def __init__(self, driver: AsyncDriver, work: Work) -> None:
        self._driver = driver
        self._work = work
        self._recorder = Recorder(work)

    async def __aenter__(self) -> Recorder:
        return self._recorder.begin()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._work.steps:
            outcome = await self._driver.run(self._work.commit())
            self._recorder.recorded = outcome.recorded
