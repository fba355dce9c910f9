"""
The demo's second half: what keeps users apart, what finds a changed history, what erasing leaves.

Another user and forgotten scopes are tried in SQL, and so is an administrator with every right, who
cuts the end of a log off and tidies up so well that only an anchor can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import Connection

from eventstore.cli.commands.verify import problem_json
from eventstore.cli.demo.narration import Narration, require_promise
from eventstore.database.embedded import start_embedded
from eventstore.errors import NotFound
from eventstore.log.anchors import read_anchor, write_anchor
from eventstore.store.store import EventStore

__all__ = ["show_erasure", "show_isolation", "show_tampering"]

# One statement: each part sees the tables as they were before it.
_CUT = """
with cut as (
    delete from eventstore.event
    where user_id = 'alice'
      and position >= (select max(position) from eventstore.event
                       where user_id = 'alice' and idempotency_key is not null)
    returning position, stream_id
), shorter as (
    update eventstore.stream as s
    set version = s.version - (select count(*) from cut where cut.stream_id = s.stream_id)
    where s.user_id = 'alice' and s.stream_id in (select stream_id from cut)
)
update eventstore.user_log as u
set position = e.position, hash = e.hash, recorded_at = e.recorded_at
from eventstore.event as e
where u.user_id = 'alice' and e.user_id = 'alice'
  and e.position = (select min(position) - 1 from cut)
"""


def show_isolation(story: Narration, store: EventStore, folder: Path) -> None:
    """Bob tries to reach what is alice's: by its id, and in SQL that forgets whose it wants."""
    bob = store.user("bob")
    chat = store.user("alice").conversations.get("kitchen")
    refused = _answer(lambda: bob.history(chat.id))
    require_promise(
        refused == f"conversation {chat.id} not found", "bob learned of alice's conversation"
    )
    with psycopg.connect(start_embedded(folder)) as connection:
        there = _count(connection, "select count(*) from eventstore.task")
        connection.execute("set local role eventstore_app")
        unscoped = _count(connection, "select count(*) from eventstore.task")
        connection.execute("select set_config('eventstore.user_id', 'bob', true)")
        own = _count(connection, "select count(*) from eventstore.task")
        changed = connection.execute("update eventstore.task set title = 'mine now'").rowcount
        connection.rollback()
    require_promise((unscoped, own, changed) == (0, 1, 1), "SQL as bob reached rows of alice")
    story.step(
        "Isolation",
        f"bob asks for alice's conversation by its id: {refused}.\n"
        f"   In SQL without any WHERE, of {there} tasks the application role sees {unscoped} with "
        f"no user set and {own} as bob,\n"
        f"   and `update eventstore.task set …` changes {changed} row, his own.",
        refused=refused,
        rows_without_a_user=unscoped,
        rows_as_bob=own,
        rows_changed_as_bob=changed,
    )


def show_tampering(story: Narration, store: EventStore, folder: Path) -> None:
    """An administrator changes history: refused, found, and found again where it was tidied up."""
    file = folder.parent / "anchor.jsonl"
    with file.open("wb") as target:
        write_anchor(target, store.heads())
    kept = [read_anchor(file)]
    with psycopg.connect(start_embedded(folder), autocommit=True) as admin:
        casual = _refusal(admin, "delete from eventstore.event where user_id = 'alice'")
        for table in ("event", "user_log", "stream"):
            admin.execute(f"alter table eventstore.{table} disable trigger user")
        payload = _payload(admin, None)
        _payload(admin, payload.replace("milk", "beer"))
        found = store.verify().problems
        require_promise(
            [one.kind for one in found[:1]] == ["payload"], "verify missed a changed event"
        )
        _payload(admin, payload)
        admin.execute(_CUT)
    store.rebuild()  # the administrator tidies up: the tables follow the shorter log
    require_promise(store.verify().ok, "what was tidied up is not clean by itself")
    cut = store.verify(anchors=kept).problems
    require_promise([one.kind for one in cut] == ["anchor"], "the anchor did not find the cut")
    story.step(
        "Tampering",
        f"an administrator deletes from the log: {casual}.\n"
        "   He disables the triggers and rewrites an event; verify finds it, and it is put back:\n"
        f"   - position {found[0].position}: {found[0].detail}\n"
        "   Then he cuts the last append off and mends heads and tables; verify alone is clean,"
        "\n   verify with the anchor taken before is not:\n"
        f"   - position {cut[0].position}: {cut[0].detail}",
        refused=casual,
        problems=[problem_json(one) for one in (*found, *cut)],
    )


def show_erasure(story: Narration, store: EventStore) -> None:
    """Bob wants to be forgotten, and is; that he was there stays on record."""
    erased = store.erase("bob", ordered_by="privacy desk")
    found = store.verify()
    require_promise(found.ok and not store.user("bob").tasks.list(), "something of bob's was left")
    story.step(
        "Erasure",
        f"bob wants to be forgotten: {erased.events} payload removed, by order of "
        f"{erased.ordered_by}, on record at position {erased.position}.\n"
        f"   verify: {found.events} events, {found.erased} of them erased, the chain unbroken.",
        events=erased.events,
        position=erased.position,
        ok=found.ok,
    )


def _answer(ask: Callable[[], object]) -> str:
    try:
        ask()
    except NotFound as error:
        return str(error)
    return "it was shown"


def _refusal(admin: Connection, statement: str) -> str:
    try:
        admin.execute(statement)
    except psycopg.Error as error:
        return str(error.diag.message_primary)
    return "it was done"


def _count(connection: Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _payload(admin: Connection, changed: str | None) -> str:
    """Return the payload of alice's first task, after changing it if asked to."""
    first = "user_id = 'alice' and type = 'TaskCreated' and payload::text like '%milk%'"
    if changed is not None:
        first = "user_id = 'alice' and type = 'TaskCreated' and payload::text ~ 'milk|beer'"
        admin.execute(f"update eventstore.event set payload = %s where {first}", (changed,))
    row = admin.execute(f"select payload::text from eventstore.event where {first}").fetchone()
    return str(row[0]) if row else ""
