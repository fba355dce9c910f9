"""A probe is told in one round trip, with the login of the service, whether the database serves."""

from __future__ import annotations

import json
from dataclasses import asdict
from statistics import median

import psycopg
import pytest
from alembic.script import ScriptDirectory
from psycopg.conninfo import conninfo_to_dict

from eventstore import EventStore, SchemaMissing, Settings
from eventstore.admin import health
from eventstore.schema import migrate
from eventstore.schema.expected import REVISIONS
from tests.support.command import Command
from tests.support.drivers import open_store
from tests.support.logins import make_logins
from tests.support.proxy import Proxy, url_through
from tests.support.server import Server


def test_the_known_revisions_are_those_of_the_scripts() -> None:
    scripts = ScriptDirectory.from_config(migrate._config()).walk_revisions()

    assert tuple(reversed([one.revision for one in scripts])) == REVISIONS


def test_the_login_of_a_service_is_told_that_all_is_well(
    store: EventStore, server: Server, database_url: str
) -> None:
    logins = make_logins(server, database_url)

    with EventStore.connect(logins.service) as service:
        seen = service.health()

    assert seen.ok
    assert (seen.revision, seen.head) == (REVISIONS[-1], REVISIONS[-1])
    assert (seen.migration_pending, seen.read_only) == (False, False)
    assert store.health().ok


@pytest.mark.parametrize("driver", ["sync", "async"])
def test_a_health_is_one_round_trip_and_takes_milliseconds(
    database_url: str, proxy: Proxy, driver: str
) -> None:
    url = url_through(proxy, database_url)

    with open_store(driver, settings=Settings(database_url=url, pool_max_size=1)) as store:
        store.health()
        proxy.count()
        store.health()
        assert proxy.count() == 1

        assert median(store.health().seconds for _ in range(20)) < 0.05


def test_a_pending_migration_is_told_and_a_newer_schema_is_none(
    store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "REVISIONS", (REVISIONS[-1], "9999"))
    older = store.health()
    monkeypatch.setattr(health, "REVISIONS", ("0000",))
    newer = store.health()
    admin.execute("delete from eventstore.alembic_version")
    absent = store.health()

    assert (older.migration_pending, older.head, older.ok) == (True, "9999", False)
    assert (newer.migration_pending, newer.ok) == (False, True)
    assert (absent.revision, absent.migration_pending) == ("none", True)


def test_a_server_that_takes_no_writes_is_not_ok(
    database_url: str, server: Server, admin: psycopg.Connection
) -> None:
    login = make_logins(server, database_url).service
    parts = conninfo_to_dict(login)
    # Set in the database: one with a changed catalog is dropped after its test.
    role, database = parts["user"], parts["dbname"]
    admin.execute(
        f"alter role {role} in database {database} set default_transaction_read_only = on"
    )

    with EventStore.connect(login) as store:
        seen = store.health()

    assert (seen.read_only, seen.ok) == (True, False)


def test_a_probe_replaces_connections_that_were_closed(
    store: EventStore, admin: psycopg.Connection
) -> None:
    store.health()
    admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where pid <> pg_backend_pid() and datname = current_database()"
    )

    assert store.health().ok


def test_a_database_that_was_not_migrated_is_named(server: Server) -> None:
    url = server.create_database("template0")
    try:
        with EventStore.connect(url) as store, pytest.raises(SchemaMissing, match="migrate"):
            store.health()
    finally:
        server.drop_database(url)


@pytest.mark.usefixtures("short_deadline")
def test_the_command_answers_scripts_by_its_exit_status(
    eventstore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    well, as_json = eventstore("health"), eventstore("health", "--json")
    monkeypatch.setattr(health, "REVISIONS", (REVISIONS[-1], "9999"))
    pending = eventstore("health")
    away = eventstore("health", "--database", "postgresql://nobody@127.0.0.1:1/none")

    assert (well.returncode, pending.returncode, away.returncode) == (0, 1, 3)
    assert ": ok; the schema is at revision 0001; answered in " in well.stdout
    assert "NOT OK; the schema is at revision 0001, and this release needs 9999" in pending.stdout
    assert "cannot be reached" in away.stderr
    answer = json.loads(as_json.stdout)
    fields = asdict(health.Health("", "", False, False, 0.0))
    assert list(answer) == ["database", "ok", *fields]
    assert (answer["ok"], answer["revision"]) == (True, REVISIONS[-1])
