"""
`eventstore demo`: a demonstration of the store on a temporary server that it removes at the end.

The steps are: append events, restart the server, reconstruct a conversation, spoil a read model,
find and repair the damage, audit the tool calls. The steps in `demo.evidence` follow: isolation
between users, tampering by an administrator, and erasure.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from eventstore.cli.admin.verify import problem_json
from eventstore.cli.demo.evidence import show_erasure, show_isolation, show_tampering
from eventstore.cli.demo.narration import Narration, require_promise
from eventstore.cli.options import Json
from eventstore.cli.output import print_table
from eventstore.database.embedded import start_embedded, stop_embedded
from eventstore.store.store import EventStore
from eventstore.store.user import User
from projections.models.message import MessageView

__all__ = ["demo"]

_CHAT = "kitchen"


def demo(*, json: Json = False) -> None:
    """
    Show what the store does, step by step, in a few seconds.

    The demo needs no database. It starts an embedded PostgreSQL in a temporary
    folder and removes both at the end.

    Exit status 1 if the store breaks a promise; 2 if the extra `embedded` is not
    installed.
    """
    narration = Narration(quiet=json)
    with _temporary_folder() as folder:
        url = f"embedded:{folder}"
        with EventStore.connect(url) as store:
            _append(narration, store)
            before = store.user("alice").history(_CHAT)
        _restart(narration, folder)
        with EventStore.connect(url) as store:
            _reconstruct(narration, store, before)
            _spoil_and_repair(narration, store, folder)
            _audit(narration, store)
            show_isolation(narration, store, folder)
            show_tampering(narration, store, folder)
            show_erasure(narration, store)
        stop_embedded(folder)
    narration.end()


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="eventstore-demo-"))
    try:
        yield parent / "postgresql"
    finally:
        # After a step that failed the server still runs, on files that are about to be removed.
        stop_embedded(parent / "postgresql")
        shutil.rmtree(parent, ignore_errors=True)


def _append(narration: Narration, store: EventStore) -> None:
    alice = store.user("alice")
    chat = alice.conversations.start(title="Kitchen", key=_CHAT)
    alice.messages.post(chat.id, sender="user", content="Put milk and bread on my list, please.")
    for title in ("Buy milk", "Buy bread"):
        _turn(alice, title)
    alice.messages.post(chat.id, sender="assistant", content="Both are on your list.")
    alice.messages.post(chat.id, sender="user", content="I have the milk. And what is on Sunday?")
    milk = alice.tasks.list(completed=False)[0]
    alice.tasks.complete(milk.id)
    call = alice.tool_calls.request(_CHAT, name="read_calendar", arguments='{"day": "Sunday"}')
    alice.tool_calls.fail(call, error="the calendar did not answer in 10 seconds")
    # The second request gets no outcome, so that the audit has a pending call to show.
    alice.tool_calls.request(_CHAT, name="read_calendar", arguments='{"day": "Sunday"}')
    bob = store.user("bob")
    bob.tasks.create("Fix the bicycle")
    events = store.status().events
    narration.step(
        "Append",
        f"two users, {events} events; each append is one transaction and one round trip,\n"
        "   which also updates the tables task, conversation, message and tool_call.",
        users=2,
        events=events,
    )


def _turn(alice: User, title: str) -> None:
    """Record one tool call as an agent does: the request, then its effects in one append."""
    call = alice.tool_calls.request(_CHAT, name="add_task", arguments=f'{{"title": "{title}"}}')
    with alice.transaction(idempotency_key=call.call_id) as tx:
        task = tx.tasks.create(title=title, caused_by=call)
        tx.tool_calls.succeed(call, output={"task_id": task.id})


def _restart(narration: Narration, folder: Path) -> None:
    stop_embedded(folder)
    start_embedded(folder)
    narration.step(
        "Restart", "the server was stopped and started again; no data was held in memory only."
    )


def _reconstruct(narration: Narration, store: EventStore, before: list[MessageView]) -> None:
    alice = store.user("alice")
    from_tables = alice.history(_CHAT)
    from_events = alice.history(_CHAT, source="events")
    require_promise(from_tables == from_events == before, "the two histories differ")
    position = before[0].position
    narration.step(
        "Reconstruct",
        f"{len(from_tables)} messages, from the tables and from the events: equal.\n"
        f"   As of position {position} the list had {len(alice.tasks.list(as_of=position))} tasks, "
        f"now it has {len(alice.tasks.list())}.",
        messages=len(from_tables),
        equal=True,
    )
    if not narration.quiet:
        print_table(
            ("", "sender", "content"),
            (("  ", one.sender, _line(one)) for one in from_tables),
        )


def _spoil_and_repair(narration: Narration, store: EventStore, folder: Path) -> None:
    with psycopg.connect(start_embedded(folder), autocommit=True) as owner:
        owner.execute("update eventstore.task set title = 'Buy beer' where title = 'Buy milk'")
        owner.execute(
            "delete from eventstore.message where user_id = 'alice' and content like 'Both%'"
        )
    found = store.verify()
    require_promise(len(found.problems) == 2, "verify did not find both rows")  # noqa: PLR2004 - one line each above
    narration.step(
        "Spoil and verify",
        "an owner of the database changed a task and deleted a message. verify finds:\n   - "
        + "\n   - ".join(f"{one.table}: {one.kind}, {one.detail}" for one in found.problems),
        problems=[problem_json(one) for one in found.problems],
    )
    rebuilt = store.rebuild()
    require_promise(store.verify().ok, "rebuild did not repair the read models")
    narration.step(
        "Rebuild",
        f"{rebuilt.events} events replayed, exactly {rebuilt.changed} rows repaired; "
        "verify finds no problem any more.",
        changed=rebuilt.changed,
        ok=True,
    )


def _audit(narration: Narration, store: EventStore) -> None:
    entries = store.user("alice").audit()
    narration.step(
        "Audit",
        "every tool call in the log, with its arguments, its status and the events it caused.",
        calls=[{"name": one.name, "status": one.status} for one in entries],
    )
    if not narration.quiet:
        print_table(
            ("", "tool", "arguments", "status", "caused"),
            (
                ("  ", one.name, one.arguments, one.status, ", ".join(c.type for c in one.caused))
                for one in entries
            ),
        )


def _line(message: MessageView) -> str:
    """Return the content of a message, or its tool calls if it has none."""
    calls = ", ".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
    return str(message.content or f"calls {calls}")
