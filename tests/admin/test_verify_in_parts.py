"""A log too long for memory is verified in parts, which together report each problem once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from enum import Enum, StrEnum
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, Date, Integer, SmallInteger, String, Text, Uuid
from sqlmodel import Field

import eventstore.database.pages
import projections.rebuild.locked_replay
import projections.rebuild.parts
from eventstore import EventEnvelope, EventStore, TaskCreated, User
from eventstore.database.pages import page_of
from eventstore.database.plan import Rows
from eventstore.log.read import select_log_page
from eventstore.log.stored_event import REPLAY_COLUMNS
from projections import Insert, RowChange, projector
from projections.apply.table_shape import TableShape
from projections.rebuild.parts import Part
from tests.support.own_read_model import (
    Boxed,
    ServiceModel,
    box_event,
    project_box,
    project_done,
    protect,
)
from tests.support.properties import examples
from tests.support.tampering import disarm
from tests.tampering.full_log import write_log

# Changes that verify must report; each is limited to the rows of one user.
STATEMENTS = {
    "task edited": "update eventstore.task set title = 'x'",
    "task removed": "delete from eventstore.task",
    "message edited": "update eventstore.message set sender = 'x'",
    "one message edited": "update eventstore.message set content = 'x' where position = 2",
    "tool call edited": "update eventstore.tool_call set name = 'x'",
    "box removed": "delete from service.box",
    "boxes edited": "update service.box set note = 'x' where name > 'b'",
    "boxes added": "insert into service.box select user_id, gen_random_uuid(), name, n, note,"
    " body, tags, position, version, recorded_at from service.box",
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
        patch.setattr(projections.rebuild.parts, "EVENTS_PER_PART", events)
        patch.setattr(projections.rebuild.parts, "BYTES_PER_PART", max(300, 2 * stored))
        patch.setattr(eventstore.database.pages, "PAGE_ROWS", rows)
        patch.setattr(eventstore.database.pages, "PAGE_BYTES", stored)
        yield


@pytest.fixture(params=["by key", "by stream"])
def armless_store(
    request: pytest.FixtureRequest, service_url: str, admin: psycopg.Connection
) -> Iterator[EventStore]:
    """A store without triggers, whose projectors tell or do not tell of which stream rows are."""
    disarm(admin)
    projectors = [project_box, project_done]
    if request.param == "by stream":
        projectors = [
            replace(project_box, stream_column="box"),
            replace(project_done, stream_column="id"),
        ]
    with EventStore.connect(service_url, projectors=projectors, events=[Boxed]) as store:
        yield store


@pytest.mark.slow
@examples(15)
@given(
    chosen=st.sets(st.sampled_from(sorted(STATEMENTS)), max_size=4),
    # Streams are short beside a part of more than twelve events, of which the log has two.
    events=st.integers(1, 24),
    rows=st.integers(1, 4),
    stored=st.sampled_from([1, 100, 300, 1000, 2**30]),
)
def test_a_verification_in_parts_reports_each_problem_of_one_pass_once(
    armless_store: EventStore,
    admin: psycopg.Connection,
    chosen: set[str],
    events: int,
    rows: int,
    stored: int,
) -> None:
    user_id = str(uuid4())
    write_log(armless_store, user_id)
    user = armless_store.user(user_id)
    user.append([box_event(uuid4(), "made", name=name) for name in ("a", "b", "c")])
    for number in range(10):
        user.tasks.create(f"task {number}")
    for name in chosen:
        glue = "and" if " where " in STATEMENTS[name] else "where"
        statement = f"{STATEMENTS[name]} {glue} user_id = %s"
        admin.execute(statement, (user_id,))

    one_pass = armless_store.verify(user_id)
    with pages(events, rows, stored):
        parts = armless_store.verify(user_id)

    assert Counter(parts.problems) == Counter(one_pass.problems)
    assert max(Counter(parts.problems).values(), default=1) == 1
    assert (parts.events, parts.erased) == (one_pass.events, one_pass.erased)
    assert one_pass.ok is not bool(chosen)


class Priority(StrEnum):
    """A key that a projector gives as an enum and the database stores as text."""

    HIGH = "high"


class Level(str, Enum):  # noqa: UP042 - of this kind of enum, str() gives no value but a name
    """Another such key."""

    LOW = "low"


class Keyed(ServiceModel, table=True):
    """A read model with a key of every type that a key may have."""

    __tablename__ = "keyed"
    __table_args__ = ({"schema": "service"},)

    user_id: str = Field(primary_key=True)
    word: str = Field(sa_column=Column(Text, primary_key=True))
    short: str = Field(sa_column=Column(String(9), primary_key=True))
    small: int = Field(sa_column=Column(SmallInteger, primary_key=True))
    number: int = Field(sa_column=Column(Integer, primary_key=True))
    large: int = Field(sa_column=Column(BigInteger, primary_key=True))
    id: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    day: date = Field(sa_column=Column(Date, primary_key=True))


KEYED_DDL = """
create schema service;
create table service.keyed (
    user_id text, word text, short varchar(9), small smallint, number integer, large bigint,
    id uuid, day date, primary key (user_id, word, short, small, number, large, id, day)
)
"""


stored_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
keys = st.tuples(
    stored_text | st.just(Priority.HIGH),
    stored_text.map(lambda text: text[:9]),
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.uuids(),
    st.dates(),
)


def test_the_database_and_a_replay_put_each_row_into_the_same_part(
    admin: psycopg.Connection,
) -> None:
    shape = TableShape(Keyed)
    admin.execute(KEYED_DDL)

    @examples(25)
    @given(st.lists(keys, max_size=20))
    def check(rows: list[tuple[object, ...]]) -> None:
        admin.execute("truncate service.keyed")
        with admin.cursor() as cursor:
            insert = "insert into service.keyed values ('alice', %s, %s, %s, %s, %s, %s, %s)"
            cursor.executemany(insert, [(str.__str__(row[0]), *row[1:]) for row in rows])
        for count in range(1, 5):
            for part in (Part(number, count) for number in range(count)):
                selected = admin.execute(
                    f"select id from service.keyed as t where true{part.condition(shape)}".encode()
                ).fetchall()
                retained = [row[5] for row in rows if part.keeps(row)]
                assert Counter(one for (one,) in selected) == Counter(retained)

    check()


@projector(Keyed)
def project_keyed(event: EventEnvelope) -> Iterator[RowChange]:
    if isinstance(event.data, TaskCreated):
        word: str = Level.LOW if event.data.title == "low" else Priority.HIGH
        yield Insert(
            Keyed,
            {"word": word, "short": "", "small": 1, "number": 2, "large": 3, "id": event.stream_id,
             "day": date(2000, 1, 31)},
        )  # fmt: skip


@pytest.mark.parametrize("date_style", ["ISO, MDY", "German, DMY"])
@pytest.mark.parametrize("title", ["low", "high"])
def test_a_row_with_a_key_of_any_kind_is_verified_and_repaired(
    database_url: str, admin: psycopg.Connection, title: str, date_style: str
) -> None:
    admin.execute(KEYED_DDL)
    protect(admin, Keyed)
    admin.execute(f"alter database {admin.info.dbname} set datestyle = '{date_style}'")
    with EventStore.connect(database_url, projectors=[project_keyed]) as store:
        alice = store.user("alice")
        tasks = [alice.tasks.create(title) for _ in range(3)]
        with pages(events=1, rows=1):
            in_parts = store.verify()
        assert (store.verify().problems, in_parts.problems) == ((), ())

        admin.execute("delete from service.keyed where id = %s", (tasks[0].id,))
        admin.execute("update service.keyed set id = gen_random_uuid() where id = %s",
                      (tasks[1].id,))  # fmt: skip
        kinds = ["extra_row", "missing_row", "missing_row"]
        assert sorted(one.kind for one in store.verify().problems) == kinds
        with pages(events=1, rows=1):
            assert sorted(one.kind for one in store.verify().problems) == kinds
        store.rebuild("alice")
        assert store.verify().ok


def test_an_unchanged_log_has_no_problem_in_any_number_of_parts(service_store: EventStore) -> None:
    write_log(service_store, "alice")
    for events in range(1, 15):
        counts: list[int] = []
        with pages(events, 2):
            found = service_store.verify(seen=counts.append)
        assert found.ok
        assert sum(counts) == found.events
        assert len(counts) > found.events / 2  # progress is reported for each page of each pass


def test_by_stream_each_event_is_read_once_more_at_most(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def seen(rows: Rows) -> tuple[Rows, bool]:
        page = page_of(rows)
        read.extend(row[0] for row in page[0])
        return page

    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        ids = [alice.tasks.create(f"task {number}").id for number in range(40)]
        monkeypatch.setattr(projections.rebuild.locked_replay, "page_of", seen)
        with pages(events=20, rows=5):
            # Of the first part, and of the two others each event that is of one of them.
            done = store.rebuild("alice", check=True)
            assert (done.events, done.rows, done.changed) == (40, 40, 0)
            assert sorted({*read}) == list(range(1, 41))
            assert max(Counter(read).values()) == 2

            read.clear()
            admin_sql = "update eventstore.task set title = 'x' where id = any(%s)"
            with psycopg.connect(database_url, autocommit=True) as admin:
                admin.execute(admin_sql, (ids[::2],))
            assert store.rebuild("alice").changed == 20
            assert max(Counter(read).values()) == 2
        assert store.verify().ok
        alice.messages.extend("long", [{"role": "user", "content": "x"}] * 40, start=True)
        read.clear()
        with pages(events=20, rows=5):
            assert store.rebuild("alice").changed == 0
        assert min(Counter(read).values()) == 5  # a stream fills two parts: each part reads it all


def test_a_row_that_was_moved_to_another_stream_is_reported_in_both_and_put_back(
    armless_store: EventStore, admin: psycopg.Connection
) -> None:
    user = armless_store.user("alice")
    for number in range(20):
        user.messages.extend(f"{number}", [{"role": "user", "content": "x"}], start=True)
    moved = "update eventstore.message set conversation_id = %s where content = 'x'"
    admin.execute(moved, (user.conversations.list()[0].id,))

    with pages(events=8, rows=5):
        found = {(one.kind, one.key) for one in armless_store.verify("alice").problems}
        armless_store.rebuild("alice")

    messages = {key for kind, key in found if kind == "changed_row"}
    assert len(messages) == 19
    assert {key for kind, key in found if kind == "extra_row"} <= messages
    assert armless_store.verify("alice").ok


def test_a_log_of_few_large_events_is_verified_in_parts_too(disarmed_store: EventStore) -> None:
    write_log(disarmed_store, "alice")
    counts: list[int] = []

    with pages(events=1_000, rows=1_000, stored=100):
        found = disarmed_store.verify("alice", seen=counts.append)

    assert found.ok
    assert sum(counts) == found.events
    assert len(counts) > found.events  # several passes over pages of one or two events


def test_a_page_of_a_part_is_read_along_the_key_of_the_log(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    for _ in range(5):
        with alice.transaction() as tx:
            for number in range(1_000):
                tx.tasks.create(f"task {number}")
    admin.execute("vacuum analyze eventstore.event")

    with pages(events=1_000, rows=50):
        page = select_log_page(REPLAY_COLUMNS, "alice", 0, Part(1, 5, by_stream=True).events)
    sql = page.sql.replace("$1", "'alice'").replace("$2", "0")
    plan = "\n".join(line for (line,) in admin.execute(f"explain {sql}".encode()))

    assert "Index Scan using event_pkey" in plan
    assert "Sort" not in plan
