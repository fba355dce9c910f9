"""Roles may have other names: a store works, and isolates its users, under them."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from sqlmodel import select

from eventstore import AccessDenied, ConfigurationError, EventStore, Settings, UnsafeDatabase
from eventstore.schema.migrate import upgrade
from projections.protection import protection_sql
from tests.attacks.support import make_login
from tests.support.own_read_model import DDL, Box, Boxed, box_event, project_box
from tests.support.server import Server

NAMES = {
    "application_role": "todo_app",
    "operator_role": "todo_ops",
    "eraser_role": "todo_erase",
}


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    """A database that was migrated with other names for the roles."""
    url = server.create_database("template0")
    upgrade(settings_of(server.direct(url)))
    with psycopg.connect(server.direct(url), autocommit=True) as owner:
        for statement in (
            DDL,
            *protection_sql(Box, application_role="todo_app", operator_role="todo_ops"),
        ):
            owner.execute(statement)
    yield url
    server.drop_database(url)


def settings_of(url: str) -> Settings:
    return Settings(
        database_url=url,
        application_role="todo_app",
        operator_role="todo_ops",
        eraser_role="todo_erase",
    )


def use_store(store: EventStore, name: str) -> None:
    """Run commands and queries of a user, and check that a session is in scope."""
    user, box = store.user(name), uuid4()
    task = user.tasks.create(f"{name}'s task")
    user.tasks.complete(task.id)
    chat = user.conversations.start(key="chat")
    call = user.tool_calls.request(chat.id, name="look", arguments="{}")
    user.tool_calls.succeed(call, output=name)
    user.append([box_event(box, "made", value=name), box_event(box, "counted", value=2)])
    assert user.history(chat.id) == user.history(chat.id, source="events")
    with user.session() as session:
        assert {row.user_id for row in session.exec(select(Box)).all()} == {name}


def test_a_store_works_with_other_role_names(url: str) -> None:
    with EventStore.connect(
        settings=settings_of(url), projectors=[project_box], events=[Boxed]
    ) as store:
        for name in ("alice", "bob"):
            use_store(store, name)

        assert {"alice", "bob"} <= {*store.users()}
        assert (store.status().users or 0) >= 2
        assert store.verify().ok
        assert store.rebuild().changed == 0
        erased = store.erase("alice", ordered_by="alice")
        assert erased.events > 0
        assert store.user("alice").tasks.list() == []
        assert len(store.user("bob").tasks.list()) == 1
        assert store.verify().ok


def test_nothing_in_the_database_names_the_default_roles(server: Server, url: str) -> None:
    with psycopg.connect(server.direct(url)) as owner:
        rows = owner.execute(
            """
            select 'policy', polname::text from pg_policy
            where polroles::regrole[]::text ~ 'eventstore_'
               or pg_get_expr(polqual, polrelid) ~ 'eventstore_'
            union all
            select 'rights', relname::text from pg_class where relacl::text ~ 'eventstore_'
            union all
            select 'column', attname::text from pg_attribute where attacl::text ~ 'eventstore_'
            union all
            select 'function', proname::text from pg_proc
            where pronamespace = 'eventstore'::regnamespace
              and (proacl::text ~ 'eventstore_' or prosrc ~ 'eventstore_')
            union all
            select 'trigger', tgname::text from pg_trigger
            where not tgisinternal and pg_get_triggerdef(oid) ~ 'eventstore_'
            """
        ).fetchall()

    assert rows == []


def test_the_default_role_names_are_refused_on_a_database_with_other_names(url: str) -> None:
    with pytest.raises(UnsafeDatabase) as refused:
        EventStore.connect(url)

    assert [(one.location, one.remedy) for one in refused.value.findings] == [
        ("eventstore_app", "set EVENTSTORE_APPLICATION_ROLE=todo_app"),
        ("eventstore_operator", "set EVENTSTORE_OPERATOR_ROLE=todo_ops"),
        ("eventstore_eraser", "set EVENTSTORE_ERASER_ROLE=todo_erase"),
    ]


@pytest.fixture
def own_login(server: Server, url: str) -> Iterator[str]:
    """A URL whose login is the application role itself."""
    server.execute("alter role todo_app login")
    yield url.replace("postgres@", "todo_app@")
    server.execute("alter role todo_app nologin")


def test_a_migration_with_other_role_names_than_the_first_is_refused(
    server: Server, url: str
) -> None:
    with pytest.raises(ConfigurationError, match=r"set EVENTSTORE_APPLICATION_ROLE="):
        upgrade(Settings(database_url=server.direct(url)))


def test_the_application_role_may_be_the_login_itself(own_login: str) -> None:
    settings = settings_of(own_login)
    with EventStore.connect(settings=settings, projectors=[project_box], events=[Boxed]) as store:
        for name in ("carol", "dave"):
            use_store(store, name)

        assert store.verify("carol").ok
        assert store.rebuild("carol").changed == 0
        with pytest.raises(AccessDenied, match="todo_ops"):
            store.users()
        with pytest.raises(AccessDenied, match="todo_erase"):
            store.erase("carol", ordered_by="dave")
        assert [one.title for one in store.user("carol").tasks.list()] == ["carol's task"]
    with psycopg.connect(own_login) as login:
        assert login.execute("select * from eventstore.task").fetchall() == []


def test_a_login_with_all_three_roles_can_use_the_whole_store(server: Server, url: str) -> None:
    make_login(server, "todo_all", *NAMES.values())
    settings = settings_of(url.replace("postgres@", "todo_all@"))
    with EventStore.connect(settings=settings, projectors=[project_box], events=[Boxed]) as store:
        use_store(store, "erin")

        assert "erin" in store.users()
        assert store.verify().ok
        assert store.erase("erin", ordered_by="erin").events > 0
