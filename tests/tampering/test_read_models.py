"""Rows of read models, added, removed and exchanged; what verify must survive to tell."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from eventstore import EventStore
from eventstore.admin.verify import Problem
from tests.support.own_read_model import service_url
from tests.tampering.flips import READ_MODELS
from tests.tampering.given import armed, given_a_log

__all__ = ["armed", "service_url"]

DEEP = "(repeat('[', 3000) || repeat(']', 3000))::json"
LONG = "repeat('1', 5000)::json"
MORE: dict[str, str] = {
    "eventstore.task": "user_id, gen_random_uuid(), title, description, completed, created_at,"
    " updated_at, completed_at, position",
    "eventstore.conversation": "user_id, gen_random_uuid(), key, title, status, created_at,"
    " updated_at, position, last_position, message_count, deleted_at, deleted_position",
    "eventstore.message": "user_id, gen_random_uuid(), conversation_id, 1000, sender, content,"
    " body, tool_calls, created_at, retracted_at, retracted_position",
    "service.box": "user_id, gen_random_uuid(), name, n, note, body, items, position, version,"
    " recorded_at",
    "service.done": "user_id, gen_random_uuid(), at",
}


def places(store: EventStore, user_id: str) -> set[tuple[str, str, str | None]]:
    return {(one.user_id, one.kind, one.table) for one in store.verify(user_id).problems}


def test_rows_added_removed_or_given_to_another_are_found_in_every_read_model(
    armed: EventStore,
    admin: psycopg.Connection,
    record_property: Callable[[str, object], None],
) -> None:
    admin.execute("alter table eventstore.message drop constraint message_conversation_fkey")
    found = tried = 0
    for table in READ_MODELS:
        first = f"(select ctid from {table} where user_id = %(user)s limit 1)"
        for kind, statement in (
            ("extra_row", f"insert into {table} select {MORE[table]} from {table} where {{0}}"),
            ("missing_row", f"delete from {table} where {{0}}"),
        ):
            user_id = f"{kind} {table}"
            given_a_log(armed, user_id)
            changed = admin.execute(statement.format(f"ctid = {first}"), {"user": user_id})
            assert changed.rowcount == 1
            (problem,) = armed.verify(user_id).problems
            tried += 1
            found += (problem.kind, problem.user_id, problem.table) == (kind, user_id, table)
        giver, taker = f"giver {table}", f"taker {table}"
        given_a_log(armed, giver)
        admin.execute(
            f"update {table} set user_id = %(taker)s where ctid = {first}",
            {"user": giver, "taker": taker},
        )
        tried += 1
        found += places(armed, giver) == {(giver, "missing_row", table)} and places(
            armed, taker
        ) == {(taker, "extra_row", table)}

    record_property("manipulations tried", tried)
    record_property("manipulations found", found)
    assert found == tried == 3 * len(READ_MODELS)


def test_two_messages_whose_bodies_were_exchanged_are_both_named(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")

    changed = admin.execute(
        "update eventstore.message as m set body = o.body from eventstore.message as o"
        " where o.id <> m.id and (m.position, o.position) in ((2, 10), (10, 2))"
    )

    problems = armed.verify().problems
    assert changed.rowcount == len(problems) == 2
    assert {one.detail for one in problems} == {"differs from the replay in body"}


def test_rebuild_mends_what_verify_found(armed: EventStore, admin: psycopg.Connection) -> None:
    given_a_log(armed, "alice")
    admin.execute("update eventstore.task set created_at = 'infinity', title = ''")
    admin.execute("update eventstore.message set tool_calls = array[tool_calls]")
    admin.execute("delete from service.done")

    mended = armed.rebuild("alice")

    assert mended.changed >= 3
    assert armed.verify().ok


@pytest.mark.parametrize("value", [DEEP, LONG], ids=["too deep", "too long a number"])
@pytest.mark.parametrize("column", ["body", "tool_calls"])
def test_json_that_python_cannot_read_is_a_changed_row_and_not_an_error(
    armed: EventStore, admin: psycopg.Connection, column: str, value: str
) -> None:
    given_a_log(armed, "alice")

    written = f"array[{value}]" if column == "tool_calls" else value
    admin.execute(f"update eventstore.message set {column} = {written} where position = 10")

    raised, problems = "", tuple[Problem, ...]()
    try:
        problems = armed.verify().problems
    except (RecursionError, ValueError) as error:
        raised = type(error).__name__  # to show its traceback takes minutes
    assert raised == ""
    assert [one.detail for one in problems] == [f"differs from the replay in {column}"]


def test_a_second_value_under_a_key_that_is_there_is_found(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")

    admin.execute(
        "update eventstore.message set body = replace(body::text,"
        ' \'"content":\', \'"content":"Buy poison","content":\')::json where position = 2'
    )

    assert [one.kind for one in armed.verify().problems] == ["changed_row"]


def test_an_array_that_no_longer_begins_at_one_is_found(
    armed: EventStore, admin: psycopg.Connection
) -> None:
    given_a_log(armed, "alice")

    admin.execute(
        "update eventstore.message set tool_calls = ('[5:5]=' || tool_calls::text)::json[]"
        " where tool_calls is not null"
    )

    assert [one.kind for one in armed.verify().problems] == ["changed_row"]
