"""
A pytest plugin that puts sessions of the store in the place of the SDK's, for the SDK's own tests.

The classes below have the constructors of those that they replace, and everything else from
`EventStoreSession`. A path or an engine, which is a database of its own there, is a user here.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import agents
import agents.extensions.memory as extensions
import agents.extensions.memory.async_sqlite_session as async_sqlite
import agents.extensions.memory.encrypt_session
import agents.extensions.memory.sqlalchemy_session as sqlalchemy
import agents.memory
import agents.memory.sqlite_session as sqlite
import psycopg
import pytest
from agents.memory.session_settings import SessionSettings, coerce_session_settings
from report import Report  # type: ignore[import-not-found]  # by its folder, as this file is

from eventstore import AsyncEventStore, AsyncUser
from eventstore.integrations.agents import EventStoreSession

URL = os.environ.get("EVENTSTORE_SDK_TESTS_URL", "")

_stores: dict[asyncio.AbstractEventLoop, AsyncEventStore] = {}
_uses = 0


async def _user(user_id: str) -> AsyncUser:
    # A pool belongs to one event loop, and some of these tests have several.
    loop = asyncio.get_running_loop()
    if loop not in _stores:
        _stores[loop] = await AsyncEventStore.connect(URL)
    return _stores[loop].user(user_id)


class StoreSession(EventStoreSession):
    """A session whose user is found when it is first used."""

    def __init__(self, session_id: str, place: object, session_settings: Any = None) -> None:
        global _uses  # noqa: PLW0603 - how a test is known to be about sessions
        _uses += 1
        settings = SessionSettings()
        if session_settings is not None:
            settings = coerce_session_settings(session_settings)
        super().__init__(session_id, lambda _: _never(), session_settings=settings)
        # A database in memory is its session's own; a file is shared by its path.
        alone = str(place) == ":memory:"
        self._user_id = f"{place}-{uuid4()}" if alone else str(place)[-255:]

    async def _ready(self) -> None:
        self._user = await _user(self._user_id)

    async def get_items(self, limit: int | None = None, *, wrapper: Any = None) -> Any:
        await self._ready()
        return await super().get_items(limit, wrapper=wrapper)

    async def add_items(self, items: Any, *, wrapper: Any = None) -> None:
        await self._ready()
        await super().add_items(items, wrapper=wrapper)

    async def pop_item(self, *, wrapper: Any = None) -> Any:
        await self._ready()
        return await super().pop_item(wrapper=wrapper)

    async def clear_session(self, *, wrapper: Any = None) -> None:
        await self._ready()
        await super().clear_session(wrapper=wrapper)

    async def _get_compaction_snapshot(self, limit: int, *, prune_prefix: Any = None) -> Any:
        await self._ready()
        return await super()._get_compaction_snapshot(limit, prune_prefix=prune_prefix)

    def close(self) -> Any:
        return _Closed()


class _Engine:
    """What a fixture closes, and what sessions of one database have in common."""

    def __init__(self, place: str) -> None:
        self.place = f"{place}-{uuid4()}" if ":memory:" in place else place

    async def dispose(self) -> None:
        return


class _Closed:
    """Closed at once, whether awaited or not."""

    def __await__(self) -> Any:
        return iter(())


def _never() -> AsyncUser:
    raise AssertionError("the user is set before it is used")


class FileSession(StoreSession):
    """In the place of `SQLiteSession` and `AsyncSQLiteSession`."""

    def __init__(
        self,
        session_id: str,
        db_path: str | Path = ":memory:",
        sessions_table: str = "",
        messages_table: str = "",
        session_settings: Any = None,
    ) -> None:
        super().__init__(session_id, db_path, session_settings)
        self.db_path = db_path


class EngineSession(StoreSession):
    """In the place of `SQLAlchemySession`."""

    def __init__(
        self, session_id: str, *, engine: Any, session_settings: Any = None, **_: Any
    ) -> None:
        known = engine if isinstance(engine, _Engine) else _Engine(str(engine))
        super().__init__(session_id, known.place, session_settings)
        self.engine = known

    @classmethod
    def from_url(
        cls, session_id: str, *, url: str, session_settings: Any = None, **_: Any
    ) -> EngineSession:
        return cls(session_id, engine=url, session_settings=session_settings)


def pytest_configure(config: pytest.Config) -> None:
    report = Report(
        Path(__file__).with_name("left_out.toml"),
        uses=lambda: _uses,
        used="sessions of the store",
        unused="use no session that can be replaced",
    )
    config.pluginmanager.register(report, "eventstore-report")
    config.pluginmanager.register(_Connections(), "eventstore-connections")
    # Not in `encrypt_session`, which calls what is private to SQLite where it finds that class.
    for module in (agents, agents.memory, sqlite):
        module.SQLiteSession = FileSession  # type: ignore[attr-defined]  # in its place
    for module in (extensions, async_sqlite):
        module.AsyncSQLiteSession = FileSession  # type: ignore[attr-defined]  # in its place
    for module in (extensions, sqlalchemy):
        module.SQLAlchemySession = EngineSession  # type: ignore[attr-defined]  # in its place


class _Connections:
    """Ends those of the test: its loop is gone, and with it nobody closes its pool."""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self) -> None:
        for loop in [one for one in _stores if one.is_closed()]:
            del _stores[loop]
        with psycopg.connect(URL, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )
