"""An export holds everything about one user and suffices to check the hash chain by itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import uuid4

import psycopg
import pytest

import eventstore.database.pages
from eventstore import EventStore, NewEvent, NotFound, TaskCreated, User
from tests.support.tampering import disarm
from tests.tampering.outsider import digest_of, event_hash

# Values that are easily changed by a conversion to JSON and back.
ODD = {"nul": "\0", "lone": "\ud800", "big": 2**80, "exact": Decimal("1.10"), "lines": "a\nb\u2028"}
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # from which the hash counts microseconds
ROWS = "select to_json(t)::text from {} as t where user_id = %s"


def export_text(store: EventStore, user_id: str) -> str:
    pieces: list[str] = []
    store.export(user_id, pieces.append)
    return "".join(pieces)


def parse_export(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return document


def write_activity(user: User) -> None:
    chat = user.conversations.start(key="k", title="Groceries")
    user.messages.post(chat.id, sender="user", content="Buy milk \0 \ud800")
    call = user.tool_calls.request(chat.id, name="f", arguments="{}")
    user.tool_calls.succeed(call, output=ODD)
    user.tasks.complete(user.tasks.create("Milk").id)
    with user.turn(chat.id, key="request") as turn:
        turn.end(usage={"input_tokens": 7})
    event = NewEvent(
        stream_id=uuid4(),
        data=TaskCreated(title="odd"),
        metadata=ODD,
        occurred_at=datetime(2024, 1, 5, 8, tzinfo=UTC),
    )
    user.append([event], idempotency_key="odd")


def test_an_export_has_every_row_and_column_of_one_user_and_none_of_another(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    write_activity(alice)
    bob.tasks.create("secret of bob")

    document = parse_export(text := export_text(store, "alice"))

    assert "secret of bob" not in text
    assert len(document["events"]) == document["position"]
    tables = ["eventstore.stream", "eventstore.task", "eventstore.conversation",
              "eventstore.message", "eventstore.tool_call", "eventstore.turn"]  # fmt: skip
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


def test_an_export_begins_with_its_user_and_the_head_of_the_log(
    store: EventStore, alice: User
) -> None:
    write_activity(alice)

    document = parse_export(export_text(store, "alice"))

    assert list(document)[:6] == [
        "user_id", "exported_at", "position", "hash", "recorded_at", "unreached",
    ]  # fmt: skip
    (head,) = store.heads()
    assert (document["user_id"], document["position"], document["hash"], document["unreached"]) == (
        "alice", head.position, head.hash.hex(), [],
    )  # fmt: skip
    assert datetime.fromisoformat(document["recorded_at"]) == head.recorded_at
    assert datetime.fromisoformat(document["exported_at"]) >= head.recorded_at


def test_every_exported_row_is_one_line(store: EventStore, alice: User) -> None:
    write_activity(alice)

    lines = export_text(store, "alice").split("\n")

    events = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"position"')]
    assert [event["position"] for event in events] == list(range(1, len(events) + 1))
    assert len(events) == store.verify("alice").events


def since_2000(timestamp: str) -> int:
    return (datetime.fromisoformat(timestamp) - EPOCH) // timedelta(microseconds=1)


def test_the_hash_of_the_head_can_be_computed_from_the_export_alone(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_activity(alice)
    events = [
        line.rstrip(",")
        for line in export_text(store, "alice").split("\n")
        if '"payload_digest"' in line
    ]

    previous = bytes(32)
    for line, event in ((line, json.loads(line)) for line in events):
        # The digest covers the stored text, so payload and metadata are cut out of the line.
        payload = line[line.index('"payload":') + 10 : line.index(',"metadata":')]
        metadata = line[line.index('"metadata":') + 11 : line.index(',"correlation_id":')]
        salt = bytes.fromhex(event["salt"])
        event["payload_digest"] = bytes.fromhex(event["payload_digest"])
        assert digest_of(salt, payload, metadata) == event["payload_digest"]
        event["microseconds"] = since_2000(event["recorded_at"])
        event["occurred"] = event["occurred_at"] and since_2000(event["occurred_at"])
        previous = event_hash(previous, "alice", event)
        assert previous.hex() == event["hash"]

    (head,) = admin.execute("select hash from eventstore.user_log where user_id = 'alice'")
    assert head == (previous,)


def test_values_that_json_can_barely_represent_are_exported_exactly(
    store: EventStore, alice: User
) -> None:
    write_activity(alice)

    document = parse_export(export_text(store, "alice"))

    assert document["events"][-1]["metadata"] == ODD
    bodies = [row["body"] for row in document["tables"]["eventstore.message"]]
    assert {"role": "user", "content": "Buy milk \0 \ud800"} in bodies


def test_an_erased_event_is_exported_without_its_payload(store: EventStore, alice: User) -> None:
    write_activity(alice)
    before = parse_export(export_text(store, "alice"))["events"]

    store.erase("alice", ordered_by="alice")

    after = parse_export(export_text(store, "alice"))
    *erased, record = after["events"]
    assert record["type"] == "ContentErased"
    assert {one[name] for one in erased for name in ("payload", "metadata", "salt")} == {None}
    assert [one["hash"] for one in erased] == [one["hash"] for one in before]
    assert "milk" not in json.dumps(after).lower()


def test_an_event_of_an_unknown_type_is_exported(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    alice.tasks.create("Milk")
    admin.execute("alter table eventstore.event disable trigger user")
    admin.execute("update eventstore.event set type = 'Unheard', schema_version = 7")

    (event,) = parse_export(export_text(store, "alice"))["events"]

    assert (event["type"], event["payload"]) == ("Unheard", {"title": "Milk"})


def test_a_long_log_is_written_in_small_pieces(store: EventStore, alice: User) -> None:
    chat = alice.conversations.start()
    with alice.transaction() as tx:
        for number in range(500):
            tx.messages.post(chat.id, sender="user", content=f"{number} {'x' * 1000}")
    pieces: list[int] = []
    seen: list[int] = []

    done = store.export("alice", lambda text: pieces.append(len(text)), seen=seen.append)

    assert done.events == sum(seen) == 501
    assert max(pieces) < 10_000
    assert sum(pieces) > 1_000_000


def test_the_export_of_an_unknown_user_raises_not_found(store: EventStore, alice: User) -> None:
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

    assert fake.hex() in export_text(store, "alice")


def test_a_row_that_was_tampered_with_is_still_exported(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_activity(alice)
    admin.execute("update eventstore.message set body = '[[5]]'")
    admin.execute("update eventstore.tool_call set arguments = '[[6]]'")

    text = export_text(store, "alice")

    assert "[[5]]" in text
    assert "[[6]]" in text


@pytest.mark.parametrize("position", [0, -1])
def test_an_event_that_was_put_before_the_first_is_exported(
    store: EventStore, alice: User, admin: psycopg.Connection, position: int
) -> None:
    alice.tasks.create("Milk")
    disarm(admin)
    admin.execute("update eventstore.event set position = %s", (position,))

    document = parse_export(export_text(store, "alice"))

    assert [event["position"] for event in document["events"]] == [position]


def test_an_export_ends_although_a_page_of_streams_ends_in_one_without_id(
    store: EventStore, alice: User, admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice.tasks.create("Milk")
    alice.tasks.create("Bread")
    disarm(admin)
    admin.execute("alter table eventstore.stream drop constraint stream_pkey cascade")
    admin.execute("alter table eventstore.stream alter stream_id drop not null")
    admin.execute(
        "update eventstore.stream set stream_id = null"
        " where stream_id = (select max(stream_id::text)::uuid from eventstore.stream)"
    )
    monkeypatch.setattr(eventstore.database.pages, "PAGE_ROWS", 2)

    document = parse_export(export_text(store, "alice"))

    streams = document["tables"]["eventstore.stream"]
    assert [one["stream_id"] is None for one in streams] == [False, True]


def test_a_user_who_is_requested_twice_has_one_head(store: EventStore, alice: User) -> None:
    alice.tasks.create("x")

    assert [one.user_id for one in store.heads(["alice", "alice"])] == ["alice"]
