"""Events that were deleted, swapped, moved, copied or inserted are found at their positions."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from eventstore import EventStore
from tests.tampering.full_log import LENGTH, MIDDLE, find_problems, take_anchor, write_log
from tests.tampering.outsider import forge

# Copies an event to another position and version.
_INSERT = """
insert into eventstore.event
select {user}, {position}, stream_id, {version}, gen_random_uuid(), type, schema_version, payload,
       metadata, correlation_id, causation_id, occurred_at, gen_random_uuid()::text, 1,
       recorded_at, salt, payload_digest, hash
from eventstore.event where user_id = %(user)s and position = {like}
"""


def _move(at: int, to: str) -> str:
    return (
        f"update eventstore.event set position = {to} where user_id = %(user)s and position = {at}"
    )


_HEAD_BACK = """
update eventstore.user_log as l set position = e.position, hash = e.hash,
       recorded_at = e.recorded_at
from eventstore.event as e
where l.user_id = %(user)s and e.user_id = l.user_id and e.position = 11
"""

# The statements that change a log of twelve events, and one problem that verify must report.
TAMPERINGS: dict[str, tuple[list[str], tuple[str, int]]] = {
    "the first is deleted": (
        ["delete from eventstore.event where user_id = %(user)s and position = 1"],
        ("gap", 2),
    ),
    "one in the middle is deleted": (
        ["delete from eventstore.event where user_id = %(user)s and position = 5"],
        ("gap", 6),
    ),
    "a run in the middle is deleted": (
        ["delete from eventstore.event where user_id = %(user)s and position between 5 and 8"],
        ("gap", 9),
    ),
    "one is deleted and the later ones close the gap": (
        [
            "delete from eventstore.event where user_id = %(user)s and position = 5",
            *(_move(at, str(at - 1)) for at in range(6, LENGTH + 1)),
        ],
        ("hash", 5),
    ),
    "the last is deleted": (
        ["delete from eventstore.event where user_id = %(user)s and position = 12"],
        ("head", 12),
    ),
    "the last is deleted and the position of the head put back": (
        [
            "delete from eventstore.event where user_id = %(user)s and position = 12",
            "update eventstore.user_log set position = 11 where user_id = %(user)s",
        ],
        ("head", 11),
    ),
    "all are deleted": (["delete from eventstore.event where user_id = %(user)s"], ("head", 12)),
    "two payloads are swapped": (
        [
            (
                "update eventstore.event as e set payload = o.payload from eventstore.event as o"
                " where e.user_id = %(user)s and o.user_id = e.user_id"
                " and (e.position, o.position) in ((6, 7), (7, 6))"
            )
        ],
        ("payload", 6),
    ),
    "two payloads are swapped with salt and digest": (
        [
            (
                "update eventstore.event as e set payload = o.payload, salt = o.salt,"
                " payload_digest = o.payload_digest from eventstore.event as o"
                " where e.user_id = %(user)s and o.user_id = e.user_id"
                " and (e.position, o.position) in ((6, 7), (7, 6))"
            )
        ],
        ("hash", 6),
    ),
    "two positions are swapped": (
        [_move(6, "99"), _move(7, "6"), _move(99, "7")],  # positions are unique at any time
        ("hash", 6),
    ),
    "one is moved to the end": ([_move(5, "13")], ("hash", 13)),
    "one is copied at the end": (
        [_INSERT.format(user="%(user)s", position=13, version=99, like=5)],
        ("head", 12),
    ),
    "one is copied and the head moved on": (
        [
            _INSERT.format(user="%(user)s", position=13, version=6, like=9),
            "update eventstore.user_log set position = 13 where user_id = %(user)s",
        ],
        ("hash", 13),
    ),
    "one is inserted in the middle": (
        [
            *(_move(at, str(at + 1)) for at in range(LENGTH, 4, -1)),
            _INSERT.format(user="%(user)s", position=5, version=99, like=6),
        ],
        ("hash", 5),
    ),
    "one is inserted far beyond the end": (
        [_INSERT.format(user="%(user)s", position=100, version=99, like=5)],
        ("gap", 100),
    ),
}


def test_events_deleted_moved_swapped_copied_or_inserted_are_found_at_their_position(
    disarmed_store: EventStore,
    admin: psycopg.Connection,
    record_property: Callable[[str, object], None],
) -> None:
    for user_id in (*TAMPERINGS, "untouched"):
        write_log(disarmed_store, user_id)

    for user_id, (statements, _) in TAMPERINGS.items():
        for statement in statements:
            assert admin.execute(statement, {"user": user_id}).rowcount >= 1

    after = find_problems(disarmed_store)
    missed = [name for name, (_, problem) in TAMPERINGS.items() if (name, *problem) not in after]
    record_property("manipulations tried", len(TAMPERINGS))
    record_property("manipulations found", len(TAMPERINGS) - len(missed))
    assert missed == []
    assert {user_id for user_id, *_ in after} == {*TAMPERINGS}


def test_an_event_moved_to_another_user_is_reported_for_both_users(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob", "carol"):
        write_log(disarmed_store, user_id)

    admin.execute(
        "update eventstore.event set user_id = 'bob', position = 13"
        " where user_id = 'alice' and position = 12"
    )

    after = find_problems(disarmed_store)
    assert ("alice", "head", 12) in after
    assert ("bob", "hash", 13) in after
    assert "carol" not in {user_id for user_id, *_ in after}


def test_a_log_moved_to_another_user_does_not_match_its_hashes(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")

    for table in ("event", "stream", "user_log", "task"):
        admin.execute(f"update eventstore.{table} set user_id = 'eve' where user_id = 'alice'")

    assert ("eve", "hash", 1) in find_problems(disarmed_store)


def test_an_event_moved_with_both_chains_recomputed_is_found_only_by_an_anchor(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob"):
        write_log(disarmed_store, user_id)
    anchor = take_anchor(disarmed_store)

    admin.execute(
        "update eventstore.event set user_id = 'bob', position = 13, version = 1,"
        " stream_id = '00000000-0000-0000-0000-00000000000b', idempotency_key = 'moved',"
        " recorded_at = clock_timestamp(),"
        " payload = '{\"title\":\"Milk\"}', type = 'TaskCreated'"
        " where user_id = 'alice' and position = 12"
    )
    admin.execute(
        "insert into eventstore.stream values"
        " ('bob', '00000000-0000-0000-0000-00000000000b', 'task', 1, false)"
    )
    for user_id in ("alice", "bob"):
        forge(admin, user_id)
        disarmed_store.rebuild(user_id)

    assert disarmed_store.verify().ok  # the database is consistent in itself
    assert find_problems(disarmed_store, anchor) == {("alice", "anchor", 12)}


def test_a_chain_recomputed_from_an_unchanged_log_equals_the_stored_chain(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    rows = "select e::text from eventstore.event as e order by position"
    before = admin.execute(rows).fetchall()

    forge(admin, "alice")

    assert admin.execute(rows).fetchall() == before
    assert disarmed_store.verify().ok


@pytest.mark.parametrize("position", [1, MIDDLE, LENGTH])
def test_a_rewritten_event_is_hidden_only_if_all_later_hashes_are_recomputed(
    disarmed_store: EventStore, admin: psycopg.Connection, position: int
) -> None:
    write_log(disarmed_store, "alice")

    admin.execute(
        "update eventstore.event set causation_id = gen_random_uuid() where position = %s",
        (position,),
    )

    assert find_problems(disarmed_store) == {("alice", "hash", position)}
    forge(admin, "alice")
    assert disarmed_store.verify().ok
