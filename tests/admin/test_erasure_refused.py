"""Erasures that failed, were forged, done by hand or by somebody who may not: nothing is hidden."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore import (
    AccessDenied,
    EventStore,
    InvalidInput,
    Settings,
    User,
)
from eventstore.log.anchors import Anchor
from tests.attacks.support import make_login
from tests.support.erasing import everything, said
from tests.support.proxy import Proxy, proxied
from tests.support.server import Server
from tests.support.tampering import disarm
from tests.tampering.outsider import forge


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxied(server.socket) as running:
        yield running


def test_an_erasure_whose_answer_was_lost_is_reported_once(
    database_url: str, proxy: Proxy, admin: psycopg.Connection
) -> None:
    name = conninfo_to_dict(database_url)["dbname"]
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"
    with EventStore.connect(settings=Settings(database_url=url, pool_max_size=1)) as store:
        said(store.user("alice"))
        lost: list[bytes] = []

        def committed(data: bytes) -> bool:
            recorded = admin.execute(
                "select 1 from eventstore.event where type = 'ContentErased'"
            ).fetchone()
            if recorded and not lost:
                lost.append(data)
                return True
            return False

        proxy.lose_reply = committed
        done = store.erase("alice", ordered_by="alice")

        assert lost
        assert done.events > 0
        records = [one for one in store.user("alice").events() if one.type == "ContentErased"]
        assert [one.position for one in records] == [done.position]


def test_a_login_that_may_not_erase_changes_nothing(
    store: EventStore, alice: User, server: Server, database_url: str, admin: psycopg.Connection
) -> None:
    said(alice)
    make_login(server, "no_eraser", "eventstore_app", "eventstore_operator")
    before = everything(admin)

    with (
        EventStore.connect(database_url.replace("postgres@", "no_eraser@")) as service,
        pytest.raises(AccessDenied),
    ):
        service.erase("alice", ordered_by="alice")

    assert everything(admin) == before
    assert store.verify().ok


BY_HAND = {
    "without a record": (
        ("update eventstore.event set payload = null, metadata = null, salt = null,"
        " fingerprint = null where position = 2"), "erasure", 2),
    "in one column": ("update eventstore.event set payload = null where position = 2",
                      "payload", 2),
    "its salt": ("update eventstore.event set salt = null where position = 2", "payload", 2),
}  # fmt: skip


@pytest.mark.parametrize("how", BY_HAND)
def test_an_erasure_by_hand_is_found_at_its_position(
    store: EventStore, alice: User, admin: psycopg.Connection, how: str
) -> None:
    said(alice)
    disarm(admin)
    statement, kind, position = BY_HAND[how]

    admin.execute(statement)

    assert (kind, position) in {(one.kind, one.position) for one in store.verify().problems}


def test_a_payload_whose_salt_somebody_took_is_erased_too(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    said(alice)
    disarm(admin)
    admin.execute("update eventstore.event set salt = null where position in (2, 3)")

    done = store.erase("alice", ordered_by="alice")

    assert store.verify("alice").erased == done.events
    assert [row for row in everything(admin) if "zebra" in row] == []
    assert store.verify().ok


def test_a_forged_record_needs_a_chain_made_anew_which_an_anchor_finds(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    chat = said(alice)
    store.erase("alice", ordered_by="alice", conversation=chat)
    kept = Anchor(datetime.now(UTC), {one.user_id: one for one in store.heads()}, signed=False)
    disarm(admin)

    admin.execute(
        "update eventstore.event set payload = replace(payload::text, 'alice', 'bob')::json"
        " where type = 'ContentErased'"
    )

    assert "payload" in {one.kind for one in store.verify().problems}
    forge(admin, "alice")
    assert store.verify().ok
    assert {one.kind for one in store.verify(anchors=[kept]).problems} == {"anchor"}


def test_a_payload_put_back_after_its_erasure_is_found(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    said(alice)
    admin.execute("create table kept as select * from eventstore.event where position = 2")
    store.erase("alice", ordered_by="alice")
    disarm(admin)

    admin.execute(
        "update eventstore.event as e set payload = k.payload, metadata = k.metadata,"
        " salt = k.salt from kept as k where e.position = k.position"
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
def test_the_eraser_reads_nothing_and_changes_nothing_else(
    store: EventStore, alice: User, admin: psycopg.Connection, sql: str
) -> None:
    said(alice)

    with pytest.raises(psycopg.Error), admin.transaction():  # noqa: PT012 - one transaction
        admin.execute("set local role eventstore_eraser")
        admin.execute("select set_config('eventstore.user_id', 'alice', true)")
        admin.execute(sql)

    assert store.verify().ok


@pytest.mark.parametrize("scope", ["", "bob"])
def test_the_eraser_erases_in_the_scope_of_one_user_only(
    store: EventStore, alice: User, admin: psycopg.Connection, scope: str
) -> None:
    said(alice)

    with admin.transaction():
        admin.execute("set local role eventstore_eraser")
        admin.execute("select set_config('eventstore.user_id', %s, true)", (scope,))
        done = admin.execute("update eventstore.event set payload = null, metadata = null,"
                             " salt = null, fingerprint = null")  # fmt: skip

    assert done.rowcount == 0
    assert store.verify().erased == 0


def test_an_erasure_that_is_not_possible_says_so(
    store: EventStore, alice: User, admin: psycopg.Connection, server: Server, database_url: str
) -> None:
    said(alice)
    admin.execute("drop policy eraser_erases on eventstore.event")

    with pytest.raises(AccessDenied, match="the eraser role reached 0; nothing was erased"):
        store.erase("alice", ordered_by="alice")

    assert store.verify().erased == 0


def test_the_planner_forgets_what_was_said_with_the_next_analyze(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    for _ in range(3):
        alice.tasks.create("rhubarb")
    admin.execute("analyze eventstore.task")

    store.user("bob").tasks.create("Milk")  # of an empty table it keeps what it knew
    store.erase("alice", ordered_by="alice")
    admin.execute("analyze eventstore.task")

    (left,) = admin.execute(
        "select count(*) from pg_stats where schemaname = 'eventstore'"
        " and (most_common_vals::text ~ 'rhubarb' or histogram_bounds::text ~ 'rhubarb')"
    )
    assert left == (0,)


def test_tables_to_leave_are_a_list_and_no_text_that_a_name_may_be_part_of(
    store: EventStore, alice: User
) -> None:
    alice.tasks.create("x")

    with pytest.raises(InvalidInput, match=r"leave: .*; give a list"):
        store.erase("alice", ordered_by="x", leave="public.example_archive")
