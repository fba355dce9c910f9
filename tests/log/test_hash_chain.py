"""The hash chain: PostgreSQL and Python compute the same hashes, and verify finds every change."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventstore import EventStore, NewEvent, TaskCompleted, TaskCreated, TaskUpdated
from eventstore.admin.verify import Problem
from eventstore.log.hash_chain import ZERO_HASH, chain_hash, payload_digest
from eventstore.log.stored_event import ALL_COLUMNS, StoredEvent, select_list
from eventstore.log.tables import event as event_table
from tests.support.own_read_model import Boxed
from tests.support.properties import examples
from tests.support.tampering import disarm

# The pool's thread may use `random` while Hypothesis draws an example, and Hypothesis then warns.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")

# The stored hashes do not depend on the driver, so these tests run on one.
one_driver = pytest.mark.parametrize("store", ["sync"], indirect=True)

labels = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
user_ids = labels.map(lambda text: f"{text[:254]}.")  # one character must be visible
ids = st.none() | st.uuids(version=None)
few_streams = st.sampled_from([UUID(int=number) for number in range(3)])
# Boxes, because a task or conversation takes no event before it was created.
events = st.builds(
    NewEvent,
    stream_id=st.uuids() | few_streams,
    data=st.builds(Boxed, done=st.just("seen"), name=st.text(), value=st.none() | st.text()),
    event_id=st.uuids(),
    correlation_id=ids,
    causation_id=ids,
    metadata=st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def boxed(stream_id: UUID) -> NewEvent:
    return NewEvent(stream_id=stream_id, data=Boxed(done="seen"))


STORED = f"""
select {select_list(ALL_COLUMNS)} from eventstore.event where user_id = %s order by position
""".encode()


@given(
    user_id=user_ids,
    appends=st.lists(st.tuples(st.none() | user_ids, st.lists(events, min_size=1, max_size=5))),
)
@example("ü日本🛒\n", [("clé:,-\U0010ffff", [boxed(UUID(int=0))])])
@example("1:1,", [("-,", [boxed(UUID(int=2**128 - 1))] * 11), (None, [boxed(UUID(int=7))] * 2)])
# One event without a key, of a stream that is new and of one that exists.
@example("-", [(None, [boxed(UUID(int=7))]), (None, [boxed(UUID(int=7))])])
@examples(30)
def test_the_database_computes_the_specified_hashes(
    service_store: EventStore,
    admin: psycopg.Connection,
    user_id: str,
    appends: list[tuple[str | None, list[NewEvent]]],
) -> None:
    user = service_store.user(user_id)
    for number, (key, batch) in enumerate(appends):
        if key is None:
            with user.transaction() as tx:
                for one in batch:
                    tx.append(one.stream_id, one.data)
        else:
            user.append(batch, idempotency_key=f"{uuid4()} {number} {key}"[:255])

    stored = [StoredEvent(*row) for row in admin.execute(STORED, (user_id,))]

    computed = ZERO_HASH
    for event in stored:
        computed = chain_hash(computed, user_id, event)
        assert event.hash == computed
    head = admin.execute("select hash from eventstore.user_log where user_id = %s", (user_id,))
    assert [row[0] for row in head] == ([computed] if stored else [])


@one_driver
def test_a_payload_digest_covers_the_stored_text_and_a_random_salt(
    store: EventStore, admin: psycopg.Connection
) -> None:
    metadata = {"z": "\0\ud800", "a": 2**70}
    twins = [
        NewEvent(stream_id=uuid4(), data=TaskCreated(title="Milch für Zoë 🛒"), metadata=metadata)
        for _ in range(2)
    ]
    store.user("alice").append(twins)

    rows = admin.execute(
        "select salt, payload::text, metadata::text, payload_digest from eventstore.event"
    ).fetchall()

    assert [payload_digest(*row[:3]) for row in rows] == [row[3] for row in rows]
    assert len({salt for salt, *_ in rows}) == len({digest for *_, digest in rows}) == 2
    assert {len(salt) for salt, *_ in rows} == {16}


def test_the_hashed_form_of_an_event_never_changes() -> None:
    digest = payload_digest(b"salt of 16 bytes", '{"a":"ü"}', "{}")
    full = StoredEvent(
        payload=None,
        metadata=None,
        position=12,
        stream_id=UUID(int=1),
        version=3,
        event_id=UUID(int=2),
        type="TaskCreated",
        schema_version=1,
        payload_digest=digest,
        correlation_id=UUID(int=3),
        causation_id=None,
        occurred_at=datetime(1999, 12, 31, 23, 59, 59, 999999, UTC),
        idempotency_key="a,b:c",
        append_size=2,
        recorded_at=datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
    )
    plain = full._replace(
        correlation_id=None, occurred_at=None, idempotency_key=None, append_size=None
    )
    absent, two, zeros = "ffffffff", "00000002", "0" * 31

    assert digest == sha256(b'salt of 16 bytes\0\0\0\n{"a":"\xc3\xbc"}{}').digest()
    # The microsecond before the beginning of 2000.
    occurred = "00000008 ffffffffffffffff"
    for event, correlation, when, size, key in (
        (full, f"00000010{zeros}3", occurred, two, "00000005 612c623a63"),
        (plain, absent, absent, absent, absent),
    ):
        inner = bytes.fromhex(
            f"{zeros}1 {zeros}2 {digest.hex()} {correlation} {absent} {when}"
            f"00000001 {size}"
            f"00000004 7a6fc3ab 0000000b {b'TaskCreated'.hex()} {key}"
        )
        # The microseconds are counted from the beginning of 2000.
        place = bytes.fromhex("000000000000000c 0000000000000003 0002ea5dbb1f6f35")
        outer = b"before" + place + sha256(inner).digest()
        assert chain_hash(b"before", "zoë", event) == sha256(outer).digest()


def append_four_events(store: EventStore, user_id: str) -> None:
    """Append four events, of which the second has every optional field."""
    user, stream = store.user(user_id), uuid4()
    user.append([NewEvent(stream_id=stream, data=TaskCreated(title="Buy milk"))])
    full = NewEvent(
        stream_id=stream,
        data=TaskUpdated(title="Buy oat milk"),
        correlation_id=uuid4(),
        causation_id=uuid4(),
        metadata={"model": "m"},
        occurred_at=datetime(2024, 1, 5, 8, tzinfo=UTC),
    )
    user.append([full], idempotency_key="change")
    user.append([NewEvent(stream_id=stream, data=TaskCompleted())])
    user.append([NewEvent(stream_id=uuid4(), data=TaskCreated(title="Fly"))])


def summary(problems: tuple[Problem, ...]) -> set[tuple[str, str, int | None]]:
    return {(problem.user_id, problem.kind, problem.position) for problem in problems}


# For each column, its new value in the event at position 2 and the problem that verify reports.
CHANGES: dict[str, tuple[str, tuple[str, int]]] = {
    "user_id": ("'mallory'", ("gap", 3)),
    "position": ("20", ("gap", 3)),
    "stream_id": ("gen_random_uuid()", ("hash", 2)),
    "version": ("20", ("version", 2)),
    "event_id": ("gen_random_uuid()", ("hash", 2)),
    "type": ("'TaskCreated'", ("hash", 2)),
    "schema_version": ("2", ("hash", 2)),
    "payload": ("""'{"title":"Buy beer"}'""", ("payload", 2)),
    "metadata": ("""'{"model": "m"}'""", ("payload", 2)),
    "correlation_id": ("gen_random_uuid()", ("hash", 2)),
    "causation_id": ("null", ("hash", 2)),
    "occurred_at": ("null", ("hash", 2)),
    "idempotency_key": ("'Change'", ("hash", 2)),
    "append_size": ("append_size + 1", ("hash", 2)),
    "recorded_at": ("recorded_at + interval '1 microsecond'", ("hash", 2)),
    "salt": ("sha256(salt)", ("payload", 2)),
    "payload_digest": ("sha256(payload_digest)", ("payload", 2)),
    "hash": ("sha256(hash)", ("hash", 2)),
}


@one_driver
def test_verify_finds_a_change_of_any_column_of_an_event(
    store: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in (*CHANGES, "untouched"):
        append_four_events(store, user_id)
    before = store.verify()
    disarm(admin)

    for column, (value, _) in CHANGES.items():
        changed = admin.execute(
            f"update eventstore.event set {column} = {value} where user_id = %s and position = 2",
            (column,),
        )
        assert changed.rowcount == 1

    after = summary(store.verify().problems)
    missed = [name for name, (_, problem) in CHANGES.items() if (name, *problem) not in after]
    assert before.ok
    assert list(CHANGES) == [column.name for column in event_table.columns]
    assert missed == []
    assert {user_id for user_id, *_ in after} == {*CHANGES, "mallory"}


TAMPERINGS: dict[str, tuple[str, tuple[str, int | None]]] = {
    "deleted event": ("delete from eventstore.event where position = 2", ("gap", 3)),
    "deleted last event": ("delete from eventstore.event where position = 4", ("head", 4)),
    "deleted events": ("delete from eventstore.event where true", ("head", 4)),
    "deleted head": ("delete from eventstore.user_log where true", ("head", 0)),
    "head position": ("update eventstore.user_log set position = 5 where true", ("head", 5)),
    "head hash": ("update eventstore.user_log set hash = sha256(hash) where true", ("head", 4)),
    "head time": ("update eventstore.user_log set recorded_at = now() where true", ("head", 4)),
    "event time": (
        "update eventstore.event set recorded_at = '2000-1-1' where position = 3",
        ("time", 3),
    ),
    "stream version": ("update eventstore.stream set version = 7 where true", ("stream", None)),
    "stream closed": (
        "update eventstore.stream set closed = not closed where true",
        ("stream", None),
    ),
    "stream kind": (
        "update eventstore.stream set kind = 'conversation' where true",
        ("stream", None),
    ),
    "deleted stream": ("delete from eventstore.stream where true", ("stream", None)),
}


@one_driver
def test_verify_finds_a_missing_event_and_a_changed_head_or_stream(
    store: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in (*TAMPERINGS, "untouched"):
        append_four_events(store, user_id)

    disarm(admin)
    for user_id, (tampering, _) in TAMPERINGS.items():
        changed = admin.execute(f"{tampering} and user_id = %s", (user_id,))
        assert changed.rowcount >= 1

    after = summary(store.verify().problems)
    missed = [name for name, (_, problem) in TAMPERINGS.items() if (name, *problem) not in after]
    assert missed == []
    assert {user_id for user_id, *_ in after} == {*TAMPERINGS}


@one_driver
def test_a_changed_event_is_reported_once_and_not_for_the_events_after_it(
    store: EventStore, admin: psycopg.Connection
) -> None:
    append_four_events(store, "alice")

    disarm(admin)
    admin.execute("update eventstore.event set causation_id = event_id where position = 1")

    assert summary(store.verify().problems) == {("alice", "hash", 1)}
