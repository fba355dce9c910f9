"""An export is everything held about one user, and enough to check the chain without the store."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from eventstore import EventStore, NewEvent, NotFound, TaskCreated, User
from tests.tampering.outsider import chained, digest_of

ODD = {"nul": "\0", "lone": "\ud800", "big": 2**80, "exact": Decimal("1.10"), "lines": "a\nb\u2028"}
ROWS = "select to_json(t)::text from {} as t where user_id = %s"


def exported(store: EventStore, user_id: str) -> str:
    pieces: list[str] = []
    store.export(user_id, pieces.append)
    return "".join(pieces)


def read(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return document


def given_a_life(user: User) -> None:
    chat = user.conversations.start(key="k", title="Groceries")
    user.messages.post(chat.id, sender="user", content="Buy milk \0 \ud800")
    call = user.tool_calls.request(chat.id, name="f", arguments="{}")
    user.tool_calls.succeed(call, output=ODD)
    user.tasks.complete(user.tasks.create("Milk").id)
    event = NewEvent(stream_id=uuid4(), data=TaskCreated(title="odd"), metadata=ODD)
    user.append([event], idempotency_key="odd")


def test_every_row_and_column_of_one_user_is_in_it_and_nothing_of_another(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    given_a_life(alice)
    bob.tasks.create("unspeakable")

    document = read(text := exported(store, "alice"))

    assert "unspeakable" not in text
    assert len(document["events"]) == document["position"]
    tables = ["eventstore.stream", "eventstore.task", "eventstore.conversation",
              "eventstore.message"]  # fmt: skip
    assert list(document["tables"]) == tables
    for table in tables:
        stored = [json.loads(row) for (row,) in admin.execute(ROWS.format(table), ("alice",))]
        found = document["tables"][table]
        assert len(found) == len(stored)
        assert {frozenset(row) for row in found} == {frozenset(row) - {"user_id"} for row in stored}
        for name, value in ((name, value) for row in found for name, value in row.items()):
            if name.endswith("_at") and value is not None:
                assert datetime.fromisoformat(value).tzinfo is not None
    columns = admin.execute(
        "select column_name from information_schema.columns"
        " where table_schema = 'eventstore' and table_name = 'event'"
    )
    assert {"user_id", *document["events"][0]} == {name for (name,) in columns}


def test_it_begins_with_whose_it_is_and_what_it_is_of(store: EventStore, alice: User) -> None:
    given_a_life(alice)

    document = read(exported(store, "alice"))

    assert list(document)[:6] == [
        "user_id", "exported_at", "position", "hash", "recorded_at", "unreached",
    ]  # fmt: skip
    (head,) = store.heads()
    assert (document["user_id"], document["position"], document["hash"], document["unreached"]) == (
        "alice", head.position, head.hash.hex(), [],
    )  # fmt: skip
    assert datetime.fromisoformat(document["recorded_at"]) == head.recorded_at
    assert datetime.fromisoformat(document["exported_at"]) >= head.recorded_at


def test_a_row_is_a_line(store: EventStore, alice: User) -> None:
    given_a_life(alice)

    lines = exported(store, "alice").split("\n")

    events = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"position"')]
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    assert len(events) == store.verify("alice").events


def test_an_outsider_comes_to_the_hash_of_the_head(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    given_a_life(alice)
    events = [
        line.rstrip(",")
        for line in exported(store, "alice").split("\n")
        if '"payload_digest"' in line
    ]

    previous = bytes(32)
    for line, event in ((line, json.loads(line)) for line in events):
        # Payload and metadata stand in the line as they are stored.
        payload = line[line.index('"payload": ') + 11 : line.index(', "metadata": ')]
        metadata = line[line.index('"metadata": ') + 12 : line.index(', "correlation_id": ')]
        salt = bytes.fromhex(event["salt"])
        assert digest_of(salt, payload, metadata).hex() == event["payload_digest"]
        recorded = datetime.fromisoformat(event["recorded_at"])
        event["microseconds"] = int(recorded.timestamp()) * 10**6 + recorded.microsecond
        previous = chained(previous, "alice", event)
        assert previous.hex() == event["hash"]

    (head,) = admin.execute("select hash from eventstore.user_log where user_id = 'alice'")
    assert head == (previous,)


def test_what_json_hardly_holds_comes_out_exactly(store: EventStore, alice: User) -> None:
    given_a_life(alice)

    document = read(exported(store, "alice"))

    assert document["events"][-1]["metadata"] == ODD
    bodies = [row["body"] for row in document["tables"]["eventstore.message"]]
    assert {"role": "user", "content": "Buy milk \0 \ud800"} in bodies


def test_an_erased_event_has_no_payload_and_is_still_there(store: EventStore, alice: User) -> None:
    given_a_life(alice)
    before = read(exported(store, "alice"))["events"]

    store.erase("alice", ordered_by="alice")

    after = read(exported(store, "alice"))
    *erased, record = after["events"]
    assert record["type"] == "ContentErased"
    assert {one[name] for one in erased for name in ("payload", "metadata", "salt")} == {None}
    assert [one["hash"] for one in erased] == [one["hash"] for one in before]
    assert "milk" not in json.dumps(after).lower()


def test_an_event_that_no_class_reads_is_exported(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("Milk")
    admin.execute("alter table eventstore.event disable trigger user")
    admin.execute("update eventstore.event set type = 'Unheard', schema_version = 7")

    (event,) = read(exported(store, "alice"))["events"]

    assert (event["type"], event["payload"]) == ("Unheard", {"title": "Milk"})


def test_a_long_log_is_written_in_small_pieces(store: EventStore, alice: User) -> None:
    chat = alice.conversations.start()
    with alice.transaction() as tx:
        for number in range(500):
            tx.messages.post(chat.id, sender="user", content=f"{number} {'x' * 1000}")
    pieces: list[int] = []

    done = store.export("alice", lambda text: pieces.append(len(text)))

    assert done.events == 501
    assert max(pieces) < 10_000
    assert sum(pieces) > 1_000_000


def test_nobody_and_another_users_name_are_not_found(store: EventStore, alice: User) -> None:
    alice.tasks.create("Milk")

    with pytest.raises(NotFound):
        store.export("nobody", print)


def test_the_head_is_exported_with_its_hash(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("Milk")
    (fake,) = [sha256(b"another").digest()]
    admin.execute("alter table eventstore.user_log disable trigger user")
    admin.execute("update eventstore.user_log set hash = %s", (fake,))

    assert fake.hex() in exported(store, "alice")


def test_a_row_that_was_tampered_with_is_exported_too(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    given_a_life(alice)
    admin.execute("update eventstore.message set tool_calls = array[tool_calls]")

    assert "Groceries" in exported(store, "alice")


def test_a_user_who_is_asked_for_twice_has_one_head(store: EventStore, alice: User) -> None:
    alice.tasks.create("x")

    assert [one.user_id for one in store.heads(["alice", "alice"])] == ["alice"]
