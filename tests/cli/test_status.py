"""An operator sees what waits and what runs; a login is told what it may not see."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime

import psycopg
import pytest

from eventstore import EventStore, RecordedEvent, User
from eventstore.admin import health
from eventstore.admin.status import Status
from eventstore.log.feeds import Feed
from eventstore.schema.expected import REVISIONS
from tests.support.command import Command
from tests.support.logins import make_logins
from tests.support.server import Server


def test_calls_and_turns_that_wait_are_counted(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    for user in (alice, bob):
        chat = user.conversations.start()
        for _ in range(3):
            user.tool_calls.request(chat.id, name="f", arguments="{}")
        claimed, abandoned, _ = user.tool_calls.list(conversation=chat.id)
        user.tool_calls.claim(claimed, seconds=60)
        user.tool_calls.abandon(abandoned)
    turn = alice.turn(alice.conversations.start().id, key="one", items=[])
    with turn:
        before = store.status()
        # As if the worker and the process had died an hour ago.
        admin.execute("update eventstore.tool_call set claimed_at = claimed_at - interval '1 hour'")
        admin.execute("update eventstore.turn set leased_at = leased_at - interval '1 hour'")
        later = store.status()

    assert (before.pending_calls, before.lapsed_calls, before.abandoned_calls) == (4, 0, 2)
    assert (before.open_turns, before.lapsed_turns) == (1, 0)
    assert (later.pending_calls, later.lapsed_calls, later.lapsed_turns) == (4, 2, 1)
    assert store.status().open_turns == 0


def test_the_progress_of_a_rebuild_is_shown(store: EventStore, admin: psycopg.Connection) -> None:
    for name in ("alice", "bob"):
        store.user(name).tasks.create("Buy milk")
    never = store.status()
    began = datetime.now(UTC)
    store.rebuild()
    done = store.status()
    admin.execute("update eventstore.rebuild_progress set finished_at = null where user_id = 'bob'")
    interrupted = store.status()

    assert (never.rebuild_left, never.rebuild_done, never.rebuild_started_at) == (0, 0, None)
    assert (done.rebuild_left, done.rebuild_done) == (0, 2)
    assert (interrupted.rebuild_left, interrupted.rebuild_done) == (1, 1)
    assert interrupted.rebuild_started_at is not None
    assert interrupted.rebuild_advanced_at is not None
    assert began < interrupted.rebuild_started_at <= interrupted.rebuild_advanced_at


def test_how_far_feeds_are_is_shown(
    store: EventStore, alice: User, bob: User, eventstore: Command
) -> None:
    def refuse_bobs(event: RecordedEvent) -> None:
        if event.user_id == "bob":
            raise ValueError

    for user in (alice, bob):
        user.tasks.create("Buy milk")
    never = store.status().feeds
    store.subscribe("mail", refuse_bobs, attempts=1).catch_up()
    for user in (alice, bob):
        user.tasks.create("Buy bread")

    assert never == []
    assert store.status().feeds == [Feed("mail", users_behind=2, events_behind=3, parked=1)]
    shown = json.loads(eventstore("status", "--json").stdout)["feeds"]
    assert shown == [{"name": "mail", "users_behind": 2, "events_behind": 3, "parked": 1}]
    printed = eventstore("status").stdout
    assert "\nfeed mail                   2 users behind by 3 events, 1 parked\n" in printed
    store.remove_feed("mail")
    assert "\nfeeds                       (none)\n" in eventstore("status").stdout


def test_the_login_of_a_service_is_told_what_it_may_not_see(
    store: EventStore, server: Server, database_url: str
) -> None:
    store.user("alice").tasks.create("private")
    logins = make_logins(server, database_url)

    with EventStore.connect(logins.service) as service:
        seen = service.status()
    with EventStore.connect(logins.operations) as operations:
        complete = operations.status()

    about_users = [one.name for one in fields(Status)][8:]
    assert {getattr(seen, name) for name in about_users} == {None}
    assert (complete.users, complete.events, complete.pending_calls) == (1, 1, 0)
    assert seen.revision == seen.head
    hidden = dict.fromkeys(about_users)
    volatile = {"oldest_transaction_seconds": None, "hidden_sessions": 0, "database_bytes": 0}
    assert replace(seen, **volatile) == replace(  # type: ignore[arg-type]  # by name
        complete,
        **(hidden | volatile | {"bytes": seen.bytes}),  # type: ignore[arg-type]  # likewise
    )


def test_the_oldest_transaction_is_shown_and_sessions_of_others_are_said_to_be_hidden(
    store: EventStore, server: Server, database_url: str, admin: psycopg.Connection
) -> None:
    login = make_logins(server, database_url).service
    with EventStore.connect(login) as service:
        alone = service.status()
        with psycopg.connect(server.direct(database_url)) as other:
            other.execute("select 1")
            beside = service.status()
            with psycopg.connect(server.direct(login)) as own:
                own.execute("select pg_sleep(0.01)")
                seen = service.status()

    assert alone.oldest_transaction_seconds is None
    assert beside.oldest_transaction_seconds is None
    assert beside.hidden_sessions == alone.hidden_sessions + 1
    assert seen.oldest_transaction_seconds is not None
    assert seen.oldest_transaction_seconds > 0.01
    assert store.status().hidden_sessions == 0


def test_the_command_marks_what_is_not_shown_and_what_is_pending(
    eventstore: Command,
    server: Server,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    login = make_logins(server, database_url).service

    as_json = json.loads(eventstore("status", "--json").stdout)
    everything = eventstore("status")
    monkeypatch.setattr(health, "REVISIONS", (REVISIONS[-1], "9999"))
    service = eventstore("status", "--database", login)

    assert list(as_json) == ["database", *(one.name for one in fields(Status))]
    assert (as_json["migration_pending"], as_json["rebuild_started_at"]) == (False, None)
    assert "rebuild_started_at          (none)" in everything.stdout
    assert "not shown" not in everything.stdout
    assert service.returncode == 0
    assert "revision                    0001; run `eventstore migrate`" in service.stdout
    assert "migration_pending           yes" in service.stdout
    for hidden in ("pending_calls", "feeds"):
        assert f"{hidden:<28}(not shown to this login)" in service.stdout


def test_a_finished_rebuild_is_printed_with_its_times(
    eventstore: Command, database_url: str
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("Buy milk")
        store.rebuild()
        expected = f"{asdict(store.status())['rebuild_started_at']:%Y-%m-%d %H:%M:%S}"

    printed = eventstore("status").stdout

    assert f"rebuild_started_at          {expected}\n" in printed
