"""
Given, when, then: what an application does with a user's log, and what its projectors make of it.

::

    given(TaskCreated(title="Buy milk")).when(complete_all).then(TaskCompleted())

It runs on a real store, so a row is what PostgreSQL stores, and a refusal is what the store raises.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from sqlalchemy import select
from sqlmodel import SQLModel

from eventstore.errors import EventStoreError
from eventstore.events.event import Event
from eventstore.log.envelope import NewEvent, RecordedEvent
from eventstore.log.ids import uuid7
from eventstore.store.store import AsyncEventStore, EventStore
from eventstore.store.user import User

__all__ = ["Scenario"]

type Given = Event | NewEvent


class Scenario:
    """
    One user's log: events that are given, what is done then, and what came of it.

    :param store: the store of the test.
    :param options: the arguments of `connect`, for `when` with an async function.
    :param user_id: one that has no events yet.

    :ivar user: the user, to read from.
    :ivar result: what the last `when` returned.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        options: Mapping[str, Any] | None = None,
        user_id: str = "alice",
    ) -> None:
        self._store = store
        self._options = options or {}
        self._streams: dict[str, UUID] = {}
        self._occurred_at: datetime | None = None
        self._before = 0
        self._error: BaseException | None = None
        self.user: User = store.user(user_id)
        self.result: Any = None

    def stream(self, kind: str) -> UUID:
        """Return the id of the stream that events of a kind go to, if they name none."""
        return self._streams.setdefault(kind, uuid7())

    def at(self, moment: datetime) -> Self:
        """
        Let what follows have happened at a time; its `occurred_at` is this.

        `recorded_at`, leases and claims go by the server's clock, which no test can set.

        :param moment: with time zone.
        """
        self._occurred_at = moment
        return self

    def given(self, *events: Given) -> Self:
        """
        Append events, each by itself, so that projectors see them as an application's.

        :param events: an event alone goes to the scenario's one stream of its kind; a `NewEvent`
            goes to the one that it names.
        """
        for event in events:
            self.user.append([event if isinstance(event, NewEvent) else self._new(event)])
        self._before = self._head()
        return self

    def when(self, act: Callable[..., object]) -> Self:
        """
        Do something, and keep what it returns or which error of the store it raises.

        :param act: called with the user; an async function with an `AsyncUser`, on an event loop
            and a store of its own.
        """
        self._require_success()
        self._before = self._head()
        self.result = None
        try:
            if inspect.iscoroutinefunction(act):
                self.result = asyncio.run(self._act(act))
            else:
                self.result = act(self._acting())
        except EventStoreError as error:
            self._error = error
        return self

    def then(self, *expected: Event | type[Event]) -> Self:
        """
        Require that the last `when` appended exactly these events, in this order.

        :param expected: equal events, or their classes; none if nothing may have been appended.
        """
        self._require_success()
        events = [one.data for one in self.appended()]
        fits = len(events) == len(expected) and all(map(_fits, events, expected))
        if not fits:
            raise AssertionError(f"expected {_listed(expected)}, but appended {_listed(events)}")
        return self

    def then_refused(self, error: type[EventStoreError], match: str = "") -> Self:
        """
        Require that the last `when` raised an error of the store, and that nothing was written.

        :param match: a regular expression to be found in its message.
        """
        raised, self._error = self._error, None
        if not isinstance(raised, error) or not re.search(match, str(raised)):
            wanted = f"{error.__name__} with {match!r}" if match else error.__name__
            raise AssertionError(f"expected {wanted}, but it was {raised!r}") from raised
        if appended := [one.data for one in self.appended()]:
            raise AssertionError(f"it was refused, but appended {_listed(appended)}") from raised
        return self

    def then_rows(self, table: type[SQLModel], *expected: Mapping[str, object]) -> Self:
        """
        Require that a read model has exactly these rows, live, replayed and rebuilt.

        :param expected: for each row some of its columns, which are the same for all; the order
            does not matter.
        """
        self._require_success()
        names = list(expected[0]) if expected else []
        found = [{name: row[name] for name in names or row} for row in self.rows(table)]
        missing = list(expected)
        extra = [row for row in found if not _took(row, missing)]
        if missing or extra:
            raise AssertionError(
                f"rows of {table.__name__}: expected and missing {missing}, not expected {extra}"
            )
        return self

    def appended(self) -> list[RecordedEvent]:
        """Return what the last `when` appended."""
        return [*self.user.events(after=self._before)]

    def rows(self, table: type[SQLModel]) -> list[dict[str, Any]]:
        """
        Return the user's rows of a read model, as dictionaries, in the order of their keys.

        :raises AssertionError: they are not what a replay of the log gives, or a rebuild writes
            others: the projector is not a pure function of the event.
        """
        user_id = self.user.user_id
        live = self._select(table)
        if problems := self._store.verify(user_id).problems:
            raise AssertionError(f"the rows differ from the replay of the log: {problems}")
        with self.user.session(read_only=False) as session:
            for row in session.exec(select(table)).scalars().all():  # type: ignore[call-overload]  # SQLModel types its own select alone
                session.delete(row)
            session.commit()
        self._store.rebuild(user_id)
        rebuilt = self._select(table)
        if rebuilt != live:
            raise AssertionError(f"live rows {live} were rebuilt as {rebuilt}")
        return live

    def _select(self, table: type[SQLModel]) -> list[dict[str, Any]]:
        columns = table.__table__.c  # type: ignore[attr-defined]  # SQLModel does not declare it
        keys = table.__table__.primary_key  # type: ignore[attr-defined]  # as above
        statement = select(*columns).order_by(*keys)
        with self.user.session() as session:
            return [dict(row) for row in session.exec(statement).mappings()]  # type: ignore[call-overload]  # as above

    def _new(self, event: Event) -> NewEvent:
        stream = self.stream(event.stream_kind)
        return NewEvent(stream_id=stream, data=event, occurred_at=self._occurred_at)

    def _acting(self) -> User:
        if self._occurred_at is None:
            return self.user
        return self.user.annotated(occurred_at=self._occurred_at)

    async def _act(self, act: Callable[..., Any]) -> object:
        async with AsyncEventStore.connect(**self._options) as store:
            user = store.user(self.user.user_id)
            if self._occurred_at is not None:
                user = user.annotated(occurred_at=self._occurred_at)
            return await act(user)

    def _head(self) -> int:
        last = self.user.events(backward=True, limit=1)
        return last[0].position if last else 0

    def _require_success(self) -> None:
        """Raise what the last `when` raised, unless `then_refused` has expected it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _fits(event: Event, expected: Event | type[Event]) -> bool:
    return isinstance(event, expected) if isinstance(expected, type) else event == expected


def _listed(events: Sequence[object]) -> str:
    return ", ".join(map(repr, events)) or "nothing"


def _took(row: Mapping[str, object], expected: list[Mapping[str, object]]) -> bool:
    """Remove a row from those that are expected; tell whether it was among them."""
    for number, one in enumerate(expected):
        if all(row.get(name, _ABSENT) == value for name, value in one.items()):
            del expected[number]
            return True
    return False


_ABSENT = object()
