"""What a user asks again and again is found by an index, whatever the length of the log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest

import eventstore.database.driver.sync_driver
from benchmarks.turns import MESSAGES_PER_TURN, fill
from eventstore import EventStore, User
from eventstore.database.driver.pipeline import run_pipeline
from eventstore.database.plan import Statement
from tests.support.server import Server

CALLS = 3_000


@pytest.fixture(scope="module")
def long_log(server: Server) -> Iterator[str]:
    """A database in which alice has many calls in many conversations, and few that are pending."""
    url = server.create_database()
    with EventStore.connect(url) as store:
        alice = store.user("alice")
        for number in range(CALLS // 100):
            chat = alice.conversations.start(key=f"chat {number}").id
            with alice.transaction() as tx:
                for call in range(100):
                    asking = tx.tool_calls.request(
                        chat, name="f", arguments="{}", call_id=f"call_{call}", in_history=False
                    )
                    if call:
                        tx.tool_calls.succeed(asking, output=1)
            for word in ("milk", "bread"):
                alice.messages.post(chat, sender="user", content=word)
            with alice.turn(chat, key="1") as turn:
                turn.end(usage={"input_tokens": 1})
    with psycopg.connect(server.direct(url), autocommit=True) as admin:
        admin.execute("vacuum analyze")
    yield url
    server.drop_database(url)


@pytest.fixture
def alice(long_log: str) -> Iterator[User]:
    with EventStore.connect(long_log) as store:
        yield store.user("alice")


QUESTIONS: dict[str, tuple[Callable[[User], Any], set[str]]] = {
    "a call by the model's name": (
        lambda user: user.tool_calls.find("chat 7", "call_9"),
        {"tool_call_call_id"},
    ),
    "pending calls": (lambda user: user.tool_calls.list(limit=10), {"tool_call_pending"}),
    "the calls of a conversation": (
        lambda user: user.tool_calls.list(conversation="chat 7", status=None),
        {"tool_call_call_id"},
    ),
    "the audit of a conversation": (
        lambda user: user.audit(conversation="chat 7"),
        {"event_stream", "event_caused"},
    ),
    "the turns of a conversation": (
        lambda user: user.turns.list("chat 7"),
        {"turn_conversation"},
    ),
    "a history at a time": (
        lambda user: user.history("chat 7", as_of=datetime.now(UTC)),
        {"message_conversation_position_key", "tool_call_message"},
    ),
    "a page of conversations": (
        lambda user: user.conversations.list(
            after=user.conversations.list(limit=2).next, archived=False
        ),
        {"conversation_pkey", "event_stream"},
    ),
    "a page of messages": (
        lambda user: user.history("chat 7", limit=1),
        {"message_conversation_position_key"},
    ),
    "a search in a conversation": (
        lambda user: user.messages.search("milk", conversation="chat 7"),
        {"message_conversation_position_key", "conversation_pkey"},
    ),
    "a search of tasks": (lambda user: user.tasks.list(search="milk"), {"task_pkey"}),
    "the counts of tasks": (lambda user: user.tasks.counts(), {"task_pkey"}),
    "an answer to a call": (
        lambda user: user.messages.post(
            "chat 7", body={"role": "tool", "tool_call_id": "call_0", "content": "ok"}
        ),
        {"tool_call_call_id", "tool_call_pkey"},
    ),
    "the outcome of a call": (
        lambda user: user.tool_calls.succeed(
            user.tool_calls.request("chat 7", name="f", arguments="{}"), output="ok"
        ),
        {"tool_call_pkey", "message_pkey"},
    ),
}


@pytest.mark.parametrize(("ask", "indexes"), QUESTIONS.values(), ids=QUESTIONS)
def test_a_question_is_answered_by_its_index(
    alice: User, long_log: str, server: Server, monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[User], Any], indexes: set[str],
) -> None:  # fmt: skip
    sent = sent_by(monkeypatch, lambda: ask(alice))

    used: set[str] = set()
    with psycopg.connect(server.direct(long_log), cursor_factory=psycopg.RawCursor) as admin:
        # A table of some pages is scanned although the index is right.
        admin.execute("set enable_seqscan = off")
        for one in sent:
            if "eventstore." in one.sql and "append_event" not in one.sql:
                (row,) = admin.execute(f"explain (format json) {one.sql}", _values(one)).fetchall()
                plan = json.dumps(row[0])
                used |= {name for name in indexes if f'"Index Name": "{name}"' in plan}
                assert '"Node Type": "Seq Scan"' not in plan
        admin.rollback()
    assert used == indexes


@pytest.mark.parametrize(
    "ask",
    [lambda user: user.history("long"), lambda user: user.model_input("long")],
    ids=["history", "model_input"],
)
def test_a_long_conversation_is_read_once_also_where_no_statistics_tell_its_length(
    server: Server, monkeypatch: pytest.MonkeyPatch, ask: Callable[[User], Any]
) -> None:
    url = server.create_database()
    with EventStore.connect(url) as store:
        alice = store.user("alice")
        fill(alice, alice.conversations.start(key="long").id, turns := 400)
        sent = sent_by(monkeypatch, lambda: ask(alice))

    read = 0.0
    with psycopg.connect(server.direct(url), cursor_factory=psycopg.RawCursor) as admin:
        for one in sent:
            if "eventstore." in one.sql:
                query = f"explain (analyze, format json) {one.sql}"
                (row,) = admin.execute(query, _values(one)).fetchall()
                read += rows_read(row[0][0]["Plan"])
    server.drop_database(url)
    assert read < 3 * turns * MESSAGES_PER_TURN


def test_a_search_looks_at_each_row_once_where_nothing_tells_how_many_match(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, chats, said = server.create_database(), 60, 30
    with EventStore.connect(url) as store:
        alice = store.user("alice")
        for number in range(chats):
            chat = alice.conversations.start(key=str(number)).id
            alice.messages.extend(chat, [{"role": "user", "content": "buy milk"}] * said)
        sent = sent_by(monkeypatch, lambda: alice.messages.search("buy milk"))

    (search,) = (one for one in sent if "eventstore.message" in one.sql)
    with psycopg.connect(server.direct(url), cursor_factory=psycopg.RawCursor) as admin:
        admin.execute("analyze")
        # Row-level security hides statistics from what a row could be leaked by.
        admin.execute("set role eventstore_app")
        admin.execute("select set_config('eventstore.user_id', 'alice', true)")
        query = f"explain (analyze, format json) {search.sql}"
        (row,) = admin.execute(query, _values(search)).fetchall()
    server.drop_database(url)
    assert rows_read(row[0][0]["Plan"]) < 2 * chats * said


def rows_read(node: dict[str, Any]) -> float:
    """Return how many rows the scans of a plan have looked at."""
    below = sum(map(rows_read, node.get("Plans", [])))
    if "Relation Name" not in node:
        return below
    looked_at = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return float(below + looked_at * node["Actual Loops"])


def sent_by(monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Any]) -> list[Statement]:
    """Return the statements that something sends."""
    sent: list[Statement] = []

    def record(connection: Any, statements: Any, unread: int) -> Any:
        sent.extend(statements)
        return run_pipeline(connection, statements, unread)

    with monkeypatch.context() as patch:
        patch.setattr(eventstore.database.driver.sync_driver, "run_pipeline", record)
        ask()
    return sent


def _values(statement: Statement) -> list[Any]:
    """Return parameters as psycopg takes them; encoded ones are the text of a value already."""
    known = (str, int, UUID, list, type(None))
    return [one if isinstance(one, known) else str(one) for one in statement.params]
