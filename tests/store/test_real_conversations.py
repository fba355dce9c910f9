"""Real conversations are returned exactly: tau-bench and Schema-Guided Dialogue, if present."""

from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventstore import EventStore, User
from eventstore.events.json_codec import loads
from tests.support.server import Server

USERS = 100
SOME = 400
"""As many conversations as an import can be killed in the midst of, with five users."""

# The tests share one imported database, so one worker has to run all of them.
pytestmark = [pytest.mark.xdist_group("real conversations"), pytest.mark.slow]


def run_command(url: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eventstore.cli", *map(str, arguments), "--database", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def read_conversations(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            one = loads(line)
            yield one["id"], one["messages"]


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the files of the real conversations are: beside the repository or a work tree."""
    known = [parent / "shared" / "data" for parent in Path(__file__).parents]
    for one in known:
        if (one / "tau_airline.jsonl.xz").exists() and (one / "sgd_dev.jsonl.xz").exists():
            return one
    pytest.skip("the files of the real conversations are missing")


@pytest.fixture(scope="module")
def imported(server: Server, folder: Path) -> Iterator[str]:
    """A database with every conversation of tau-bench and the dev split under 100 users."""
    files = [folder / "tau_airline.jsonl.xz", folder / "sgd_dev.jsonl.xz"]
    url = server.create_database()
    done = run_command(url, "import", "--users", USERS, "--json", *files)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["conversations"] == 2148
    yield url
    server.drop_database(url)


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        key: messages
        for name in ("tau_airline", "sgd_dev")
        for key, messages in read_conversations(folder / f"{name}.jsonl.xz")
    }


def test_both_sources_return_every_message_exactly_now_and_as_of_an_earlier_position(
    imported: str, expected: dict[str, list[dict[str, Any]]]
) -> None:
    compared = 0

    with EventStore.connect(imported) as store:
        for user_id in store.users():
            compared += _compare(store.user(user_id), expected)
        verified = store.verify()

    assert compared == len(expected) == 2148
    assert verified.ok
    assert verified.users == USERS


def _compare(user: User, expected: dict[str, list[dict[str, Any]]]) -> int:
    chats = user.conversations.list(limit=10_000)
    for chat in chats:
        messages = expected[str(chat.key)]
        tables = user.history(chat.id)
        assert [one.body for one in tables] == messages
        assert [list(one.body) for one in tables] == [list(one) for one in messages]
        assert user.history(chat.id, source="events") == tables
        middle = tables[len(tables) // 2].position
        then = user.history(chat.id, as_of=middle)
        assert [one.body for one in then] == messages[: len(tables) // 2 + 1]
        assert user.history(chat.id, source="events", as_of=middle) == then
    return len(chats)


def test_verify_reports_and_rebuild_repairs_exactly_the_changed_rows(
    imported: str, server: Server
) -> None:
    with psycopg.connect(server.direct(imported), autocommit=True) as admin:
        updated = _ids(
            admin,
            "update eventstore.message set content = 'tampered', sender = 'user' where id in"
            " (select id from eventstore.message order by id limit 3) returning id",
        )
        deleted = _ids(
            admin,
            "delete from eventstore.message where id in"
            " (select id from eventstore.message order by id desc limit 2) returning id",
        )
        inserted = _ids(
            admin,
            "insert into eventstore.task (user_id, id, title, priority, tags, completed,"
            " created_at, updated_at, event_id, position, version, last_position)"
            " select of, gen_random_uuid(), 'x', 'normal', '{}', false, now(), now(),"
            " gen_random_uuid(), 1, 1, 1"
            " from unnest(array['user-7', 'nobody']) as of returning id",
        )

    found = json.loads(run_command(imported, "verify", "--json").stdout)
    repaired = json.loads(run_command(imported, "rebuild", "--json").stdout)
    after = run_command(imported, "verify", "--json")

    kinds = {"changed_row": updated, "missing_row": deleted, "extra_row": inserted}
    for kind, ids in kinds.items():
        assert {one["key"] for one in found["problems"] if one["kind"] == kind} == ids
    assert len(found["problems"]) == 7
    assert repaired["changed"] == 7
    assert after.returncode == 0
    assert json.loads(after.stdout)["ok"] is True


def _ids(admin: psycopg.Connection, statement: str) -> set[str]:
    return {str(row[0]) for row in admin.execute(statement).fetchall()}


def test_the_history_command_prints_a_conversation_as_it_was_imported(
    imported: str, expected: dict[str, list[dict[str, Any]]], server: Server
) -> None:
    with psycopg.connect(server.direct(imported)) as admin:
        row = admin.execute(
            "select user_id, key from eventstore.conversation where key like 'airline%' limit 1"
        ).fetchone()
    assert row is not None

    outputs = [
        run_command(
            imported, "history", "--user", row[0], "--conversation", row[1],
            "--source", source, "--format", "openai",
        ).stdout
        for source in ("projection", "events")
    ]  # fmt: skip

    assert [json.loads(one) for one in outputs] == [expected[row[1]]] * 2


def test_an_import_that_was_killed_is_completed_without_duplicates(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "some.jsonl"
    with lzma.open(folder / "sgd_dev.jsonl.xz", "rt", encoding="utf-8") as lines:
        some = [*islice(lines, SOME)]
    path.write_text("".join(some), encoding="utf-8")
    sizes = {one["id"]: len(one["messages"]) for one in map(loads, some)}
    url = server.create_database()
    arguments = ["import", "--users", "5", "--json", "--database", url, str(path)]
    killed = subprocess.Popen([sys.executable, "-m", "eventstore.cli", *arguments])
    with psycopg.connect(server.direct(url), autocommit=True) as admin:
        while _count(admin, "eventstore.conversation") < 50:
            assert killed.poll() is None
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        stored = admin.execute(
            "select c.key, count(m.id) from eventstore.conversation as c"
            " left join eventstore.message as m"
            " on m.user_id = c.user_id and m.conversation_id = c.id group by c.user_id, c.id, c.key"
        ).fetchall()

    again = json.loads(run_command(url, *arguments[:4], path).stdout)

    assert all(sizes[key] == count for key, count in stored)
    assert again["skipped"] >= 50
    assert again["imported"] + again["skipped"] == SOME
    with psycopg.connect(server.direct(url)) as admin:
        assert _count(admin, "eventstore.message") == sum(sizes.values())
    assert run_command(url, "verify").returncode == 0
    server.drop_database(url)


def _count(admin: psycopg.Connection, table: str) -> int:
    row = admin.execute(f"select count(*) from {table}").fetchone()
    assert row is not None
    return int(row[0])
