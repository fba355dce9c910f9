"""
Subscriptions: what runs a feed (see `log.feeds`) with a handler, for sync and async code.

A worker is a generator, so that there is one for both: it yields plans to run, events to hand over
and seconds to wait, and the two classes below do these things.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from datetime import datetime, timedelta
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from threading import Event as Flag
from typing import Any
from uuid import UUID, uuid4

from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.observer import DeliveryReport, Observer, tell_delivered
from eventstore.database.driver.sync_driver import Driver
from eventstore.database.plan import Plan
from eventstore.errors import DatabaseFault, InvalidInput, Unavailable
from eventstore.log.envelope import RecordedEvent
from eventstore.log.feeds import USERS_AT_A_TIME, ClaimedBatch, FeedPlans
from eventstore.log.stored_event import recorded_event

__all__ = ["AsyncSubscription", "Subscription"]

_log = logging.getLogger("eventstore.feeds")

type _Steps[T] = Generator[Plan[Any] | RecordedEvent | float, Any, T]

_SEARCH_SHARE = 50
"""A complete search takes a fiftieth of the time: it is rare where it takes long."""

_LONGEST_PAUSE_SECONDS = 60
"""Between two complete searches, also if one of them met an outage."""

_UNREADABLE_SECONDS = 60
"""For so long a worker leaves a user alone whose events the database cannot read."""

_LATE = timedelta(minutes=1)
"""
How long an append may take from its time to its commit to be found between complete searches. One
that takes longer is found by the next one.
"""


class _Worker:
    """One worker of a feed, until it is told to stop."""

    def __init__(
        self, feed: FeedPlans, stopped: Flag | asyncio.Event, observer: Observer | None
    ) -> None:
        self._feed = feed
        self._stopped = stopped
        self._observer = observer
        self._failure: tuple[Exception | None, bool] = (None, False)
        self._id: UUID = uuid4()
        self._delivered = 0
        self._complete_at = 0.0
        self._since: datetime | None = None
        self._unreadable_until: dict[str, float] = {}

    def run(self, *, forever: bool) -> _Steps[int]:
        """Deliver; return how many events that were."""
        while not self._stopped.is_set():
            try:
                found = yield from self._search(complete=not forever)
                yield from self._deliver_all(found)
            except Unavailable as error:
                if not forever:
                    raise
                _log.warning("feed %s waits for the database: %s", self._feed.name, error)
                found = []
                self._complete_at = 0.0  # the server may be another one, with another clock
            if not found:
                if not forever:
                    break
                yield self._feed.poll_seconds
        return self._delivered

    def _search(self, *, complete: bool) -> _Steps[list[str]]:
        """
        Return users who are behind.

        A complete search finds all of them, whatever committed late, was given back or is tried
        again. Between two of them, those who had an event since are found at a tenth of its cost.
        """
        began = time.monotonic()
        complete = complete or began >= self._complete_at
        users: list[str]
        users, now = yield self._feed.lagging(None if complete else self._since)
        if complete:
            ended = time.monotonic()
            full = len(users) == USERS_AT_A_TIME  # there may be more
            pause = min(_SEARCH_SHARE * (ended - began), _LONGEST_PAUSE_SECONDS)
            self._complete_at = 0.0 if full else ended + pause
            self._since = now - _LATE
        return [one for one in users if self._unreadable_until.get(one, 0.0) < began]

    def _deliver_all(self, users: list[str]) -> _Steps[None]:
        # A user with a long log has one batch at a time, like everybody else.
        queue = deque(users)
        while queue and not self._stopped.is_set():
            user_id = queue.popleft()
            if (yield from self._deliver(user_id)):
                queue.append(user_id)

    def _deliver(self, user_id: str) -> _Steps[bool]:
        """Deliver a batch of one user, and tell the observer; return whether more follows."""
        batch = yield from self._claim(user_id)
        if batch is None:
            return False
        before, self._failure = self._delivered, (None, False)
        try:
            return (yield from self._deliver_batch(user_id, batch))
        finally:
            if batch.rows:
                events = self._delivered - before
                report = DeliveryReport(self._feed.name, events, batch.lag_seconds, *self._failure)
                tell_delivered(self._observer, report)

    def _deliver_batch(self, user_id: str, batch: ClaimedBatch) -> _Steps[bool]:
        feed = self._feed
        renew_at = time.monotonic() + feed.lease_seconds / 2
        position = batch.position
        for row in batch.rows:
            if self._stopped.is_set():
                break
            if time.monotonic() > renew_at:
                if not (yield feed.move(user_id, self._id, position, hold=True)):
                    return False  # another worker has begun with the events that follow
                renew_at = time.monotonic() + feed.lease_seconds / 2
            try:
                yield recorded_event(user_id, row, feed.registry)
            except Exception as error:  # noqa: BLE001 - whatever it is, others must go on
                yield from self._failed(user_id, row[0], row[4], error)
                return False
            except GeneratorExit:
                raise  # nobody would run a plan any more
            except BaseException:
                # Ctrl-C or a cancelled task: what was delivered need not come again.
                yield feed.move(user_id, self._id, position)
                raise
            position = row[0]
            self._delivered += 1
        else:
            position = batch.through
        moved: bool = yield feed.move(user_id, self._id, position)
        return moved and batch.more

    def _claim(self, user_id: str) -> _Steps[ClaimedBatch | None]:
        """Take a user; None if another worker has the user, or the database cannot read a row."""
        try:
            batch: ClaimedBatch | None = yield self._feed.claim(user_id, self._id)
        except DatabaseFault as error:
            if not error.of_data:
                raise
            name = self._feed.name
            _log.error("feed %s: events of user %r cannot be read: %s", name, user_id, error)
            self._unreadable_until[user_id] = time.monotonic() + _UNREADABLE_SECONDS
            return None
        return batch

    def _failed(self, user_id: str, position: int, kind: str, error: Exception) -> _Steps[None]:
        failures, parked = yield self._feed.fail(user_id, self._id, position - 1, error)
        self._failure = (error, parked)
        _log.log(
            logging.ERROR if parked else logging.WARNING,
            "feed %s: %s at position %d of user %r failed with %s%s%s",
            self._feed.name,
            kind,
            position,
            user_id,
            type(error).__name__,
            f", {failures} times" if failures else "; whether that was noted is not known",
            "; it is parked, and the user's other events wait for it" if parked else "",
        )


def _call_seconds(deadline: float, feed: FeedPlans) -> float:
    """Return how long a call of a worker may take: a search reads all users, and a lease ends."""
    return max(deadline, min(feed.lease_seconds, _LONGEST_PAUSE_SECONDS))


class Subscription:
    """
    A feed with its handler: `run` delivers until `stop`, `catch_up` what is there.

    Both may be called by several threads and processes at once: each call is a worker, and the
    workers share the users.
    """

    def __init__(self, driver: Driver, feed: FeedPlans) -> None:
        if iscoroutinefunction(feed.handler):
            raise InvalidInput("handler", "is async; give it to an AsyncEventStore")
        self._feed = feed
        self._calls = driver.within(_call_seconds(driver.seconds, feed))
        self._stopped = Flag()

    def run(self) -> int:
        """
        Deliver events as they come, until `stop` is called; return how many were delivered.

        While the database cannot be reached it waits, and goes on when it is back.

        :raises AccessDenied: the login may not enter the operator role.
        """
        return self._run(forever=True)

    def catch_up(self) -> int:
        """
        Deliver what is there, and return how many events that were.

        Users who are parked, wait for another try or have another worker are left out.

        :raises AccessDenied: the login may not enter the operator role.
        :raises Unavailable: the database cannot be reached.
        """
        return self._run(forever=False)

    def stop(self) -> None:
        """Have every `run` return behind the event that it delivers now; for good."""
        self._stopped.set()

    def _run(self, *, forever: bool) -> int:
        worker = _Worker(self._feed, self._stopped, self._calls.observer)
        steps = worker.run(forever=forever)
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except BaseException as error:  # noqa: BLE001 - the worker decides
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return int(end.value)

    def _do(self, step: Plan[Any] | RecordedEvent | float) -> Any:
        match step:
            case RecordedEvent():
                done = self._feed.handler(step)
                if isawaitable(done):  # nobody would await it, and the checkpoint would move on
                    if iscoroutine(done):
                        done.close()
                    raise InvalidInput("handler", "is async; give it to an AsyncEventStore")
                return done
            case float() | int():
                return self._stopped.wait(step)
            case _:
                return self._calls.run(step)


class AsyncSubscription:
    """
    A feed with its handler: `run` delivers until `stop`, `catch_up` what is there.

    Both may be awaited by several tasks and processes at once: each call is a worker, and the
    workers share the users. The handler may be a coroutine function or a plain one.
    """

    def __init__(self, driver: AsyncDriver, feed: FeedPlans) -> None:
        self._feed = feed
        self._calls = driver.within(_call_seconds(driver.seconds, feed))
        self._stopped = asyncio.Event()

    async def run(self) -> int:
        """
        Deliver events as they come, until `stop` is called; return how many were delivered.

        While the database cannot be reached it waits, and goes on when it is back.

        :raises AccessDenied: the login may not enter the operator role.
        """
        return await self._run(forever=True)

    async def catch_up(self) -> int:
        """
        Deliver what is there, and return how many events that were.

        Users who are parked, wait for another try or have another worker are left out.

        :raises AccessDenied: the login may not enter the operator role.
        :raises Unavailable: the database cannot be reached.
        """
        return await self._run(forever=False)

    def stop(self) -> None:
        """Have every `run` return behind the event that it delivers now; for good."""
        self._stopped.set()

    async def _run(self, *, forever: bool) -> int:
        worker = _Worker(self._feed, self._stopped, self._calls.observer)
        steps = worker.run(forever=forever)
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except BaseException as error:  # noqa: BLE001 - the worker decides
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return int(end.value)

    async def _do(self, step: Plan[Any] | RecordedEvent | float) -> Any:
        match step:
            case RecordedEvent():
                try:
                    done = self._feed.handler(step)
                    return await done if isawaitable(done) else done
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    # Something in the handler was cancelled, and not this worker.
                    raise RuntimeError("the handler was cancelled from inside") from error
            case float() | int():
                with suppress(TimeoutError):
                    return await asyncio.wait_for(self._stopped.wait(), step)
                return None
            case _:
                return await self._calls.run(step)
