"""The schema itself tampered with: rewritten columns are found by verify, open doors by doctor."""

from __future__ import annotations

from secrets import token_hex

import psycopg
import pytest

import eventstore.admin.verify
from eventstore import CorruptLog, EventStore, Incomplete
from tests.support.own_read_model import service_url
from tests.tampering.given import LENGTH, MIDDLE, armed, given_a_log

__all__ = ["armed", "service_url"]

REWRITES: dict[str, tuple[str, str]] = {
    "event.payload": ("json", "payload::jsonb::json"),
    "event.metadata": ("json", "'{\"a\":1}'::json"),
    "event.type": ("text", "upper(type)"),
    "event.version": ("bigint", "version + 1"),
    "event.schema_version": ("integer", "2"),
    "event.event_id": ("uuid", "gen_random_uuid()"),
    "event.causation_id": ("uuid", "event_id"),
    "event.recorded_at": ("timestamptz", "recorded_at - interval '1 hour'"),
    "event.hash": ("bytea", "sha256(hash)"),
    "event.payload_digest": ("bytea", "sha256(salt)"),
    "event.salt": ("bytea", "'\\x00'"),
    "event.fingerprint": ("bytea", "null"),
    "user_log.hash": ("bytea", "sha256(hash)"),
    "user_log.recorded_at": ("timestamptz", "now()"),
    "stream.version": ("bigint", "version + 1"),
    "stream.closed": ("boolean", "true"),
    "task.title": ("text", "upper(title)"),
    "task.created_at": ("timestamptz", "date_trunc('second', created_at)"),
    "message.body": ("json", "to_json(body::text)"),
    "conversation.message_count": ("bigint", "0"),
}


@pytest.mark.parametrize("column", REWRITES)
def test_a_column_rewritten_by_alter_table_is_found_though_no_trigger_fires(
    store: EventStore, admin: psycopg.Connection, column: str
) -> None:
    given_a_log_of_ours(store)
    admin.execute("drop trigger forward_only on eventstore.stream")
    table, name = column.split(".")
    kind, value = REWRITES[column]

    admin.execute(f"alter table eventstore.{table} alter column {name} type {kind} using {value}")

    problems = store.verify().problems
    assert problems
    assert {one.user_id for one in problems} == {"alice"}


def given_a_log_of_ours(store: EventStore) -> None:
    alice = store.user("alice")
    chat = alice.conversations.start(title="Groceries")
    alice.messages.post(chat.id, sender="user", content="Buy milk")
    alice.tasks.create("Milk")


def test_a_head_before_the_beginning_does_not_end_the_verification(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")
    admin.execute("alter table eventstore.user_log drop constraint user_log_position_check")

    admin.execute("update eventstore.user_log set position = -1")
    admin.execute("update eventstore.event set metadata = '{}' where position = %s", (MIDDLE,))
    admin.execute("update eventstore.task set title = 'Poison'")

    kinds = {one.kind for one in armed.verify().problems}
    assert kinds == {"head", "payload", "changed_row"}


@pytest.mark.parametrize("position", [0, -1])
def test_an_event_before_the_beginning_is_found(
    armed: EventStore, admin: psycopg.Connection, position: int
) -> None:
    given_a_log(armed, "alice")
    admin.execute("alter table eventstore.event drop constraint event_position_check")

    admin.execute(
        "insert into eventstore.event select user_id, %s, stream_id, 99, event_id, type,"
        " schema_version, payload, metadata, null, null, null, null, recorded_at, salt,"
        " payload_digest, hash from eventstore.event where position = 1",
        (position,),
    )

    assert [one.kind for one in armed.verify().problems] != []


@pytest.mark.parametrize("position", ["null", "-9223372036854775808"])
def test_an_event_that_no_page_of_the_log_reaches_is_counted(
    armed: EventStore, admin: psycopg.Connection, position: str
) -> None:
    given_a_log(armed, "alice")
    admin.execute("alter table eventstore.event drop constraint event_position_check")
    admin.execute("alter table eventstore.event drop constraint event_pkey cascade")
    admin.execute("alter table eventstore.event alter position drop not null")

    admin.execute(
        f"insert into eventstore.event select user_id, {position}, stream_id, 99, event_id, type,"
        " schema_version, payload, metadata, null, null, null, null, recorded_at, salt,"
        " payload_digest, hash from eventstore.event where position = 1"
    )

    (problem,) = armed.verify().problems
    assert problem.kind == "gap"
    told = f"{LENGTH + 1} events, and only {LENGTH} of them are found by their position"
    assert problem.detail == told


@pytest.mark.parametrize("position", [2**31, 2**63 - 1])
def test_a_head_far_beyond_the_end_is_told_and_not_searched_for(
    armed: EventStore, admin: psycopg.Connection, position: int
) -> None:
    given_a_log(armed, "alice")

    admin.execute("update eventstore.user_log set position = %s", (position,))

    (problem,) = armed.verify().problems
    assert (problem.kind, problem.position) == ("head", position)


NULLS = [
    *((table, column) for table, columns in (
        ("event", ("stream_id", "version", "event_id", "type", "schema_version", "recorded_at",
                   "payload_digest", "hash")),
        ("user_log", ("position", "hash", "recorded_at")),
        ("stream", ("kind", "version", "closed")),
    ) for column in columns),
]  # fmt: skip


@pytest.mark.parametrize(("table", "column"), NULLS)
def test_a_null_where_there_must_be_none_is_a_problem_and_not_an_error(
    armed: EventStore, admin: psycopg.Connection, table: str, column: str
) -> None:
    given_a_log(armed, "alice")
    admin.execute(f"alter table eventstore.{table} alter column {column} drop not null")

    where = f"position = {MIDDLE}" if table == "event" else "true"
    admin.execute(f"update eventstore.{table} set {column} = null where {where}")

    assert {one.user_id for one in armed.verify().problems} == {"alice"}


PAYLOADS = ['{"done":"put","value":5}', '{"done":"counted","value":"x"}', '{"done":"made"}', "{}"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_that_a_projector_cannot_take_is_a_problem_and_not_an_error(
    armed: EventStore, admin: psycopg.Connection, payload: str
) -> None:
    given_a_log(armed, "alice")

    admin.execute("update eventstore.event set payload = %s where position = 9", (payload,))

    problems = armed.verify().problems
    assert ("payload", 9) in {(one.kind, one.position) for one in problems}


@pytest.mark.parametrize(
    "spoil",
    [
        """set metadata = '{"a": 1e99999999999999999999}'""",
        f"""set metadata = '{{"a": {"9" * 5_000}}}'""",
        "set recorded_at = null",
        "set schema_version = null",
        "set type = null",
    ],
)
def test_an_event_that_python_cannot_read_is_told_as_such_and_is_its_users_alone(
    armed: EventStore, admin: psycopg.Connection, spoil: str
) -> None:
    for user_id in ("alice", "bob"):
        given_a_log(armed, user_id)
    for column in ("recorded_at", "schema_version", "type"):
        admin.execute(f"alter table eventstore.event alter {column} drop not null")
    admin.execute(f"update eventstore.event {spoil} where user_id = 'alice' and position = 1")
    admin.execute("update eventstore.task set title = 'spoilt'")

    with pytest.raises(CorruptLog):
        armed.rebuild("alice")
    with pytest.raises(CorruptLog):
        armed.user("alice").audit() if "metadata" in spoil else armed.rebuild("alice", check=True)
    for check in (True, False):
        with pytest.raises(Incomplete) as left:
            armed.rebuild(check=check)
        assert list(left.value.failures) == ["alice"]
    assert armed.verify("bob").ok


@pytest.mark.parametrize("column", ["position", "hash", "recorded_at"])
def test_a_head_of_nulls_is_named(
    armed: EventStore, admin: psycopg.Connection, column: str
) -> None:
    given_a_log(armed, "alice")
    admin.execute(f"alter table eventstore.user_log alter {column} drop not null")
    admin.execute(f"update eventstore.user_log set {column} = null")

    with pytest.raises(CorruptLog, match="the head of user 'alice' has nulls"):
        armed.heads(["alice"])


def test_heads_are_listed_though_one_of_them_is_at_no_time_that_python_knows(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob"):
        given_a_log(armed, user_id)

    admin.execute("update eventstore.user_log set recorded_at = 'infinity' where user_id = 'bob'")

    assert [head.user_id for head in armed.heads()] == ["alice", "bob"]


def test_a_head_and_a_stream_without_events_are_found(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    """The application role may insert both by hand: they date and close what is to come."""
    given_a_log(armed, "alice")
    admin.execute("insert into eventstore.stream values ('alice', gen_random_uuid(), 'task', 0,"
                  " true)")  # fmt: skip
    admin.execute(
        "insert into eventstore.user_log"
        " values ('bob', 0, decode(repeat('00', 32), 'hex'), '9000-01-01')"
    )

    problems = [(one.user_id, one.kind, one.detail) for one in armed.verify().problems]

    assert problems == [
        ("alice", "stream", "no event is in this stream, or the stream is there twice"),
        ("bob", "head", "there is a head but no event"),
    ]
    assert [head.user_id for head in armed.heads()] == ["alice"]


def test_a_second_head_and_a_second_stream_are_found(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")
    for table in ("user_log", "stream"):
        admin.execute(f"alter table eventstore.{table} drop constraint {table}_pkey")
        admin.execute(f"insert into eventstore.{table} select * from eventstore.{table} limit 1")

    assert {one.kind for one in armed.verify().problems} == {"head", "stream"}


def test_rows_of_a_user_whom_the_role_is_not_shown_are_found(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")
    for table in ("user_log", "event"):
        admin.execute(f"alter table eventstore.{table} drop constraint {table}_user_id_check")
        admin.execute(f"update eventstore.{table} set user_id = ''")

    assert ("", "hidden", None) in {
        (one.user_id, one.kind, one.position) for one in armed.verify().problems
    }


def test_a_value_whose_pages_are_damaged_is_a_problem_of_its_user_alone(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob", "carol"):
        given_a_log(armed, user_id)
    armed.user("bob").tasks.create("x", description=token_hex(5_000))
    admin.execute("update eventstore.task set title = 'spoilt' where user_id = 'carol'")
    ((toast,),) = admin.execute(
        "select reltoastrelid::regclass::text from pg_class"
        " where oid = 'eventstore.event'::regclass"
    ).fetchall()

    admin.execute("set allow_system_table_mods = on")
    for statement in (
        "update pg_class set relkind = 'r' where oid = %s::regclass",
        f"delete from {toast} where %s <> ''",
        "update pg_class set relkind = 't' where oid = %s::regclass",
    ):
        admin.execute(statement, (toast,))

    problems = {(one.user_id, one.kind) for one in armed.verify().problems}
    assert problems == {("bob", "unreadable"), ("carol", "changed_row")}


def test_text_that_is_no_text_is_a_problem_of_its_user_alone(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob", "carol"):
        given_a_log(armed, user_id)
    admin.execute("create cast (bytea as text) without function")
    admin.execute(r"update eventstore.task set title = cast('\xff'::bytea as text)"
                  " where user_id = 'bob'")  # fmt: skip
    admin.execute("update eventstore.task set title = 'spoilt' where user_id = 'carol'")
    admin.execute("drop cast (bytea as text)")

    problems = {(one.user_id, one.kind) for one in armed.verify().problems}

    assert problems == {("bob", "unreadable"), ("carol", "changed_row")}


def test_more_problems_than_anybody_reads_are_counted(
    armed: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventstore.admin.verify, "MAX_PROBLEMS", 5)
    for user_id in ("alice", "bob"):
        given_a_log(armed, user_id)
    admin.execute("update eventstore.event set recorded_at = '-infinity', hash = ''")

    problems = armed.verify().problems

    assert [one.user_id for one in problems] == ["alice"] * 6 + ["bob"] * 6
    assert (problems[5].kind, problems[5].user_id) == ("more", "alice")
    assert "more problems of this user" in problems[5].detail
