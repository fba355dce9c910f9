"""A user's SQLModel session sees that user's rows only, whoever used the connection before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlmodel import select, update

from eventstore import EventStore, Settings, User
from eventstore.log.ids import uuid7
from projections import Conversation, Message, Task, ToolCall
from tests.support.drivers import SyncWrapper, open_store
from tests.support.own_read_model import Done


@pytest.fixture(params=["sync", "async"])
def session_store(request: pytest.FixtureRequest, service_url: str) -> Iterator[EventStore]:
    """A store with a single connection: the next user meets whatever a user leaves on it."""
    settings = Settings(database_url=service_url, pool_min_size=1, pool_max_size=1)
    with open_store(request.param, settings=settings) as store:
        yield store


@pytest.fixture
def users(session_store: EventStore) -> tuple[User, User]:
    """Two users with a task, a conversation and a message each."""
    alice, bob = session_store.user("alice"), session_store.user("bob")
    for user in (alice, bob):
        user.tasks.create(f"{user.user_id}'s task")
        user.conversations.start(key="chat", title=f"{user.user_id}'s chat")
        user.messages.post("chat", sender="user", content=f"{user.user_id}'s message")
    return alice, bob


def titles(session: Any) -> list[str]:
    return [task.title for task in session.exec(select(Task)).all()]


def scalar(session: Any, sql: str) -> Any:
    return session.connection().execute(text(sql)).scalar()


def test_a_session_sees_only_the_rows_of_its_user(users: tuple[User, User]) -> None:
    for user in users:
        name = user.user_id
        with user.session() as session:
            tasks = session.exec(select(Task)).all()
            chats = session.exec(select(Conversation)).all()
            messages = session.exec(select(Message)).all()
            events = scalar(session, "select array_agg(distinct user_id) from eventstore.event")
            asked_for_all = session.exec(select(Task).where(Task.user_id != name)).all()

        assert [(one.user_id, one.title) for one in tasks] == [(name, f"{name}'s task")]
        assert [(one.user_id, one.title) for one in chats] == [(name, f"{name}'s chat")]
        assert [(one.user_id, one.content) for one in messages] == [(name, f"{name}'s message")]
        assert messages[0].body is None  # there is nothing but the sender and the content
        assert events == [name]
        assert asked_for_all == []


def test_a_session_reads_the_columns_as_the_store_wrote_them(session_store: EventStore) -> None:
    alice = session_store.user("alice")
    chat = alice.conversations.start()
    call = alice.tool_calls.request(chat.id, name="look", arguments="{not json", content="a\0b")
    alice.tool_calls.succeed(call, output={"z": 10**30, "a": ["\ud800", None]})

    with alice.session() as session:
        request, reply = session.exec(select(Message).order_by("position")).all()
        (tool_call,) = session.exec(select(ToolCall)).all()

    assert request.content == "a\ufffdb"
    assert request.body is not None
    assert request.body["content"] == "a\0b"
    assert (request.tool_call_count, reply.tool_call_count) == (1, 0)
    assert (tool_call.id, tool_call.message_id) == (call.id, request.id)
    assert tool_call.arguments == "{not json"
    assert tool_call.output == {"z": 10**30, "a": ["\ud800", None]}
    assert (request.created_at, reply.sender) == (call.requested_at, "tool")
    assert tool_call.finished_at == reply.created_at


def test_a_session_is_read_only_by_default(users: tuple[User, User]) -> None:
    alice, _ = users

    for change in (
        update(Task).values(title="spoilt"),
        text("insert into service.done values ('alice', gen_random_uuid(), now())"),
        text("create table mine ()"),
        text("set transaction read write"),
    ):
        with alice.session() as session:
            assert titles(session) == ["alice's task"]
            with pytest.raises(DBAPIError, match=r"read-only|read-write"):
                session.connection().execute(change)

    assert [task.title for task in alice.tasks.list()] == ["alice's task"]


def test_rows_that_a_session_commits_belong_to_its_user_alone(
    users: tuple[User, User],
) -> None:
    alice, bob = users
    row = Done(user_id="alice", id=uuid7(), at=datetime(2026, 1, 1, tzinfo=UTC))
    key = row.id

    with alice.session(read_only=False) as session:
        session.add(row)
        session.commit()
        session.add(Done(user_id="alice", id=uuid7(), at=datetime(2026, 1, 2, tzinfo=UTC)))
        session.flush()
        session.rollback()

    with alice.session() as session:
        assert [one.id for one in session.exec(select(Done)).all()] == [key]
    with bob.session(read_only=False) as session:
        assert session.exec(select(Done)).all() == []
        session.connection().execute(text("delete from service.done"))
        session.commit()
    with alice.session() as session:
        assert len(session.exec(select(Done)).all()) == 1


def test_a_session_cannot_write_rows_of_another_user(users: tuple[User, User]) -> None:
    alice, bob = users

    for row in (
        Done(user_id="alice", id=uuid7(), at=datetime.now(UTC)),
        Task(user_id="alice", id=uuid7(), title="planted", position=9, completed=False),
    ):
        with bob.session(read_only=False) as session:
            session.add(row)
            with pytest.raises(DBAPIError, match="row-level security"):
                session.commit()

    assert [task.title for task in alice.tasks.list()] == ["alice's task"]


def test_a_session_stays_in_its_scope_after_commit_rollback_and_failure(
    users: tuple[User, User],
) -> None:
    for user in users:
        for read_only in (True, False):
            with user.session(read_only=read_only) as session:
                own = [f"{user.user_id}'s task"]
                assert titles(session) == own
                session.commit()
                assert titles(session) == own
                session.rollback()
                assert titles(session) == own
                with pytest.raises(DBAPIError):
                    scalar(session, "select 1 / 0")
                session.rollback()
                assert titles(session) == own
                assert scalar(session, "select current_user") == "eventstore_app"
                assert scalar(session, "show transaction_read_only") == (
                    "on" if read_only else "off"
                )


def test_a_session_leaves_nothing_of_its_user_on_the_connection(
    session_store: EventStore, users: tuple[User, User]
) -> None:
    alice, bob = users
    connections = set()

    def use_session(user: User, ending: str) -> None:
        with user.session(read_only=False) as session:
            assert titles(session) == [f"{user.user_id}'s task"]
            connections.add(scalar(session, "select pg_backend_pid()"))
            if ending == "failed":
                scalar(session, "select 1 / 0")
            if ending == "raised":
                raise KeyError
            if ending == "committed":
                session.commit()

    for ending in ("closed", "committed", "failed", "raised"):
        for user, other in ((alice, bob), (bob, alice)):
            if ending in {"failed", "raised"}:
                with pytest.raises((DBAPIError, KeyError)):
                    use_session(user, ending)
            else:
                use_session(user, ending)

            with other.session() as session:
                assert titles(session) == [f"{other.user_id}'s task"]
            assert [task.title for task in other.tasks.list()] == [f"{other.user_id}'s task"]
            assert read_without_user(session_store) == ([], "", "on")
    assert len(connections) == 1, "every session used the same connection"
    assert session_store.verify().ok


def engine_of(store: Any) -> Any:
    engine = store._engine
    return SyncWrapper(engine, store._loop) if isinstance(engine, AsyncEngine) else engine


def read_without_user(store: EventStore) -> tuple[list[Any], str, str]:
    """Return the tasks, the user and the read-only setting of a connection of the engine."""
    with engine_of(store).connect() as connection:
        tasks = connection.execute(text("select * from eventstore.task")).all()
        user = connection.execute(text("select current_setting('eventstore.user_id')")).scalar()
        read_only = connection.execute(text("show transaction_read_only")).scalar()
    return list(tasks), user, read_only


def test_a_connection_of_the_engine_without_a_user_sees_nothing(
    session_store: EventStore, users: tuple[User, User]
) -> None:
    engine = engine_of(session_store)

    assert read_without_user(session_store) == ([], "", "on")
    for table in ("user_log", "stream", "event", "conversation", "message", "tool_call"):
        with engine.connect() as connection:
            assert connection.execute(text(f"select * from eventstore.{table}")).all() == []
    with engine.connect() as connection, pytest.raises(DBAPIError, match="read-only"):
        connection.execute(text("delete from eventstore.task"))


def test_concurrent_sessions_of_two_users_see_their_own_rows(service_url: str) -> None:
    with EventStore.connect(service_url) as store:
        alice, bob = store.user("alice"), store.user("bob")
        alice.tasks.create("alice's task")
        bob.tasks.create("bob's task")

        with alice.session() as hers, bob.session() as his:
            lists = [titles(session) for session in (hers, his, hers, his)]
            backends = {scalar(session, "select pg_backend_pid()") for session in (hers, his)}

    assert lists == [["alice's task"], ["bob's task"]] * 2
    assert len(backends) == 2


def test_settings_made_in_a_session_end_with_its_transaction(users: tuple[User, User]) -> None:
    alice, bob = users

    with alice.session(read_only=False) as session:
        session.connection().execute(text("set bytea_output = escape"))
        session.connection().execute(text("set default_transaction_read_only = on"))
        session.commit()
        within = scalar(session, "show bytea_output")

    with bob.session(read_only=False) as session:
        after = (
            scalar(session, "show bytea_output"),
            scalar(session, "show transaction_read_only"),
        )
    assert (within, after) == ("hex", ("hex", "off"))
    bob.tasks.create("is written")


def test_a_session_is_refused_after_its_block(users: tuple[User, User]) -> None:
    # With the only connection leased to it for good, nobody else would get one.
    with users[0].session() as session:
        titles(session)

    with pytest.raises(InvalidRequestError, match="closed"):
        titles(session)
    assert len(users[1].tasks.list()) == 1


def driver_connection(session: Any) -> Any:
    connection = session.connection()
    if isinstance(connection, SyncWrapper):
        raw = connection.get_raw_connection().driver_connection
        return SyncWrapper(raw, connection._loop)
    return connection.connection.driver_connection


COMMITS: dict[str, Any] = {
    "commit": lambda session: session.commit(),
    "the connection's commit": lambda session: driver_connection(session).commit(),
    "SQL": lambda session: session.connection().execute(text("/* done */ Commit")),
    "SQL that prepares": lambda session: session.connection().execute(
        text("prepare transaction 'one'")
    ),
}


@pytest.mark.parametrize("name", COMMITS)
def test_a_write_session_that_swallowed_an_error_cannot_commit(
    users: tuple[User, User], name: str
) -> None:
    alice, _ = users

    with alice.session(read_only=False) as session:
        with pytest.raises(DBAPIError):
            session.connection().execute(text("select 1 / 0"))
        if name == "the connection's commit":
            with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="rolled back"):
                COMMITS[name](session)
        else:
            with pytest.raises(DBAPIError, match="rolled back"):
                COMMITS[name](session)
        session.rollback()
        assert scalar(session, "select 1") == 1
        session.commit()


def test_a_write_session_that_went_back_to_a_savepoint_commits(users: tuple[User, User]) -> None:
    alice, _ = users

    with alice.session(read_only=False) as session:
        session.connection().execute(text("savepoint before_it"))
        with pytest.raises(DBAPIError):
            session.connection().execute(text("select 1 / 0"))
        session.connection().execute(text("rollback to savepoint before_it"))
        assert scalar(session, "select 1") == 1
        session.commit()
