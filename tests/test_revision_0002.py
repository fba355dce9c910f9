"""Revision 0002: up while users write, down unless something was erased, and never half."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from eventstore import (
    AccessDenied,
    ConfigurationError,
    DatabaseFault,
    EventStore,
    Settings,
    TimedOut,
    Unavailable,
)
from eventstore.store import migrate
from eventstore.store.migrate import current_revision, downgrade, upgrade
from tests.support.server import Server
from tests.support.waiting import until
from tests.test_migrations import catalog

PREPARED = (
    "alter table eventstore.event add constraint event_not_erased"
    " check (payload is not null) not valid"
)
"""What a downgrade commits before its own transaction."""

CHECKED = "select count(*) from pg_constraint where conname = 'event_not_erased'"

WAITING = "select count(*) from pg_locks where not granted"
WAITS_WITH_LOCKS = """
    select pid from pg_locks as waits join pg_locks as has using (pid)
    where not waits.granted and waits.mode = 'AccessExclusiveLock'
      and has.granted and has.mode = 'AccessExclusiveLock'
"""


@pytest.fixture
def settings(direct_url: str) -> Settings:
    return Settings(database_url=direct_url)


@pytest.fixture
def old_url(server: Server) -> Iterator[str]:
    """A database at revision 0001, as the release before this one left it."""
    url = server.create_database("template1")
    upgrade(Settings(database_url=server.direct(url)), "0001")
    yield url
    server.drop_database(url)


def test_a_log_with_erased_events_is_not_downgraded(
    database_url: str, direct_url: str, settings: Settings
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")
        store.erase("alice", ordered_by="privacy desk")
        before = catalog(direct_url)

        with pytest.raises(ConfigurationError, match="the log holds erased events"):
            downgrade(settings, "0001")

        assert catalog(direct_url) == before
        assert (current_revision(settings), store.verify().ok) == ("0002", True)


def test_a_downgrade_that_gets_no_lock_leaves_everything_and_erasing_works(
    database_url: str,
    direct_url: str,
    settings: Settings,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(migrate, "_TRIES", 1)
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")
        before = catalog(direct_url)

        with psycopg.connect(direct_url) as reader:
            reader.execute("select count(*) from eventstore.user_log")
            with pytest.raises(TimedOut, match="a long transaction uses the tables"):
                downgrade(settings, "0001")

        assert catalog(direct_url) == before
        assert store.erase("alice", ordered_by="privacy desk").events == 1
    assert admin.execute(CHECKED).fetchone() == (0,)


def test_down_to_0001_and_up_again_keeps_every_event(
    database_url: str, direct_url: str, settings: Settings
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")
        events, before = store.user("alice").events(), catalog(direct_url)

        downgrade(settings, "0001")
        between = catalog(direct_url)
        upgrade(settings)

        assert not [name for kind, name, _ in between if kind == "trigger"]
        assert catalog(direct_url) == before
        assert store.user("alice").events() == events
        assert store.verify().ok


def test_this_release_works_on_the_schema_of_the_one_before(old_url: str, server: Server) -> None:
    with EventStore.connect(old_url) as store:
        alice = store.user("alice")
        chat = alice.conversations.start(key="c1")
        alice.messages.post("c1", sender="user", content="Hello")
        alice.tasks.complete(alice.tasks.create("Buy milk").id)

        assert alice.history(chat.id) == alice.history(chat.id, source="events")
        assert (store.verify().ok, store.rebuild().changed) == (True, 0)
        assert [one.severity for one in store.doctor() if one.severity == "error"] == []
        with pytest.raises(AccessDenied):
            store.erase("alice", ordered_by="privacy desk")

        upgrade(Settings(database_url=server.direct(old_url)))
        assert store.verify().ok
        assert store.erase("alice", ordered_by="privacy desk").events == 4


def test_a_migration_that_met_a_deadlock_is_run_again(
    old_url: str, server: Server, admin: psycopg.Connection
) -> None:
    settings = Settings(database_url=server.direct(old_url))
    migrating = threading.Thread(target=upgrade, args=(settings,), daemon=True)
    with psycopg.connect(server.direct(old_url)) as reader:
        reader.execute("set local deadlock_timeout = '1min'")  # so it is the migration that fails
        reader.execute("select count(*) from eventstore.event")
        migrating.start()
        until(lambda: admin.execute(WAITS_WITH_LOCKS).fetchone() is not None)
        reader.execute("select count(*) from eventstore.user_log")

    migrating.join(60)
    assert current_revision(settings) == "0002"


@pytest.mark.parametrize(("start", "goal"), [("0001", "0002"), ("0002", "0001")])
def test_an_append_in_the_middle_and_a_migration_do_not_wait_for_each_other(
    old_url: str,
    server: Server,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    goal: str,
) -> None:
    monkeypatch.setattr(migrate, "_TRIES", 1)
    settings = Settings(database_url=server.direct(old_url))
    upgrade(settings, start)
    with (
        ThreadPoolExecutor() as threads,
        psycopg.connect(server.direct(old_url)) as append,
    ):
        append.execute("set local deadlock_timeout = '1min'")
        append.execute("select from eventstore.user_log for update")
        migrating = threads.submit(upgrade if start < goal else downgrade, settings, goal)
        until(lambda: admin.execute(WAITING).fetchone() != (0,))
        for table in ("stream", "event"):
            append.execute(f"select from eventstore.{table}")
        append.rollback()

        migrating.result()
    assert current_revision(settings) == goal


def test_a_failed_downgrade_does_not_stand_in_anybodys_way(
    settings: Settings, direct_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_TRIES", 1)
    with psycopg.connect(direct_url) as reader:
        reader.execute("select count(*) from eventstore.event")
        with pytest.raises(TimedOut):
            downgrade(settings, "0001")

        assert admin.execute(WAITING).fetchone() == (0,)
        assert admin.execute(CHECKED).fetchone() == (0,)


def test_a_downgrade_that_cannot_be_undone_says_what_it_left(
    settings: Settings, direct_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_TRIES", 1)
    with (
        ThreadPoolExecutor() as threads,
        psycopg.connect(direct_url) as first,
        psycopg.connect(direct_url) as second,
    ):
        first.execute("select count(*) from eventstore.user_log")
        migrating = threads.submit(downgrade, settings, "0001")
        until(lambda: admin.execute(f"{CHECKED} and convalidated").fetchone() == (1,))
        second.execute("select count(*) from eventstore.event")

        with pytest.raises(DatabaseFault, match="drop constraint event_not_erased"):
            migrating.result()

    assert admin.execute(CHECKED).fetchone() == (1,)
    downgrade(settings, "0001")
    assert admin.execute(CHECKED).fetchone() == (0,)


def test_users_who_come_while_the_schema_is_upgraded_lose_nothing(
    old_url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "_TRIES", 1)
    acknowledged: list[str] = []
    stop, failed = threading.Event(), list[Exception]()

    with EventStore.connect(settings=Settings(database_url=old_url, pool_max_size=4)) as store:

        def newcomers(number: int) -> None:
            count = 0
            while not stop.is_set():
                count += 1
                name = f"user-{number}-{count}"
                try:
                    store.user(name).tasks.create("Buy milk")
                except Exception as error:  # noqa: BLE001 - told below
                    failed.append(error)
                    return
                acknowledged.append(name)

        threads = [threading.Thread(target=newcomers, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                upgrade(Settings(database_url=server.direct(old_url)))
                downgrade(Settings(database_url=server.direct(old_url)), "0001")
            upgrade(Settings(database_url=server.direct(old_url)))
        finally:
            stop.set()
            for thread in threads:
                thread.join()

        assert failed == []
        assert acknowledged
        assert {*acknowledged} <= {*store.users()}
        assert store.verify().ok


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_a_downgrade_that_is_interrupted_is_undone(
    settings: Settings,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    end: type[BaseException],
) -> None:
    def interrupted(_: str) -> None:
        assert admin.execute(CHECKED).fetchone() == (1,)
        raise end

    monkeypatch.setattr(migrate, "run_script", interrupted)

    with pytest.raises(end):
        downgrade(settings, "0001")

    assert admin.execute(CHECKED).fetchone() == (0,)
    assert current_revision(settings) == "0002"


def test_what_a_killed_downgrade_left_is_told_and_taken_away_by_the_next_migration(
    database_url: str, settings: Settings, admin: psycopg.Connection
) -> None:
    admin.execute(PREPARED)
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")
        (told,) = [one for one in store.doctor() if "event_not_erased" in one.detail]

        upgrade(settings)

        assert told.severity == "warning"
        assert admin.execute(CHECKED).fetchone() == (0,)
        assert store.erase("alice", ordered_by="privacy desk").events == 1


def test_a_downgrade_that_is_interrupted_in_its_turn_leaves_what_another_prepared(
    settings: Settings, direct_url: str, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(migrate, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(migrate, "_run", interrupted)
    admin.execute(PREPARED)
    with psycopg.connect(direct_url) as other:
        other.execute("select pg_advisory_lock(%s)", (migrate.LOCK,))
        with pytest.raises(KeyboardInterrupt):
            downgrade(settings, "0001")
        assert admin.execute(CHECKED).fetchone() == (1,)

    with pytest.raises(KeyboardInterrupt):
        downgrade(settings, "0001")
    assert admin.execute(CHECKED).fetchone() == (0,)


def test_an_erasure_beside_a_downgrade_is_to_be_tried_again(
    database_url: str, admin: psycopg.Connection
) -> None:
    admin.execute(PREPARED)
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("x")
        with pytest.raises(Unavailable, match="the schema is being downgraded"):
            store.erase("alice", ordered_by="x")

        assert store.verify().ok


def test_a_downgrade_by_a_login_without_rights_is_denied_in_our_words(
    server: Server, settings: Settings, admin: psycopg.Connection
) -> None:
    admin.execute("drop role if exists stranger; create role stranger login")
    url = server.direct(settings.database_url or "").replace("//postgres@", "//stranger@")
    stranger = settings.model_copy(update={"database_url": url})

    with pytest.raises(AccessDenied, match="permission denied for schema eventstore"):
        downgrade(stranger, "base")


def test_a_downgrade_of_a_server_that_is_not_there_says_that(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"database_url": "postgresql://x@127.0.0.1:1/x"})

    with pytest.raises(Unavailable):
        downgrade(nowhere, "0001")


def test_a_constraint_of_that_name_on_another_table_is_left_alone(
    settings: Settings, admin: psycopg.Connection
) -> None:
    admin.execute("create table public.mine (n int constraint event_not_erased check (n > 0))")

    downgrade(settings, "0001")
    upgrade(settings)

    assert admin.execute(CHECKED).fetchone() == (1,)
