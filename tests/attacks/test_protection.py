"""
The doctor finds every way in which a database would not keep users apart: connecting is refused.

Each way is made in a transaction that is judged from within and undone: roles belong to the whole
server, and nobody else is to meet a broken one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore import AsyncEventStore, ConfigurationError, EventStore, Settings, UnsafeDatabase
from eventstore.database.pipeline import exchange
from eventstore.database.plan import Batch
from eventstore.schema.doctor import diagnose, refusal
from eventstore.schema.findings import Finding
from projections import BUILT_IN, Projections
from projections.protection import protection_sql
from tests.attacks.ways import BOX, ERRORS, PROTECT, ROLES, SAFE, TASK, WARNINGS
from tests.support.own_read_model import DDL, Box, project_box
from tests.support.server import Server

BUILT_IN_TABLES = [shape.name for shape in Projections(*BUILT_IN).shapes]
UNBOUND = f"drop policy own_rows on {BOX}; drop policy operator_lists on {BOX};"
UNPROTECTED = {
    "row security": (f"alter table {BOX} disable row level security", "not enabled"),
    "force": (f"alter table {BOX} no force row level security", "not forced"),
    "the policy": (f"drop policy own_rows on {BOX}", "is missing"),
    "a strict policy": (f"alter policy own_rows on {BOX} using (true)", "is not the one"),
    "the check": (f"alter table {BOX} drop constraint box_user_id_check", "no CHECK"),
    "the grants": (
        f"revoke all on {BOX} from eventstore_app",
        "may not DELETE, INSERT, SELECT, UPDATE",
    ),
    "the index's first column": (
        f"create unique index other on {BOX} (n)",
        "unique index service.other",
    ),
    "the key's first column": (
        (
            "create table service.other (id bigint primary key);"
            f"alter table {BOX} add constraint single foreign key (n) references service.other"
            " deferrable"
        ),
        "foreign key single",
    ),
    "modest rights": (f"grant truncate on {BOX} to eventstore_app", "TRUNCATE"),
    "the table": (f"drop table {BOX}", "does not exist"),
    "exact ids": (
        (
            f"{UNBOUND}create collation service.alike (provider = icu, locale = 'und-u-ks-level2',"
            f" deterministic = false); alter table {BOX} alter column user_id type text"
            " collate service.alike"
        ),
        "of a collation in which ids look alike",
    ),
    "ids as they are": (
        f"{UNBOUND}alter table {BOX} alter column user_id type char(20)",
        "user_id is character, or of a collation",
    ),
    "an exclusion of one's own": (
        (
            "create extension if not exists btree_gist with schema public;"
            f"alter table {BOX} add constraint other_users exclude using gist (user_id with <>,"
            " name with =)"
        ),
        "unique index service.other_users",
    ),
    "its own rows": (f"create rule r as on delete to {BOX} do instead nothing", "rule r"),
}


@pytest.fixture(scope="module")
def owner(server: Server) -> Iterator[psycopg.Connection]:
    """A superuser's connection to a database with a service's own protected table."""
    url = server.direct(server.create_database())
    with psycopg.connect(url, prepare_threshold=None) as connection:
        for statement in (DDL, *protection_sql(Box)):
            connection.execute(statement)
        connection.commit()
        yield connection
    server.drop_database(url)


def examined(
    owner: psycopg.Connection, broken: str, tables: Sequence[str] = BUILT_IN_TABLES
) -> list[Finding]:
    """Break something, judge the database from within the transaction, and undo it."""
    try:
        owner.execute(broken)
        plan = diagnose(tables, Settings())
        batch = next(plan)
        assert isinstance(batch, Batch)
        rows = exchange(owner, [*batch.statements])
        with pytest.raises(StopIteration) as end:
            plan.send(rows)
    finally:
        owner.rollback()
    found: list[Finding] = end.value.value
    own = ("postgres", "fsync")  # what the test's own login and server are like
    return [one for one in found if one.location not in own]


def test_a_migrated_database_has_no_finding(owner: psycopg.Connection) -> None:
    assert examined(owner, "select", [*BUILT_IN_TABLES, BOX]) == []
    assert refusal([]) is None


@pytest.mark.parametrize("what", ERRORS)
def test_what_would_mix_users_is_an_error(owner: psycopg.Connection, what: str) -> None:
    way = ERRORS[what]

    found = examined(owner, way.sql)

    named = {(one.severity, one.check, one.location) for one in found if way.detail in one.detail}
    assert named == {("error", way.check, way.place)}, found
    assert {one.location for one in found} <= {way.place, "eventstore.other"}, "and nothing else"
    assert isinstance(refusal(found), UnsafeDatabase)


@pytest.mark.parametrize("what", ROLES)
def test_an_application_role_that_can_do_more_is_an_error(
    owner: psycopg.Connection, what: str
) -> None:
    broken, detail = ROLES[what]

    found = examined(owner, broken, [*BUILT_IN_TABLES, BOX])

    roles = [(one.severity, one.location) for one in found if detail in one.detail]
    assert ("error", "eventstore_app") in roles, found
    assert isinstance(refusal(found), UnsafeDatabase)


@pytest.mark.parametrize("what", WARNINGS)
def test_what_weakens_evidence_is_a_warning(owner: psycopg.Connection, what: str) -> None:
    way = WARNINGS[what]

    found = examined(owner, way.sql, [*BUILT_IN_TABLES, BOX])

    facts = [(one.severity, one.check, one.location) for one in found]
    assert facts == [("warning", way.check, way.place)]
    assert way.detail in found[0].detail
    assert refusal(found) is None


@pytest.mark.parametrize("what", SAFE)
def test_what_mixes_nobody_up_is_no_finding(owner: psycopg.Connection, what: str) -> None:
    assert examined(owner, SAFE[what]) == []


def test_a_role_that_may_lock_the_log_is_an_error(owner: psycopg.Connection) -> None:
    if owner.info.server_version < 170000:
        return  # there is no such right yet

    found = examined(owner, "grant maintain on eventstore.event to eventstore_app")

    assert [(one.severity, one.detail) for one in found] == [
        ("error", "eventstore_app may MAINTAIN")
    ]


@pytest.mark.parametrize("what", UNPROTECTED)
def test_a_projectors_table_without_this_is_an_error(owner: psycopg.Connection, what: str) -> None:
    broken, detail = UNPROTECTED[what]

    if not has_what_it_needs(owner, broken):
        return  # Debian's PostgreSQL has all of it, the wheel's has not

    found = examined(owner, broken, [*BUILT_IN_TABLES, BOX])

    places = {(one.severity, one.location) for one in found if detail in one.detail}
    assert places == {("error", BOX)}, found


def has_what_it_needs(owner: psycopg.Connection, sql: str) -> bool:
    gist = "select from pg_available_extensions where name = 'btree_gist'"
    icu = "select from pg_collation where collname = 'de-x-icu'"
    return all(
        owner.execute(query).fetchone() is not None
        for word, query in (("btree_gist", gist), ("icu", icu))
        if word in sql
    )


PARTITIONED = (
    "create table service.parts (user_id text, n int, primary key (user_id, n),"
    " check (length(user_id) between 1 and 255)) partition by list (n);"
    "create table service.part partition of service.parts default;"
)


@pytest.mark.parametrize(
    ("table", "sql", "place", "detail"),
    [
        (
            "service.parts",
            "create unique index by_number on service.part (n)",
            "service.part",
            "unique index service.by_number does not begin with user_id",
        ),
        (
            "service.part",
            "grant select on service.parts to eventstore_app",
            "service.parts",
            "row-level security is not enabled",
        ),
    ],
)
def test_what_a_table_is_a_part_of_and_its_parts_are_looked_at(
    owner: psycopg.Connection, table: str, sql: str, place: str, detail: str
) -> None:
    found = examined(owner, PARTITIONED + PROTECT.format(table) + sql, [*BUILT_IN_TABLES, table])

    assert any(one.location == place and detail in one.detail for one in found), found


@pytest.fixture
def attempt(server: Server) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.drop_database(url)


def refused(url: str) -> UnsafeDatabase:
    """Connect in both colours with the service's projector; return the error that refuses it."""

    async def connect() -> None:
        await AsyncEventStore.connect(url, projectors=[project_box])

    with pytest.raises(UnsafeDatabase) as error_async:
        asyncio.run(connect())
    with pytest.raises(UnsafeDatabase) as error:
        EventStore.connect(url, projectors=[project_box])
    assert str(error.value) == str(error_async.value)
    assert isinstance(error.value, ConfigurationError)
    return error.value


@pytest.mark.parametrize("what", ["force", "the policy", "the table"])
def test_a_projector_whose_table_breaks_the_rules_is_refused(
    server: Server, attempt: str, what: str
) -> None:
    with psycopg.connect(server.direct(attempt), autocommit=True) as owner:
        for statement in (DDL, *protection_sql(Box)):
            owner.execute(statement)
        EventStore.connect(attempt, projectors=[project_box]).close()
        owner.execute(UNPROTECTED[what][0])

    error = refused(attempt)

    assert error.findings
    assert str(error).startswith(f"{BOX}: ")


def test_a_refused_store_leaves_no_connection_open(server: Server, attempt: str) -> None:
    url = server.direct(attempt)  # a pooler keeps connections of its own
    name = conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"alter table {TASK} disable row level security")

    refused(url)

    with psycopg.connect(server.direct_url("postgres"), autocommit=True) as watcher:
        for _ in range(10_000):  # the server notices in its own time
            query = "select from pg_stat_activity where datname = %s"
            if not watcher.execute(query, (name,)).fetchall():
                return
    pytest.fail("a connection is left")
