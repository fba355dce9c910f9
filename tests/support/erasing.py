"""A log with a rare word in every column that takes text, and a search of all tables for them."""

from __future__ import annotations

from uuid import UUID, uuid4

import psycopg

from eventstore import NewEvent, TaskCreated, User
from tests.support.proxy import Proxy

__all__ = ["WORDS", "all_rows", "lose_reply_of_record", "write_words"]

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


def lose_reply_of_record(proxy: Proxy, admin: psycopg.Connection, number: int) -> list[bytes]:
    """
    Lose one reply once so many erasures are recorded.

    :return: gets what was lost.
    """
    lost: list[bytes] = []

    def lose_once_after_commit(data: bytes) -> bool:
        # Another session reads the record only after the commit, whose reply is then lost.
        (count,) = admin.execute(
            "select count(*) from eventstore.event where type = 'ContentErased'"
        ).fetchone() or (0,)
        if count == number and not lost:
            lost.append(data)
            return True
        return False

    proxy.lose_reply = lose_once_after_commit
    return lost
