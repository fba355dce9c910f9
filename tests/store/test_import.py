"""An import writes conversations once, and what is new of them when it is run again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import EventStore, Settings, User
from eventstore.events.fields import MAX_BATCH, MAX_TITLE
from eventstore.imports.conversation import ImportedConversation, ImportedMessage
from eventstore.imports.formats import Branches, read_conversation
from eventstore.store import chat_import
from eventstore.store.chat_import import Imported
from tests.imports.samples import CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES
from tests.support.drivers import open_store
from tests.support.properties import examples
from tests.support.proxy import Proxy, url_through


def said(count: int, sender: str = "user") -> list[ImportedMessage]:
    return [
        ImportedMessage(sender, {"role": sender, "content": str(number)}) for number in range(count)
    ]


def conversation(
    messages: int | Sequence[ImportedMessage] = 3, key: str = "k", **fields: Any
) -> ImportedConversation:
    given_messages = said(messages) if isinstance(messages, int) else messages
    return ImportedConversation(key, given_messages, location="a.json[0]", **fields)


def import_for(store: EventStore, *conversations: ImportedConversation, **options: Any) -> Imported:
    done = store.import_conversations([("alice", one) for one in conversations], **options)
    # The async store is wrapped in the tests, and so is what it returns.
    return Imported(*(getattr(done, one.name) for one in fields(Imported)))


def reason(imported: Imported) -> str:
    ((failure),) = imported.failures
    assert (failure.location, imported.failed, imported.conversations) == ("a.json[0]", 1, 1)
    return failure.reason


def contents(alice: User, key: str = "k") -> list[Any]:
    return [one.content for one in alice.history(key)]


@pytest.mark.parametrize(
    ("stored", "more"), [(MAX_BATCH - 1, 1), (MAX_BATCH, 5), (2 * MAX_BATCH - 1, 5)]
)
def test_a_conversation_that_grew_gets_its_tail_and_a_shorter_one_changes_nothing(
    store: EventStore, alice: User, stored: int, more: int
) -> None:
    """The lengths are at the limit of an append, whose first event starts the conversation."""
    short, long = conversation(stored), conversation(stored + more)

    first, again = import_for(store, short), import_for(store, short)
    grown = import_for(store, long)
    after = [import_for(store, one) for one in (long, short)]

    assert first == Imported(1, stored, 0, stored + 1, imported=1)
    assert grown == Imported(1, more, 0, more, grown=1)
    assert [again, *after] == [Imported(1, skipped=1)] * 3
    assert contents(alice) == [str(number) for number in range(stored + more)]
    assert store.verify().ok


def test_title_dates_and_models_of_an_export_are_kept(store: EventStore, alice: User) -> None:
    for value in (CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES):
        import_for(store, *read_conversation(value, branches=Branches.ALL))

    titles = {one.key: one.title for one in alice.conversations.list()}
    said = [(one.occurred_at, one.metadata) for one in alice.events()]

    assert titles == {
        CHATGPT["id"]: "Groceries",
        f"{CHATGPT['id']}#declined": "Groceries",
        CLAUDE["uuid"]: "Milk for Jürgen",
        OPEN_WEBUI["id"]: "Shopping",
        f"{OPEN_WEBUI['id']}#a1": "Shopping",
        RESPONSES["id"]: None,
    }
    assert said[0] == (datetime(2024, 1, 5, 8, 0, 0, 250000, UTC), {})
    assert (datetime(2024, 5, 6, 12, 53, 23, tzinfo=UTC), {"model": "qwen2"}) in said
    assert store.verify().ok


def test_the_calls_of_an_export_are_recorded_with_their_outcomes(
    store: EventStore, alice: User
) -> None:
    values = (CHATGPT, CLAUDE, RESPONSES)
    done = import_for(store, *(one for value in values for one in read_conversation(value)))

    assert done.tool_calls == 5
    assert [(one.name, one.status) for one in alice.audit()] == [
        ("browser", "succeeded"),
        ("python", "succeeded"),
        ("add", "succeeded"),
        ("add", "failed"),
        ("add_task", "succeeded"),
    ]
    assert store.verify().ok


@pytest.mark.parametrize("value", [CHATGPT, CLAUDE, OPEN_WEBUI, RESPONSES])
@examples(5)
@given(data=st.data())
def test_an_import_in_steps_is_the_import_at_once(
    store: EventStore, value: dict[str, Any], data: st.DataObject
) -> None:
    (given_one,) = read_conversation(value)
    key = data.draw(st.uuids()).hex
    sizes = data.draw(st.lists(st.integers(0, len(given_one.messages)), max_size=3))

    written = Imported()
    for size in [*sizes, len(given_one.messages)]:
        part = replace(given_one, key=key, messages=given_one.messages[:size])
        written += import_for(store, part)

    assert written.failures == ()
    history = store.user("alice").history(key)
    assert [one.body for one in history] == [one.body for one in given_one.messages]
    assert store.user("alice").history(key, source="events") == history
    assert store.verify().ok


def test_what_was_said_here_since_does_not_keep_a_conversation_from_growing(
    store: EventStore, alice: User
) -> None:
    import_for(store, conversation(2))
    alice.messages.post("k", sender="user", content="said here")

    grown = import_for(store, conversation(3))

    assert grown.grown == 1
    assert contents(alice) == ["0", "1", "said here", "2"]


def test_a_title_that_an_export_changed_is_taken_over_once(store: EventStore, alice: User) -> None:
    import_for(store, conversation(title="New chat"))

    renamed = import_for(store, conversation(title="Groceries"))
    title = alice.conversations.get("k").title
    alice.conversations.rename("k", "Mine")
    again = import_for(store, conversation(title="Groceries"))
    without = import_for(store, conversation(title=None))

    assert (title, renamed) == ("Groceries", Imported(1, 0, 0, 1, grown=1))
    assert (again.skipped, without.skipped) == (1, 1)
    assert alice.conversations.get("k").title == "Mine"


@pytest.mark.parametrize(
    ("given_title", "title"),
    [(" \n", None), ("", None), ("a\0b\ud800", "a\ufffdb\ufffd"), (" x" * 999, "x " * 250)],
)
def test_a_title_that_cannot_be_stored_is_made_storable(
    store: EventStore, alice: User, given_title: str, title: str | None
) -> None:
    assert import_for(store, conversation(title=given_title)).imported == 1

    assert alice.conversations.get("k").title == (title and title[:MAX_TITLE])


def test_one_bad_conversation_stops_no_other_and_leaves_nothing(
    store: EventStore, alice: User
) -> None:
    odd = {"role": "assistant", "tool_calls": [{"price": float("inf")}]}
    conversations = [
        conversation(key="before"),
        conversation([*said(2), ImportedMessage("assistant", odd)], key="odd"),
        conversation(key="x" * 256),
        conversation(key="\ud800"),
        conversation([ImportedMessage("user", {"content": float("nan")})], key="nan"),
        conversation([ImportedMessage("", {"content": "a"})], key="nobody"),
        conversation(key="after"),
    ]

    done = import_for(store, *conversations)

    assert (done.conversations, done.imported, done.failed) == (7, 2, 5)
    assert [one.key for one in alice.conversations.list()] == ["after", "before"]
    assert [one.key for one in done.failures] == ["odd", "x" * 256, "\ud800", "nan", "nobody"]
    reasons = [one.reason for one in done.failures]
    assert reasons[0].startswith("messages[2].body.tool_calls[0].price: inf is not a JSON number")
    assert reasons[1].startswith("key: 256 characters, the limit is 255")
    assert reasons[2].startswith("key: has a lone surrogate")
    assert reasons[3].startswith("messages[0].body.content: nan is not a JSON number")
    assert reasons[4].startswith("messages[0].sender: has no visible character")


def test_a_message_that_was_changed_is_named_and_nothing_is_added(
    store: EventStore, alice: User
) -> None:
    import_for(store, conversation(3))
    changed = [*said(1), ImportedMessage("user", {"role": "user", "content": "new"}), *said(3)]

    refused = import_for(store, conversation(changed))

    assert reason(refused).startswith("messages[1] differs from what was imported under this key")
    assert contents(alice) == ["0", "1", "2"]


def test_a_conversation_that_was_not_imported_is_not_imported_into(
    store: EventStore, alice: User
) -> None:
    alice.conversations.start(key="k")

    assert reason(import_for(store, conversation())).startswith("exists and was not imported")


def test_a_deleted_conversation_is_skipped_and_its_tail_refused(
    store: EventStore, alice: User
) -> None:
    import_for(store, conversation(2))
    alice.conversations.delete("k")

    assert import_for(store, conversation(2)).skipped == 1
    for options in ({}, {"dry_run": True}):
        refused = import_for(store, conversation(3), **options)
        assert reason(refused).startswith("was deleted; leave it out")


def test_an_erased_conversation_is_refused(store: EventStore) -> None:
    import_for(store, conversation(2))
    store.erase("alice", ordered_by="alice", conversation="k")

    assert reason(import_for(store, conversation(2))).startswith("was erased; leave it out")


def test_a_dry_run_tells_what_would_be_and_writes_nothing(
    store: EventStore, admin: psycopg.Connection
) -> None:
    import_for(store, conversation(2, "grown"), conversation(2, "same"), conversation(2, "other"))
    changed = conversation([ImportedMessage("user", {"role": "user"})], "other")
    given_ones = [
        conversation(3, "grown"),
        conversation(2, "same"),
        conversation(4, "new"),
        changed,
    ]
    events = admin.execute("select count(*) from eventstore.event").fetchall()

    would_be = import_for(store, *given_ones, dry_run=True)
    unchanged = admin.execute("select count(*) from eventstore.event").fetchall() == events
    done = import_for(store, *given_ones)

    assert unchanged
    assert would_be == done
    assert (done.imported, done.grown, done.skipped, done.failed) == (1, 1, 1, 1)
    assert (done.messages, done.events) == (5, 6)


def test_conversations_of_one_user_are_imported_in_the_order_given(
    store: EventStore, alice: User
) -> None:
    keys = [f"k{number:02}" for number in range(20)]

    import_for(store, *(conversation(1, key) for key in keys), jobs=4)

    assert [one.key for one in alice.conversations.list()] == keys[::-1]


def test_two_imports_at_once_write_every_message_once(store: EventStore, alice: User) -> None:
    pairs = [("alice", conversation(size, "same")) for size in (2, 5, 3, 5)]

    done = store.import_conversations(pairs, jobs=4)

    assert done.failures == ()
    assert contents(alice, "same") == [str(number) for number in range(5)]


def test_a_tail_that_another_import_writes_meanwhile_is_not_written_twice(
    store: EventStore, alice: User, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_for(store, conversation(2))
    compare = chat_import._Import._compare
    others: list[Imported] = []

    def let_another_come_between(one: chat_import._Import) -> Any:
        compared = yield from compare(one)
        if not others:
            others.append(Imported())
            with EventStore.connect(database_url) as other:
                others.append(import_for(other, conversation(3)))
        return compared

    monkeypatch.setattr(chat_import._Import, "_compare", let_another_come_between)
    done = import_for(store, conversation(4))

    assert [one.messages for one in (*others, done)] == [0, 1, 1]
    assert contents(alice) == ["0", "1", "2", "3"]


def dated(content: str, created_at: datetime | None, model: str | None = None) -> ImportedMessage:
    return ImportedMessage("user", {"role": "user", "content": content}, created_at, model)


def test_a_conversation_of_2024_shows_its_dates_of_2024(store: EventStore, alice: User) -> None:
    began, answered = datetime(2024, 1, 5, 8, tzinfo=UTC), datetime(2024, 1, 6, 9, tzinfo=UTC)
    messages = [dated("a", began), dated("b", answered, "m"), dated("no date", None)]

    import_for(store, conversation(messages))
    (view,) = alice.conversations.list()
    history, replayed = (alice.history(view.id, source=one) for one in ("projection", "events"))

    assert [one.created_at for one in history] == [began, answered, answered]
    assert replayed == history
    assert (view.created_at, view.updated_at, view.last_activity_at) == (began, answered, answered)
    assert [one.metadata for one in alice.events()] == [{}, {}, {"model": "m"}, {}]
    assert store.verify().ok


def test_an_import_again_with_other_dates_changes_nothing(store: EventStore, alice: User) -> None:
    first, later = datetime(2024, 1, 5, 8, tzinfo=UTC), datetime(2024, 1, 5, 9, tzinfo=UTC)
    import_for(store, conversation([dated("a", first)]))

    again = import_for(store, conversation([dated("a", later), dated("b", later)]))
    (view,) = alice.conversations.list()

    assert (again.grown, again.messages) == (1, 1)
    assert [one.created_at for one in alice.history(view.id)] == [first, later]


def test_a_date_that_cannot_be_stored_fails_its_conversation(store: EventStore) -> None:
    done = import_for(store, conversation([dated("a", datetime(2024, 1, 5, 8))]))  # noqa: DTZ001

    assert [one.reason for one in done.failures] == [
        "messages[0].created_at: is no timestamp with time zone; give one, or leave it out"
    ]


@pytest.fixture(params=["sync", "async"])
def remote_store(
    request: pytest.FixtureRequest, database_url: str, proxy: Proxy
) -> Iterator[EventStore]:
    """A store that reaches its database through the proxy, on one connection."""
    url = url_through(proxy, database_url)
    with open_store(request.param, settings=Settings(database_url=url, pool_max_size=1)) as store:
        store.user("alice").tasks.create("warm up")
        yield store


@pytest.mark.parametrize("stored", [0, 2])
def test_a_lost_reply_to_a_commit_does_not_double_what_is_imported(
    remote_store: EventStore, proxy: Proxy, stored: int
) -> None:
    if stored:
        import_for(remote_store, conversation(stored))
    lost: list[bool] = []

    def lose_the_reply(sent: bytes) -> bool:
        if b"INSERT 0" in sent and b"eventstore.message" not in sent and not lost:
            lost.append(True)
            return True
        return False

    proxy.lose_reply = lose_the_reply
    done = import_for(remote_store, conversation(4))

    assert lost
    assert (done.failures, done.conversations) == ((), 1)
    assert contents(remote_store.user("alice")) == ["0", "1", "2", "3"]
    assert remote_store.verify().ok


def test_a_new_conversation_costs_one_round_trip_and_a_batch_one_more(
    remote_store: EventStore, proxy: Proxy
) -> None:
    given_ones = [conversation(20, f"k{number}") for number in range(5)]
    import_for(remote_store, *given_ones)
    proxy.count()

    import_for(remote_store, *(replace(one, key=f"{one.key} again") for one in given_ones))
    new = proxy.count()
    import_for(remote_store, *given_ones)
    skipped = proxy.count()
    import_for(remote_store, *(conversation(22, f"k{number}") for number in range(5)))
    grown = proxy.count()

    import_for(remote_store, conversation(key="single"))
    single = proxy.count()

    assert (new, skipped, grown, single) == (6, 6, 11, 1)


def test_the_comparison_with_the_log_reads_one_stream(
    store: EventStore, admin: psycopg.Connection
) -> None:
    import_for(store, *(conversation(50, f"k{number}") for number in range(20)))
    admin.execute("analyze eventstore.event")
    parameters = (
        "'alice'",
        f"'{store.user('alice').conversations.get('k3').id}'::uuid",
        "array[gen_random_uuid()]",
    )

    explained = chat_import._RECORDED
    for number, value in enumerate(parameters, 1):
        explained = explained.replace(f"${number}", value)
    plan = "\n".join(row[0] for row in admin.execute(f"explain {explained}"))

    assert "event_stream" in plan
