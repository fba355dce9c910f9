"""Events deleted, swapped, moved, doubled and inserted: each is found at its position."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from eventstore import EventStore
from tests.support.own_read_model import service_url
from tests.tampering.given import LENGTH, MIDDLE, anchored, armed, given_a_log, seen
from tests.tampering.outsider import forge

__all__ = ["armed", "service_url"]

_INSERT = """
insert into eventstore.event
select {user}, {position}, stream_id, {version}, gen_random_uuid(), type, schema_version, payload,
       metadata, correlation_id, causation_id, gen_random_uuid()::text, fingerprint, recorded_at,
       salt, payload_digest, hash
from eventstore.event where user_id = %(user)s and position = {like}
"""


def _moved(at: int, to: str) -> str:
    return (
        f"update eventstore.event set position = {to} where user_id = %(user)s and position = {at}"
    )


_HEAD_BACK = """
update eventstore.user_log as l set position = e.position, hash = e.hash,
       recorded_at = e.recorded_at
from eventstore.event as e
where l.user_id = %(user)s and e.user_id = l.user_id and e.position = 11
"""

# What is done to a log of twelve, and one of the problems that must be told: kind and position.
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
    "one is deleted and those after it close the gap": (
        [
            "delete from eventstore.event where user_id = %(user)s and position = 5",
            *(_moved(at, str(at - 1)) for at in range(6, LENGTH + 1)),
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
        [_moved(6, "99"), _moved(7, "6"), _moved(99, "7")],
        ("hash", 6),
    ),
    "one is moved to the end": ([_moved(5, "13")], ("hash", 13)),
    "one is doubled at the end": (
        [_INSERT.format(user="%(user)s", position=13, version=99, like=5)],
        ("head", 12),
    ),
    "one is doubled and the head moved on": (
        [
            _INSERT.format(user="%(user)s", position=13, version=6, like=9),
            "update eventstore.user_log set position = 13 where user_id = %(user)s",
        ],
        ("hash", 13),
    ),
    "one is inserted in the middle": (
        [
            *(_moved(at, str(at + 1)) for at in range(LENGTH, 4, -1)),
            _INSERT.format(user="%(user)s", position=5, version=99, like=6),
        ],
        ("hash", 5),
    ),
    "one that nobody wrote stands far beyond the end": (
        [_INSERT.format(user="%(user)s", position=100, version=99, like=5)],
        ("gap", 100),
    ),
}


def test_events_deleted_moved_swapped_doubled_or_inserted_are_found_at_their_position(
    armed: EventStore,
    admin: psycopg.Connection,
    record_property: Callable[[str, object], None],
) -> None:
    for user_id in (*TAMPERINGS, "untouched"):
        given_a_log(armed, user_id)

    for user_id, (statements, _) in TAMPERINGS.items():
        for statement in statements:
            assert admin.execute(statement, {"user": user_id}).rowcount >= 1

    after = seen(armed)
    unseen = [name for name, (_, problem) in TAMPERINGS.items() if (name, *problem) not in after]
    record_property("manipulations tried", len(TAMPERINGS))
    record_property("manipulations found", len(TAMPERINGS) - len(unseen))
    assert unseen == []
    assert {user_id for user_id, *_ in after} == {*TAMPERINGS}


def test_an_event_moved_to_another_user_is_missed_by_one_and_strange_to_the_other(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob", "carol"):
        given_a_log(armed, user_id)

    admin.execute(
        "update eventstore.event set user_id = 'bob', position = 13"
        " where user_id = 'alice' and position = 12"
    )

    after = seen(armed)
    assert ("alice", "head", 12) in after
    assert ("bob", "hash", 13) in after
    assert "carol" not in {user_id for user_id, *_ in after}


def test_a_whole_log_under_another_name_does_not_fit_its_hashes(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")

    for table in ("event", "stream", "user_log", "task"):
        admin.execute(f"update eventstore.{table} set user_id = 'eve' where user_id = 'alice'")

    assert ("eve", "hash", 1) in seen(armed)


def test_an_event_moved_to_another_user_with_both_chains_made_anew_needs_an_anchor(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob"):
        given_a_log(armed, user_id)
    kept = anchored(armed)

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
        armed.rebuild(user_id)

    assert armed.verify().ok  # inside the database nothing tells
    assert seen(armed, kept) == {("alice", "anchor", 12)}


def test_a_forged_chain_of_nothing_is_what_the_database_wrote(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")
    rows = "select e::text from eventstore.event as e order by position"
    before = admin.execute(rows).fetchall()

    forge(admin, "alice")

    assert admin.execute(rows).fetchall() == before
    assert armed.verify().ok


@pytest.mark.parametrize("position", [1, MIDDLE, LENGTH])
def test_a_rewritten_event_is_hidden_only_if_every_hash_to_the_end_is_made_anew(
    armed: EventStore, admin: psycopg.Connection, position: int
) -> None:
    given_a_log(armed, "alice")

    admin.execute(
        "update eventstore.event set causation_id = gen_random_uuid() where position = %s",
        (position,),
    )

    assert seen(armed) == {("alice", "hash", position)}
    forge(admin, "alice")
    assert armed.verify().ok
