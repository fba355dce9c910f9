"""
The store in ten lines: a conversation, a tool call that is recorded before it runs, and a task.

    python examples/ten_lines.py

Uses the database in EVENTSTORE_DATABASE_URL (after `eventstore migrate`), or else a PostgreSQL in a
temporary folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from eventstore import EventStore
from eventstore.database.embedded import stop_embedded


def main(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")

        chat = alice.conversations.start(title="Groceries")
        alice.messages.post(chat.id, sender="user", content="Buy milk, please")
        call = alice.tool_calls.request(chat.id, name="add_task", arguments={"title": "Buy milk"})

        # One append: all three events are written, or none. A retry with the key changes nothing.
        with alice.transaction(idempotency_key=str(call.event_id)) as tx:
            task = tx.tasks.create("Buy milk", caused_by=call)
            tx.tool_calls.succeed(call, output={"task_id": task.id})
            tx.messages.post(chat.id, sender="assistant", content="Done.")

        history = alice.history(chat.id)
        for message in history:
            calls = [f"{one.name}({one.arguments}) {one.status}" for one in message.tool_calls]
            print(f"{message.position:>4}  {message.sender:<10} {message.content or calls}")
        print("equal to the log:", alice.history(chat.id, source="events") == history)
        print("verified:", store.verify().ok)


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL of the configured database, or of a temporary server that is removed again."""
    if configured := os.environ.get("EVENTSTORE_DATABASE_URL"):
        yield configured
        return
    with TemporaryDirectory(prefix="eventstore-example-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "postgresql"
        yield f"embedded:{path}"
        stop_embedded(path)


if __name__ == "__main__":
    with database() as url:
        main(url)
