"""An erasure removes content from every table and keeps the proof that events were recorded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
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
from eventstore.imports.conversation import ImportedConversation, ImportedMessage
from eventstore.log.envelope import RecordedEvent
from eventstore.log.ids import conversation_id, erasure_stream
from projections.apply.replay import Replay
from tests.support.erasing import WORDS, all_rows, write_words
from tests.support.waiting import until
from tests.tampering.full_log import take_anchor
from tests.tampering.outsider import digest_of


def stored_digests(admin: psycopg.Connection) -> set[bytes]:
    """Return the digests, hashes and salts of all events but erasure records."""
    rows = admin.execute(
        "select payload_digest, hash, salt from eventstore.event where type <> 'ContentErased'"
    )
    return {one for row in rows for one in row if one is not None}


def test_no_table_contains_an_erased_word(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_words(alice)
    before = " ".join(all_rows(admin))

    done = store.erase("alice", ordered_by="the court", reason="request 7")

    left = " ".join(all_rows(admin))
    assert [word for word in WORDS if word not in before] == []
    assert [word for word in WORDS if word in left] == []
    verified = store.verify()
    assert verified.ok
    assert done.events == verified.erased == done.position - 1  # type: ignore[operator]  # not None
    assert verified.events == done.position


def test_erasing_one_conversation_leaves_everything_else(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    chat = write_words(alice)
    other = alice.conversations.start(title="stays")
    alice.messages.post(other.id, sender="user", content="stays too")

    done = store.erase("alice", ordered_by="alice", conversation="zebra")

    left = " ".join(all_rows(admin))
    assert [word for word in WORDS if word in left] == ["sorrel", "rhubarb", "quince"]
    assert done.conversation_id == chat
    assert {task.title for task in alice.tasks.list()} == {"sorrel", "quince"}
    assert [one.id for one in alice.conversations.list()] == [other.id]
    assert len(alice.history(other.id)) == 1
    assert store.verify().ok
    assert store.rebuild(check=True).changed == 0


def test_no_remaining_digest_confirms_a_guess_of_erased_content(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_words(alice)
    store.user("alice").keyed("single").tasks.create("short")
    contents = admin.execute(
        "select salt, payload::text, metadata::text from eventstore.event order by position"
    ).fetchall()
    assert {digest_of(*one) for one in contents} < stored_digests(admin)

    store.erase("alice", ordered_by="alice")

    # A guesser knows every content, and of the salts only what is left in any table.
    left = stored_digests(admin)
    salts = {b"", bytes(16), *left}
    guesses = {digest_of(salt, *one[1:]) for salt in salts for one in contents}
    guesses |= {sha256(text.encode()).digest() for one in contents for text in one[1:]}
    assert {digest_of(*one) for one in contents} < left
    assert not guesses & left


def test_the_binary_columns_of_an_event_are_those_whose_secrecy_is_tested(
    store: EventStore, admin: psycopg.Connection
) -> None:
    columns = admin.execute(
        "select table_name, column_name from information_schema.columns"
        " where table_schema = 'eventstore' and data_type = 'bytea' order by 1, 2"
    ).fetchall()

    event = [("event", name) for name in ("hash", "payload_digest", "salt")]
    assert columns == [*event, ("user_log", "hash")]


@pytest.mark.parametrize("content", ["yes", "no"])
@pytest.mark.parametrize("first", ["message", "task"])
def test_a_retry_of_a_partly_erased_append_neither_confirms_nor_denies_its_content(
    store: EventStore, alice: User, first: str, content: str
) -> None:
    chat = alice.conversations.start()

    def write(content: str) -> None:
        with alice.transaction(idempotency_key="both") as tx:
            if first == "task":
                tx.tasks.create("stays")
            tx.messages.post(chat.id, sender="user", content=content)
            if first == "message":
                tx.tasks.create("stays")

    write("yes")
    store.erase("alice", ordered_by="alice", conversation=chat.id)

    with pytest.raises(Erased):
        write(content)
    assert store.verify().ok


def test_an_outcome_again_of_a_call_that_was_erased_says_so(
    store: EventStore, alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    alice.tool_calls.succeed(call, output="found")
    store.erase("alice", ordered_by="me", conversation=chat)

    with pytest.raises(Erased):
        alice.tool_calls.succeed(call, output="found")


def test_an_erasure_leaves_the_hash_chain_and_earlier_anchors_valid(
    store: EventStore, alice: User, admin: psycopg.Connection
) -> None:
    write_words(alice)
    anchor = take_anchor(store)
    hashes = "select position, hash, payload_digest from eventstore.event order by 1 limit 5"
    before = admin.execute(hashes).fetchall()

    store.erase("alice", ordered_by="alice")

    assert admin.execute(hashes).fetchall() == before
    found = store.verify(anchors=[anchor])
    assert found.ok
    assert found.anchors == 1


def test_an_erasure_changes_no_byte_of_another_user(
    store: EventStore, alice: User, bob: User, admin: psycopg.Connection
) -> None:
    for user in (alice, bob):
        write_words(user)
    before = all_rows(admin, "bob")

    store.erase("alice", ordered_by="alice")

    assert all_rows(admin, "bob") == before
    assert store.verify("bob").erased == 0


@pytest.mark.parametrize("complete", [True, False])
def test_every_query_still_works_after_an_erasure(
    store: EventStore, alice: User, complete: bool
) -> None:
    chat = write_words(alice)

    done = store.erase("alice", ordered_by="alice", conversation=None if complete else chat)

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


@pytest.mark.parametrize("complete", [True, False])
def test_erased_streams_are_closed_and_new_streams_can_be_opened(
    store: EventStore, alice: User, complete: bool
) -> None:
    chat = write_words(alice)

    store.erase("alice", ordered_by="alice", conversation=None if complete else chat)

    with pytest.raises((StreamClosed, NotFound)):
        alice.messages.post(chat, sender="user", content="again")
    with pytest.raises(StreamClosed):
        alice.conversations.start(key="zebra")
    # The key of an erased append is still known, but its result cannot be returned.
    with pytest.raises(Erased):
        alice.keyed("post").messages.post(chat, sender="user", content="xylem")
    fresh = alice.conversations.start(title="new")
    alice.messages.post(fresh.id, sender="user", content="hello")
    assert len(alice.history(fresh.id)) == 1
    assert store.verify().ok


def test_a_second_erasure_changes_and_records_nothing(store: EventStore, alice: User) -> None:
    chat = write_words(alice)

    first = store.erase("alice", ordered_by="alice")
    again = store.erase("alice", ordered_by="alice")
    part = store.erase("alice", ordered_by="alice", conversation=chat)

    assert first.events > 0
    assert (again.events, again.position, part.events) == (0, None, 0)


def test_an_unknown_user_and_another_users_conversation_are_both_not_found(
    store: EventStore, alice: User, bob: User
) -> None:
    chat, task = write_words(alice), bob.tasks.create("bob's")

    for user_id, conversation in (("nobody", None), ("bob", chat), ("bob", task.id), ("bob", "k")):
        with pytest.raises(NotFound):
            store.erase(user_id, ordered_by="x", conversation=conversation)
    assert store.verify().erased == 0


def test_a_service_cannot_append_an_erasure_record(alice: User) -> None:
    data = ContentErased(through=1, events=1, ordered_by="me")

    with pytest.raises(InvalidInput, match="recorded by an erasure alone"):
        alice.append([NewEvent(stream_id=erasure_stream("alice"), data=data)])


def test_no_conversation_can_use_the_stream_of_erasure_records(
    store: EventStore, alice: User
) -> None:
    with pytest.raises(InvalidInput):
        alice.conversations.start(key=str(erasure_stream("alice")))

    alice.tasks.create("Buy milk")
    assert store.erase("alice", ordered_by="alice").events > 0


def test_appends_during_an_erasure_lose_no_event(database_url: str) -> None:
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
@pytest.mark.parametrize("work", ["rebuild one", "rebuild all"])
def test_a_replay_does_not_restore_content_that_is_erased_meanwhile(
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
    alice.tasks.create("stays")
    apply, last = Replay.apply, alice.events()[-1].position

    with EventStore.connect(database_url) as other_store:

        def meanwhile(self: Replay, event: RecordedEvent) -> None:
            apply(self, event)
            # The erasure comes after the first page, when the rest is not read yet, or after the
            # last one, when the user's row is not locked yet.
            if event.position == min(page, last):
                monkeypatch.setattr(Replay, "apply", apply)
                done = other_store.erase("alice", ordered_by="x", conversation=chats[1].id)
                assert done.events == 2

        monkeypatch.setattr(Replay, "apply", meanwhile)
        match work:
            case "rebuild one":
                store.rebuild("alice")
            case _:
                store.rebuild()

    assert Replay.apply is apply
    assert store.verify().ok
    left = [row for row in all_rows(admin) if "zebra" in row]
    assert not any(str(chats[1].id) in row or "zebra 1" in row for row in left)
    assert [one.title for one in alice.tasks.list()] == ["stays"]


def test_a_user_writes_while_most_of_what_they_wrote_is_erased(
    database_url: str, direct_url: str, admin: psycopg.Connection
) -> None:
    waiting = "select count(*) from pg_locks where locktype = 'transactionid' and not granted"

    with (
        EventStore.connect(database_url) as store,
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(direct_url) as holder,
    ):
        alice = store.user("alice")
        write_words(alice)
        # The removal of the payloads waits for this lock.
        holder.execute("select from eventstore.event where position = 1 for update")
        erasure = pool.submit(store.erase, "alice", ordered_by="alice")
        until(lambda: erasure.done() or admin.execute(waiting).fetchone() == (1,))
        alice.tasks.create("written meanwhile")
        holder.rollback()
        done = erasure.result()

        assert done.events == store.verify().erased == len(alice.events()) - 1
        assert not [row for row in all_rows(admin) if "written meanwhile" in row]
        assert store.verify().ok


def test_erasures_at_once_follow_each_other_and_leave_nothing(
    database_url: str, admin: psycopg.Connection
) -> None:
    with EventStore.connect(database_url) as store, ThreadPoolExecutor(8) as pool:
        alice = store.user("alice")
        chats = [alice.conversations.start(title="zebra") for _ in range(4)]
        for chat in chats:
            alice.messages.extend(chat.id, [{"role": "user", "content": "zebra"}] * 50)

        def erase(conversation: UUID | None) -> int:
            return store.erase("alice", ordered_by="x", conversation=conversation).events

        erased = sum(pool.map(erase, [None, *(chat.id for chat in chats), None]))

        verified = store.verify()
        assert verified.ok
        assert verified.erased == erased == 4 * 51
        assert not [row for row in all_rows(admin) if "zebra" in row]


def test_of_an_imported_conversation_its_id_remains_and_neither_key_nor_digest_of_it(
    store: EventStore, admin: psycopg.Connection
) -> None:
    imported = ImportedConversation(
        "zebra", [ImportedMessage("user", {"role": "user", "content": "xylem"})]
    )
    store.import_conversations([("alice", imported)])
    store.erase("alice", ordered_by="alice")

    again = store.import_conversations([("alice", imported)])
    left = " ".join(all_rows(admin))

    assert [one.reason for one in again.failures] == ["was erased; leave it out of the import"]
    assert str(conversation_id("alice", "zebra")) in left
    assert "zebra" not in left
    assert sha256(b"zebra").hexdigest() not in left
