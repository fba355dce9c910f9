"""
A call ends by its deadline, whatever is wrong, and says how long it tried and what it met.

The store connects with the default and the user's view is given less, so that a busy machine may
take its time for everything but what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from eventstore import (
    EventStore,
    InvalidInput,
    OutcomeUnknown,
    PoolExhausted,
    SerializationFailed,
    TimedOut,
    Unavailable,
    User,
)
from eventstore.database.driver import interpreter
from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from tests.database.test_faults import fail_on
from tests.database.test_outages import through
from tests.support.drivers import open_store
from tests.support.proxy import Proxy

SECONDS = 0.6
TENTH = SECONDS / 10
BUSY_SECONDS = 0.1
"""How late the threads of the test and of the proxy may be scheduled."""


@pytest.fixture(params=["sync", "async"])
def far(request: pytest.FixtureRequest, database_url: str, proxy: Proxy) -> Iterator[EventStore]:
    """A store through a proxy, with one connection that is warm."""
    settings = through(proxy, database_url, pool_max_size=1)
    with open_store(request.param, settings=settings) as store:
        store.user("alice").tasks.create("Buy milk")
        yield store


type Fault = Callable[[EventStore, Proxy, psycopg.Connection], AbstractContextManager[object]]


@contextmanager
def server_down(_: EventStore, proxy: Proxy, __: psycopg.Connection) -> Iterator[None]:
    proxy.close()
    yield


@contextmanager
def silent_connect(_: EventStore, proxy: Proxy, __: psycopg.Connection) -> Iterator[None]:
    proxy.silence = lambda _: True
    proxy.cut()
    yield
    proxy.close()  # or closing the pool would wait for the login


@contextmanager
def silent_statement(_: EventStore, proxy: Proxy, __: psycopg.Connection) -> Iterator[None]:
    proxy.silence = lambda _: True
    yield
    proxy.close()


@contextmanager
def slow_answer(_: EventStore, proxy: Proxy, __: psycopg.Connection) -> Iterator[None]:
    def wait(_: bytes) -> bool:
        time.sleep(SECONDS / 20)
        return False

    proxy.lose_reply = wait
    yield
    proxy.close()


@contextmanager
def locked_log(_: EventStore, __: Proxy, admin: psycopg.Connection) -> Iterator[None]:
    with admin.transaction():
        admin.execute("select from eventstore.user_log for update")
        yield


@contextmanager
def exhausted_pool(store: EventStore, _: Proxy, __: psycopg.Connection) -> Iterator[None]:
    with store.user("bob").session() as session:
        session.connection()
        yield


@contextmanager
def storm_of_conflicts(_: EventStore, __: Proxy, admin: psycopg.Connection) -> Iterator[None]:
    fail_on(admin, "eventstore.event", "40001")
    yield


FAULTS: dict[str, tuple[Fault, type[Unavailable]]] = {
    "server down": (server_down, Unavailable),
    "silent connect": (silent_connect, Unavailable),
    "silent statement": (silent_statement, OutcomeUnknown),
    "locked log": (locked_log, TimedOut),
    "exhausted pool": (exhausted_pool, PoolExhausted),
    "storm of conflicts": (storm_of_conflicts, SerializationFailed),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_call_ends_by_its_deadline_and_says_how_long_it_tried(
    far: EventStore, proxy: Proxy, admin: psycopg.Connection, name: str
) -> None:
    fault, kind = FAULTS[name]
    alice = far.user("alice").within(SECONDS)

    with fault(far, proxy, admin):
        began = time.monotonic()
        with pytest.raises(kind) as raised:
            alice.tasks.create("Buy bread")
        took = time.monotonic() - began

    assert SECONDS / 2 < took < SECONDS + TENTH + BUSY_SECONDS
    assert raised.value.tried_seconds == pytest.approx(took, abs=BUSY_SECONDS)
    assert "; tried for 0." in str(raised.value)


def test_an_answer_that_trickles_in_ends_by_the_deadline(far: EventStore, proxy: Proxy) -> None:
    alice = far.user("alice")
    chat = alice.conversations.start().id
    for _ in range(2):
        alice.messages.post(chat, sender="user", content="x" * 1_000_000)

    with slow_answer(far, proxy, None):  # type: ignore[arg-type]  # needs no connection
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer in time"):
            alice.within(SECONDS).history(chat)

    assert time.monotonic() - began < SECONDS + TENTH + BUSY_SECONDS


def test_an_unknown_outcome_tells_what_its_last_attempt_met(far: EventStore, proxy: Proxy) -> None:
    def lose(_: bytes) -> bool:
        proxy.close()
        return True

    proxy.lose_reply = lose

    with pytest.raises(OutcomeUnknown, match="before that: the database cannot be reached"):
        far.user("alice").within(SECONDS).tasks.create("Buy bread")


def test_a_short_call_has_time_to_settle_a_commit_whose_reply_did_not_come(
    far: EventStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interpreter, "_REST_SECONDS", 0.5)  # this machine may be busy
    alice = far.user("alice").within(1)

    def forget_the_connection(_: bytes) -> bool:
        proxy.silence = lambda _: False
        proxy.forget()
        return True

    proxy.silence = forget_the_connection

    made = alice.tasks.create("Buy bread")

    assert [one.title for one in alice.tasks.list()] == ["Buy milk", "Buy bread"]
    assert alice.tasks.get(made.id) == made


def test_what_a_call_is_asked_to_wait_does_not_count(alice: User) -> None:
    chat = alice.conversations.start().id
    call = alice.tool_calls.request(chat, name="search", arguments="{}")

    assert alice.within(0.3).tool_calls.wait(call, seconds=0.5).status == "pending"


def limits() -> Plan[list[Rows]]:
    names = ("statement_timeout", "lock_timeout")
    return (
        yield Batch(
            user_scope("alice"),
            tuple(Statement(f"select current_setting('{one}')::interval") for one in names),
        )
    )


def test_the_server_gets_what_is_left_of_a_call_and_no_limit_for_whole_logs(
    store: EventStore,
) -> None:
    calls = store._calls.within(10)
    (((statement,),), ((lock,),)) = run(store, calls, limits)
    (((unlimited,),), ((longest,),)) = run(store, calls.by_steps(), limits)

    assert timedelta(seconds=7) < lock < statement < timedelta(seconds=9)
    assert unlimited == timedelta(0)
    assert timedelta(seconds=7) < longest < timedelta(seconds=10)


def run(store: EventStore, driver: object, plan: Callable[[], Plan[list[Rows]]]) -> list[Rows]:
    answer = driver.run(plan())  # type: ignore[attr-defined]  # either driver
    return answer if isinstance(answer, list) else store._loop.run_until_complete(answer)  # type: ignore[attr-defined]  # of the wrapper


def test_work_on_whole_logs_ends_a_while_after_the_server_went_away(
    database_url: str, proxy: Proxy
) -> None:
    settings = through(proxy, database_url, deadline_seconds=SECONDS)
    with EventStore.connect(settings=settings) as store:
        store.users()
        proxy.close()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="cannot be reached"):
            store.users()

    assert time.monotonic() - began < 2 * SECONDS


def test_each_statement_of_a_session_has_the_time_of_a_call(far: EventStore, proxy: Proxy) -> None:
    slow = text("select pg_sleep(30)")
    with ExitStack() as stack:
        session = stack.enter_context(far.user("alice").within(SECONDS / 2).session())
        began = time.monotonic()
        with pytest.raises(OperationalError, match="statement timeout"):
            session.connection().execute(slow)
        session.rollback()
        proxy.silence = lambda _: True
        with pytest.raises(OperationalError, match="in time"):
            session.connection().execute(slow)
        proxy.silence = lambda _: False

    assert time.monotonic() - began < 1.2 * SECONDS + 2 * BUSY_SECONDS


@pytest.mark.parametrize("wrong", [0, -1, True, "5", None, float("nan"), float("inf"), 1_000_001])
def test_a_deadline_that_is_no_number_of_seconds_is_refused(alice: User, wrong: float) -> None:
    with pytest.raises(InvalidInput, match="seconds: give a number"):
        alice.within(wrong)


def test_the_rest_of_a_users_view_stays_as_it_is(alice: User) -> None:
    hurried = alice.keyed("buy").within(30)

    assert hurried.tasks.create("Buy milk") == alice.keyed("buy").tasks.create("Buy milk")
    assert hurried.keyed("other").tasks.create("Buy milk") != hurried.tasks.create("Buy milk")
