"""
A store stays in its user's scope, whatever another client left on the server connection.

Behind a pooler in transaction mode that client may be anybody. Here PgBouncer has one server
connection, so the next client is certain to get what was left on it. The login of the URL is a
superuser in half of the tests: then only the scope of each transaction protects the users.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlmodel import select

from eventstore import AsyncEventStore, EventStore, Settings
from projections import Conversation, Message, Task, ToolCall
from tests.attacks.pooler import run_narrow_pooler
from tests.attacks.support import attacker_url, fill_tables
from tests.support.drivers import sync_view
from tests.support.own_read_model import Boxed
from tests.support.server import Server

TABLES: tuple[Any, ...] = (Task, Conversation, Message, ToolCall)
EVIL = """
create schema evil;
create function evil.set_config(text, text, boolean) returns text language sql as 'select $2';
create function evil.anything(text, text) returns boolean language sql as 'select true';
create operator evil.= (leftarg = text, rightarg = text, function = evil.anything);
create view evil.task as select * from eventstore.task;
grant usage on schema evil to public;
"""
LEFTOVERS = {
    "a user, by SET": "set eventstore.user_id = 'alice'",
    "a user, by set_config": "select set_config('eventstore.user_id', 'alice', false)",
    "a user and the role": "set role eventstore_app; set eventstore.user_id = 'alice'",
    "the operator's role": "set role eventstore_operator",
    "the role": "set role eventstore_app",
    "another login": "set session authorization attacker",
    "read-only transactions": "set default_transaction_read_only = on",
    "another isolation level": "set default_transaction_isolation = 'serializable'",
    "no triggers": "set session_replication_role = replica",
    "other output formats": "set intervalstyle = 'iso_8601';"
    " set bytea_output = 'escape'; set timezone = 'Asia/Kathmandu'; set extra_float_digits = -15",
    "a search path": "set search_path = nowhere",
    "functions and operators of the same name": "set search_path = evil, pg_catalog",
    "tables of the same names": "create temp table task as select * from eventstore.task;"
    " create temp table event as select * from eventstore.event; grant all on task, event"
    " to public;"
    " set search_path = pg_temp, eventstore",
    "types of the same names": "create type pg_temp.uuid as enum ('x');"
    " create domain pg_temp.text as int; create domain pg_temp.jsonb as int;"
    " set search_path = pg_temp, pg_catalog",
    "row security off": "set row_security = off",
    "an open cursor": "declare c cursor with hold for select * from eventstore.task",
}
SUPERUSER_ONLY = {
    "another login",
    "no triggers",
    "tables of the same names",
    "an open cursor",
    "the operator's role",
}


@dataclass(frozen=True)
class Urls:
    """The URLs of one database by login: through the narrow pooler, and direct."""

    pooled: dict[str, str]
    direct: dict[str, str]


@pytest.fixture(scope="module")
def urls(server: Server) -> Iterator[Urls]:
    url = server.direct(server.create_database())
    fill_tables(server, url)
    direct = {"superuser": url, "attacker": attacker_url(server, url)}
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(EVIL)
    with run_narrow_pooler(server) as folder:
        yield Urls(
            {
                login: one.replace(str(server.folder), str(folder)).replace("5432", "6432")
                for login, one in direct.items()
            },
            direct,
        )
    server.drop_database(url)


LOGINS = ["superuser", "attacker"]
each_leftover = pytest.mark.parametrize(
    ("leftover", "login"),
    [
        (leftover, login)
        for leftover in LEFTOVERS
        for login in LOGINS
        if login == "superuser" or leftover not in SUPERUSER_ONLY
    ],
)


def leave(client: psycopg.Connection, leftover: str) -> None:
    for statement in LEFTOVERS[leftover].split(";"):
        client.execute(statement)


@contextmanager
def other_client(url: str) -> Iterator[psycopg.Connection]:
    """Connect another client, and reset its connection at the end, which no pooler does."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as client:
        try:
            yield client
        finally:
            client.execute("reset session authorization")
            client.execute("reset role")
            client.execute("discard all")


def impatient_settings(url: str) -> Settings:
    """
    Return settings with one connection and short waits.

    Two clients that want PgBouncer's one server connection at the same moment would wait for each
    other: PgBouncer 1.18 sometimes loses the end of a pipeline whose client had to wait.
    """
    return Settings(
        database_url=url,
        deadline_seconds=10,
        pool_min_size=1,
        pool_max_size=1,
    )


def visible_users(store: EventStore, user: str) -> set[str]:
    """Return the users whose rows one user's view returns, read in every way."""
    view = store.user(user)
    (chat,) = view.conversations.list()
    found = {one.title.partition("'")[0] for one in view.tasks.list()}
    found |= {str(chat.title).partition("'")[0], str(view.history("chat")[0].content)[:-10]}
    assert view.history("chat") == view.history("chat", source="events")
    with view.session() as session:
        for table in TABLES:
            found |= {*session.exec(select(table.user_id)).all()}
        rows = session.connection().execute(text("select user_id from eventstore.event"))
        found |= {row[0] for row in rows.all()}
    return found


@each_leftover
def test_a_store_shows_only_its_users_rows_whatever_another_client_left(
    urls: Urls, leftover: str, login: str
) -> None:
    url = urls.pooled[login]
    with (
        other_client(url) as other,
        EventStore.connect(settings=impatient_settings(url), events=[Boxed]) as store,
    ):
        leave(other, leftover)

        visible = {user: visible_users(store, user) for user in ("bob", "alice", "bob")}

    assert visible == {"alice": {"alice"}, "bob": {"bob"}}


def test_a_leftover_does_reach_a_client_that_sets_no_scope(urls: Urls) -> None:
    url = urls.pooled["superuser"]
    with other_client(url) as other, psycopg.connect(url, autocommit=True) as careless:
        leave(other, "a user and the role")
        visible = careless.execute("select distinct user_id from eventstore.event").fetchall()

    assert visible == [("alice",)], (
        "the other tests prove nothing unless leftovers reach the next client"
    )


@each_leftover
def test_an_async_store_shows_only_its_users_rows_whatever_is_left_on_its_connection(
    urls: Urls, leftover: str, login: str
) -> None:
    loop = asyncio.new_event_loop()
    settings = impatient_settings(urls.direct[login])

    async def connect_and_leave() -> AsyncEventStore:
        store = await AsyncEventStore.connect(settings=settings, events=[Boxed])
        async with store._driver.pool.connection() as connection:
            for statement in LEFTOVERS[leftover].split(";"):
                await connection.execute(statement)
        return store

    inner = loop.run_until_complete(connect_and_leave())
    try:
        visible = {
            user: visible_users(sync_view(inner, loop), user) for user in ("bob", "alice", "bob")
        }
    finally:
        loop.run_until_complete(inner.close())
        loop.close()

    assert visible == {"alice": {"alice"}, "bob": {"bob"}}


@pytest.mark.parametrize("leftover", [one for one in LEFTOVERS if one != "read-only transactions"])
def test_an_append_goes_to_its_users_log_whatever_another_client_left(
    urls: Urls, leftover: str
) -> None:
    url = urls.pooled["superuser"]
    with (
        other_client(url) as other,
        EventStore.connect(settings=impatient_settings(url), events=[Boxed]) as store,
    ):
        before = {user: len(store.user(user).events()) for user in ("alice", "bob")}
        leave(other, leftover)

        store.user("bob").tasks.delete(store.user("bob").tasks.create("Buy milk").id)

        after = {user: len(store.user(user).events()) for user in ("alice", "bob")}
        assert after == {"alice": before["alice"], "bob": before["bob"] + 2}
        assert store.verify("bob").problems == ()


TYPES = ("bytea", "json", "text", "timestamptz", "uuid")
SPY = """
create function pg_temp.spy(v pg_catalog.{0}) returns boolean language plpgsql as
    'begin insert into pg_temp.loot values (v::pg_catalog.text); return true; end';
create domain pg_temp.{0} as pg_catalog.{0} check (pg_temp.spy(value));
"""
APPEND = """
select pg_catalog.set_config('role', 'eventstore_app', true),
       pg_catalog.set_config('eventstore.user_id', 'eve', true);
select eventstore.append_event(
    'eve', gen_random_uuid(), 'task', -2, false, gen_random_uuid(), 'TaskCreated', 1, '{}', '{}',
    null, null, '', '', '', null
);
"""


@pytest.mark.parametrize("login", LOGINS)
def test_an_append_runs_nothing_that_another_client_left_where_it_was_compiled(
    urls: Urls, login: str
) -> None:
    """A function keeps the types it was compiled with, whatever the search path is later."""
    url = urls.pooled[login]
    # The next server process has compiled no function yet.
    with pytest.raises(psycopg.OperationalError), psycopg.connect(url) as last:
        last.execute("select pg_terminate_backend(pg_backend_pid())")
    with (
        EventStore.connect(settings=impatient_settings(url), events=[Boxed]) as store,
        other_client(url) as other,
    ):
        other.execute("create temp table loot (v text); grant all on loot to public")
        for name in TYPES:
            other.execute(SPY.format(name))
        other.execute("set search_path = evil, pg_temp, pg_catalog")
        with other.transaction(force_rollback=True):
            other.execute(APPEND)

        for user in ("alice", "bob"):
            task = store.user(user).tasks.create("Buy milk", description="secretly")
            store.user(user).tasks.delete(task.id)

        assert other.execute("select v from pg_temp.loot").fetchall() == []
    with EventStore.connect(urls.direct["superuser"], events=[Boxed]) as direct:
        assert direct.verify("alice").problems == direct.verify("bob").problems == ()
