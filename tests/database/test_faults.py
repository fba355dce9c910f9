"""Faults raise clear errors, are retried where that is safe, and leave nothing half-written."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import psycopg
import pytest
from psycopg import sql

from eventstore import (
    AsyncEventStore,
    ConnectionLost,
    DatabaseFault,
    EventStore,
    PoolExhausted,
    SchemaMissing,
    Settings,
    StorageFull,
    TimedOut,
    Unavailable,
    UnsafeDatabase,
    User,
)
from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from tests.support.proxy import run_proxy, url_through
from tests.support.server import Server
from tests.support.waiting import until

TRANSACTION_TIMEOUT_SINCE = 170_000


@pytest.fixture
def impatient(database_url: str) -> Iterator[EventStore]:
    """A store with one connection and short limits."""
    settings = Settings(
        database_url=database_url,
        pool_max_size=1,
        deadline_seconds=1.5,
    )
    with EventStore.connect(settings=settings) as store:
        yield store


def fail_on(admin: psycopg.Connection, table: str, state: str, *, deferred: bool = False) -> None:
    """Make every insert into a table fail with SQLSTATE `state`, at once or only at COMMIT."""
    admin.execute(
        "create function public.fail() returns trigger language plpgsql as"
        f" $$ begin raise exception 'injected fault' using errcode = '{state}'; end $$"
    )
    kind = "constraint trigger" if deferred else "trigger"
    when = "deferrable initially deferred for each row" if deferred else "for each row"
    admin.execute(
        f"create {kind} fail after insert on {table} {when} execute function public.fail()"
    )


def remove_fault(admin: psycopg.Connection) -> None:
    admin.execute("drop function public.fail() cascade")


def test_a_full_disk_raises_storage_full_and_leaves_nothing(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("before")
    fail_on(admin, "eventstore.task", "53100")

    with pytest.raises(StorageFull, match="reading still works"):
        alice.tasks.create("during")

    remove_fault(admin)
    alice.tasks.create("after")
    assert [task.title for task in alice.tasks.list()] == ["before", "after"]
    assert [event.position for event in alice.events()] == [1, 2]
    assert store.verify().ok


def test_an_error_at_commit_is_not_swallowed(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    fail_on(admin, "eventstore.task", "XX001", deferred=True)

    with pytest.raises(DatabaseFault):
        alice.tasks.create("lost at commit")

    remove_fault(admin)
    assert alice.events() == []
    assert store.verify().ok


def test_a_serialization_failure_is_retried(alice: User, admin: psycopg.Connection) -> None:
    admin.execute("create sequence public.tries; grant usage on sequence public.tries to public")
    admin.execute(
        "create function public.fail() returns trigger language plpgsql as $$ begin"
        " if nextval('public.tries') < 3 then raise exception 'again' using errcode = '40001';"
        " end if; return null; end $$"
    )
    admin.execute(
        "create trigger fail after insert on eventstore.task for each row"
        " execute function public.fail()"
    )

    alice.tasks.create("third time")

    remove_fault(admin)
    assert [task.title for task in alice.tasks.list()] == ["third time"]


def test_a_refused_append_leaves_its_connection_usable(database_url: str) -> None:
    with EventStore.connect(settings=Settings(database_url=database_url, pool_max_size=1)) as store:
        alice = store.user("alice")
        for _ in range(20):  # psycopg prepares statements, also in pipelines that fail
            alice.conversations.start(key="the same")

        fresh = alice.conversations.start(key="another")

        assert fresh.key == "another"
        assert len(alice.conversations.list()) == 2


def test_an_append_survives_a_table_change_that_invalidates_its_prepared_statements(
    alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("one")
    admin.execute("alter table eventstore.task rename column title to caption")
    admin.execute("alter table eventstore.task rename column caption to title")
    admin.execute("alter table eventstore.task alter column title type varchar(600)")

    alice.tasks.create("two")

    assert [task.title for task in alice.tasks.list()] == ["one", "two"]


def test_a_query_is_retried_after_its_table_was_changed(
    database_url: str, admin: psycopg.Connection
) -> None:
    settings = Settings(database_url=database_url, pool_min_size=1, pool_max_size=1)
    with EventStore.connect(settings=settings) as store:
        store.user("alice").tasks.create("one")
        assert store.verify().ok
        admin.execute("alter table eventstore.task alter column title type varchar(600)")

        assert store.verify().ok
        assert store.rebuild("alice").changed == 0


def test_connections_that_were_closed_while_idle_are_replaced(
    alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("one")
    admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )

    alice.tasks.create("two")

    assert [task.title for task in alice.tasks.list()] == ["one", "two"]


def test_waiting_too_long_for_the_users_row_raises_timed_out(
    impatient: EventStore, direct_url: str
) -> None:
    alice = impatient.user("alice")
    alice.tasks.create("one")

    with psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.user_log where user_id = 'alice' for update")
        with pytest.raises(TimedOut, match="another append of this user holds the lock"):
            alice.tasks.create("two")

    alice.tasks.create("three")
    assert [event.position for event in alice.events()] == [1, 2]


def test_one_users_lock_does_not_block_another_user(impatient: EventStore, direct_url: str) -> None:
    impatient.user("alice").tasks.create("one")

    with psycopg.connect(direct_url) as holder:
        holder.execute("select from eventstore.user_log where user_id = 'alice' for update")
        impatient.user("bob").tasks.create("at once")

    assert len(impatient.user("bob").tasks.list()) == 1


def test_a_transaction_timeout_of_the_login_is_named(
    direct_url: str, admin: psycopg.Connection
) -> None:
    if admin.info.server_version < TRANSACTION_TIMEOUT_SINCE:
        pytest.skip("transaction_timeout is of PostgreSQL 17")
    database = sql.Identifier(admin.info.dbname)
    with EventStore.connect(direct_url) as store:
        store.user("alice").tasks.create("one")
    admin.execute(sql.SQL("alter database {} set transaction_timeout = '0.3s'").format(database))
    try:
        settings = Settings(database_url=direct_url)
        with EventStore.connect(settings=settings) as store, admin.transaction():
            admin.execute("select from eventstore.user_log for update")
            with pytest.raises(TimedOut, match="transaction_timeout of the login"):
                store.user("alice").tasks.create("two")
    finally:
        reset = sql.SQL("alter database {} reset transaction_timeout")
        admin.execute(reset.format(database))


def sleep_in_the_server() -> Plan[None]:
    yield Batch(user_scope("alice"), (Statement("select pg_sleep(30)"),))


def test_a_statement_that_runs_too_long_raises_timed_out(impatient: EventStore) -> None:
    with pytest.raises(TimedOut, match="DEADLINE"):
        impatient._calls.run(sleep_in_the_server())


def test_a_pool_without_a_free_connection_raises_pool_exhausted(
    impatient: EventStore, database_url: str
) -> None:
    started = threading.Event()

    def hold() -> Plan[None]:
        yield Batch(user_scope("alice"), (Statement("select 1"),), hold=True)
        started.set()
        released.wait(10)

    released = threading.Event()
    holder = threading.Thread(target=lambda: impatient._calls.run(hold()))
    holder.start()
    started.wait(10)

    with pytest.raises(PoolExhausted, match="POOL_MAX_SIZE"):
        impatient.user("alice").tasks.list()

    released.set()
    holder.join()


def test_a_server_that_went_away_raises_unavailable_and_not_pool_exhausted(
    database_url: str, server: Server
) -> None:
    with run_proxy(server.socket) as proxy:
        settings = Settings(
            database_url=url_through(proxy, database_url),
            deadline_seconds=1.5,
        )
        with EventStore.connect(settings=settings) as store:
            store.user("alice").tasks.create("one")
            proxy.close()

            with pytest.raises(Unavailable) as error:
                store.user("alice").tasks.list()

    assert not isinstance(error.value, PoolExhausted)


@pytest.mark.usefixtures("short_deadline")
def test_a_server_that_cannot_be_reached_raises_unavailable() -> None:
    with pytest.raises(Unavailable):
        EventStore.connect("postgresql://nobody@127.0.0.1:1/none")


def test_a_database_without_the_schema_raises_schema_missing_with_the_command(
    server: Server,
) -> None:
    url = server.create_database("template0")

    with EventStore.connect(url) as store, pytest.raises(SchemaMissing, match="eventstore migrate"):
        store.user("alice").tasks.create("x")

    server.drop_database(url)


def test_a_login_without_the_role_is_refused_with_the_missing_grant(
    server: Server, database_url: str, admin: psycopg.Connection
) -> None:
    admin.execute(
        "do $$ begin if not exists (select from pg_roles where rolname = 'stranger') then"
        " create role stranger login; end if; end $$"
    )
    url = database_url.replace("postgres@", "stranger@")

    with pytest.raises(UnsafeDatabase, match="grant eventstore_app to stranger"):
        EventStore.connect(url)


def test_a_cancelled_task_returns_its_connection(database_url: str, direct_url: str) -> None:
    async def run() -> int:
        settings = Settings(database_url=database_url, pool_max_size=1)
        async with AsyncEventStore.connect(settings=settings) as store:
            running = asyncio.create_task(store._driver.run(sleep_in_the_server()))
            await asyncio.to_thread(until, lambda: _is_sleeping(direct_url))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await store.user("alice").tasks.create("after")
            return len(await store.user("alice").tasks.list())

    assert asyncio.run(run()) == 1


def _is_sleeping(url: str) -> bool:
    with psycopg.connect(url, autocommit=True) as connection:
        return (
            connection.execute(
                "select 1 from pg_stat_activity where query like 'select pg_sleep%'"
                " and state = 'active' and datname = current_database()"
            ).fetchone()
            is not None
        )


def test_a_plan_that_fails_between_batches_is_rolled_back(
    store: EventStore, alice: User, database_url: str
) -> None:
    alice.tasks.create("one")

    def broken() -> Plan[None]:
        yield Batch(user_scope("alice"), (Statement("delete from eventstore.task"),), hold=True)
        raise RuntimeError("between two batches")

    with EventStore.connect(database_url) as sync, pytest.raises(RuntimeError):
        sync._driver.run(broken())

    assert len(alice.tasks.list()) == 1


def test_scope_and_limits_end_with_their_transaction(impatient: EventStore) -> None:
    def read_settings() -> Plan[list[Rows]]:
        return (
            yield Batch(
                user_scope("alice"),
                (
                    Statement("select current_user, current_setting('eventstore.user_id')"),
                    Statement("select current_setting('statement_timeout')::interval"),
                    Statement("select current_setting('lock_timeout')::interval"),
                ),
            )
        )

    inside = impatient._calls.run(read_settings())
    connection = impatient._driver.pool.getconn()
    row = connection.execute(
        "select current_user, current_setting('eventstore.user_id', true),"
        " current_setting('statement_timeout')"
    ).fetchone()
    impatient._driver.pool.putconn(connection)

    assert inside[0] == [("eventstore_app", "alice")]
    ((statement,),), ((lock,),) = inside[1:]
    assert timedelta(seconds=1) < lock < statement < timedelta(seconds=1.5)
    assert row == ("postgres", "", "0")


OPERATIONS: dict[str, Callable[[EventStore], object]] = {
    "users": lambda store: store.users(),
    "status": lambda store: store.status(),
    "heads": lambda store: store.heads(),
    "doctor": lambda store: store.doctor(),
    "verify": lambda store: store.verify(),
    "rebuild": lambda store: store.rebuild(),
    "rebuild in threads": lambda store: store.rebuild(jobs=2),
    "rebuild of one": lambda store: store.rebuild("alice"),
    "compare": lambda store: store.rebuild(check=True),
    "export": lambda store: store.export("alice", len),
    "erase": lambda store: store.erase("alice", ordered_by="alice"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_replaces_connections_that_were_closed(
    store: EventStore, admin: psycopg.Connection, operation: str
) -> None:
    store.user("alice").tasks.create("Buy milk")

    admin.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where pid <> pg_backend_pid() and datname = current_database()"
    )

    OPERATIONS[operation](store)

    assert store.verify().ok


def test_an_export_that_has_written_output_is_not_restarted(
    store: EventStore, admin: psycopg.Connection
) -> None:
    store.user("alice").tasks.create("Buy milk")
    written: list[str] = []

    def write(piece: str) -> None:
        if not written:
            admin.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where pid <> pg_backend_pid() and datname = current_database()"
            )
        written.append(piece)

    with pytest.raises(ConnectionLost):
        store.export("alice", write)

    assert "".join(written).count('"user_id"') == 1
