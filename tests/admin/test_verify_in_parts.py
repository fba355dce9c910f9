"""A log too long for memory is verified in parts, and they find what one pass finds, once each."""

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
from eventstore.admin.verify import Problem
from tests.support.own_read_model import Boxed, boxed, project_box, project_done, service_url
from tests.tampering.given import armed, given_a_log

__all__ = ["armed", "service_url"]

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
    """Make passes and pages small: what would take a log of millions, or of gigabytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eventstore.admin.verify, "EVENTS_PER_PASS", events)
        patch.setattr(eventstore.admin.verify, "BYTES_PER_PASS", max(300, 2 * stored))
        patch.setattr(eventstore.database.pages, "PAGE_ROWS", rows)
        patch.setattr(eventstore.database.pages, "PAGE_BYTES", stored)
        yield


def counted(problems: tuple[Problem, ...]) -> Counter[Problem]:
    return Counter(problems)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chosen=st.sets(st.sampled_from(sorted(STATEMENTS)), max_size=4),
    events=st.integers(1, 13),
    rows=st.integers(1, 4),
    stored=st.sampled_from([1, 100, 300, 1000, 2**30]),
)
def test_parts_find_what_one_pass_finds_and_each_once(
    armed: EventStore,
    admin: psycopg.Connection,
    chosen: set[str],
    events: int,
    rows: int,
    stored: int,
) -> None:
    user_id = str(uuid4())
    given_a_log(armed, user_id)
    armed.user(user_id).append([boxed(uuid4(), "made", name=name) for name in ("a", "b", "c")])
    for name in chosen:
        glue = "and" if " where " in STATEMENTS[name] else "where"
        statement = f"{STATEMENTS[name]} {glue} user_id = %s"
        admin.execute(statement, (user_id,))

    whole = armed.verify(user_id)
    with pages(events, rows, stored):
        parts = armed.verify(user_id)

    assert counted(parts.problems) == counted(whole.problems)
    assert max(counted(parts.problems).values(), default=1) == 1
    assert (parts.events, parts.erased) == (whole.events, whole.erased)
    assert whole.ok is not bool(chosen)


class Colour(StrEnum):
    """A key that is text to the database and more than that to the projector."""

    RED = "red"


def test_a_key_that_a_projector_gives_as_an_enum_is_in_the_part_of_its_text(
    armed: EventStore,
) -> None:
    from eventstore.admin.verify import _keys_of_part

    apart = [
        parts
        for parts in range(2, 20)
        if (keep := _keys_of_part(0, parts)) is not None and keep((Colour.RED,)) != keep(("red",))
    ]

    assert apart == []


def test_a_clean_log_is_clean_in_any_number_of_parts(service_url: str) -> None:
    with EventStore.connect(
        service_url, projectors=[project_box, project_done], events=[Boxed]
    ) as store:
        given_a_log(store, "alice")
        for events in range(1, 15):
            seen: list[int] = []
            with pages(events, 2):
                found = store.verify(seen=seen.append)
            assert found.ok
            assert sum(seen) == found.events
            assert len(seen) > found.events / 2  # told page by page, in each pass


def test_a_log_of_few_large_events_is_verified_in_parts_too(armed: EventStore) -> None:
    given_a_log(armed, "alice")
    seen: list[int] = []

    with pages(events=1_000, rows=1_000, stored=100):
        found = armed.verify("alice", seen=seen.append)

    assert found.ok
    assert sum(seen) == found.events
    assert len(seen) > found.events  # pages of an event or two, in several passes
