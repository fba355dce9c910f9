"""
Clients that write and read at once through the public API, and record what they did and saw.

Half of them share a sync store and half an async one. A client that is told that its write is not
known to have happened, or that the database is away, sends it again if it has a key, as a service
does; without a key it gives up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from math import inf
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from eventstore import (
    AsyncEventStore,
    Conflict,
    ConversationStarted,
    Event,
    EventStore,
    EventStoreError,
    Expected,
    MessagePosted,
    NewEvent,
    NotFound,
    OutcomeUnknown,
    RecordedEvent,
    TaskCreated,
)
from tests.faults.history import History, Read, Write

__all__ = ["Client", "Counted", "Record", "value_of"]

USERS = 3
WRITES_OF_A_USER = 25
"""Then other users come: a read of a whole log stays small."""
ATTEMPTS = 4


class Counted(Event, type="Counted", stream_kind="counter"):
    """A counter was raised by one; `value` is unique."""

    value: str


@dataclass
class Record:
    """
    What the clients of one run did.

    :ivar seconds: how long each call took.
    :ivar unsettled: by value: the error of a write whose outcome is unknown.
    :ivar unexpected: errors that are none of the store's.
    """

    history: History = field(default_factory=History)
    seconds: list[float] = field(default_factory=list)
    unsettled: dict[str, tuple[str, OutcomeUnknown]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    acknowledged: int = 0
    stopped: bool = False
    _started: set[str] = field(default_factory=set)

    def users(self) -> list[str]:
        """Return the users that are written to at the moment."""
        generation = self.acknowledged // (USERS * WRITES_OF_A_USER)
        return [f"user {generation}.{number}" for number in range(USERS)]

    def note_start(self, user: str) -> None:
        """Record that a user's conversation is started by somebody, at some time."""
        if user not in self._started:
            self._started.add(user)
            start = Write(-1, user, -inf, inf, (ConversationStarted.type,), "unknown")
            self.history.writes.append(start)


class Client:
    """
    One client, which does one thing after another until the record says stop.

    :param store: its users are asked; of a sync store in threads.
    """

    def __init__(
        self,
        number: int,
        store: EventStore | AsyncEventStore,
        record: Record,
        seed: str,
        threads: Executor,
    ) -> None:
        self._number = number
        self._store = store
        self._record = record
        self._random = random.Random(f"{seed} {number}")
        self._threads = threads
        self._count = 0
        self._started: set[str] = set()

    async def run(self) -> None:
        """Write and read until the record says stop."""
        doings = [self._post, self._post_with_key, self._write_two, self._raise_counter]
        while not self._record.stopped:
            user = self._random.choice(self._record.users())
            doing = self._random.choice([*doings, self._read_log, self._read_messages])
            try:
                await doing(user)
            except EventStoreError:  # of a read; that of a write is recorded
                pass
            except Exception as error:  # noqa: BLE001 - it is what the suite looks for
                self._record.unexpected.append(f"{doing.__name__}: {error!r}")

    async def _post(self, user: str) -> None:
        value = self._value("message")
        await self._write(
            user,
            (value,),
            lambda one: one.messages.post("chat", sender="user", content=value),
            start=True,
        )

    async def _post_with_key(self, user: str) -> None:
        value = self._value("message")
        await self._write(
            user,
            (value,),
            lambda one: one.keyed(value).messages.post("chat", sender="user", content=value),
            attempts=ATTEMPTS,
            start=True,
        )

    async def _write_two(self, user: str) -> None:
        first, second = self._value("task"), self._value("task")
        key = first if self._random.random() < 0.5 else None
        events = [
            NewEvent(stream_id=_id(one), data=TaskCreated(title=one)) for one in (first, second)
        ]

        def append(one: Any) -> Any:
            return (one if key is None else one.keyed(key)).append(events)

        # Without a key of the caller's the ids are the same on each attempt, which is as good.
        await self._write(user, (first, second), append, attempts=ATTEMPTS)

    async def _raise_counter(self, user: str) -> None:
        stream = _id(f"counter {user}")
        last = await self._call(
            user, lambda one: one.events(stream_id=stream, backward=True, limit=1)
        )
        value = self._value("counter")
        event = NewEvent(
            stream_id=stream,
            data=Counted(value=value),
            expected=last[0].version if last else Expected.NEW,
        )
        seen = value_of(last[0]) if last else None
        await self._write(user, (value,), lambda one: one.append([event]), update=True, seen=seen)

    async def _read_log(self, user: str) -> None:
        began = time.monotonic()
        events = await self._call(user, lambda one: one.events())
        values = tuple(map(value_of, events))
        self._record.history.reads.append(Read(self._number, user, began, time.monotonic(), values))

    async def _read_messages(self, user: str) -> None:
        began = time.monotonic()
        try:
            messages = await self._call(user, lambda one: one.history("chat", limit=1000))
        except NotFound:
            messages = []
        self._record.history.reads.append(
            Read(
                self._number,
                user,
                began,
                time.monotonic(),
                tuple(one.content for one in messages),
                "message",
            )
        )

    async def _write(
        self,
        user: str,
        values: tuple[str, ...],
        act: Callable[[Any], Any],
        *,
        attempts: int = 1,
        start: bool = False,
        **update: Any,
    ) -> None:
        began = time.monotonic()
        outcome, positions, unknown = "refused", (), None
        for _ in range(attempts):
            if start and not await self._start(user):
                continue
            try:
                answer = await self._call(user, act)
            except OutcomeUnknown as error:
                outcome, unknown = "unknown", error
                continue
            except Conflict:
                break
            except EventStoreError:
                continue  # nothing was written by this attempt; an earlier one may stay unknown
            outcome = "done"
            recorded = answer if isinstance(answer, list) else [answer]
            positions = tuple(one.position for one in recorded)
            self._record.acknowledged += 1
            break
        self._record.history.writes.append(
            Write(
                self._number,
                user,
                began,
                time.monotonic(),
                values,
                outcome,  # type: ignore[arg-type]  # one of the three
                positions,
                **update,
            )
        )
        if outcome == "unknown" and unknown is not None:
            self._record.unsettled[values[0]] = (user, unknown)

    async def _start(self, user: str) -> bool:
        """Start the user's conversation, which one client does and the others find."""
        if user not in self._started:
            self._record.note_start(user)
            try:
                await self._call(user, lambda one: one.conversations.start(key="chat"))
            except EventStoreError:  # what is not known of it is not known of a message
                return False
            self._started.add(user)
        return True

    async def _call(self, user: str, act: Callable[[Any], Any]) -> Any:
        began = time.monotonic()
        try:
            if isinstance(self._store, AsyncEventStore):
                return await act(self._store.user(user))
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, act, self._store.user(user))
        finally:
            self._record.seconds.append(time.monotonic() - began)

    def _value(self, kind: str) -> str:
        self._count += 1
        return f"{kind} {self._number}.{self._count}"


def value_of(event: RecordedEvent) -> str:
    """Return the unique value that an event stands for."""
    match event.data:
        case MessagePosted(body={"content": str(content)}):
            return content
        case TaskCreated(title=title):
            return title
        case Counted(value=value):
            return value
        case _:
            return event.type


def _id(name: str) -> UUID:
    return uuid5(NAMESPACE_OID, name)
