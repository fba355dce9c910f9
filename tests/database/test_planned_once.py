"""PostgreSQL plans the statements of a command once for a connection, and not each time."""

from __future__ import annotations

import psycopg

from eventstore import EventStore, Settings

ROUNDS = 60
QUESTION = {"role": "user", "content": "Is there milk?"}
CALL = {"type": "function_call", "name": "f", "arguments": "{}"}


def planned_again(store: EventStore) -> list[str]:
    """Return the statements of the one connection that were planned in most of the rounds."""
    with store._calls.pool.connection() as connection:
        plans = connection.execute(
            "select statement, custom_plans, generic_plans from pg_prepared_statements"
        ).fetchall()
    assert max(generic for _, _, generic in plans) >= ROUNDS
    # The first five plans are for the values themselves, of any statement.
    return [sql for sql, custom, _ in plans if custom > ROUNDS // 2]


def test_no_statement_of_a_command_is_planned_again_and_again(
    direct_url: str, admin: psycopg.Connection
) -> None:
    with EventStore.connect(settings=Settings(database_url=direct_url, pool_max_size=1)) as store:
        alice = store.user("alice")
        chat = alice.conversations.start(title="Groceries").id

        def work(number: int) -> None:
            alice.messages.post(chat, sender="user", content="hello")
            task = alice.tasks.create("milk")
            alice.tasks.complete(task.id)
            call = alice.tool_calls.request(chat, name="f", arguments="{}")
            alice.tool_calls.succeed(call, output=number)
            with alice.turn(chat, key=str(number), items=[QUESTION]) as turn:
                turn.extend([{**CALL, "call_id": f"c{number}"}])
                (pending,) = alice.tool_calls.list(conversation=chat)
                alice.tool_calls.succeed(pending, output=1)
                turn.end([{"role": "assistant", "content": "done"}])

        for number in range(ROUNDS):
            work(number)
            # With statistics PostgreSQL knows what a plan for the values themselves would save.
            if number == ROUNDS // 3:
                admin.execute("analyze")
        assert planned_again(store) == []


def test_histories_and_what_is_taken_away_are_planned_once_in_tables_of_some_size(
    direct_url: str, admin: psycopg.Connection
) -> None:
    with EventStore.connect(settings=Settings(database_url=direct_url, pool_max_size=1)) as store:
        alice = store.user("alice")
        for number in range(25):
            alice.messages.extend(f"chat {number}", [QUESTION] * 900, start=True)
        admin.execute("analyze")
        for _ in range(ROUNDS):
            alice.messages.extend("chat 1", [QUESTION])
            alice.messages.pop("chat 1")
            alice.history("chat 1", limit=20)
            alice.items("chat 1", limit=20)
        assert planned_again(store) == []
