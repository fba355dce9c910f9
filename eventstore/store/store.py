"""The facade: `EventStore` and `AsyncEventStore`."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg

from eventstore.database.doctor import refusal
from eventstore.database.driver import Driver
from eventstore.database.driver_async import AsyncDriver
from eventstore.database.embedded import start_embedded
from eventstore.database.errors import unreachable
from eventstore.database.findings import Finding
from eventstore.database.settings import Settings, load_settings
from eventstore.database.sqlalchemy import async_engine_on, engine_on
from eventstore.database.url import Embedded, parse_url
from eventstore.errors import ConfigurationError
from eventstore.events.event import Event
from eventstore.events.registry import EventRegistry
from eventstore.store.colour import Awaiting, Blocking, OnAsyncDriver, OnDriver
from eventstore.store.operations import OperationPlans
from eventstore.store.user import AsyncUser, User, UserPlans
from projections import BUILT_IN, Projections, Projector

__all__ = ["AsyncEventStore", "EventStore"]

_log = logging.getLogger("eventstore")
_log.addHandler(logging.NullHandler())  # whoever configures logging hears it, nobody else


@dataclass(frozen=True, slots=True)
class _Parts:
    """What both stores are made of."""

    settings: Settings
    conninfo: str
    plans: OperationPlans
    database: str

    def user_plans(self, user_id: str) -> UserPlans:
        return UserPlans(self.plans.context(user_id))


def _prepare(
    database_url: str | None,
    projectors: Sequence[Projector],
    events: Sequence[type[Event]] | EventRegistry,
    settings: Settings | None,
) -> _Parts:
    """Settle everything that can be wrong before the first connection of the pool."""
    chosen = settings or load_settings(database_url)
    for name, given in (("events", events), ("projectors", projectors)):
        if not isinstance(given, Sequence | EventRegistry) or isinstance(given, str):
            raise ConfigurationError(f"{name}: {given!r} is no list")
    registry = events if isinstance(events, EventRegistry) else EventRegistry(*events)
    projections = Projections(*BUILT_IN, *projectors)
    place = parse_url(chosen.database_url)
    if isinstance(place, Embedded):
        from eventstore.store.migrate import upgrade  # noqa: PLC0415 - Alembic is slow to import and seldom needed

        _log.info("using the server of the store's own in %s", place.path)
        conninfo = start_embedded(place.path)
        upgrade(chosen)  # our own server: nobody else looks after its schema
    else:
        conninfo = place.conninfo
    _probe(conninfo, chosen)
    plans = OperationPlans(projections, registry, chosen)
    return _Parts(chosen, conninfo, plans, place.display)


def _probe(conninfo: str, settings: Settings) -> None:
    """Connect once: a pool would only say that no connection came, not why."""
    try:
        psycopg.connect(conninfo, connect_timeout=settings.connect_timeout_seconds).close()
    except psycopg.Error as error:
        raise unreachable(error) from error


def _judge(found: Sequence[Finding]) -> None:
    """
    Refuse a database that would not keep users apart; log what is weaker than it should be.

    One that was not migrated yet is let pass: the first use says so.
    """
    if any(one.check == "schema" for one in found):
        return
    if (error := refusal(found)) is not None:
        raise error
    for one in found:
        _log.warning("%s: %s; %s", one.place, one.detail, one.remedy)


class EventStore(OnDriver[OperationPlans]):
    """
    The store, sync. Make it once per process with `connect`; it is safe to share between threads.

    ::

        with EventStore.connect() as store:
            alice = store.user("alice")
            alice.tasks.create("Buy milk")
    """

    def __init__(self, parts: _Parts) -> None:
        super().__init__(Driver(parts.conninfo, parts.settings), parts.plans)
        self._parts = parts
        self._engine = engine_on(self._driver.pool, parts.settings)

    @classmethod
    def connect(
        cls,
        database_url: str | None = None,
        *,
        projectors: Sequence[Projector] = (),
        events: Sequence[type[Event]] | EventRegistry = (),
        settings: Settings | None = None,
    ) -> Self:
        """
        Open a pool on the database.

        :param database_url: default EVENTSTORE_DATABASE_URL; none at all, or `embedded:PATH`, is a
            server of our own, started and migrated on the way.
        :param projectors: read models of your own, beside the built-in ones.
        :param events: event classes of your own, or a registry with their upcasts.
        :param settings: instead of the environment.
        :raises Unavailable: the server cannot be reached; the message says why.
        :raises ConfigurationError: a URL, setting or projector is wrong.
        :raises UnsafeDatabase: users would not be isolated, or a projector's table is unprotected.
        """
        store = cls(_prepare(database_url, projectors, events, settings))
        atexit.register(store.close)  # a forgotten pool would keep the process waiting at its end
        store._driver.open()
        try:
            _judge(store.doctor())
        except BaseException:
            store.close()
            raise
        return store

    def user(self, user_id: str) -> User:
        """
        Return one user's view of the store; costs nothing.

        :param user_id: from your identity provider, never from a model: 1 to 255 characters.
        :raises InvalidInput: empty, too long, or not storable as text.
        """
        return User(self._driver, self._engine, self._parts.user_plans(user_id))

    rebuild = Blocking(OperationPlans.rebuild)
    verify = Blocking(OperationPlans.verify)
    erase = Blocking(OperationPlans.erase)
    export = Blocking(OperationPlans.export)
    heads = Blocking(OperationPlans.heads)
    doctor = Blocking(OperationPlans.doctor)
    status = Blocking(OperationPlans.status)
    users = Blocking(OperationPlans.users)
    import_conversations = Blocking(OperationPlans.import_conversations)

    @property
    def database(self) -> str:
        """Where the data is, for messages; never a password."""
        return self._parts.database

    def close(self) -> None:
        """Close the pool; an embedded server stops when the process exits."""
        atexit.unregister(self.close)
        self._driver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Connecting:
    """An async store about to open: await it, or use it as a context manager."""

    def __init__(self, opening: Any) -> None:
        self._opening = opening
        self._store: AsyncEventStore | None = None

    def __await__(self) -> Generator[Any, None, AsyncEventStore]:
        return self._opening.__await__()  # type: ignore[no-any-return]  # a coroutine's own iterator

    async def __aenter__(self) -> AsyncEventStore:
        self._store = await self
        return self._store

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._store is not None:
            await self._store.close()


class AsyncEventStore(OnAsyncDriver[OperationPlans]):
    """
    The store, async. Make it once per event loop with `connect`; share it between tasks.

    ::

        async with AsyncEventStore.connect() as store:
            alice = store.user("alice")
            await alice.tasks.create("Buy milk")
    """

    def __init__(self, parts: _Parts) -> None:
        super().__init__(AsyncDriver(parts.conninfo, parts.settings), parts.plans)
        self._parts = parts
        self._engine = async_engine_on(self._driver.pool, parts.settings)

    @classmethod
    def connect(
        cls,
        database_url: str | None = None,
        *,
        projectors: Sequence[Projector] = (),
        events: Sequence[type[Event]] | EventRegistry = (),
        settings: Settings | None = None,
    ) -> _Connecting:
        """
        Open a pool on the database.

        :param database_url: default EVENTSTORE_DATABASE_URL; none at all, or `embedded:PATH`, is a
            server of our own, started and migrated on the way.
        :param projectors: read models of your own, beside the built-in ones.
        :param events: event classes of your own, or a registry with their upcasts.
        :param settings: instead of the environment.
        :raises Unavailable: the server cannot be reached; the message says why.
        :raises ConfigurationError: a URL, setting or projector is wrong.
        :raises UnsafeDatabase: users would not be isolated, or a projector's table is unprotected.
        """

        async def opening() -> AsyncEventStore:
            parts = await asyncio.to_thread(_prepare, database_url, projectors, events, settings)
            store = cls(parts)
            await store._driver.open()
            try:
                _judge(await store.doctor())
            except BaseException:
                await store.close()
                raise
            return store

        return _Connecting(opening())

    def user(self, user_id: str) -> AsyncUser:
        """
        Return one user's view of the store; costs nothing.

        :param user_id: from your identity provider, never from a model: 1 to 255 characters.
        :raises InvalidInput: empty, too long, or not storable as text.
        """
        return AsyncUser(self._driver, self._engine, self._parts.user_plans(user_id))

    rebuild = Awaiting(OperationPlans.rebuild)
    verify = Awaiting(OperationPlans.verify)
    erase = Awaiting(OperationPlans.erase)
    export = Awaiting(OperationPlans.export)
    heads = Awaiting(OperationPlans.heads)
    doctor = Awaiting(OperationPlans.doctor)
    status = Awaiting(OperationPlans.status)
    users = Awaiting(OperationPlans.users)
    import_conversations = Awaiting(OperationPlans.import_conversations)

    @property
    def database(self) -> str:
        """Where the data is, for messages; never a password."""
        return self._parts.database

    async def close(self) -> None:
        """Close the pool; an embedded server stops when the process exits."""
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
