"""A login that inherits several roles gets no access to other users' data from them."""

from __future__ import annotations

import psycopg
import pytest

from eventstore import EventStore, IdempotencyConflict, NotFound, User
from tests.support.server import Server

TABLES = ("user_log", "stream", "event", "task", "conversation", "message")


@pytest.fixture
def member_url(store: EventStore, admin: psycopg.Connection, database_url: str) -> str:
    """The URL of a login that inherits both roles."""
    admin.execute(
        "do $$ begin if not exists (select from pg_roles where rolname = 'member_of_both') then"
        " create role member_of_both login; end if; end $$"
    )
    admin.execute("grant eventstore_app, eventstore_operator to member_of_both")
    for name in ("alice", "bob"):
        store.user(name).tasks.create("private")
        store.user(name).conversations.start()
    return database_url.replace("postgres@", "member_of_both@")


@pytest.mark.parametrize("table", TABLES)
def test_a_login_that_inherits_both_roles_sees_no_row_without_a_user_in_scope(
    member_url: str, table: str
) -> None:
    with psycopg.connect(member_url) as login:
        rows = login.execute(f"select user_id from eventstore.{table}").fetchall()

    assert rows == []


def test_a_login_that_inherits_both_roles_can_use_the_store(member_url: str) -> None:
    with EventStore.connect(member_url) as store:
        assert store.users() == ["alice", "bob"]
        assert [task.title for task in store.user("alice").tasks.list()] == ["private"]
        assert store.verify().ok
        assert store.rebuild().changed == 0


def test_the_operator_role_can_list_users_but_not_read_payloads(
    member_url: str, server: Server
) -> None:
    with psycopg.connect(server.direct(member_url), autocommit=True) as login:
        login.execute("set role eventstore_operator")
        users = login.execute("select user_id from eventstore.event order by 1").fetchall()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            login.execute("select payload from eventstore.event")

    assert {user_id for (user_id,) in users} == {"alice", "bob"}


def test_an_id_given_as_text_finds_the_same_task(alice: User) -> None:
    task = alice.tasks.create("Buy milk")

    done = alice.tasks.complete(str(task.id))

    assert done.completed
    assert alice.tasks.get(str(task.id)) == done


def test_text_that_is_not_an_id_raises_not_found(alice: User) -> None:
    with pytest.raises(NotFound, match="task nonsense not found"):
        alice.tasks.complete("nonsense")


def test_a_tool_call_that_has_ended_cannot_end_again_under_another_key(
    store: EventStore, alice: User
) -> None:
    chat = alice.conversations.start()
    call = alice.tool_calls.request(chat.id, name="f", arguments="{}")
    with alice.transaction(idempotency_key="mine") as tx:
        tx.tool_calls.succeed(call, output=1)

    with pytest.raises(IdempotencyConflict, match=f"the tool call {call.id} ended at position"):
        alice.tool_calls.fail(call, error="late")

    assert store.verify().ok


@pytest.mark.parametrize("change", ["closed = not closed", "kind = 'other'"])
def test_verify_finds_a_stream_whose_closed_flag_or_kind_was_changed(
    store: EventStore, alice: User, admin: psycopg.Connection, change: str
) -> None:
    task = alice.tasks.create("Buy milk")
    admin.execute(f"update eventstore.stream set {change}")

    (problem,) = store.verify().problems

    assert (problem.kind, problem.key) == ("stream", (str(task.id),))
