"""A log with a rare word in every column that takes text, and a search of all tables for them."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg

from eventstore import NewEvent, TaskCreated, User

__all__ = ["WORDS", "all_rows", "write_words"]

WORDS = ("zebra", "yucca", "xylem", "walnut", "vervain", "umbra", "teasel", "sorrel", "rhubarb",
         "quince", "parsley", "orchid")  # fmt: skip


def write_words(user: User) -> UUID:
    """Write each of the words into another field of the log; return the conversation's id."""
    chat = user.keyed("start").conversations.start(key="zebra", title="yucca")
    user.keyed("post").messages.post(chat.id, sender="user", content="xylem")
    call = user.tool_calls.request(chat.id, name="walnut", arguments='{"x":"vervain"}')
    user.tool_calls.succeed(call, output={"y": "umbra"})
    with user.turn(chat.id, key="parsley") as turn:
        turn.end(model="orchid")
    with user.transaction(idempotency_key="both") as tx:
        tx.messages.post(chat.id, sender="assistant", content="teasel")
        tx.tasks.create("sorrel")
    user.append([NewEvent(stream_id=uuid4(), data=TaskCreated(title="quince"),
                          metadata={"m": "rhubarb"})])  # fmt: skip
    return chat.id


def all_rows(admin: psycopg.Connection, containing: str = "") -> list[str]:
    """Return every row of every table outside the system catalogs, as text."""
    tables = admin.execute(
        "select c.oid::regclass::text from pg_class as c where c.relkind in ('r', 'm')"
        " and c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)' order by 1"
    ).fetchall()
    return [
        row
        for (table,) in tables
        for (row,) in admin.execute(f"select t::text from {table} as t").fetchall()
        if containing in row
    ]
