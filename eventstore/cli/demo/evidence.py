"""
The second half of the demo: isolation between users, tampering and erasure.

The attacks are SQL: statements of another user, statements without a WHERE, and an administrator
with every right. The administrator cuts the end of a log off and repairs all other tables, so that
only an anchor reveals the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import Connection

from eventstore.cli.admin.verify import problem_json
from eventstore.cli.demo.narration import Narration, require_promise
from eventstore.database.embedded import start_embedded
from eventstore.errors import NotFound
from eventstore.log.anchors import read_anchor, write_anchor
from eventstore.store.store import EventStore

__all__ = ["show_erasure", "show_isolation", "show_tampering"]

# In one statement, every part reads the tables as they were before the deletion. The first event of
# an append is the one with an idempotency key.
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


def show_isolation(narration: Narration, store: EventStore, folder: Path) -> None:
    """
    Show that bob cannot read or change alice's data, by its id or by SQL without a WHERE.

    :param folder: the data folder of the demo's server.
    :raises EventStoreError: the store broke a promise.
    """
    bob = store.user("bob")
    chat = store.user("alice").conversations.get("kitchen")
    refused = _answer(lambda: bob.history(chat.id))
    require_promise(
        refused == f"conversation {chat.id} not found", "bob was shown alice's conversation"
    )
    with psycopg.connect(start_embedded(folder)) as connection:
        total = _count(connection, "select count(*) from eventstore.task")
        connection.execute("set local role eventstore_app")
        unscoped = _count(connection, "select count(*) from eventstore.task")
        connection.execute("select set_config('eventstore.user_id', 'bob', true)")
        own = _count(connection, "select count(*) from eventstore.task")
        changed = connection.execute("update eventstore.task set title = 'mine now'").rowcount
        # The next steps need the row of bob unchanged.
        connection.rollback()
    require_promise((unscoped, own, changed) == (0, 1, 1), "SQL as bob reached alice's rows")
    narration.step(
        "Isolation",
        f"bob asks for alice's conversation by its id: {refused}.\n"
        f"   SQL without a WHERE, as the application role: of {total} tasks it reads {unscoped} if "
        f"no user is set and {own} as bob,\n"
        f"   and `update eventstore.task set …` as bob changes {changed} row, his own.",
        refused=refused,
        rows_without_a_user=unscoped,
        rows_as_bob=own,
        rows_changed_as_bob=changed,
    )


def show_tampering(narration: Narration, store: EventStore, folder: Path) -> None:
    """
    Show that changes by an administrator are refused, or found by verify or with an anchor.

    :param folder: the data folder of the demo's server.
    :raises EventStoreError: the store broke a promise.
    """
    file = folder.parent / "anchor.jsonl"
    with file.open("wb") as target:
        write_anchor(target, store.heads())
    anchors = [read_anchor(file)]
    # Autocommit, because `verify` reads on another connection while this block runs.
    with psycopg.connect(start_embedded(folder), autocommit=True) as admin:
        refused = _refusal(admin, "delete from eventstore.event where user_id = 'alice'")
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
    # With the read models in line with the shorter log, the database contradicts itself nowhere.
    store.rebuild()
    require_promise(store.verify().ok, "verify found a problem in a log that was cut cleanly")
    missing = store.verify(anchors=anchors).problems
    require_promise(
        [one.kind for one in missing] == ["anchor"], "the anchor did not reveal the missing events"
    )
    narration.step(
        "Tampering",
        f"an administrator deletes from the log and is refused: {refused}.\n"
        "   They disable the triggers and rewrite an event, which verify finds:\n"
        f"   - position {found[0].position}: {found[0].detail}\n"
        "   They restore the event, delete the last append and repair the heads and tables.\n"
        "   verify alone finds nothing, but with an anchor that was written before it finds:\n"
        f"   - position {missing[0].position}: {missing[0].detail}",
        refused=refused,
        problems=[problem_json(one) for one in (*found, *missing)],
    )


def show_erasure(narration: Narration, store: EventStore) -> None:
    """
    Show that an erasure removes bob's content and leaves the evidence of it in the log.

    :raises EventStoreError: the store broke a promise.
    """
    erased = store.erase("bob", ordered_by="privacy desk")
    found = store.verify()
    require_promise(found.ok and not store.user("bob").tasks.list(), "content of bob was left")
    narration.step(
        "Erasure",
        f"bob asks to be erased: {erased.events} payload is removed by order of the "
        f"{erased.ordered_by}, which the log records at position {erased.position}.\n"
        f"   verify: {found.events} events, {found.erased} of them erased, the hash chain intact.",
        events=erased.events,
        position=erased.position,
        ok=found.ok,
    )


def _answer(ask: Callable[[], object]) -> str:
    try:
        ask()
    except NotFound as error:
        return str(error)
    return "the conversation was shown"


def _refusal(admin: Connection, statement: str) -> str:
    try:
        admin.execute(statement)
    except psycopg.Error as error:
        return str(error.diag.message_primary)
    return "the statement was executed"


def _count(connection: Connection, query: str) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def _payload(admin: Connection, changed: str | None) -> str:
    """Return the payload of alice's first task, after replacing it with `changed` if given."""
    first = "user_id = 'alice' and type = 'TaskCreated' and payload::text like '%milk%'"
    if changed is not None:
        first = "user_id = 'alice' and type = 'TaskCreated' and payload::text ~ 'milk|beer'"
        admin.execute(f"update eventstore.event set payload = %s where {first}", (changed,))
    row = admin.execute(f"select payload::text from eventstore.event where {first}").fetchone()
    return str(row[0]) if row else ""
