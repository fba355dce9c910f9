"""Rows of read models that were added, deleted, moved or made unreadable are reported."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from eventstore import EventStore, NotFound
from eventstore.admin.verify import Problem
from tests.support.tampering import disarm
from tests.tampering.flips import READ_MODELS
from tests.tampering.full_log import write_log, write_turn

# JSON that PostgreSQL stores and that Python refuses to parse.
DEEP = "(repeat('[', 3000) || repeat(']', 3000))::json"
LONG = "repeat('1', 5000)::json"
COPIED_COLUMNS: dict[str, str] = {
    "eventstore.task": "user_id, gen_random_uuid(), title, description, due_on, due_at, due_zone,"
    " priority, tags, completed, created_at, updated_at, completed_at, event_id, position, rank,"
    " version, last_position, deleted_at, deleted_position",
    "eventstore.conversation": "user_id, gen_random_uuid(), key, title, status, created_at,"
    " updated_at, last_activity_at, event_id, position, last_position, activity_position,"
    " deleted_at, deleted_position, restored_at, restored_position",
    "eventstore.message": "user_id, gen_random_uuid(), conversation_id, 1000, sender, content,"
    " body, tool_call_count, created_at, correlation_id, edited_at, edited_position, retracted_at,"
    " retracted_position",
    "eventstore.tool_call": "user_id, gen_random_uuid(), conversation_id, message_id, index,"
    " call_id, name, arguments, status, output, error, requested_at, finished_at, position,"
    " finished_position, claimed_at, claim_seconds, correlation_id",
    "eventstore.turn": "user_id, gen_random_uuid(), conversation_id, key, request, status, holder,"
    " attempt, leased_at, lease_seconds, model, usage, input_tokens, output_tokens, error,"
    " started_at, ended_at, position, ended_position",
    "service.box": "user_id, gen_random_uuid(), name, n, note, body, tags, position, version,"
    " recorded_at",
    "service.done": "user_id, gen_random_uuid(), at",
}


def list_problems(store: EventStore, user_id: str) -> set[tuple[str, str, str | None]]:
    return {(one.user_id, one.kind, one.table) for one in store.verify(user_id).problems}


def test_a_command_on_a_row_whose_stream_is_gone_finds_nothing(
    store: EventStore, admin: psycopg.Connection
) -> None:
    alice = store.user("alice")
    task = alice.tasks.create("Milk")
    disarm(admin)
    admin.execute("delete from eventstore.stream")

    with pytest.raises(NotFound, match=f"stream {task.id}"):
        alice.tasks.complete(task.id)


def test_rows_added_deleted_or_moved_to_another_user_are_found_in_every_read_model(
    disarmed_store: EventStore,
    admin: psycopg.Connection,
    record_property: Callable[[str, object], None],
) -> None:
    found = tried = 0
    for table in READ_MODELS:
        first = f"(select ctid from {table} where user_id = %(user)s limit 1)"
        for kind, statement in (
            (
                "extra_row",
                f"insert into {table} select {COPIED_COLUMNS[table]} from {table} where {{0}}",
            ),
            ("missing_row", f"delete from {table} where {{0}}"),
        ):
            user_id = f"{kind} {table}"
            write_log(disarmed_store, user_id)
            write_turn(disarmed_store, user_id)
            changed = admin.execute(statement.format(f"ctid = {first}"), {"user": user_id})
            assert changed.rowcount == 1
            (problem,) = disarmed_store.verify(user_id).problems
            tried += 1
            found += (problem.kind, problem.user_id, problem.table) == (kind, user_id, table)
        source, target = f"source {table}", f"target {table}"
        write_log(disarmed_store, source)
        write_turn(disarmed_store, source)
        admin.execute(
            f"update {table} set user_id = %(target)s where ctid = {first}",
            {"user": source, "target": target},
        )
        tried += 1
        missing = list_problems(disarmed_store, source) == {(source, "missing_row", table)}
        extra = list_problems(disarmed_store, target) == {(target, "extra_row", table)}
        found += missing and extra

    record_property("manipulations tried", tried)
    record_property("manipulations found", found)
    assert found == tried == 3 * len(READ_MODELS)


def test_two_messages_whose_bodies_were_exchanged_are_both_reported(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")

    changed = admin.execute(
        "update eventstore.message as m set body = o.body from eventstore.message as o"
        " where o.id <> m.id and (m.position, o.position) in ((2, 10), (10, 2))"
    )

    problems = disarmed_store.verify().problems
    assert changed.rowcount == len(problems) == 2
    assert {one.detail for one in problems} == {"differs from the replay in body"}


def test_a_rebuild_repairs_the_rows_that_verify_reported(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")
    admin.execute("update eventstore.task set created_at = 'infinity', title = ''")
    admin.execute("update eventstore.message set body = '[5]', tool_call_count = 7")
    admin.execute("update eventstore.tool_call set status = 'pending', output = null")
    admin.execute("update service.box set tags = array[tags]")
    admin.execute("delete from service.done")

    repaired = disarmed_store.rebuild("alice")

    assert repaired.changed >= 5
    assert disarmed_store.verify().ok


@pytest.mark.parametrize("value", [DEEP, LONG], ids=["too deep", "too long a number"])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("eventstore.message", "body"),
        ("eventstore.tool_call", "arguments"),
        ("eventstore.tool_call", "output"),
        ("service.box", "body"),
    ],
)
def test_json_that_python_cannot_read_is_a_changed_row_and_not_an_error(
    disarmed_store: EventStore, admin: psycopg.Connection, table: str, column: str, value: str
) -> None:
    write_log(disarmed_store, "alice")

    first = f"(select ctid from {table} order by position limit 1)"
    admin.execute(f"update {table} set {column} = {value} where ctid = {first}")

    raised, problems = "", tuple[Problem, ...]()
    try:
        problems = disarmed_store.verify().problems
    except (RecursionError, ValueError) as error:
        # Only the name is compared, because pytest prints such a traceback for minutes.
        raised = type(error).__name__
    assert raised == ""
    assert [(one.table, one.detail) for one in problems] == [
        (table, f"differs from the replay in {column}")
    ]


def test_a_duplicate_key_in_a_json_body_is_found(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")

    changed = admin.execute(
        "update eventstore.message set body = replace(body::text,"
        ' \'"urgent":\', \'"urgent":false,"urgent":\')::json where position = 2'
    )
    assert changed.rowcount == 1

    assert [one.kind for one in disarmed_store.verify().problems] == ["changed_row"]


def test_an_array_whose_index_no_longer_begins_at_one_is_found(
    disarmed_store: EventStore, admin: psycopg.Connection
) -> None:
    write_log(disarmed_store, "alice")

    admin.execute("update service.box set tags = ('[5:6]=' || tags::text)::text[]")

    assert [one.detail for one in disarmed_store.verify().problems] == [
        "differs from the replay in tags"
    ]
