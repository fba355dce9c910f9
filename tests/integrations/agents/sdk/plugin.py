"""
A pytest plugin that puts sessions of the store in the place of the SDK's, for the SDK's own tests.

The classes below have the constructors of those that they replace, and everything else from
`EventStoreSession`. A path or an engine, which is a database of its own there, is a user here.
"""

from __future__ import annotations

import asyncio
import os
import re
import tomllib
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

from eventstore import AsyncEventStore, AsyncUser
from eventstore.integrations.agents import EventStoreSession

URL = os.environ.get("EVENTSTORE_SDK_TESTS_URL", "")
LEFT_OUT = Path(__file__).with_name("left_out.toml")

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
    config.pluginmanager.register(_Report(), "eventstore-report")
    # Not in `encrypt_session`, which calls what is private to SQLite where it finds that class.
    for module in (agents, agents.memory, sqlite):
        module.SQLiteSession = FileSession  # type: ignore[attr-defined]  # in its place
    for module in (extensions, async_sqlite):
        module.AsyncSQLiteSession = FileSession  # type: ignore[attr-defined]  # in its place
    for module in (extensions, sqlalchemy):
        module.SQLAlchemySession = EngineSession  # type: ignore[attr-defined]  # in its place


def left_out() -> dict[str, str]:
    """Return why tests are left out, by a pattern of their names."""
    groups = tomllib.loads(LEFT_OUT.read_text(encoding="utf-8"))["group"]
    return {name: group["reason"] for group in groups for name in group["tests"]}


class _Report:
    """Leaves out what is listed, and counts the tests that used a session of the store."""

    def __init__(self) -> None:
        self.results = {"passed": 0, "failed": 0, "skipped": 0}
        self.failed: list[str] = []
        self.without = 0
        self.other_failures: list[str] = []
        self.unused = set(left_out())
        self.left_out = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        chosen = []
        for item in items:
            found = [name for name in left_out() if re.search(name, item.nodeid)]
            self.unused -= set(found)
            if found:
                self.left_out += 1
            else:
                chosen.append(item)
        items[:] = chosen

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.before = _uses
        return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self) -> None:
        # The loop of the test is gone, and with it nobody closes its pool.
        for loop in [one for one in _stores if one.is_closed()]:
            del _stores[loop]
        with psycopg.connect(URL, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()"
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            if _uses == self.before and report.outcome == "passed":
                self.without += 1
                return
            if _uses == self.before and report.outcome == "failed":
                self.other_failures.append(report.nodeid)
                return
            self.results[report.outcome] += 1
            if report.outcome == "failed":
                self.failed.append(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        done = self.results
        terminalreporter.write_line(
            f"sessions of the store: {sum(done.values())} tests run, {done['passed']} passed, "
            f"{done['failed']} failed, {done['skipped']} skipped; {self.left_out} left out; "
            f"{self.without} use no session that can be replaced"
        )
        for name in sorted(self.unused):
            terminalreporter.write_line(f"left out, but not found: {name}")
