"""A page is limited in rows and in bytes, but holds one row if there is one."""

from __future__ import annotations

import json
import random
from typing import Any

import psycopg
import pytest

from eventstore import EventStore, User
from eventstore.database import pages
from eventstore.database.pages import page_of
from eventstore.log.read import select_log_page

EVENTS = 20
KILOBYTES = 100


@pytest.fixture
def large_log(alice: User) -> User:
    """A log of a start and many large messages that do not compress."""
    chat, noise = alice.conversations.start(), random.Random(7)
    for _ in range(EVENTS - 1):
        content = noise.randbytes(KILOBYTES * 512).hex()
        alice.messages.post(chat.id, sender="tool", content=content)
    return alice


@pytest.fixture
def zeros(alice: User) -> User:
    """A log of as many messages as large, that compress to almost nothing."""
    chat = alice.conversations.start()
    for _ in range(EVENTS - 1):
        alice.messages.post(chat.id, sender="tool", content="0" * (KILOBYTES * 1024))
    return alice


def page_query(after: int) -> tuple[str, dict[str, Any]]:
    statement = select_log_page(("position", "payload"), "alice", after)
    sql = statement.sql.replace("$1", "%(user)s").replace("$2", "%(after)s")
    return sql, dict(zip(("user", "after"), statement.params, strict=True))


def read_pages(admin: psycopg.Connection) -> list[list[int]]:
    found: list[list[int]] = []
    more = True
    while more:
        after = found[-1][-1] if found else 0
        rows, more = page_of(admin.execute(*page_query(after)).fetchall())
        found.append([position for position, _ in rows])
    return found


@pytest.mark.parametrize(
    ("rows", "kilobytes", "lengths"),
    [
        (1_000, 10_000, [20]),
        (8, 10_000, [8, 8, 4]),
        (20, 10_000, [20, 0]),
        (1_000, 5 * KILOBYTES, [6, 5, 5, 4]),
        (1_000, 1, [2, *[1] * 18, 0]),
        (1, 1, [*[1] * 20, 0]),
    ],
)
def test_pages_follow_each_other_without_gap_or_duplicate(
    large_log: User,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    kilobytes: int,
    lengths: list[int],
) -> None:
    monkeypatch.setattr(pages, "PAGE_ROWS", rows)
    monkeypatch.setattr(pages, "PAGE_BYTES", kilobytes * 1024)

    found = read_pages(admin)

    assert [position for page in found for position in page] == list(range(1, EVENTS + 1))
    assert [len(page) for page in found] == lengths


@pytest.mark.usefixtures("zeros")
def test_page_bytes_count_the_text_as_read_and_not_its_compressed_size(
    admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 5 * KILOBYTES * 1024)

    assert [len(page) for page in read_pages(admin)] == [6, 5, 5, 4]


def test_a_page_does_not_read_the_rows_of_the_next_page(
    large_log: User, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 1024)
    sql, values = page_query(after=5)

    ((output,),) = admin.execute(
        f"explain (analyze, buffers, format json) {sql}", values
    ).fetchall()
    plan = output[0]["Plan"]

    assert plan["Actual Rows"] == 1
    assert '"Index Name": "event_pkey"' in json.dumps(plan)
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < EVENTS * KILOBYTES / 8


def test_large_events_and_rows_are_exported_and_rebuilt_page_by_page(
    store: EventStore, large_log: User, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete: list[str] = []
    store.export("alice", complete.append)
    monkeypatch.setattr(pages, "PAGE_BYTES", 150 * 1024)
    paged: list[str] = []

    store.export("alice", paged.append)
    admin.execute("delete from eventstore.message where position in (2, 3, 20)")
    admin.execute("update eventstore.message set sender = 'x' where position = 11")

    assert "".join(paged).partition('"position"')[2] == "".join(complete).partition('"position"')[2]
    assert store.rebuild("alice", check=True).changed == 4
    assert store.rebuild("alice").changed == 4
    assert store.verify("alice").ok
