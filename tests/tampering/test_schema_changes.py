"""Changes made by altering the schema are reported by verify, which itself does not fail."""

from __future__ import annotations

from secrets import token_hex

import psycopg
import pytest

import eventstore.admin.verify
from eventstore import CorruptLog, EventStore, Incomplete
from tests.tampering.flips import NO_EVIDENCE
from tests.tampering.full_log import LENGTH, MIDDLE, write_log

# The type of each column and the expression with which ALTER TABLE rewrites it.
REWRITES: dict[str, tuple[str, str]] = {
    "event.payload": ("json", "payload::jsonb::json"),
    "event.metadata": ("json", "'{\"a\":1}'::json"),
    "event.type": ("text", "upper(type)"),
    "event.version": ("bigint", "version + 1"),
    "event.schema_version": ("integer", "2"),
    "event.event_id": ("uuid", "gen_random_uuid()"),
    "event.causation_id": ("uuid", "event_id"),
    "event.occurred_at": ("timestamptz", "recorded_at"),
    "event.recorded_at": ("timestamptz", "recorded_at - interval '1 hour'"),
    "event.hash": ("bytea", "sha256(hash)"),
    "event.payload_digest": ("bytea", "sha256(salt)"),
    "event.salt": ("bytea", "'\\x00'"),
    "event.append_size": ("integer", "1"),
    "event.idempotency_key": ("text", "event_id::text"),
    "user_log.hash": ("bytea", "sha256(hash)"),
    "user_log.recorded_at": ("timestamptz", "now()"),
    "stream.version": ("bigint", "version + 1"),
    "stream.closed": ("boolean", "true"),
    "task.title": ("text", "upper(title)"),
    "task.created_at": ("timestamptz", "date_trunc('second', created_at)"),
    "message.body": ("json", "to_json(sender)"),
    "message.tool_call_count": ("integer", "1"),
    "tool_call.arguments": ("json", "to_json(arguments::text)"),
    "conversation.activity_position": ("bigint", "0"),
}


@pytest.mark.parametrize("column", REWRITES)
def test_a_column_rewritten_by_alter_table_is_found_though_no_trigger_fires(
    store: EventStore, admin: psycopg.Connection, column: str
) -> None:
    write_built_in_log(store)
    # PostgreSQL alters no column that a trigger names.
    for log in ("stream", "user_log"):
        admin.execute(f"drop trigger forward_only on eventstore.{log}")
    table, name = column.split(".")
    kind, value = REWRITES[column]

    admin.execute(f"alter table eventstore.{table} alter column {name} type {kind} using {value}")

    problems = store.verify().problems
    assert problems
    assert {one.user_id for one in problems} == {"alice"}


def test_each_event_that_cannot_be_read_or_checked_is_reported(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    admin.execute("alter table eventstore.event alter correlation_id type text")

    admin.execute("update eventstore.event set type = 'Strange' where position = 2")
    admin.execute(
        "update eventstore.event set correlation_id = 'no uuid' where position = %s", (MIDDLE,)
    )

    found = disarmed_store.verify().problems
    unreadable = sorted(one.position or 0 for one in found if one.kind == "unreadable")
    assert unreadable == [2, MIDDLE]


def write_built_in_log(store: EventStore) -> None:
    alice = store.user("alice")
    chat = alice.conversations.start(title="Groceries")
    alice.messages.post(chat.id, sender="user", content="Buy milk")
    alice.tool_calls.request(chat.id, name="f", arguments="{}")
    alice.tasks.create("Milk")


@pytest.mark.parametrize(
    "payload",
    [
        '{"title":1.10}',
        '{"title":99999999999999999999999}',
        r'{"title":"\ud800"}',
        r'{"title":"\u0000"}',
        '{"title":{"a":[1.0]}}',
    ],
)
def test_a_payload_that_no_column_can_hold_fails_only_the_work_of_its_user(
    disarmed_store: EventStore, admin: psycopg.Connection, payload: str
) -> None:
    for user in ("alice", "bob"):
        disarmed_store.user(user).tasks.create("Milk")
    admin.execute("update eventstore.event set payload = %s where user_id = 'alice'", (payload,))
    admin.execute("delete from eventstore.task where user_id = 'bob'")

    found = {(one.user_id, one.kind) for one in disarmed_store.verify().problems}
    with pytest.raises(Incomplete) as left:
        disarmed_store.rebuild()

    assert {("alice", "payload"), ("bob", "missing_row")} <= found
    assert [*left.value.failures] == ["alice"]
    assert [task.title for task in disarmed_store.user("bob").tasks.list()] == ["Milk"]


def test_a_negative_head_position_does_not_end_the_verification(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    admin.execute("update eventstore.user_log set position = -1")
    admin.execute("update eventstore.event set metadata = '{}' where position = %s", (MIDDLE,))
    admin.execute("update eventstore.task set title = 'Poison'")

    kinds = {one.kind for one in disarmed_store.verify().problems}
    assert kinds == {"head", "payload", "changed_row"}


@pytest.mark.parametrize("position", [0, -1])
def test_an_event_at_a_position_below_one_is_found(
    disarmed_store: EventStore, admin: psycopg.Connection, position: int
) -> None:
    write_log(disarmed_store, "alice")

    admin.execute(
        "insert into eventstore.event select user_id, %s, stream_id, 99, event_id, type,"
        " schema_version, payload, metadata, null, null, null, null, null, recorded_at, salt,"
        " payload_digest, hash from eventstore.event where position = 1",
        (position,),
    )

    assert [one.kind for one in disarmed_store.verify().problems] != []


@pytest.mark.parametrize("position", ["null", "-9223372036854775808"])
def test_an_event_that_no_page_of_the_log_contains_is_reported(
    disarmed_store: EventStore, admin: psycopg.Connection, position: str
) -> None:
    write_log(disarmed_store, "alice")
    admin.execute("alter table eventstore.event drop constraint event_pkey cascade")
    admin.execute("alter table eventstore.event alter position drop not null")

    admin.execute(
        f"insert into eventstore.event select user_id, {position}, stream_id, 99, event_id, type,"
        " schema_version, payload, metadata, null, null, null, null, null, recorded_at, salt,"
        " payload_digest, hash from eventstore.event where position = 1"
    )

    (problem,) = disarmed_store.verify().problems
    assert problem.kind == "gap"
    detail = f"{LENGTH + 1} events, and only {LENGTH} of them are found by their position"
    assert problem.detail == detail


@pytest.mark.parametrize("position", [2**31, 2**63 - 1])
def test_a_head_far_beyond_the_last_event_is_reported_without_a_search(
    disarmed_store: EventStore, admin: psycopg.Connection, position: int
) -> None:
    write_log(disarmed_store, "alice")

    admin.execute("update eventstore.user_log set position = %s", (position,))

    (problem,) = disarmed_store.verify().problems
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
def test_a_null_in_a_required_column_is_a_problem_and_not_an_error(
    disarmed_store: EventStore, admin: psycopg.Connection, table: str, column: str
) -> None:
    write_log(disarmed_store, "alice")
    admin.execute(f"alter table eventstore.{table} alter column {column} drop not null")

    where = f"position = {MIDDLE}" if table == "event" else "true"
    admin.execute(f"update eventstore.{table} set {column} = null where {where}")

    assert {one.user_id for one in disarmed_store.verify().problems} == {"alice"}


# Payloads of a counting event of a box that its class or its projector refuses.
PAYLOADS = ['{"done":"put","value":5}', '{"done":"counted","value":"x"}', '{"done":"made"}', "{}"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_that_a_projector_cannot_apply_is_a_problem_and_not_an_error(
    disarmed_store: EventStore, admin: psycopg.Connection, payload: str
) -> None:
    write_log(disarmed_store, "alice")

    admin.execute("update eventstore.event set payload = %s where position = 9", (payload,))

    problems = disarmed_store.verify().problems
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
def test_an_event_that_python_cannot_read_fails_only_the_work_of_its_user(
    disarmed_store: EventStore, admin: psycopg.Connection, spoil: str
) -> None:
    for user_id in ("alice", "bob"):
        write_log(disarmed_store, user_id)
    for column in ("recorded_at", "schema_version", "type"):
        admin.execute(f"alter table eventstore.event alter {column} drop not null")
    admin.execute(f"update eventstore.event {spoil} where user_id = 'alice' and position = 1")
    admin.execute("update eventstore.task set title = 'spoilt'")

    with pytest.raises(CorruptLog):
        disarmed_store.rebuild("alice")
    audit, alice = "metadata" in spoil, disarmed_store.user("alice")
    with pytest.raises(CorruptLog):
        alice.audit() if audit else disarmed_store.rebuild("alice", check=True)
    for check in (True, False):
        with pytest.raises(Incomplete) as left:
            disarmed_store.rebuild(check=check)
        assert list(left.value.failures) == ["alice"]
    assert disarmed_store.verify("bob").ok


@pytest.mark.parametrize("column", ["position", "hash", "recorded_at"])
def test_a_head_with_a_null_is_reported_with_its_user(
    disarmed_store: EventStore, admin: psycopg.Connection, column: str
) -> None:
    write_log(disarmed_store, "alice")
    admin.execute(f"alter table eventstore.user_log alter {column} drop not null")
    admin.execute(f"update eventstore.user_log set {column} = null")

    with pytest.raises(CorruptLog, match="the head of user 'alice' has nulls"):
        disarmed_store.heads(["alice"])


def test_heads_are_listed_even_if_python_cannot_represent_the_time_of_one(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob"):
        write_log(disarmed_store, user_id)

    admin.execute("update eventstore.user_log set recorded_at = 'infinity' where user_id = 'bob'")

    assert [head.user_id for head in disarmed_store.heads()] == ["alice", "bob"]


def test_a_head_and_a_stream_without_events_are_found(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    """The application role may insert both, and so close streams and date events in advance."""
    write_log(disarmed_store, "alice")
    admin.execute("insert into eventstore.stream values ('alice', gen_random_uuid(), 'task', 0,"
                  " true)")  # fmt: skip
    admin.execute(
        "insert into eventstore.user_log"
        " values ('bob', 0, decode(repeat('00', 32), 'hex'), '9000-01-01')"
    )

    problems = [(one.user_id, one.kind, one.detail) for one in disarmed_store.verify().problems]

    assert problems == [
        ("alice", "stream", "no event is in this stream, or the stream is there twice"),
        ("bob", "head", "there is a head but no event"),
    ]
    assert [head.user_id for head in disarmed_store.heads()] == ["alice"]


def test_duplicate_heads_and_streams_are_found(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    for table in ("user_log", "stream"):
        admin.execute(f"alter table eventstore.{table} drop constraint {table}_pkey")
        admin.execute(f"insert into eventstore.{table} select * from eventstore.{table} limit 1")

    assert {one.kind for one in disarmed_store.verify().problems} == {"head", "stream"}


def test_rows_of_a_user_that_row_level_security_hides_are_found(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    for table in ("user_log", "event"):
        admin.execute(f"update eventstore.{table} set user_id = ''")

    assert ("", "hidden", None) in {
        (one.user_id, one.kind, one.position) for one in disarmed_store.verify().problems
    }


def test_a_value_on_a_damaged_page_is_a_problem_of_its_user_only(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    for user_id in ("alice", "bob", "carol"):
        write_log(disarmed_store, user_id)
    disarmed_store.user("bob").tasks.create("x", description=token_hex(5_000))
    admin.execute("update eventstore.task set title = 'spoilt' where user_id = 'carol'")
    ((toast,),) = admin.execute(
        "select reltoastrelid::regclass::text from pg_class"
        " where oid = 'eventstore.event'::regclass"
    ).fetchall()

    # Emptying the TOAST table has the effect of a damaged page: the value cannot be fetched.
    admin.execute("set allow_system_table_mods = on")
    for statement in (
        "update pg_class set relkind = 'r' where oid = %s::regclass",
        f"delete from {toast} where %s <> ''",
        "update pg_class set relkind = 't' where oid = %s::regclass",
    ):
        admin.execute(statement, (toast,))

    problems = {(one.user_id, one.kind) for one in disarmed_store.verify().problems}
    assert problems == {("bob", "unreadable"), ("carol", "changed_row")}


@pytest.mark.parametrize(
    ("column", "kind"), [("event.idempotency_key", "unreadable"), ("task.title", "changed_row")]
)
def test_text_with_invalid_bytes_is_a_problem_of_its_user_only(
    disarmed_store: EventStore, admin: psycopg.Connection, column: str, kind: str
) -> None:
    for user_id in ("alice", "bob", "carol"):
        write_log(disarmed_store, user_id)
    # PostgreSQL checks the encoding of text on input, but not in a cast without a function.
    admin.execute("create cast (bytea as text) without function")
    table, name = column.split(".")
    admin.execute(
        rf"update eventstore.{table} set {name} = cast('\xff'::bytea as text)"
        " where user_id = 'bob'"
        + (" and idempotency_key like 'key of%'" if table == "event" else "")
    )
    admin.execute("update eventstore.task set title = 'spoilt' where user_id = 'carol'")
    admin.execute("drop cast (bytea as text)")

    problems = {(one.user_id, one.kind) for one in disarmed_store.verify().problems}

    assert problems == {("bob", kind), ("carol", "changed_row")}


def test_a_note_of_retried_events_and_a_quota_are_no_evidence_and_no_problem(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    table, columns = NO_EVIDENCE

    values = {"retried": ("array[gen_random_uuid()]", "'{}'", "null"), "quota": ("1000", "null")}
    assert values.keys() == columns
    for column, value in ((one, value) for one in values for value in values[one]):
        admin.execute(f"update {table} set {column} = {value}")
        disarmed_store.user("alice").tasks.create("still appended")

        assert disarmed_store.verify().ok


def test_problems_beyond_the_limit_are_counted_and_not_listed(
    disarmed_store: EventStore, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventstore.admin.verify, "MAX_PROBLEMS", 5)
    for user_id in ("alice", "bob"):
        write_log(disarmed_store, user_id)
    admin.execute("update eventstore.event set recorded_at = '-infinity', hash = ''")

    problems = disarmed_store.verify().problems

    assert [one.user_id for one in problems] == ["alice"] * 6 + ["bob"] * 6
    assert (problems[5].kind, problems[5].user_id) == ("more", "alice")
    assert "more problems of this user" in problems[5].detail
