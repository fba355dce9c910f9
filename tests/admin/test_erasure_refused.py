"""Erasures that fail, are forbidden or are made by hand: each is reported or found by verify."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from eventstore import (
    AccessDenied,
    Erased,
    EventStore,
    InvalidInput,
    Settings,
    User,
)
from tests.attacks.support import make_login
from tests.support.erasing import all_rows, lose_reply_of_record, write_words
from tests.support.proxy import Proxy, url_through
from tests.support.server import Server
from tests.support.tampering import disarm
from tests.tampering.full_log import take_anchor
from tests.tampering.outsider import forge


def test_an_erasure_whose_reply_is_lost_is_recorded_once(
    database_url: str, proxy: Proxy, admin: psycopg.Connection
) -> None:
    url = url_through(proxy, database_url)
    with EventStore.connect(settings=Settings(database_url=url, pool_max_size=1)) as store:
        write_words(store.user("alice"))
        lost = lose_reply_of_record(proxy, admin, 1)

        done = store.erase("alice", ordered_by="alice")

        assert lost
        assert done.events > 0
        records = [one for one in store.user("alice").events() if one.type == "ContentErased"]
        assert [one.position for one in records] == [done.position]


def test_a_login_without_the_eraser_role_changes_nothing(
    store: EventStore, alice: User, server: Server, database_url: str, admin: psycopg.Connection
) -> None:
    write_words(alice)
    make_login(server, "no_eraser", "eventstore_app", "eventstore_operator")
    before = all_rows(admin)

    with (
        EventStore.connect(database_url.replace("postgres@", "no_eraser@")) as service,
        pytest.raises(AccessDenied),
    ):
        service.erase("alice", ordered_by="alice")

    assert all_rows(admin) == before
    assert store.verify().ok


# The change of one event, and the problem that verify must report: its kind and position.
BY_HAND = {
    "without a record": (
        ("update eventstore.event set payload = null, metadata = null, salt = null"
        " where position = 2"), "erasure", 2),
    "in one column": ("update eventstore.event set payload = null where position = 2",
                      "payload", 2),
    "its salt": ("update eventstore.event set salt = null where position = 2", "payload", 2),
}  # fmt: skip


@pytest.mark.parametrize("how", BY_HAND)
def test_an_erasure_made_by_hand_is_found_at_its_position(
    store: EventStore, alice: User, admin: psycopg.Connection, how: str
) -> None:
    write_words(alice)
    disarm(admin)
    statement, kind, position = BY_HAND[how]

    admin.execute(statement)

    assert (kind, position) in {(one.kind, one.position) for one in store.verify().problems}


def test_a_payload_without_its_salt_is_erased_too(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_words(alice)
    disarm(admin)
    admin.execute("update eventstore.event set salt = null where position in (2, 3)")

    done = store.erase("alice", ordered_by="alice")

    assert store.verify("alice").erased == done.events
    assert [row for row in all_rows(admin) if "zebra" in row] == []
    assert store.verify().ok


def test_a_forged_erasure_record_is_found_by_verify_or_else_by_an_anchor(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    chat = write_words(alice)
    store.erase("alice", ordered_by="alice", conversation=chat)
    anchor = take_anchor(store)
    disarm(admin)

    admin.execute(
        "update eventstore.event set payload = replace(payload::text, 'alice', 'bob')::json"
        " where type = 'ContentErased'"
    )

    assert "payload" in {one.kind for one in store.verify().problems}
    forge(admin, "alice")
    assert store.verify().ok
    assert {one.kind for one in store.verify(anchors=[anchor]).problems} == {"anchor"}


def test_a_payload_restored_after_its_erasure_is_found(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_words(alice)
    admin.execute("create table saved as select * from eventstore.event where position = 2")
    store.erase("alice", ordered_by="alice")
    disarm(admin)

    admin.execute(
        "update eventstore.event as e set payload = k.payload, metadata = k.metadata,"
        " salt = k.salt from saved as k where e.position = k.position"
    )

    assert ("erasure", 2) in {(one.kind, one.position) for one in store.verify().problems}


@pytest.mark.parametrize("sql", [
    "select payload from eventstore.event",
    "update eventstore.event set payload = null returning payload",
    "update eventstore.event set metadata = payload",
    "update eventstore.event set salt = null",
    "update eventstore.event set payload = '{}'",
    "update eventstore.event set type = 'x'",
    "delete from eventstore.event",
    "truncate eventstore.event",
    "select * from eventstore.task",
    "update eventstore.user_log set position = 99",
])  # fmt: skip
def test_the_eraser_role_reads_no_content_and_changes_nothing_else(
    store: EventStore, alice: User, admin: psycopg.Connection, sql: str
) -> None:
    write_words(alice)

    with pytest.raises(psycopg.Error), admin.transaction():  # noqa: PT012 - one transaction
        admin.execute("set local role eventstore_eraser")
        admin.execute("select set_config('eventstore.user_id', 'alice', true)")
        admin.execute(sql)

    assert store.verify().ok


@pytest.mark.parametrize("scope", ["", "bob"])
def test_the_eraser_role_erases_only_the_user_in_scope(
    store: EventStore, alice: User, admin: psycopg.Connection, scope: str
) -> None:
    write_words(alice)

    with admin.transaction():
        admin.execute("set local role eventstore_eraser")
        admin.execute("select set_config('eventstore.user_id', %s, true)", (scope,))
        done = admin.execute(
            "update eventstore.event set payload = null, metadata = null, salt = null"
        )

    assert done.rowcount == 0
    assert store.verify().erased == 0


def test_an_erasure_that_reaches_no_event_raises_access_denied(
    store: EventStore, alice: User, admin: psycopg.Connection, server: Server, database_url: str
) -> None:
    write_words(alice)
    admin.execute("drop policy eraser_erases on eventstore.event")

    with pytest.raises(AccessDenied, match="the eraser role reached 0; nothing was erased"):
        store.erase("alice", ordered_by="alice")

    assert store.verify().erased == 0


def test_the_next_analyze_removes_erased_words_from_the_planner_statistics(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    for _ in range(3):
        alice.tasks.create("rhubarb")
    admin.execute("analyze eventstore.task")

    # ANALYZE keeps the old statistics of a table that is empty, so one row has to remain.
    store.user("bob").tasks.create("Milk")
    store.erase("alice", ordered_by="alice")
    admin.execute("analyze eventstore.task")

    (left,) = admin.execute(
        "select count(*) from pg_stats where schemaname = 'eventstore'"
        " and (most_common_vals::text ~ 'rhubarb' or histogram_bounds::text ~ 'rhubarb')"
    )
    assert left == (0,)


def test_the_tables_to_leave_must_be_a_list_and_not_text(store: EventStore, alice: User) -> None:
    alice.tasks.create("x")

    with pytest.raises(InvalidInput, match=r"leave: .*; give a list"):
        store.erase("alice", ordered_by="x", leave="public.example_archive")


def test_a_table_to_leave_is_one_that_the_erasure_would_refuse(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("rhubarb")

    for name in ("foo", "eventstore.task"):
        with pytest.raises(InvalidInput, match=rf"leave: names {name}, which is no table"):
            store.erase("alice", ordered_by="x", leave=[name])

    assert [task.title for task in alice.tasks.list()] == ["rhubarb"]


def test_a_retry_of_decisions_on_what_was_erased_since_is_refused_as_erased(
    store: EventStore, alice: User, chat: UUID
) -> None:
    message = alice.messages.post(chat, sender="user", content="Buy milk")

    def record() -> None:
        with alice.transaction(idempotency_key="k") as tx:
            tx.tasks.create("Buy milk")
            tx.messages.retract(chat, message.id)

    record()
    store.erase("alice", ordered_by="test", conversation=chat)

    with pytest.raises(Erased):
        record()
    assert [task.title for task in alice.tasks.list()] == ["Buy milk"]
