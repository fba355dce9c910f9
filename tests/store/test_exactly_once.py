"""Workers that are killed at random answer every request once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from eventstore import EventStore
from tests.support.turn_worker import CONVERSATIONS

pytestmark = pytest.mark.slow

PROCESSES, THREADS = 4, 4
TURNS = int(os.environ.get("EVENTSTORE_TEST_TURNS", "40"))
KILLS = TURNS // 10
LIMIT_SECONDS = 600
ROOT = Path(__file__).parents[2]


def test_turns_of_many_workers_are_answered_once_although_workers_are_killed(
    database_url: str, admin: psycopg.Connection
) -> None:
    admin.execute("create table ran (call_id uuid, at timestamptz default clock_timestamp())")
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        for number in range(CONVERSATIONS):
            alice.conversations.start(key=f"chat {number}")

        run_workers(database_url, admin)

        turns = [
            turn
            for number in range(CONVERSATIONS)
            for turn in alice.turns.list(f"chat {number}", limit=TURNS)
        ]
        assert sorted(turn.key for turn in turns) == sorted(f"request {n}" for n in range(TURNS))
        assert {turn.status for turn in turns} == {"completed"}
        for turn in turns:
            messages = alice.history(turn.conversation_id)
            own = [one for one in messages if one.correlation_id == turn.id]
            assert [one.sender for one in own] == ["user", "assistant", "tool", "assistant"]
            assert own[0].content == turn.key
            assert own[2].content == f"found {turn.key}"
            assert own[3].content == f"answer to {turn.key}"
        assert store.verify().ok
    # A worker may die between running the tool and recording it, and then the tool runs again; but
    # never once its outcome is recorded.
    late = admin.execute(
        "select count(*) from ran join eventstore.tool_call as t on t.id = ran.call_id"
        " where ran.at > t.finished_at"
    ).fetchone()
    assert late == (0,)
    calls = admin.execute("select count(distinct call_id) from ran").fetchone()
    assert calls == (TURNS,)


def run_workers(database_url: str, admin: psycopg.Connection) -> None:
    """Run the workers to their end, and kill some of them on the way."""
    command = [sys.executable, "-m", "tests.support.turn_worker", database_url]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(TURNS), str(THREADS)], cwd=ROOT)

    workers = [start() for _ in range(PROCESSES)]
    deadline, kills = time.monotonic() + LIMIT_SECONDS, KILLS
    try:
        while any(one.poll() is None for one in workers):
            assert time.monotonic() < deadline
            time.sleep(random.uniform(0.05, 0.3))
            running = admin.execute(
                "select 1 from eventstore.turn where status = 'running' limit 1"
            ).fetchone()
            if kills and running:
                victim = random.randrange(PROCESSES)
                workers[victim].kill()
                workers[victim].wait()
                workers[victim] = start()
                kills -= 1
    finally:
        for one in workers:
            one.kill()
            one.wait()
    assert {one.returncode for one in workers} == {0}
