"""A log too long for memory is verified in parts, which together report each problem once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventstore.admin.verify
import eventstore.database.pages
from eventstore import EventStore
from tests.support.own_read_model import box_event
from tests.tampering.full_log import write_log

# Changes that verify must report; each is limited to the rows of one user.
STATEMENTS = {
    "task edited": "update eventstore.task set title = 'x'",
    "task removed": "delete from eventstore.task",
    "message edited": "update eventstore.message set sender = 'x'",
    "one message edited": "update eventstore.message set content = 'x' where position = 2",
    "box removed": "delete from service.box",
    "boxes edited": "update service.box set note = 'x' where name > 'b'",
    "boxes added": "insert into service.box select user_id, gen_random_uuid(), name, n, note,"
    " body, items, position, version, recorded_at from service.box",
    "done removed": "delete from service.done",
    "stream moved": "update eventstore.stream set version = version + 1",
    "event edited": "update eventstore.event set metadata = '5' where position = 5",
    "event removed": "delete from eventstore.event where position = 12",
    "head back": "update eventstore.user_log set position = position - 1",
}


@contextmanager
def pages(events: int, rows: int, stored: int = 2**30) -> Iterator[None]:
    """Make passes and pages small, so that a short log is treated like one of gigabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eventstore.admin.verify, "EVENTS_PER_PASS", events)
        patch.setattr(eventstore.admin.verify, "BYTES_PER_PASS", max(300, 2 * stored))
        patch.setattr(eventstore.database.pages, "PAGE_ROWS", rows)
        patch.setattr(eventstore.database.pages, "PAGE_BYTES", stored)
        yield


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chosen=st.sets(st.sampled_from(sorted(STATEMENTS)), max_size=4),
    events=st.integers(1, 13),
    rows=st.integers(1, 4),
    stored=st.sampled_from([1, 100, 300, 1000, 2**30]),
)
def test_a_verification_in_parts_reports_each_problem_of_one_pass_once(
    disarmed_store: EventStore,
    admin: psycopg.Connection,
    chosen: set[str],
    events: int,
    rows: int,
    stored: int,
) -> None:
    user_id = str(uuid4())
    write_log(disarmed_store, user_id)
    disarmed_store.user(user_id).append(
        [box_event(uuid4(), "made", name=name) for name in ("a", "b", "c")]
    )
    for name in chosen:
        glue = "and" if " where " in STATEMENTS[name] else "where"
        statement = f"{STATEMENTS[name]} {glue} user_id = %s"
        admin.execute(statement, (user_id,))

    one_pass = disarmed_store.verify(user_id)
    with pages(events, rows, stored):
        parts = disarmed_store.verify(user_id)

    assert Counter(parts.problems) == Counter(one_pass.problems)
    assert max(Counter(parts.problems).values(), default=1) == 1
    assert (parts.events, parts.erased) == (one_pass.events, one_pass.erased)
    assert one_pass.ok is not bool(chosen)


class Priority(StrEnum):
    """A key that a projector gives as an enum and the database stores as text."""

    HIGH = "high"


def test_an_enum_key_belongs_to_the_same_part_as_its_text() -> None:
    from eventstore.admin.verify import _keys_of_part

    disagreeing = [
        parts
        for parts in range(2, 20)
        if (keep := _keys_of_part(0, parts)) is not None
        and keep((Priority.HIGH,)) != keep(("high",))
    ]

    assert disagreeing == []


def test_an_unchanged_log_has_no_problem_in_any_number_of_parts(service_store: EventStore) -> None:
    write_log(service_store, "alice")
    for events in range(1, 15):
        counts: list[int] = []
        with pages(events, 2):
            found = service_store.verify(seen=counts.append)
        assert found.ok
        assert sum(counts) == found.events
        assert len(counts) > found.events / 2  # progress is reported for each page of each pass


def test_a_log_of_few_large_events_is_verified_in_parts_too(disarmed_store: EventStore) -> None:
    write_log(disarmed_store, "alice")
    counts: list[int] = []

    with pages(events=1_000, rows=1_000, stored=100):
        found = disarmed_store.verify("alice", seen=counts.append)

    assert found.ok
    assert sum(counts) == found.events
    assert len(counts) > found.events  # several passes over pages of one or two events
