"""A test gets a database as if nobody had used it before, although another test may have."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from tests.support.databases import Database, Databases
from tests.support.server import Server


@pytest.fixture
def databases(server: Server) -> Iterator[Databases]:
    with Databases(server) as databases:
        yield databases


@pytest.fixture
def used(databases: Databases) -> Database:
    """A database in which a test has written."""
    used = databases.borrow("sync")
    used.store("sync").user("alice").tasks.create("walk")
    return used


def test_the_next_test_gets_the_database_and_its_store_without_rows(
    databases: Databases, used: Database
) -> None:
    store = used.store("sync")
    databases.give_back(used, "sync")

    again = databases.borrow("sync")

    assert again is used
    assert again.store("sync") is store
    assert list(store.users()) == []
    assert store.user("alice").tasks.list() == []
    assert store.user("alice").tasks.create("run").position == 1
    databases.give_back(again, "sync")


@pytest.mark.parametrize(
    "change",
    [
        "alter table eventstore.event disable trigger erasure_only",
        "alter table eventstore.task disable row level security",
        "alter policy own_rows on eventstore.task using (true)",
        "grant delete on eventstore.event to eventstore_app",
        "grant execute on function pg_catalog.pg_ls_waldir() to public",
        "create table public.left_over ()",
        "alter table eventstore.task drop column title",
        "alter database {} set statement_timeout = '1min'",
        "update eventstore.alembic_version set version_num = 'other'",
    ],
)
def test_a_database_whose_catalog_a_test_changed_is_dropped(
    databases: Databases, used: Database, server: Server, change: str
) -> None:
    with psycopg.connect(server.direct(used.url), autocommit=True) as admin:
        admin.execute(change.format(admin.info.dbname))
    databases.give_back(used, "sync")

    another = databases.borrow("sync")

    assert another is not used
    databases.give_back(another, "sync")


def test_a_database_in_which_somebody_holds_a_lock_is_dropped(
    databases: Databases, used: Database, server: Server
) -> None:
    with psycopg.connect(server.direct(used.url)) as forgotten:
        forgotten.execute("lock table eventstore.event")
        databases.give_back(used, "sync")
        another = databases.borrow("sync")
        assert another is not used
        databases.give_back(another, "sync")
        forgotten.close()
