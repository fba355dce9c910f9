"""What the log adds to conversations of pydantic-ai: isolation, evidence, and the store's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import psycopg
import pytest
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
)
from pydantic_ai.messages import ModelRequest, UserPromptPart
from pydantic_core import PydanticSerializationError
from typer.testing import CliRunner

from eventstore import (
    AsyncEventStore,
    AsyncUser,
    BatchTooLarge,
    EventStore,
    InvalidInput,
    NotFound,
    Settings,
    StreamClosed,
)
from eventstore.cli.app import app
from eventstore.integrations import pydantic_ai
from eventstore.integrations.pydantic_ai import AgentConversations, AgentConversationSaved
from tests.integrations.pydantic_ai.messages import spoken
from tests.support.proxy import Proxy, url_through

pytestmark = pytest.mark.anyio


@pytest.fixture
def alice(store: AsyncEventStore) -> AsyncUser:
    return store.user("alice")


async def saved(user: AsyncUser, name: str, *texts: str) -> Conversation:
    conversation = Conversation(conversation_id=name, messages=spoken(*texts))
    await AgentConversations(user).save(conversation)
    return conversation


async def texts(user: AsyncUser, name: str) -> list[object] | None:
    loaded = await AgentConversations(user).load(name)
    if loaded is None:
        return None
    return [getattr(message.parts[0], "content", None) for message in loaded.messages]


async def test_two_users_with_one_conversation_id_share_nothing(store: AsyncEventStore) -> None:
    alice, bob = store.user("alice"), store.user("bob")
    shared = "0197a000-0000-7000-8000-000000000001"
    await saved(alice, shared, "hers")
    (hers,) = await AgentConversations(alice).load_entries(shared) or []
    of_bob = AgentConversations(bob)

    assert await of_bob.load(shared) is None
    assert await of_bob.list_conversations() == []
    with pytest.raises(LookupError):
        await of_bob.read_entry(hers.id)
    with pytest.raises(LookupError):
        await of_bob.read_history(hers.id)
    with pytest.raises(ConversationConflict):
        await of_bob.write_record(
            ConversationRecord(conversation_id=shared, head_id=hers.id), expected_revision=None
        )
    await saved(bob, shared, "his")
    await of_bob.delete(shared)
    assert await texts(alice, shared) == ["hers"]


async def test_what_was_said_stands_in_the_history_and_is_found(alice: AsyncUser) -> None:
    await saved(alice, "chat", "Buy some milk", "It is on the list")

    history = await alice.history("chat")
    (found,) = await alice.messages.search("milk")
    (listed,) = await alice.conversations.list()

    assert [(one.sender, one.content[0]["content"]) for one in history] == [
        ("user", "Buy some milk"),
        ("assistant", "It is on the list"),
    ]
    entries = await AgentConversations(alice).load_entries("chat") or []
    assert [str(one.id) for one in history] == [entry.id for entry in entries]
    assert found.id == history[0].id
    assert (listed.key, listed.message_count) == ("chat", 2)
    assert await alice.history("chat", source="events") == history


async def test_a_conversation_of_the_applications_own_is_saved_into(alice: AsyncUser) -> None:
    chat = await alice.conversations.start(title="Groceries")
    name = str(chat.id)
    await alice.messages.post(chat.id, sender="user", content="before the agent")
    conversation = await saved(alice, name, "a")
    await alice.conversations.rename(chat.id, "Shopping")
    await alice.messages.post(chat.id, sender="user", content="beside the agent")
    conversation.messages += spoken("b")

    await AgentConversations(alice).save(conversation)

    assert await texts(alice, name) == ["a", "b"]
    window = await AgentConversations(alice).load(name, limit=2)
    assert window is not None
    assert len(window.messages) == 2
    assert len(await alice.history(chat.id)) == 4
    shapes: list[dict[str, object]] = [{"type": "note"}, {"content": None, "refusal": "no"}]
    await alice.messages.extend(chat.id, shapes)
    for foreign in [one for one in await alice.history(chat.id) if "pydantic_ai" not in one.body]:
        with pytest.raises(LookupError):
            await AgentConversations(alice).read_entry(str(foreign.id))


async def test_deleting_restoring_and_starting_anew_are_what_the_agent_sees(
    alice: AsyncUser,
) -> None:
    await saved(alice, "chat", "a")
    agents = AgentConversations(alice)
    fork = await agents.fork("chat")

    await alice.conversations.delete("chat")
    assert await texts(alice, "chat") is None
    await alice.conversations.restore("chat")
    assert await texts(alice, "chat") == ["a"]
    assert len(await agents.list_conversations()) == 2
    await agents.delete("chat")
    with pytest.raises(NotFound):
        await alice.conversations.get("chat")
    await alice.conversations.start(key="chat")
    assert await texts(alice, "chat") is None
    assert len(await agents.list_conversations()) == 1
    await saved(alice, "chat", "new")

    assert await texts(alice, "chat") == ["new"]
    assert [one.content[0]["content"] for one in await alice.history("chat")] == ["new"]
    assert await texts(alice, fork.conversation_id) == ["a"]


async def test_an_erased_conversation_is_gone_for_good_and_for_its_forks(
    store: AsyncEventStore, alice: AsyncUser
) -> None:
    await saved(alice, "chat", "a")
    fork = await AgentConversations(alice).fork("chat")

    await store.erase("alice", conversation="chat", ordered_by="dpo")

    assert await texts(alice, "chat") is None
    with pytest.raises(StreamClosed):
        await saved(alice, "chat", "again")
    with pytest.raises(LookupError):
        await texts(alice, fork.conversation_id)
    assert (await store.verify("alice")).ok


async def test_a_save_that_is_too_large_writes_nothing(alice: AsyncUser) -> None:
    with pytest.raises(BatchTooLarge):
        await saved(alice, "chat", *["a"] * 999)

    assert await alice.events() == []
    await saved(alice, "chat", *["a"] * 998)
    assert len(await texts(alice, "chat") or []) == 998


async def test_a_message_that_pydantic_ai_could_not_read_again_is_refused(
    alice: AsyncUser,
) -> None:
    with pytest.raises(PydanticSerializationError):
        await saved(alice, "chat", "\ud800")

    assert await alice.events() == []


async def test_a_name_that_is_no_key_is_refused(alice: AsyncUser) -> None:
    with pytest.raises(InvalidInput, match="key"):
        await saved(alice, "x" * 256, "a")

    assert await alice.events() == []


@pytest.mark.parametrize("deletes", [False, True])
async def test_what_comes_between_reading_and_appending_is_a_conflict(
    deletes: bool, alice: AsyncUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = await saved(alice, "chat", "a")
    theirs = await AgentConversations(alice).load("chat")
    assert theirs is not None
    append = alice.append

    async def overtaken(events: object) -> object:
        monkeypatch.setattr(alice, "append", append)
        if deletes:
            await AgentConversations(alice).delete("chat")
        else:
            await AgentConversations(alice).save(theirs)
        return await append(events)  # type: ignore[arg-type]  # what the adapter gave

    theirs.messages += spoken("theirs")
    monkeypatch.setattr(alice, "append", overtaken)
    with pytest.raises(ConversationConflict):
        await AgentConversations(alice).save(mine)

    assert await texts(alice, "chat") == (None if deletes else ["a", "theirs"])


async def test_a_store_that_does_not_know_the_event_says_so(database_url: str) -> None:
    async with AsyncEventStore.connect(database_url) as store:
        alice = store.user("alice")
        with pytest.raises(InvalidInput, match=r"AgentConversationSaved is not registered"):
            await saved(alice, "chat", "a")
        assert await alice.events() == []


async def test_commands_read_the_log_with_the_extension(
    store: AsyncEventStore, alice: AsyncUser, database_url: str
) -> None:
    conversation = await saved(alice, "chat", "a", "b")
    await AgentConversations(alice).branch("chat", at=1, expected_revision=conversation.revision)
    options = ["--database", database_url, "--extensions", f"{pydantic_ai.__name__}:extensions"]

    verified = CliRunner().invoke(app, ["verify", "--json", *options])

    assert verified.exit_code == 0, verified.output
    assert json.loads(verified.stdout)["events"] == 5
    assert (await store.rebuild("alice")).changed == 0


async def test_a_load_takes_two_queries_and_a_save_two_and_an_append(
    database_url: str, proxy: Proxy
) -> None:
    url = url_through(proxy, database_url)
    settings = Settings(database_url=url, pool_max_size=1)
    async with AsyncEventStore.connect(settings=settings, events=[AgentConversationSaved]) as store:
        agents = AgentConversations(store.user("alice"))
        await saved(store.user("alice"), "chat", *map(str, range(50)))
        conversation = await agents.load("chat")
        assert conversation is not None
        conversation.messages += spoken("more")
        await agents.save(conversation)
        conversation.messages += spoken("more")

        proxy.count()
        await agents.load("chat")
        loading = proxy.count()
        await agents.save(conversation)
        saving = proxy.count()

    assert (loading, saving) == (2, 3)


def test_histories_and_records_are_found_by_their_indexes(
    database_url: str, admin: psycopg.Connection
) -> None:
    # Of empty tables all indexes cost the same.
    with EventStore.connect(database_url) as store:
        for number in range(20):
            items = [{"role": "user", "content": "x"}] * 20
            store.user("alice").messages.extend(f"chat {number}", items, start=True)
    admin.execute("vacuum analyze")
    admin.execute("set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off")

    def indexes(sql: str, *given: object) -> set[str]:
        values = dict(zip(("$1", "$2", "$3"), ("alice", *given), strict=False))
        for name, value in values.items():
            sql = sql.replace(name, f"'{value}'")
        lines = [line for (line,) in admin.execute(f"explain {sql}").fetchall()]
        assert not [line for line in lines if "Seq Scan" in line]
        return {line.split(" using ")[1].split()[0] for line in lines if " using " in line}

    one = "0197a000-0000-7000-8000-000000000001"
    assert indexes(pydantic_ai._ONE, one) == {"stream_pkey", "event_stream"}
    assert indexes(pydantic_ai._ALL, 10) == {"stream_pkey", "event_stream"}
    assert indexes(pydantic_ai._SAID, one, 10) == {
        "message_pkey",
        "message_conversation_position_key",
    }


def test_an_entry_and_a_record_are_read_as_the_first_release_wrote_them() -> None:
    """The stored format: what is read here must be readable for ever."""
    body = {
        "role": "user",
        "content": [
            {"content": "Hi", "timestamp": "2026-10-01T10:00:00Z", "part_kind": "user-prompt"}
        ],
        "pydantic_ai": {"instructions": None, "kind": "request"},
        "parent_id": None,
    }

    entry = pydantic_ai._entry("0197a000-0000-7000-8000-000000000001", json.dumps(body))

    said_at = datetime(2026, 10, 1, 10, tzinfo=UTC)
    assert entry == ConversationEntry(
        id="0197a000-0000-7000-8000-000000000001",
        parent_id=None,
        message=ModelRequest(parts=[UserPromptPart("Hi", timestamp=said_at)]),
    )
