"""What verify cannot tell, because the chain was made anew, and an anchor kept outside can."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore import EventStore
from tests.support.own_read_model import service_url
from tests.support.server import Server
from tests.tampering.given import LENGTH, anchored, armed, given_a_log, seen
from tests.tampering.outsider import forge

__all__ = ["armed", "service_url"]

_TRUNCATE = "delete from eventstore.event where user_id = %s and position > %s"


def hidden(store: EventStore, admin: psycopg.Connection, user_id: str) -> None:
    """Make chain, heads and read models fit, so that the database agrees with itself."""
    forge(admin, user_id)
    store.rebuild(user_id)


@pytest.mark.parametrize("position", range(1, LENGTH + 1))
def test_history_rewritten_with_its_chain_is_found_by_an_anchor_alone(
    armed: EventStore, admin: psycopg.Connection, position: int
) -> None:
    for user_id in ("alice", "bob"):
        given_a_log(armed, user_id)
    kept = anchored(armed)

    admin.execute(
        'update eventstore.event set metadata = \'{"said":"otherwise"}\''
        " where user_id = 'alice' and position = %s",
        (position,),
    )
    hidden(armed, admin, "alice")

    assert armed.verify().ok
    assert seen(armed, kept) == {("alice", "anchor", LENGTH)}
    assert armed.verify(anchors=[kept]).anchors == 1


@pytest.mark.parametrize("left", [1, 7, 9, LENGTH - 1])
def test_a_tail_cut_off_with_its_heads_is_found_by_an_anchor_alone(
    armed: EventStore, admin: psycopg.Connection, left: int
) -> None:
    given_a_log(armed, "alice")
    kept = anchored(armed)

    admin.execute(_TRUNCATE, ("alice", left))
    hidden(armed, admin, "alice")

    assert armed.verify().ok
    (problem,) = armed.verify(anchors=[kept]).problems
    assert (problem.kind, problem.position) == ("anchor", LENGTH)
    assert f"newer than the log, which ends at {left}:" in problem.detail


def test_a_cut_tail_that_grew_again_is_found_by_an_anchor_alone(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")
    kept = anchored(armed)

    admin.execute(_TRUNCATE, ("alice", 9))
    hidden(armed, admin, "alice")
    for title in ("one", "two", "three", "four"):
        armed.user("alice").tasks.create(title)

    assert armed.verify().ok
    assert seen(armed, kept) == {("alice", "anchor", LENGTH)}


def test_an_inserted_event_with_the_chain_made_anew_is_found_by_an_anchor_alone(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")
    kept = anchored(armed)

    for position in range(LENGTH, 4, -1):
        admin.execute(
            "update eventstore.event set position = position + 1 where position = %s", (position,)
        )
    admin.execute(
        "insert into eventstore.stream values ('alice', gen_random_uuid(), 'task', 1, false)"
    )
    admin.execute(
        "insert into eventstore.event select e.user_id, 5, s.stream_id, 1, gen_random_uuid(),"
        " 'TaskCreated', 1, '{\"title\":\"never said\"}', '{}', null, null, null, null,"
        " e.recorded_at, e.salt, e.payload_digest, e.hash"
        " from eventstore.event as e join eventstore.stream as s using (user_id)"
        " where e.position = 4 and not exists (select from eventstore.event as o"
        " where o.stream_id = s.stream_id)"
    )
    hidden(armed, admin, "alice")

    assert armed.verify().ok
    assert [task.title for task in armed.user("alice").tasks.list()][-1] == "never said"
    assert seen(armed, kept) == {("alice", "anchor", LENGTH)}


def test_a_user_that_was_removed_without_a_trace_is_found_by_an_anchor_alone(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob"):
        given_a_log(armed, user_id)
    kept = anchored(armed)

    for table in ("eventstore.event", "eventstore.stream", "eventstore.user_log",
                  "eventstore.message", "eventstore.conversation", "eventstore.task",
                  "service.box", "service.done"):  # fmt: skip
        admin.execute(f"delete from {table} where user_id = 'alice'")

    assert armed.verify().ok
    assert armed.users() == ["bob"]
    assert seen(armed, kept) == {("alice", "anchor", LENGTH)}


def test_a_restored_copy_is_older_than_the_anchor(
    server: Server, database_url: str, direct_url: str
) -> None:
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("before the backup")
    copy = server.create_database(template=str(conninfo_to_dict(direct_url)["dbname"]))
    with EventStore.connect(database_url) as store:
        store.user("alice").tasks.create("after it")
        store.user("bob").tasks.create("came later")
        kept = anchored(store)
        assert store.verify(anchors=[kept]).ok

    try:
        with EventStore.connect(copy) as restored:
            found = restored.verify(anchors=[kept])
            assert restored.verify().ok
    finally:
        server.drop_database(copy)

    assert {(one.user_id, one.kind, one.position) for one in found.problems} == {
        ("alice", "anchor", 2),
        ("bob", "anchor", 1),
    }
    assert all("the anchor is newer than the log" in one.detail for one in found.problems)


def test_two_anchors_narrow_the_place_whatever_their_order(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    armed.user("alice").tasks.create("first")
    early = anchored(armed)
    armed.user("alice").tasks.create("second")
    late = anchored(armed)
    armed.user("alice").tasks.create("third")

    admin.execute("update eventstore.event set causation_id = gen_random_uuid() where position = 2")
    hidden(armed, admin, "alice")

    for anchors in ([early, late], [late, early]):
        found = armed.verify(anchors=anchors)
        (problem,) = found.problems
        assert (problem.kind, problem.position, found.anchors) == ("anchor", 2, 1)
        assert "up to position 1 an anchor confirms it" in problem.detail


def test_one_anchor_given_twice_confirms_twice_and_accuses_nobody(armed: EventStore) -> None:
    given_a_log(armed, "alice")
    kept = anchored(armed)

    found = armed.verify(anchors=[kept, kept])

    assert found.ok
    assert found.anchors == 2


def test_an_anchor_of_a_user_that_never_was_is_a_problem_of_that_user(armed: EventStore) -> None:
    given_a_log(armed, "alice")
    kept = anchored(armed)
    (head,) = kept.heads.values()
    ghost = replace(kept, heads=kept.heads | {"ghost": replace(head, user_id="ghost")})

    assert seen(armed, ghost) == {("ghost", "anchor", LENGTH)}
    assert armed.verify("alice", anchors=[ghost]).ok


def test_an_anchored_hash_of_another_log_does_not_fit(armed: EventStore) -> None:
    for user_id in ("alice", "bob"):
        given_a_log(armed, user_id)
    kept = anchored(armed)

    crossed = replace(kept, heads={"alice": replace(kept.heads["bob"], user_id="alice")})

    assert seen(armed, crossed) == {("alice", "anchor", LENGTH)}
