"""
The doctor finds every change that breaks the isolation of users, and the store refuses to connect.

Each change is made and diagnosed in a transaction that is rolled back, because roles belong to the
whole server and other tests must not find them changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore import AsyncEventStore, ConfigurationError, EventStore, Settings, UnsafeDatabase
from eventstore.database.connections import StoreConnection
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Batch
from eventstore.schema.doctor import diagnose, refusal
from eventstore.schema.findings import Finding
from projections import BUILT_IN, Projections
from projections.protection import protection_sql
from tests.attacks.ways import BOX, ERRORS, PROTECT, ROLES, SAFE, TASK, WARNINGS
from tests.support.own_read_model import DDL, Box, project_box
from tests.support.pooler import pooler_asked_for
from tests.support.server import Server
from tests.support.waiting import until

BUILT_IN_TABLES = [shape.name for shape in Projections(*BUILT_IN).shapes]
UNBOUND = f"drop policy own_rows on {BOX}; drop policy operator_lists on {BOX};"
UNPROTECTED = {
    "row security": (f"alter table {BOX} disable row level security", "not enabled"),
    "force": (f"alter table {BOX} no force row level security", "not forced"),
    "the policy": (f"drop policy own_rows on {BOX}", "is missing"),
    "a strict policy": (f"alter policy own_rows on {BOX} using (true)", "is not the one"),
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
    "minimal rights": (f"grant truncate on {BOX} to eventstore_app", "TRUNCATE"),
    "the table": (f"drop table {BOX}", "does not exist"),
    "an exact collation of ids": (
        (
            f"{UNBOUND}create collation service.alike (provider = icu, locale = 'und-u-ks-level2',"
            f" deterministic = false); alter table {BOX} alter column user_id type text"
            " collate service.alike"
        ),
        "its collation takes different ids for equal",
    ),
    "ids of type text": (
        f"{UNBOUND}alter table {BOX} alter column user_id type char(20)",
        "user_id is character, or its collation",
    ),
    "no exclusion across users": (
        (
            "create extension if not exists btree_gist with schema public;"
            f"alter table {BOX} add constraint other_users exclude using gist (user_id with <>,"
            " name with =)"
        ),
        "unique index service.other_users",
    ),
    "no rule": (f"create rule r as on delete to {BOX} do instead nothing", "rule r"),
}


@pytest.fixture(scope="module")
def owner(server: Server) -> Iterator[StoreConnection]:
    """A superuser's connection to a database with a service's own protected table."""
    url = server.direct(server.create_database())
    with StoreConnection.connect(url, prepare_threshold=None) as connection:
        for statement in (DDL, *protection_sql(Box)):
            connection.execute(statement)
        connection.commit()
        yield connection
    server.drop_database(url)


def diagnose_after(
    owner: StoreConnection, broken: str, tables: Sequence[str] = BUILT_IN_TABLES
) -> list[Finding]:
    """Run SQL, diagnose the database in the same transaction, and roll it back."""
    own = ("postgres", "fsync")  # findings about the login and the server of the tests
    return [one for one in _all_found_after(owner, broken, tables) if one.location not in own]


def _all_found_after(
    owner: StoreConnection, broken: str, tables: Sequence[str] = BUILT_IN_TABLES
) -> list[Finding]:
    try:
        owner.execute(broken)
        plan = diagnose(tables, Settings())
        batch = next(plan)
        assert isinstance(batch, Batch)
        rows = owner.wait(run_pipeline(owner, batch.statements))
        with pytest.raises(StopIteration) as end:
            plan.send(rows)
    finally:
        owner.rollback()
    found: list[Finding] = end.value.value
    return found


def test_a_migrated_database_has_no_finding(owner: StoreConnection) -> None:
    assert diagnose_after(owner, "select", [*BUILT_IN_TABLES, BOX]) == []
    assert refusal([]) is None


def test_a_server_without_fsync_is_a_warning_except_on_neon(owner: StoreConnection) -> None:
    found, on_neon = (
        {one.location for one in _all_found_after(owner, change)}
        for change in ("select", "set local neon.timeline_id = '0123456789abcdef'")
    )

    assert ("fsync" in found, "fsync" in on_neon) == (True, False)


@pytest.mark.parametrize("case", ERRORS)
def test_a_change_that_breaks_isolation_is_an_error(owner: StoreConnection, case: str) -> None:
    change = ERRORS[case]

    found = diagnose_after(owner, change.sql)

    matching = {
        (one.severity, one.check, one.location) for one in found if change.detail in one.detail
    }
    assert matching == {("error", change.check, change.location)}, found
    assert {one.location for one in found} <= {change.location, "eventstore.other"}, found
    assert isinstance(refusal(found), UnsafeDatabase)


@pytest.mark.parametrize("case", ROLES)
def test_an_application_role_with_too_many_rights_is_an_error(
    owner: StoreConnection, case: str
) -> None:
    broken, detail = ROLES[case]

    found = diagnose_after(owner, broken, [*BUILT_IN_TABLES, BOX])

    roles = [(one.severity, one.location) for one in found if detail in one.detail]
    assert ("error", "eventstore_app") in roles, found
    assert isinstance(refusal(found), UnsafeDatabase)


@pytest.mark.parametrize("case", WARNINGS)
def test_a_change_that_weakens_the_protection_is_a_warning(
    owner: StoreConnection, case: str
) -> None:
    change = WARNINGS[case]

    found = diagnose_after(owner, change.sql, [*BUILT_IN_TABLES, BOX])

    findings = [(one.severity, one.check, one.location) for one in found]
    assert findings == [("warning", change.check, change.location)]
    assert change.detail in found[0].detail
    assert refusal(found) is None


@pytest.mark.parametrize("case", SAFE)
def test_a_harmless_change_is_no_finding(owner: StoreConnection, case: str) -> None:
    assert diagnose_after(owner, SAFE[case]) == []


def test_a_role_that_may_lock_the_log_is_an_error(owner: StoreConnection) -> None:
    if owner.info.server_version < 170000:
        return  # the right MAINTAIN exists from PostgreSQL 17 on

    found = diagnose_after(owner, "grant maintain on eventstore.event to eventstore_app")

    assert [(one.severity, one.detail) for one in found] == [
        ("error", "eventstore_app may MAINTAIN")
    ]


@pytest.mark.parametrize("case", UNPROTECTED)
def test_a_projectors_table_without_one_of_its_protections_is_an_error(
    owner: StoreConnection, case: str
) -> None:
    broken, detail = UNPROTECTED[case]

    if not has_required_features(owner, broken):
        return  # the PostgreSQL of the wheel lacks some features that Debian's has

    found = diagnose_after(owner, broken, [*BUILT_IN_TABLES, BOX])

    locations = {(one.severity, one.location) for one in found if detail in one.detail}
    assert locations == {("error", BOX)}, found


def has_required_features(owner: StoreConnection, sql: str) -> bool:
    gist = "select from pg_available_extensions where name = 'btree_gist'"
    icu = "select from pg_collation where collname = 'de-x-icu'"
    return all(
        owner.execute(query).fetchone() is not None
        for word, query in (("btree_gist", gist), ("icu", icu))
        if word in sql
    )


PARTITIONED = (
    "create table service.parts (user_id text, n int, primary key (user_id, n))"
    " partition by list (n);"
    "create table service.part partition of service.parts default;"
)


@pytest.mark.parametrize(
    ("table", "sql", "location", "detail"),
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
def test_the_parent_and_the_partitions_of_a_projectors_table_are_checked(
    owner: StoreConnection, table: str, sql: str, location: str, detail: str
) -> None:
    found = diagnose_after(
        owner, PARTITIONED + PROTECT.format(table) + sql, [*BUILT_IN_TABLES, table]
    )

    assert any(one.location == location and detail in one.detail for one in found), found


@pytest.fixture
def attempt(server: Server) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.drop_database(url)


def connect_refused(url: str) -> UnsafeDatabase:
    """Connect by both drivers with the service's projector; return the error that refuses it."""

    async def connect() -> None:
        await AsyncEventStore.connect(url, projectors=[project_box])

    with pytest.raises(UnsafeDatabase) as error_async:
        asyncio.run(connect())
    with pytest.raises(UnsafeDatabase) as error:
        EventStore.connect(url, projectors=[project_box])
    assert str(error.value) == str(error_async.value)
    assert isinstance(error.value, ConfigurationError)
    return error.value


@pytest.mark.parametrize("case", ["force", "the policy", "the table"])
def test_a_projector_whose_table_breaks_the_rules_is_refused(
    server: Server, attempt: str, case: str
) -> None:
    with psycopg.connect(server.direct(attempt), autocommit=True) as owner:
        for statement in (DDL, *protection_sql(Box)):
            owner.execute(statement)
        EventStore.connect(attempt, projectors=[project_box]).close()
        owner.execute(UNPROTECTED[case][0])

    error = connect_refused(attempt)

    assert error.findings
    assert str(error).startswith(f"{BOX}: ")


@contextmanager
def preset_user_in_server(server: Server) -> Iterator[None]:
    """Make every new connection to the server start in the scope of alice."""
    preset = "select coalesce(current_setting('eventstore.user_id', true), '')"

    def starts_as(user_id: str) -> bool:
        with psycopg.connect(server.direct_url("postgres")) as connection:
            return connection.execute(preset).fetchone() == (user_id,)

    with psycopg.connect(server.direct_url("postgres"), autocommit=True) as owner:
        # Before PostgreSQL 17, ALTER SYSTEM accepts only the names that the session has set.
        owner.execute("set eventstore.user_id = ''")
        owner.execute("alter system set eventstore.user_id = 'alice'")
        try:
            owner.execute("select pg_reload_conf()")
            until(lambda: starts_as("alice"))
            yield
        finally:
            owner.execute("alter system reset eventstore.user_id")
            owner.execute("select pg_reload_conf()")
            until(lambda: starts_as(""))


PRESET = ("error", "login", "this connection")


def test_a_user_preset_by_the_configuration_of_the_server_is_an_error(
    server: Server, attempt: str
) -> None:
    with preset_user_in_server(server):
        error = connect_refused(attempt)

    assert str(error).startswith("this connection: starts in the scope of a user")
    assert PRESET in {(one.severity, one.check, one.location) for one in error.findings}


@pytest.mark.skipif(pooler_asked_for(), reason="PgBouncer refuses the options of a URL")
def test_a_user_preset_by_the_options_of_the_url_is_an_error(attempt: str) -> None:
    error = connect_refused(f"{attempt}&options=-c%20eventstore.user_id%3Dalice")

    assert str(error).startswith("this connection: starts in the scope of a user")
    assert PRESET in {(one.severity, one.check, one.location) for one in error.findings}


def test_a_refused_store_leaves_no_connection_open(server: Server, attempt: str) -> None:
    url = server.direct(attempt)  # a pooler would keep its connections open
    name = conninfo_to_dict(url)["dbname"]
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(f"alter table {TASK} disable row level security")

    connect_refused(url)

    with psycopg.connect(server.direct_url("postgres"), autocommit=True) as watcher:
        for _ in range(10_000):  # the server needs a moment to notice
            query = "select from pg_stat_activity where datname = %s"
            if not watcher.execute(query, (name,)).fetchall():
                return
    pytest.fail("a connection is still open")
