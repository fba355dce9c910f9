"""
`eventstore demo`: the whole store in one story, on a server of its own that it removes at the end.

Append, restart the server, reconstruct, spoil a read model, find it, mend it, audit; then what
another user, an administrator and an erasure can do: see `demo_evidence`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from eventstore.cli.commands.verify import problem_json
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

    Needs no database: it starts a PostgreSQL of its own in a temporary folder and removes it.
    """
    story = Narration(quiet=json)
    with _temporary_folder() as folder:
        url = f"embedded:{folder}"
        with EventStore.connect(url) as store:
            _append(story, store)
            before = store.user("alice").history(_CHAT)
        _restart(story, folder)
        with EventStore.connect(url) as store:
            _reconstruct(story, store, before)
            _spoil_and_mend(story, store, folder)
            _audit(story, store)
            show_isolation(story, store, folder)
            show_tampering(story, store, folder)
            show_erasure(story, store)
        stop_embedded(folder)
    story.end()


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="eventstore-demo-"))
    try:
        yield parent / "postgresql"
    finally:
        stop_embedded(parent / "postgresql")
        shutil.rmtree(parent, ignore_errors=True)


def _append(story: Narration, store: EventStore) -> None:
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
    alice.tool_calls.request(_CHAT, name="read_calendar", arguments='{"day": "Sunday"}')
    bob = store.user("bob")
    bob.tasks.create("Fix the bicycle")
    events = store.status().events
    story.step(
        "Append",
        f"two users, {events} events; each append is one transaction and one round trip,\n"
        "   and the tables task, conversation and message follow in the same transaction.",
        users=2,
        events=events,
    )


def _turn(alice: User, title: str) -> None:
    """Record one tool call as an agent does: the request, then what came of it in one append."""
    call = alice.tool_calls.request(_CHAT, name="add_task", arguments=f'{{"title": "{title}"}}')
    with alice.transaction(idempotency_key=call.id) as tx:
        task = tx.tasks.create(title=title, caused_by=call)
        tx.tool_calls.succeed(call, output={"task_id": task.id})


def _restart(story: Narration, folder: Path) -> None:
    stop_embedded(folder)
    start_embedded(folder)
    story.step("Restart", "the server was stopped and started again: nothing lives in memory only.")


def _reconstruct(story: Narration, store: EventStore, before: list[MessageView]) -> None:
    alice = store.user("alice")
    from_tables = alice.history(_CHAT)
    from_events = alice.history(_CHAT, source="events")
    require_promise(from_tables == from_events == before, "the two histories differ")
    then = before[0].position
    story.step(
        "Reconstruct",
        f"{len(from_tables)} messages, from the tables and from the events: equal.\n"
        f"   As of position {then} the list had {len(alice.tasks.list(as_of=then))} tasks, "
        f"now it has {len(alice.tasks.list())}.",
        messages=len(from_tables),
        equal=True,
    )
    if not story.quiet:
        print_table(
            ("", "sender", "content"),
            (("  ", one.sender, _line(one)) for one in from_tables),
        )


def _spoil_and_mend(story: Narration, store: EventStore, folder: Path) -> None:
    with psycopg.connect(start_embedded(folder), autocommit=True) as owner:
        owner.execute("update eventstore.task set title = 'Buy beer' where title = 'Buy milk'")
        owner.execute(
            "delete from eventstore.message where user_id = 'alice' and content like 'Both%'"
        )
    found = store.verify()
    require_promise(len(found.problems) == 2, "verify did not find both rows")  # noqa: PLR2004 - one line each above
    story.step(
        "Spoil and verify",
        "somebody with database rights changed a task and deleted a message. verify finds:\n   - "
        + "\n   - ".join(f"{one.table}: {one.kind}, {one.detail}" for one in found.problems),
        problems=[problem_json(one) for one in found.problems],
    )
    mended = store.rebuild()
    require_promise(store.verify().ok, "rebuild did not mend the read models")
    story.step(
        "Rebuild",
        f"{mended.events} events replayed, exactly {mended.changed} rows mended; "
        "verify is clean again.",
        changed=mended.changed,
        ok=True,
    )


def _audit(story: Narration, store: EventStore) -> None:
    entries = store.user("alice").audit()
    story.step(
        "Audit",
        "every tool call, from the log: what was asked for, what came of it, what it caused.",
        calls=[{"name": one.name, "status": one.status} for one in entries],
    )
    if not story.quiet:
        print_table(
            ("", "tool", "arguments", "status", "caused"),
            (
                ("  ", one.name, one.arguments, one.status, ", ".join(c.type for c in one.caused))
                for one in entries
            ),
        )


def _line(message: MessageView) -> str:
    calls = ", ".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
    return str(message.content or f"calls {calls}")
