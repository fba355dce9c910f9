"""
While a server is away a request fails soon, and once it is back the next one works.

The log tells both, once each, however many connections a pool loses and however often it tries. A
login that a server refuses is no outage: it is an error of the settings, and says which.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from eventstore import (
    EventStore,
    EventStoreError,
    LoginRefused,
    PoolExhausted,
    Settings,
    Unavailable,
)
from eventstore.cli.app import exit_status
from eventstore.database.connections import connect_options
from eventstore.database.errors import unreachable
from eventstore.schema.migrate import upgrade
from tests.attacks.pooler import run_narrow_pooler
from tests.support.drivers import open_store
from tests.support.pooler import POOLER_PORT
from tests.support.proxy import Proxy, run_proxy, url_through
from tests.support.server import Server
from tests.support.waiting import until

DEADLINE_SECONDS = 2.0
NOTICED_SECONDS = 1.0


def silent_from(text: bytes) -> Callable[[bytes], bool]:
    """Return what lets a proxy forget that and all that comes after it."""
    seen = False

    def silence(data: bytes) -> bool:
        nonlocal seen
        seen = seen or text in data
        return seen

    return silence


def through(proxy: Proxy, database_url: str, **settings: object) -> Settings:
    url = url_through(proxy, database_url)
    return Settings(database_url=url, **settings)  # type: ignore[arg-type]  # pydantic checks


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_connecting_has_one_deadline_for_a_server_that_comes_late_and_then_falls_silent(
    server: Server, database_url: str, driver: str
) -> None:
    with run_proxy(server.socket) as proxy:
        settings = through(proxy, database_url, deadline_seconds=DEADLINE_SECONDS)

    def come_late() -> None:
        time.sleep(DEADLINE_SECONDS * 0.6)
        with run_proxy(server.socket, proxy.port) as late:
            late.silence = silent_from(b"pg_catalog")  # what the doctor asks
            time.sleep(DEADLINE_SECONDS * 1.5)

    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        threads.submit(come_late)
        with pytest.raises(Unavailable), open_store(driver, settings=settings):
            pass
        waited = time.monotonic() - began

    # Closing the pool waits for its own attempt to connect, which has the time of a call too.
    assert DEADLINE_SECONDS * 0.6 < waited < DEADLINE_SECONDS * 2.6


@pytest.mark.parametrize(("seconds", "limit"), [(1.5, 2), (1.2, 2), (0.0, 1), (-0.1, 1)])
def test_no_attempt_to_connect_is_without_limit(seconds: float, limit: int) -> None:
    assert connect_options("", seconds)["connect_timeout"] == limit  # 0 is no limit
    assert "connect_timeout" not in connect_options("connect_timeout=9", seconds)


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_an_answer_that_belongs_to_no_question_is_a_lost_connection(
    database_url: str, proxy: Proxy, driver: str
) -> None:
    settings = through(proxy, database_url, deadline_seconds=DEADLINE_SECONDS)
    # The doctor's questions are more than one packet, and some of them arrive.
    proxy.silence = lambda data: b"pg_catalog" in data
    with pytest.raises(Unavailable), open_store(driver, settings=settings):
        pass


class Mutilating(Proxy):
    """Makes something else of the reply to the next append that is committed."""

    mutilate: Callable[[bytes], bytes]

    def _pump_replies(self, pair: Any) -> None:
        while data := pair.server.recv(65536):
            if pair.committed(data) and self._replies_to_lose:
                self._replies_to_lose = 0
                data = self.mutilate(data)
            pair.client.sendall(data)


def noise(_: bytes) -> bytes:
    return b"2\0\0\0\x04D" + bytes(60)


def another_number_of_columns(data: bytes) -> bytes:
    row = data.index(b"D\0\0\0")
    return data[: row + 5] + b"\0\x09" + data[row + 7 :]


@pytest.mark.parametrize("driver", ["sync", "async"])
@pytest.mark.parametrize("mutilate", [noise, another_number_of_columns])
def test_an_append_whose_answer_was_mutilated_is_settled(
    server: Server, database_url: str, driver: str, mutilate: Callable[[bytes], bytes]
) -> None:
    proxy = Mutilating(server.socket)
    proxy.mutilate = mutilate
    with closing(proxy), open_store(driver, settings=through(proxy, database_url)) as store:
        alice = store.user("alice")
        alice.tasks.create("Buy milk")
        proxy.lose_commit_reply()
        alice.tasks.create("Buy bread")
        assert proxy._replies_to_lose == 0

        assert [one.title for one in alice.tasks.list()] == ["Buy milk", "Buy bread"]


@pytest.mark.parametrize("driver", ["sync", "async"])
@pytest.mark.parametrize("least", [0, 4])
def test_a_request_fails_soon_while_the_server_is_away_and_works_once_it_is_back(
    server: Server, database_url: str, caplog: pytest.LogCaptureFixture, driver: str, least: int
) -> None:
    with run_proxy(server.socket) as proxy:
        limits = {"pool_min_size": least, "deadline_seconds": DEADLINE_SECONDS}
        settings = through(proxy, database_url, **limits)
        with open_store(driver, settings=settings) as store:
            alice = store.user("alice")
            alice.tasks.create("Buy milk")
            caplog.clear()
            proxy.close()

            began = time.monotonic()
            with pytest.raises(Unavailable, match="cannot be reached") as error:
                alice.tasks.list()
            waited = time.monotonic() - began
            with ThreadPoolExecutor(1) as threads, run_proxy(server.socket, proxy.port):
                began = time.monotonic()
                assert len(threads.submit(alice.tasks.list).result()) == 1
                noticed = time.monotonic() - began
                lost, gone, back = [
                    one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING
                ]

    assert not isinstance(error.value, PoolExhausted)
    assert waited < DEADLINE_SECONDS * 1.1
    assert noticed < NOTICED_SECONDS
    assert "a connection was lost" in lost
    assert "no connection can be made" in gone
    assert "connected again" in back


def test_a_request_that_waits_for_the_server_gets_it_as_soon_as_it_is_back(
    server: Server, database_url: str
) -> None:
    with run_proxy(server.socket) as proxy:
        settings = through(proxy, database_url, deadline_seconds=30)
        with EventStore.connect(settings=settings) as store, ThreadPoolExecutor(8) as threads:
            alice = store.user("alice")
            list(threads.map(lambda _: alice.tasks.list(), range(64)))
            proxy.close()
            waiting = [threads.submit(alice.tasks.list) for _ in range(8)]
            until(lambda: store._driver.pool.get_stats()["requests_waiting"] == 8)
            until(lambda: store._driver.pool.get_stats()["connections_errors"] > 10)

            with run_proxy(server.socket, proxy.port):
                began = time.monotonic()
                assert [one.result() for one in waiting] == [[]] * 8
                assert time.monotonic() - began < NOTICED_SECONDS


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_a_service_that_starts_while_the_server_is_away_connects_once_it_is_back(
    server: Server, database_url: str, caplog: pytest.LogCaptureFixture, driver: str
) -> None:
    with run_proxy(server.socket) as proxy:
        settings = through(proxy, database_url, deadline_seconds=30)

    def start() -> list[object]:
        with open_store(driver, settings=settings) as store:
            return list(store.user("alice").tasks.list())

    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(start)
        until(lambda: starting.done() or "no connection can be made" in caplog.text)
        with run_proxy(server.socket, proxy.port):
            began = time.monotonic()
            assert starting.result() == []

    assert time.monotonic() - began < NOTICED_SECONDS + 1


def test_a_connect_gives_up_at_its_limit(server: Server, database_url: str) -> None:
    with run_proxy(server.socket) as proxy:
        settings = through(proxy, database_url, deadline_seconds=1)

    began = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        EventStore.connect(settings=settings)

    assert 0.5 < time.monotonic() - began < 3


def test_a_pool_of_the_applications_own_logs_as_it_did(caplog: pytest.LogCaptureFixture) -> None:
    url = "postgresql://nobody@127.0.0.1:1/none"
    with ConnectionPool(url, min_size=1, open=True):
        until(lambda: "error connecting" in caplog.text)


WRONG_PASSWORD = 'connection failed: FATAL:  password authentication failed for user "todo"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WRONG_PASSWORD, 'authentication failed for user "todo"; check login and password'),
        (f"{WRONG_PASSWORD}\n{WRONG_PASSWORD}", "password authentication failed"),
        ("FATAL:  SASL authentication failed", "SASL authentication failed; check login"),
        ("fe_sendauth: no password supplied", "no password supplied"),
        (
            'FATAL:  no pg_hba.conf entry for host "::1", user "a", database "b"',
            "no pg_hba.conf entry for host",
        ),
        ("FATAL:  Tenant or user not found", "Tenant or user not found"),
        ("FATAL: no such database: nope", "no such database: nope; check the database's name"),
    ],
)
def test_a_refused_login_says_what_was_refused(text: str, message: str) -> None:
    error = unreachable(psycopg.OperationalError(text))

    assert isinstance(error, LoginRefused)
    assert message in str(error)
    assert exit_status(error) == 2


@pytest.mark.parametrize(
    "text",
    [
        "connection refused\n\tIs the server running on that host?",
        "FATAL:  the database system is starting up",
        "FATAL:  sorry, too many clients already",
        "failed to resolve host 'nowhere'",
    ],
)
def test_a_server_that_may_come_back_is_unavailable(text: str) -> None:
    error = unreachable(psycopg.OperationalError(text))

    assert isinstance(error, Unavailable)
    assert exit_status(error) == 3


@pytest.fixture(scope="module", params=["direct", "pooled"])
def place(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The folder and port of the server's socket, and those of PgBouncer before it."""
    if request.param == "direct":
        yield f"host={server.folder}&port=5432"
        return
    with run_narrow_pooler(server) as folder:
        yield f"host={folder}&port={POOLER_PORT}"


@pytest.mark.parametrize(
    ("login", "wrong_database", "message"),
    [
        ("nobody", None, 'role "nobody" does not exist|no such user'),
        ("postgres", "nope", 'database "nope" does not exist; check the database'),
        ("unwelcome", None, 'permission denied for database "[^"]*"; grant connect on it'),
    ],
)
def test_a_wrong_login_or_database_is_an_error_of_the_settings(
    server: Server,
    database_url: str,
    place: str,
    login: str,
    wrong_database: str | None,
    message: str,
) -> None:
    name = conninfo_to_dict(database_url)["dbname"]
    server.execute(f"revoke connect on database {name} from public")
    server.execute("drop role if exists unwelcome")
    server.execute("create role unwelcome login")
    url = f"postgresql://{login}@/{wrong_database or name}?{place}"

    with pytest.raises(LoginRefused, match=message):
        EventStore.connect(url)
    with pytest.raises(LoginRefused, match=message):
        upgrade(Settings(database_url=url))


def test_a_wrong_password_is_an_error_of_the_settings(server: Server, database_url: str) -> None:
    server.execute("drop role if exists todo_service")
    server.execute("create role todo_service login password 'right'")
    rules = server.folder / "data" / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"local all todo_service scram-sha-256\n{before}")
    server.execute("select pg_reload_conf()")
    url = server.direct(database_url).replace("postgres@", "todo_service:{}@")
    until(lambda: "no password" in refusal(url.replace(":{}", "")))

    try:
        assert "password authentication failed" in refusal(url.format("wrong"))
    finally:
        rules.write_text(before)
        server.execute("select pg_reload_conf()")


def refusal(url: str) -> str:
    try:
        EventStore.connect(url).close()
    except LoginRefused as error:
        return str(error)
    except EventStoreError:
        return ""
    return ""
