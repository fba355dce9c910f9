"""Changes that verify finds only with an anchor, because the hash chain was recomputed too."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore import EventStore
from tests.support.server import Server
from tests.tampering.flips import LOG, READ_MODELS
from tests.tampering.full_log import LENGTH, find_problems, take_anchor, write_log
from tests.tampering.outsider import forge

_DELETE_TAIL = "delete from eventstore.event where user_id = %s and position > %s"


def hide_traces(store: EventStore, admin: psycopg.Connection, user_id: str) -> None:
    """Recompute the chain, the heads and the read models, so that verify finds no problem."""
    forge(admin, user_id)
    store.rebuild(user_id)


@pytest.mark.parametrize("position", range(1, LENGTH + 1))
def test_an_event_rewritten_together_with_its_chain_is_found_only_by_an_anchor(
    disarmed_store: EventStore, admin: psycopg.Connection, position: int
) -> None:
    for user_id in ("alice", "bob"):
        write_log(disarmed_store, user_id)
    anchor = take_anchor(disarmed_store)

    admin.execute(
        'update eventstore.event set metadata = \'{"said":"otherwise"}\''
        " where user_id = 'alice' and position = %s",
        (position,),
    )
    hide_traces(disarmed_store, admin, "alice")

    assert disarmed_store.verify().ok
    assert find_problems(disarmed_store, anchor) == {("alice", "anchor", LENGTH)}
    assert disarmed_store.verify(anchors=[anchor]).anchors == 1


@pytest.mark.parametrize("left", [1, 7, 9, LENGTH - 1])
def test_a_tail_deleted_together_with_its_heads_is_found_only_by_an_anchor(
    disarmed_store: EventStore, admin: psycopg.Connection, left: int
) -> None:
    write_log(disarmed_store, "alice")
    anchor = take_anchor(disarmed_store)

    admin.execute(_DELETE_TAIL, ("alice", left))
    hide_traces(disarmed_store, admin, "alice")

    assert disarmed_store.verify().ok
    (problem,) = disarmed_store.verify(anchors=[anchor]).problems
    assert (problem.kind, problem.position) == ("anchor", LENGTH)
    assert f"newer than the log, which ends at {left}:" in problem.detail


def test_a_deleted_tail_with_new_events_in_its_stead_is_found_only_by_an_anchor(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    anchor = take_anchor(disarmed_store)

    admin.execute(_DELETE_TAIL, ("alice", 9))
    hide_traces(disarmed_store, admin, "alice")
    for title in ("one", "two", "three", "four"):
        disarmed_store.user("alice").tasks.create(title)

    assert disarmed_store.verify().ok
    assert find_problems(disarmed_store, anchor) == {("alice", "anchor", LENGTH)}


def test_an_event_inserted_with_a_recomputed_chain_is_found_only_by_an_anchor(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    anchor = take_anchor(disarmed_store)

    # The last event moves first, because positions are unique at each statement.
    for position in range(LENGTH, 4, -1):
        admin.execute(
            "update eventstore.event set position = position + 1 where position = %s", (position,)
        )
    admin.execute(
        "insert into eventstore.stream values ('alice', gen_random_uuid(), 'task', 1, false)"
    )
    admin.execute(
        "insert into eventstore.event select e.user_id, 5, s.stream_id, 1, gen_random_uuid(),"
        " 'TaskCreated', 1, '{\"title\":\"never said\"}', '{}', null, null, null, null, null,"
        " e.recorded_at, e.salt, e.payload_digest, e.hash"
        " from eventstore.event as e join eventstore.stream as s using (user_id)"
        " where e.position = 4 and not exists (select from eventstore.event as o"
        " where o.stream_id = s.stream_id)"
    )
    hide_traces(disarmed_store, admin, "alice")

    assert disarmed_store.verify().ok
    assert [task.title for task in disarmed_store.user("alice").tasks.list()][-1] == "never said"
    assert find_problems(disarmed_store, anchor) == {("alice", "anchor", LENGTH)}


def test_a_user_whose_rows_were_all_deleted_is_found_only_by_an_anchor(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob"):
        write_log(disarmed_store, user_id)
    anchor = take_anchor(disarmed_store)

    for table in (*LOG, *READ_MODELS):
        admin.execute(f"delete from {table} where user_id = 'alice'")

    assert disarmed_store.verify().ok
    assert disarmed_store.users() == ["bob"]
    assert find_problems(disarmed_store, anchor) == {("alice", "anchor", LENGTH)}


def test_a_restored_backup_is_reported_as_older_than_the_anchor(
    server: Server, database_url: str, direct_url: str
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("before the backup")
    # A copy of the database stands for a backup that is restored later.
    copy = server.create_database(template=str(conninfo_to_dict(direct_url)["dbname"]))
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("after it")
        store.user("bob").tasks.create("came later")
        anchor = take_anchor(store)
        assert store.verify(anchors=[anchor]).ok

    try:
        with EventStore.connect(copy) as restored:
            found = restored.verify(anchors=[anchor])
            assert restored.verify().ok
    finally:
        server.drop_database(copy)

    assert {(one.user_id, one.kind, one.position) for one in found.problems} == {
        ("alice", "anchor", 2),
        ("bob", "anchor", 1),
    }
    assert all("the anchor is newer than the log" in one.detail for one in found.problems)


def test_two_anchors_narrow_the_position_of_a_change_in_either_order(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    disarmed_store.user("alice").tasks.create("first")
    early = take_anchor(disarmed_store)
    disarmed_store.user("alice").tasks.create("second")
    late = take_anchor(disarmed_store)
    disarmed_store.user("alice").tasks.create("third")

    admin.execute("update eventstore.event set causation_id = gen_random_uuid() where position = 2")
    hide_traces(disarmed_store, admin, "alice")

    for anchors in ([early, late], [late, early]):
        found = disarmed_store.verify(anchors=anchors)
        (problem,) = found.problems
        assert (problem.kind, problem.position, found.anchors) == ("anchor", 2, 1)
        assert "up to position 1 an anchor confirms it" in problem.detail


def test_the_same_anchor_twice_confirms_a_log_twice_and_reports_no_problem(
    disarmed_store: EventStore,
) -> None:
    write_log(disarmed_store, "alice")
    anchor = take_anchor(disarmed_store)

    found = disarmed_store.verify(anchors=[anchor, anchor])

    assert found.ok
    assert found.anchors == 2


def test_an_anchor_of_an_unknown_user_is_a_problem_of_that_user(
    disarmed_store: EventStore,
) -> None:
    write_log(disarmed_store, "alice")
    anchor = take_anchor(disarmed_store)
    (head,) = anchor.heads.values()
    ghost = replace(anchor, heads=anchor.heads | {"ghost": replace(head, user_id="ghost")})

    assert find_problems(disarmed_store, ghost) == {("ghost", "anchor", LENGTH)}
    assert disarmed_store.verify("alice", anchors=[ghost]).ok


def test_an_anchor_with_the_hash_of_another_log_is_reported(disarmed_store: EventStore) -> None:
    for user_id in ("alice", "bob"):
        write_log(disarmed_store, user_id)
    anchor = take_anchor(disarmed_store)

    crossed = replace(anchor, heads={"alice": replace(anchor.heads["bob"], user_id="alice")})

    assert find_problems(disarmed_store, crossed) == {("alice", "anchor", LENGTH)}
