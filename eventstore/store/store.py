"""`EventStore` and `AsyncEventStore`: open a database, hand out users, administer whole logs."""

from __future__ import annotations

import asyncio
import atexit
import logging
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psycopg

from eventstore.admin.plans import AdminPlans
from eventstore.database.connections import connect_options
from eventstore.database.driver.async_driver import AsyncDriver
from eventstore.database.driver.observer import Observer
from eventstore.database.driver.sync_driver import Driver
from eventstore.database.embedded import start_embedded
from eventstore.database.errors import unreachable
from eventstore.database.outage import Outage
from eventstore.database.sessions.engines import async_engine_on, engine_on
from eventstore.database.settings import (
    Embedded,
    Settings,
    load_settings,
    parse_url,
    unknown_settings,
)
from eventstore.errors import ConfigurationError, LoginRefused
from eventstore.events.event import Event
from eventstore.events.fields import check_user_id
from eventstore.events.registry import EventRegistry
from eventstore.schema.doctor import refusal
from eventstore.schema.findings import Finding
from eventstore.store.chat_import import import_conversations, user_context
from eventstore.store.context import UserContext
from eventstore.store.subscription import AsyncSubscription, Subscription
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_method,
    block_method,
    sync_method,
)
from eventstore.store.user import AsyncUser, User
from projections import BUILT_IN, Projections, Projector

__all__ = ["AsyncEventStore", "EventStore", "open_unchecked"]

# Without a handler of the application's, Python prints warnings to standard error. They must be
# seen by default, so `eventstore` has no NullHandler, as the loggers of libraries often have.
_log = logging.getLogger("eventstore")
_settings_log = logging.getLogger("eventstore.settings")
_doctor_log = logging.getLogger("eventstore.doctor")
_RECONNECT = 0.5
"""Seconds between attempts to connect while the server is away."""
_DOCTOR_SECONDS = 0.5
"""The least that the doctor gets, however late the server came."""

_warned: set[str] = set()
"""The warnings that this process has logged: once is enough, however many stores it connects."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """
    What sync and async stores are made of.

    :ivar database: names it without its password.
    :ivar embedded: whether it is an embedded server, whose only login is a superuser.
    :ivar until: when connecting has to end, by the monotonic clock.
    """

    settings: Settings
    conninfo: str
    plans: AdminPlans
    database: str
    embedded: bool
    until: float

    def doctor_seconds(self) -> float:
        """Return how long the doctor may take; a server that came just in time is not refused."""
        return max(self.until - time.monotonic(), _DOCTOR_SECONDS)

    def context(self, user_id: str) -> UserContext:
        return user_context(self.plans, check_user_id(user_id))


def _prepare(
    database_url: str | None,
    projectors: Sequence[Projector],
    events: Sequence[type[Event]] | EventRegistry,
    settings: Settings | None,
) -> _Parts:
    """Find everything that is wrong with the arguments before the pool connects."""
    if settings is not None and database_url is not None:
        raise ConfigurationError("give database_url or settings, which have a URL too, not both")
    if settings is not None and not isinstance(settings, Settings):
        raise ConfigurationError(f"settings: a {type(settings).__name__}; give Settings(…)")
    chosen = settings or load_settings(database_url)
    _warn(_settings_log, unknown_settings())
    # Text is a sequence too, of letters that would each be refused as no class.
    for name, given in (("events", events), ("projectors", projectors)):
        listed = isinstance(given, Sequence) and not isinstance(given, str)
        if not listed and not (name == "events" and isinstance(given, EventRegistry)):
            raise ConfigurationError(f"{name}: {given!r} is no list")
    registry = events if isinstance(events, EventRegistry) else EventRegistry(*events)
    projections = Projections(*BUILT_IN, *projectors)
    target = parse_url(chosen.database_url)
    if isinstance(target, Embedded):
        # Alembic takes long to import and a store on a server does not need it.
        from eventstore.schema.migrate import upgrade  # noqa: PLC0415 - see the line above

        _log.info("using the embedded server in %s", target.path)
        conninfo = start_embedded(target.path)
        upgrade(chosen)  # nobody else migrates an embedded server
    else:
        conninfo = target.conninfo
    # To start and migrate an embedded server takes the time that it takes.
    until = time.monotonic() + chosen.deadline_seconds
    _require_reachable(conninfo, target.display, until)
    plans = AdminPlans(projections, registry, chosen)
    return _Parts(chosen, conninfo, plans, target.display, isinstance(target, Embedded), until)


def _require_reachable(conninfo: str, display: str, until: float) -> None:
    """
    Connect once, to learn why it fails if it does; a service may start before its server does.

    :param display: the server's name in the log.
    :param until: when to give up, by the monotonic clock.
    :raises LoginRefused: at once: the server answers.
    :raises Unavailable: no connection could be made in time.
    """
    # A pool connects in the background and tries again there. All it raises is that no connection
    # came in time.
    outage = Outage(display)
    while True:
        options = connect_options(conninfo, until - time.monotonic())
        try:
            with outage.watch():
                psycopg.connect(conninfo, **options).close()
        except psycopg.Error as error:
            refused = unreachable(error)
            if isinstance(refused, LoginRefused) or time.monotonic() + _RECONNECT > until:
                raise refused from error
        else:
            return
        time.sleep(_RECONNECT)


def _warn(log: logging.Logger, warnings: Iterable[str]) -> None:
    for warning in warnings:
        if warning not in _warned:
            _warned.add(warning)
            log.warning("%s", warning)


def _require_safe(found: Sequence[Finding], parts: _Parts) -> None:
    """Refuse a database that would not isolate users, and log the doctor's warnings, each once."""
    # A database that was not migrated has no rows yet. Its first use raises `SchemaMissing`.
    if any(one.check == "schema" for one in found):
        return
    if (error := refusal(found)) is not None:
        raise error
    _warn(
        _doctor_log,
        (
            f"{parts.database}: {one.location}: {one.detail}; {one.remedy}"
            for one in found
            if not (parts.embedded and one.check == "login")
        ),
    )


class EventStore(SyncFacade[AdminPlans]):
    """
    The sync store. Connect once per process, and share it between threads.

    ::

        with EventStore.connect() as store:
            alice = store.user("alice")
            alice.tasks.create("Buy milk")
    """

    def __init__(self, parts: _Parts, observer: Observer | None = None) -> None:
        self._calls = Driver(parts.conninfo, parts.settings, observer)
        super().__init__(self._calls.by_steps(), parts.plans)
        self._parts = parts
        # Sessions are leased connections of the same pool, so its size bounds both.
        self._engine = engine_on(self._driver.pool, parts.settings)

    @classmethod
    def connect(
        cls,
        database_url: str | None = None,
        *,
        projectors: Sequence[Projector] = (),
        events: Sequence[type[Event]] | EventRegistry = (),
        settings: Settings | None = None,
        observer: Observer | None = None,
    ) -> Self:
        """
        Connect to a database and check that it isolates users.

        :param database_url: `postgresql://…`; None takes EVENTSTORE_DATABASE_URL. Without that, or
            with `embedded:PATH`, an embedded server is started and migrated.
        :param projectors: read models of your own, beside the built-in ones.
        :param events: event classes of your own, or a registry of them.
        :param settings: with their URL, instead of `database_url`; None reads them from the
            environment.
        :param observer: called after each call of the store with what it did; `Telemetry` of
            `eventstore.integrations.opentelemetry` is one.
        :raises Unavailable: the server cannot be reached; the message says why.
        :raises ConfigurationError: a URL, login, setting or projector is wrong.
        :raises UnsafeDatabase: users would not be isolated, or a projector's table is unprotected.
        """
        return cls._open(_prepare(database_url, projectors, events, settings), observer)

    @classmethod
    def _open(
        cls, parts: _Parts, observer: Observer | None = None, *, checked: bool = True
    ) -> Self:
        store = cls(parts, observer)
        # The pool's threads would keep the process from exiting if nobody closes the store.
        atexit.register(store.close)
        try:
            store._driver.open()
            if checked:
                driver = store._calls.within(parts.doctor_seconds())
                _require_safe(driver.run(parts.plans.doctor(), "store.doctor"), parts)
        except BaseException:
            # Ctrl-C too: the caller has got no store yet that they could close.
            store.close()
            raise
        return store

    def user(self, user_id: str) -> User:
        """
        Return one user's view of the store; nothing is sent.

        :param user_id: from your identity provider, never from a model: 1 to 255 characters.
        :raises InvalidInput: empty, too long, or not storable as text.
        """
        return User(self._calls, self._engine, self._parts.context(user_id))

    # Parameters and docstrings of these methods are those of the plans.
    rebuild = sync_method(AdminPlans.rebuild)
    verify = sync_method(AdminPlans.verify)
    erase = sync_method(AdminPlans.erase)
    export = sync_method(AdminPlans.export)
    heads = sync_method(AdminPlans.heads)
    doctor = sync_method(AdminPlans.doctor)
    health = sync_method(AdminPlans.health, driver="_calls")
    status = sync_method(AdminPlans.status)
    users = sync_method(AdminPlans.users)
    quota = sync_method(AdminPlans.quota)
    set_quota = sync_method(AdminPlans.set_quota)
    subscribe = block_method(AdminPlans.subscribe, Subscription)
    feeds = sync_method(AdminPlans.feeds)
    failed_deliveries = sync_method(AdminPlans.failed_deliveries)
    retry_failed = sync_method(AdminPlans.retry_failed)
    skip_failed = sync_method(AdminPlans.skip_failed)
    remove_feed = sync_method(AdminPlans.remove_feed)
    import_conversations = sync_method(import_conversations)

    @property
    def database(self) -> str:
        """Host and database, for messages; never the password."""
        return self._parts.database

    def close(self) -> None:
        """Close the pool; an embedded server stops when the process exits."""
        # The registration would keep a closed store in memory until the process exits.
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


def open_unchecked(settings: Settings) -> EventStore:
    """
    Return an open store on a database that the doctor has not looked at, for a probe.

    It takes as long as its connection, and the doctor reads the whole catalog.

    :raises Unavailable: these and the rest as in `EventStore.connect`.
    """
    parts = _prepare(None, (), (), settings)
    return EventStore._open(parts, checked=False)  # noqa: SLF001 - its own module


class _Connecting:
    """An async store that is being connected: await it, or use it as a context manager."""

    def __init__(self, opening: Any) -> None:
        self._opening = opening
        self._store: AsyncEventStore | None = None

    # `connect` is no coroutine function, so that `async with` takes what it returns as well.
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


class AsyncEventStore(AsyncFacade[AdminPlans]):
    """
    The async store. Connect once per event loop, and share it between tasks.

    ::

        async with AsyncEventStore.connect() as store:
            alice = store.user("alice")
            await alice.tasks.create("Buy milk")
    """

    def __init__(self, parts: _Parts, observer: Observer | None = None) -> None:
        self._calls = AsyncDriver(parts.conninfo, parts.settings, observer)
        super().__init__(self._calls.by_steps(), parts.plans)
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
        observer: Observer | None = None,
    ) -> _Connecting:
        """
        Connect to a database and check that it isolates users.

        :param database_url: `postgresql://…`; None takes EVENTSTORE_DATABASE_URL. Without that, or
            with `embedded:PATH`, an embedded server is started and migrated.
        :param projectors: read models of your own, beside the built-in ones.
        :param events: event classes of your own, or a registry of them.
        :param settings: with their URL, instead of `database_url`; None reads them from the
            environment.
        :param observer: called after each call of the store with what it did; `Telemetry` of
            `eventstore.integrations.opentelemetry` is one.
        :raises Unavailable: the server cannot be reached; the message says why.
        :raises ConfigurationError: a URL, login, setting or projector is wrong.
        :raises UnsafeDatabase: users would not be isolated, or a projector's table is unprotected.
        """

        async def opening() -> AsyncEventStore:
            # Connecting, starting a server and migrating block; the loop has other tasks.
            parts = await asyncio.to_thread(_prepare, database_url, projectors, events, settings)
            # The pool belongs to this loop. It has tasks and no threads, so it does not keep the
            # process from exiting, and no exit handler is needed.
            store = cls(parts, observer)
            try:
                await store._driver.open()
                driver = store._calls.within(parts.doctor_seconds())
                _require_safe(await driver.run(parts.plans.doctor(), "store.doctor"), parts)
            except BaseException:
                await store.close()
                raise
            return store

        return _Connecting(opening())

    def user(self, user_id: str) -> AsyncUser:
        """
        Return one user's view of the store; nothing is sent.

        :param user_id: from your identity provider, never from a model: 1 to 255 characters.
        :raises InvalidInput: empty, too long, or not storable as text.
        """
        return AsyncUser(self._calls, self._engine, self._parts.context(user_id))

    rebuild = async_method(AdminPlans.rebuild)
    verify = async_method(AdminPlans.verify)
    erase = async_method(AdminPlans.erase)
    export = async_method(AdminPlans.export)
    heads = async_method(AdminPlans.heads)
    doctor = async_method(AdminPlans.doctor)
    health = async_method(AdminPlans.health, driver="_calls")
    status = async_method(AdminPlans.status)
    users = async_method(AdminPlans.users)
    quota = async_method(AdminPlans.quota)
    set_quota = async_method(AdminPlans.set_quota)
    subscribe = block_method(AdminPlans.subscribe, AsyncSubscription)
    feeds = async_method(AdminPlans.feeds)
    failed_deliveries = async_method(AdminPlans.failed_deliveries)
    retry_failed = async_method(AdminPlans.retry_failed)
    skip_failed = async_method(AdminPlans.skip_failed)
    remove_feed = async_method(AdminPlans.remove_feed)
    import_conversations = async_method(import_conversations)

    @property
    def database(self) -> str:
        """Host and database, for messages; never the password."""
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
