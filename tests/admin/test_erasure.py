"""Erasure: what was said is gone wherever one looks, and that it was said can still be shown."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from hashlib import sha256
from itertools import combinations
from uuid import UUID

import psycopg
import pytest

import eventstore.database.pages
from eventstore import (
    ContentErased,
    Erased,
    EventStore,
    InvalidInput,
    NewEvent,
    NotFound,
    StreamClosed,
    User,
)
from eventstore.log.anchors import Anchor
from eventstore.log.envelope import RecordedEvent
from eventstore.log.ids import erasure_stream
from eventstore.store.chat_import import ChatConversation
from projections.apply.replay import Replay
from tests.support.erasing import WORDS, everything, said
from tests.tampering.outsider import digest_of, fingerprint


def stored_digests(admin: psycopg.Connection) -> set[bytes]:
    rows = admin.execute(
        "select payload_digest, fingerprint, hash, salt from eventstore.event"
        " where type <> 'ContentErased'"
    )
    return {one for row in rows for one in row if one is not None}


def test_nothing_that_was_said_is_left_in_any_table(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    said(alice)
    before = " ".join(everything(admin))

    done = store.erase("alice", ordered_by="the court", reason="request 7")

    left = " ".join(everything(admin))
    assert [word for word in WORDS if word not in before] == []
    assert [word for word in WORDS if word in left] == []
    verified = store.verify()
    assert verified.ok
    assert done.events == verified.erased == done.position - 1  # type: ignore[operator]  # it is there
    assert verified.events == done.position


def test_one_conversation_goes_and_its_tasks_stay(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    chat = said(alice)
    other = alice.conversations.start(title="kept")
    alice.messages.post(other.id, sender="user", content="kept too")

    done = store.erase("alice", ordered_by="alice", conversation="zebra")

    left = " ".join(everything(admin))
    assert [word for word in WORDS if word in left] == ["sorrel", "rhubarb", "quince"]
    assert done.conversation_id == chat
    assert {task.title for task in alice.tasks.list()} == {"sorrel", "quince"}
    assert [one.id for one in alice.conversations.list()] == [other.id]
    assert len(alice.history(other.id)) == 1
    assert store.verify().ok
    assert store.rebuild(check=True).changed == 0


def test_no_digest_that_is_left_confirms_a_guess(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    said(alice)
    store.user("alice").keyed("single").tasks.create("short")
    parts = admin.execute(
        "select position, stream_id, type, schema_version, payload::text, metadata::text"
        " from eventstore.event order by position"
    ).fetchall()
    names = ("stream_id", "type", "schema_version", "payload")
    events = [dict(zip(names, row[1:5], strict=True)) for row in parts]
    guesses = {digest_of(b"", row[4], row[5]) for row in parts}
    guesses |= {digest_of(bytes(16), row[4], row[5]) for row in parts}
    for start, end in combinations(range(len(events) + 1), 2):
        guesses.add(fingerprint(events[start:end]))
    assert guesses & stored_digests(admin)  # the fingerprints, as long as nothing is erased

    store.erase("alice", ordered_by="alice")

    assert not guesses & stored_digests(admin)


def test_a_fingerprint_that_spans_a_kept_task_does_not_confirm_the_erased_message(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    chat = alice.conversations.start()
    for key, first in (("one", "message"), ("two", "task")):
        with alice.transaction(idempotency_key=key) as tx:
            if first == "task":
                tx.tasks.create("kept")
            tx.messages.post(chat.id, sender="user", content="yes")
            if first == "message":
                tx.tasks.create("kept")

    store.erase("alice", ordered_by="alice", conversation=chat.id)

    left = admin.execute(
        "select count(*) from eventstore.event"
        " where fingerprint is not null and type <> 'ContentErased'"
    ).fetchone()
    assert left == (0,)
    assert store.verify().ok


def test_chain_and_anchors_taken_before_still_hold(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    said(alice)
    kept = Anchor(datetime.now(UTC), {one.user_id: one for one in store.heads()}, signed=False)
    hashes = "select position, hash, payload_digest from eventstore.event order by 1 limit 5"
    before = admin.execute(hashes).fetchall()

    store.erase("alice", ordered_by="alice")

    assert admin.execute(hashes).fetchall() == before
    found = store.verify(anchors=[kept])
    assert found.ok
    assert found.anchors == 1


def test_other_users_stay_as_they_are_to_the_byte(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    for user in (alice, bob):
        said(user)
    before = everything(admin, "bob")

    store.erase("alice", ordered_by="alice")

    assert everything(admin, "bob") == before
    assert store.verify("bob").erased == 0


@pytest.mark.parametrize("whole", [True, False])
def test_whatever_is_asked_afterwards_is_answered(
    store: EventStore, alice: User, whole: bool
) -> None:
    chat = said(alice)

    done = store.erase("alice", ordered_by="alice", conversation=None if whole else chat)

    assert done.position is not None
    for position in (None, *range(1, done.position + 1)):
        for source in ("projection", "events"):
            with pytest.raises(NotFound):
                alice.history(chat, source=source, as_of=position)
        alice.tasks.list(as_of=position)
        assert {entry.status for entry in alice.audit(as_of=position)} <= {"erased"}
    events = alice.events()
    assert [event.erased for event in events].count(True) == done.events
    assert isinstance(events[-1].data, ContentErased)
    assert store.rebuild("alice").changed == 0
    assert store.status().events == done.position


@pytest.mark.parametrize("whole", [True, False])
def test_erased_streams_are_closed_and_new_ones_open(
    store: EventStore, alice: User, whole: bool
) -> None:
    chat = said(alice)

    store.erase("alice", ordered_by="alice", conversation=None if whole else chat)

    with pytest.raises((StreamClosed, NotFound)):
        alice.messages.post(chat, sender="user", content="again")
    with pytest.raises(StreamClosed):
        alice.conversations.start(key="zebra")
    with pytest.raises(Erased):
        alice.keyed("post").messages.post(chat, sender="user", content="xylem")
    fresh = alice.conversations.start(title="new")
    alice.messages.post(fresh.id, sender="user", content="hello")
    assert len(alice.history(fresh.id)) == 1
    assert store.verify().ok


def test_a_second_erasure_has_nothing_to_do_and_records_nothing(
    store: EventStore, alice: User
) -> None:
    chat = said(alice)

    first = store.erase("alice", ordered_by="alice")
    again = store.erase("alice", ordered_by="alice")
    part = store.erase("alice", ordered_by="alice", conversation=chat)

    assert first.events > 0
    assert (again.events, again.position, part.events) == (0, None, 0)


def test_an_unknown_user_and_anothers_conversation_are_equally_not_found(
    store: EventStore, alice: User, bob: User
) -> None:
    chat, task = said(alice), bob.tasks.create("bob's")

    for user_id, conversation in (("nobody", None), ("bob", chat), ("bob", task.id), ("bob", "k")):
        with pytest.raises(NotFound):
            store.erase(user_id, ordered_by="x", conversation=conversation)
    assert store.verify().erased == 0


def test_a_service_cannot_record_an_erasure_itself(alice: User) -> None:
    data = ContentErased(through=1, events=1, ordered_by="me")

    with pytest.raises(InvalidInput, match="recorded by an erasure alone"):
        alice.append([NewEvent(stream_id=erasure_stream("alice"), data=data)])


def test_nobody_can_take_the_place_where_erasures_are_recorded(
    store: EventStore, alice: User
) -> None:
    with pytest.raises(InvalidInput):
        alice.conversations.start(key=str(erasure_stream("alice")))

    alice.tasks.create("Buy milk")
    assert store.erase("alice", ordered_by="alice").events > 0


def test_appends_during_an_erasure_lose_nothing(database_url: str) -> None:
    with EventStore.connect(database_url) as store, ThreadPoolExecutor(4) as pool:
        alice = store.user("alice")
        chats = [alice.conversations.start() for _ in range(4)]

        def talk(chat: UUID) -> int:
            posted = 0
            for number in range(15):
                try:
                    alice.messages.post(chat, sender="user", content=str(number))
                except (StreamClosed, NotFound):
                    break
                alice.tasks.create("also")
                posted += 2
            return posted

        talks = [pool.submit(talk, chat.id) for chat in chats]
        erased = [store.erase("alice", ordered_by="a", conversation=chat.id) for chat in chats[:2]]
        written = sum(one.result() for one in talks)

        verified = store.verify()
        assert verified.ok
        assert verified.events >= written + len(chats) + len(erased)
        assert verified.erased == sum(one.events for one in erased)


@pytest.mark.parametrize("page", [4, 5_000])
@pytest.mark.parametrize("work", ["rebuild one", "rebuild all", "erase another"])
def test_what_is_erased_during_a_replay_is_not_brought_back(
    store: EventStore,
    alice: User,
    database_url: str,
    admin: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    work: str,
    page: int,
) -> None:
    monkeypatch.setattr(eventstore.database.pages, "PAGE_ROWS", page)
    chats = [alice.conversations.start(title=f"zebra {number}") for number in range(2)]
    for chat in chats:
        alice.messages.post(chat.id, sender="user", content="zebra")
    alice.tasks.create("kept")
    apply, last = Replay.apply, alice.events()[-1].position

    with EventStore.connect(database_url) as other:

        def meanwhile(self: Replay, events: Iterable[RecordedEvent]) -> None:
            seen = list(events)
            apply(self, seen)
            if seen[-1].position == min(page, last):  # before more is read, or the row is locked
                monkeypatch.setattr(Replay, "apply", apply)
                assert other.erase("alice", ordered_by="x", conversation=chats[1].id).events == 2

        monkeypatch.setattr(Replay, "apply", meanwhile)
        match work:
            case "rebuild one":
                store.rebuild("alice")
            case "rebuild all":
                store.rebuild()
            case _:
                store.erase("alice", ordered_by="x", conversation=chats[0].id)

    assert Replay.apply is apply
    assert store.verify().ok
    left = [row for row in everything(admin) if "zebra" in row]
    assert not any(str(chats[1].id) in row or "zebra 1" in row for row in left)
    assert [one.title for one in alice.tasks.list()] == ["kept"]


def test_the_name_of_an_imported_conversation_stays_known_as_the_docs_say(
    store: EventStore, admin: psycopg.Connection
) -> None:
    imported = ChatConversation("zebra", [{"role": "user", "content": "xylem"}])
    store.import_conversations([("alice", imported)])
    store.erase("alice", ordered_by="alice")

    with pytest.raises(Erased):
        store.import_conversations([("alice", imported)])
    assert sha256(b"zebra").hexdigest() in " ".join(everything(admin))
