"""The log tells what an operator must know: once, at the right level, and nothing users wrote."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import select

from eventstore import (
    ConnectionLost,
    EventStore,
    EventStoreError,
    InvalidInput,
    PoolExhausted,
    Settings,
    Unavailable,
    User,
)
from eventstore.database import outage
from eventstore.database.outage import Outage
from projections import Message
from tests.support.drivers import open_store
from tests.support.proxy import Proxy, url_through

MARKER = "pineapple-9000"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the log goes by, as the one item of a list."""
    now = [1000.0]
    monkeypatch.setattr(outage, "monotonic", lambda: now[0])
    return now


def through(proxy: Proxy, database_url: str) -> str:
    return url_through(proxy, database_url)


def fail_to_connect(watched: Outage) -> None:
    with suppress(psycopg.OperationalError), watched.watch():
        raise psycopg.OperationalError("connection refused\nis the server running?")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {one.levelname for one in caplog.records} <= {"WARNING"}
    assert {one.name for one in caplog.records} <= {"eventstore.connections"}
    return [one.getMessage() for one in caplog.records]


def test_an_outage_is_one_line_a_minute_with_its_counts(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    watched = Outage("db")
    for _ in range(2 * 60 + 30):
        fail_to_connect(watched)
        watched.refused()
        clock[0] += 1
    with watched.watch():
        pass
    with watched.watch():
        pass

    still = (
        "db: no connection for {} seconds: {} attempts and {} requests failed: connection refused"
    )
    assert warnings_of(caplog) == [
        "db: no connection can be made: connection refused; trying again every second",
        still.format(60, 61, 60),
        still.format(120, 121, 120),
        "db: connected again, after 150 seconds: 150 attempts and 150 requests failed",
    ]


def test_a_server_that_refuses_now_and_then_is_no_line_a_second(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    watched = Outage("db")
    for _ in range(61):
        fail_to_connect(watched)
        with watched.watch():
            pass
        clock[0] += 1

    begins = "db: no connection can be made: connection refused; trying again every second"
    ends = "db: connected again, after 0 seconds: 1 attempts and 0 requests failed"
    assert warnings_of(caplog) == [begins, ends, begins, ends]


def test_lost_connections_and_requests_without_one_are_a_line_a_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    watched = Outage("db")
    for _ in range(90):
        watched.lost(ConnectionLost("the server closed the connection"))
        watched.exhausted(10)
        clock[0] += 1

    assert warnings_of(caplog) == [
        "db: a connection was lost: the server closed the connection",
        "db: 1 request failed, because none of 10 connections was free",
        "db: 60 more connections were lost, the last one: the server closed the connection",
        "db: 60 requests failed, because none of 10 connections was free",
    ]


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_a_lost_connection_and_a_full_pool_are_logged_though_the_call_succeeds(
    database_url: str, proxy: Proxy, caplog: pytest.LogCaptureFixture, driver: str
) -> None:
    url = through(proxy, database_url)
    settings = Settings(database_url=url, pool_max_size=1, deadline_seconds=1)
    with open_store(driver, settings=settings) as store:
        alice = store.user("alice")
        alice.tasks.list()
        caplog.clear()
        proxy.cut()
        alice.tasks.list()
        with alice.session() as session:
            session.connection()
            for _ in range(2):
                with pytest.raises(PoolExhausted):
                    alice.tasks.list()

    lost, full = warnings_of(caplog)
    assert ": a connection was lost: " in lost
    assert full.endswith(": 1 request failed, because none of 1 connections was free")


def test_connections_are_named_and_the_url_may_name_them(
    database_url: str, direct_url: str, admin: psycopg.Connection
) -> None:
    def names() -> set[str]:
        rows = admin.execute(
            "select application_name from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        return {name for (name,) in rows}

    with EventStore.connect(database_url):
        default = names()
    with EventStore.connect(f"{direct_url}&application_name=worker"):
        chosen = names()

    assert "eventstore" in default
    assert "worker" in chosen


def use_everything(alice: User, bob: User) -> Iterator[Callable[[], object]]:
    """Yield calls that hold the marker, some of which are refused."""
    chat = alice.conversations.start(key=f"chat-{MARKER}", title=MARKER)
    said = alice.messages.post(chat.id, sender="user", content=MARKER)
    task = alice.tasks.create(MARKER, description=MARKER, tags=[MARKER])
    call = alice.tool_calls.request(chat.id, name="f", arguments=f'"{MARKER}"')
    alice.annotated(metadata={"note": MARKER}).tool_calls.succeed(call, output={"is": MARKER})
    with alice.turn(chat.id, key=MARKER, items=[{"role": "user", "content": MARKER}]) as turn:
        turn.end([{"role": "assistant", "content": MARKER}])

    yield lambda: alice.tasks.update(task.id, title=MARKER, expected_version=99)
    yield lambda: alice.tasks.create(f"{MARKER}\0")
    yield lambda: alice.tasks.create(MARKER * 500)
    yield lambda: alice.messages.post(chat.id, sender=MARKER, content=MARKER)
    yield lambda: alice.messages.extend(chat.id, [{"role": MARKER, "content": float("nan")}])
    yield lambda: alice.tool_calls.succeed(call, output=MARKER * 2)
    yield lambda: alice.keyed(MARKER).tasks.create(MARKER)
    yield lambda: alice.keyed(MARKER).tasks.create(MARKER + MARKER)
    yield lambda: bob.messages.post(chat.id, sender="user", content=MARKER)
    yield lambda: bob.tasks.complete(MARKER)
    yield lambda: alice.messages.edit(said.id, MARKER)
    yield lambda: alice.messages.search(MARKER)
    yield lambda: alice.history(chat.id)
    yield lambda: alice.tasks.delete(task.id)
    yield lambda: alice.tasks.update(task.id, title=MARKER)


def use_a_session(alice: User) -> Iterator[Callable[[], object]]:
    """Yield what a service's own SQL does with the marker."""

    def run(sql: str) -> None:
        with alice.session(read_only=False) as session:
            session.connection().execute(text(sql), {"said": MARKER})

    def read() -> None:
        with alice.session() as session:
            found = session.exec(select(Message).where(Message.content == MARKER)).all()
            assert found

    yield read
    yield lambda: run("select cast(:said as integer)")
    yield lambda: run("select * from nowhere where it = :said")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("driver", ["sync", "async"])
def test_nothing_that_users_wrote_is_in_any_line_of_the_log(
    database_url: str,
    proxy: Proxy,
    admin: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
    driver: str,
) -> None:
    url = through(proxy, database_url)
    short = Settings(database_url=url, deadline_seconds=1)
    caplog.set_level(logging.DEBUG)
    for logger in ("sqlalchemy", "psycopg", "eventstore"):
        caplog.set_level(logging.DEBUG, logger=logger)
    refused: list[BaseException] = []

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except (EventStoreError, SQLAlchemyError) as error:
            refused.append(error)

    with open_store(driver, settings=short) as store:
        alice, bob = store.user("alice"), store.user("bob")
        for call in use_everything(alice, bob):
            attempt(call)
        for call in use_a_session(alice):
            attempt(call)
        admin.execute(
            "create function public.fail() returns trigger language plpgsql as"
            f" $$ begin raise exception '% is full', '{MARKER}'"
            " using errcode = '53100', detail = new::text; end $$"
        )
        admin.execute(
            "create trigger fail after insert on eventstore.task for each row"
            " when (new.title like '%full') execute function public.fail()"
        )
        logged = [*caplog.records]
        attempt(lambda: alice.tasks.create(f"{MARKER} full"))
        proxy.lose_reply = lambda data: MARKER.encode() in data or b"append" in data
        attempt(lambda: alice.tasks.create(MARKER))
        proxy.lose_reply = lambda _: False
        proxy.close()
        attempt(lambda: alice.tasks.create(MARKER))
        attempt(alice.conversations.list)

    for kind in (InvalidInput, Unavailable):
        assert any(isinstance(one, kind) for one in refused)
    assert len(refused) > 8
    assert caplog.records[len(logged) :]
    for record in caplog.records:
        assert MARKER not in lines_of(record), record.name


def lines_of(record: logging.LogRecord) -> str:
    """Return all that a handler may print of a record."""
    attributes: dict[str, Any] = vars(record)
    said = [record.getMessage(), *map(repr, attributes.values())]
    if record.exc_info and record.exc_info[1] is not None:
        said += traceback.format_exception(record.exc_info[1])
    return "\n".join(said)
