"""
What pydantic-ai says a conversation store does, asked of its own in-memory one and of ours.

The agents are pydantic-ai's, with its scripted models.
"""

from __future__ import annotations

import anyio
import pytest
from pydantic_ai import Agent, BinaryContent, DeferredToolRequests
from pydantic_ai.conversation import Conversation
from pydantic_ai.conversation_store import (
    ConversationConflict,
    ConversationEntry,
    ConversationRecord,
    ConversationStore,
    InMemoryConversationStore,
)
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolResults
from pydantic_ai.usage import RunUsage

from eventstore import AsyncEventStore
from eventstore.integrations.pydantic_ai import AgentConversations
from tests.integrations.pydantic_ai.messages import spoken

pytestmark = pytest.mark.anyio

ODD = 'NUL \x00, a quote ", 🥛, \\u0000'


@pytest.fixture(params=["memory", "log"])
def conversations(request: pytest.FixtureRequest, store: AsyncEventStore) -> ConversationStore:
    if request.param == "memory":
        return InMemoryConversationStore()
    return AgentConversations(store.user("alice"))


def said(conversation: Conversation | None) -> list[object]:
    assert conversation is not None
    return [getattr(message.parts[0], "content", None) for message in conversation.messages]


async def given(
    conversations: ConversationStore, name: str, *texts: str, scope: str | None = None
) -> Conversation:
    conversation = Conversation(conversation_id=name, messages=spoken(*texts))
    await conversations.save(conversation, scope=scope)
    return conversation


async def test_a_conversation_that_was_never_saved_is_none(
    conversations: ConversationStore,
) -> None:
    assert await conversations.load("chat") is None
    assert await conversations.load_entries("chat") is None
    assert await conversations.list_conversations() == []
    await conversations.delete("chat")


async def test_an_agents_runs_are_loaded_as_they_were_saved(
    conversations: ConversationStore,
) -> None:
    agent = Agent(TestModel(custom_output_text="Done."))

    @agent.tool_plain
    def add_task(title: str) -> dict[str, str]:
        return {"added": title}

    for prompt in ("Buy milk", "And bread"):
        conversation = await conversations.load("chat") or Conversation(conversation_id="chat")
        result = await agent.run(prompt, conversation=conversation)
        stored = await conversations.save(result)
        assert [entry.message for entry in stored] == result.new_messages()

    loaded = await conversations.load("chat")
    assert loaded is not None
    assert loaded.messages == result.all_messages()
    assert loaded.usage == result.conversation.usage
    assert loaded.usage.requests > 2


async def test_a_message_comes_back_with_everything_that_it_has(
    conversations: ConversationStore,
) -> None:
    messages: list[ModelMessage] = [
        ModelRequest(
            parts=[
                UserPromptPart([ODD, BinaryContent(b"\x00\xff\xfe", media_type="application/pdf")]),
                ToolReturnPart("add", {"n": 2**70, "deep": [{"content": "x"}]}, tool_call_id="1"),
            ],
            instructions=ODD,
            metadata={"content": 1, "parts": [2], "role": "r"},
        ),
        ModelResponse(
            parts=[ThinkingPart("hm", signature="s"), ToolCallPart("add", '{"a": 1}', "2")],
            model_name="m",
            provider_details={"a": None},
        ),
    ]
    await conversations.save(
        Conversation(conversation_id=ODD.replace("\x00", ""), messages=messages)
    )

    loaded = await conversations.load(ODD.replace("\x00", ""))

    assert loaded is not None
    assert loaded.messages == messages
    assert loaded.messages is not messages


async def test_a_save_stores_only_what_is_new(conversations: ConversationStore) -> None:
    conversation = await given(conversations, "chat", "a", "b")
    first = await conversations.load_entries("chat")
    revision = conversation.revision
    conversation.messages += spoken("c")

    stored = await conversations.save(conversation)

    assert [entry.message for entry in stored] == conversation.messages[2:]
    assert first is not None
    assert await conversations.load_entries("chat") == [*first, *stored]
    assert stored[0].parent_id == first[-1].id
    assert conversation.revision != revision
    assert await conversations.save(conversation) == []


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 9])
async def test_a_window_is_the_last_messages(conversations: ConversationStore, limit: int) -> None:
    await given(conversations, "chat", "a", "b", "c")

    window = await conversations.load("chat", limit=limit)

    assert said(window) == ["a", "b", "c"][max(0, 3 - limit) :]
    assert window is not None
    window.messages += spoken("d")
    await conversations.save(window)
    assert said(await conversations.load("chat")) == ["a", "b", "c", "d"]


async def test_a_negative_window_is_refused(conversations: ConversationStore) -> None:
    with pytest.raises(UserError):
        await conversations.load("chat", limit=-1)
    with pytest.raises(UserError):
        await conversations.list_conversations(limit=-1)


async def test_what_was_saved_meanwhile_is_a_conflict_and_stays(
    conversations: ConversationStore,
) -> None:
    await given(conversations, "chat", "a")
    mine, theirs = await conversations.load("chat"), await conversations.load("chat")
    assert mine is not None
    assert theirs is not None
    theirs.messages += spoken("theirs")
    await conversations.save(theirs)
    mine.messages += spoken("mine")

    with pytest.raises(ConversationConflict) as raised:
        await conversations.save(mine)

    assert raised.value.conversation_id == "chat"
    assert said(await conversations.load("chat")) == ["a", "theirs"]


async def test_a_second_conversation_of_one_name_is_a_conflict(
    conversations: ConversationStore,
) -> None:
    await given(conversations, "chat", "a")

    with pytest.raises(ConversationConflict):
        await given(conversations, "chat", "b")

    assert said(await conversations.load("chat")) == ["a"]


async def test_of_many_saves_at_once_one_wins(conversations: ConversationStore) -> None:
    await given(conversations, "chat", "a")
    outcomes: list[str] = []

    async def save(text: str) -> None:
        loaded = await conversations.load("chat")
        assert loaded is not None
        arrived.release()
        await everyone.wait()
        loaded.messages += spoken(text)
        try:
            await conversations.save(loaded)
        except ConversationConflict:
            return
        outcomes.append(text)

    arrived, everyone = anyio.Semaphore(0), anyio.Event()
    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(save, str(number))
        for _ in range(8):
            await arrived.acquire()
        everyone.set()

    assert len(outcomes) == 1
    assert said(await conversations.load("chat")) == ["a", *outcomes]


async def test_a_rewritten_history_leaves_the_old_one_as_a_branch(
    conversations: ConversationStore,
) -> None:
    await given(conversations, "chat", "a", "b", "c")
    record = await conversations.read_record("chat")
    assert record is not None
    (a, b, c) = await conversations.load_entries("chat") or []
    rewritten = Conversation(
        conversation_id="chat",
        messages=[a.message, *spoken("B", "C")],
        revision=record.revision,
    )

    await conversations.save(rewritten)

    assert said(await conversations.load("chat")) == ["a", "B", "C"]
    record = await conversations.read_record("chat")
    assert record is not None
    assert record.branches == [c.id]
    assert await conversations.read_history(c.id) == [a, b, c]


async def test_a_branch_goes_on_from_an_earlier_point_and_back(
    conversations: ConversationStore,
) -> None:
    first = await given(conversations, "chat", "a", "b", "c", "d")
    entries = await conversations.load_entries("chat") or []

    branched = await conversations.branch("chat", at=2, expected_revision=first.revision)
    assert said(branched) == ["a", "b"]
    branched.messages += spoken("C", "D")
    await conversations.save(branched)
    assert said(await conversations.load("chat")) == ["a", "b", "C", "D"]
    for limit in range(5):
        window = await conversations.load("chat", limit=limit)
        assert said(window) == ["a", "b", "C", "D"][4 - limit :]

    back = await conversations.branch(
        "chat", from_entry=entries[2].id, expected_revision=branched.revision
    )
    assert said(back) == ["a", "b", "c"]
    assert said(await conversations.load("chat")) == ["a", "b", "c"]
    record = await conversations.read_record("chat")
    assert record is not None
    assert record.branches[0] == entries[3].id
    with pytest.raises(ConversationConflict):
        await conversations.branch("chat", at=1, expected_revision=first.revision)
    with pytest.raises(UserError):
        await conversations.branch("chat", at=9, expected_revision=back.revision)
    with pytest.raises(UserError):
        await conversations.branch("chat", from_entry="x", expected_revision=back.revision)


async def test_a_fork_shares_its_entries_and_goes_its_own_way(
    conversations: ConversationStore,
) -> None:
    await given(conversations, "chat", "a", "b", "c", scope="home")
    entries = await conversations.load_entries("chat") or []

    fork = await conversations.fork("chat", at=2, new_conversation_id="fork")
    fork.messages += spoken("other")
    await conversations.save(fork)
    deeper = await conversations.fork("fork", scope="work")

    assert said(await conversations.load("chat")) == ["a", "b", "c"]
    assert said(await conversations.load("fork")) == ["a", "b", "other"]
    assert said(deeper) == ["a", "b", "other"]
    shared = await conversations.load_entries("fork") or []
    assert shared[:2] == entries[:2]
    for limit in range(4):
        window = await conversations.load(deeper.conversation_id, limit=limit)
        assert said(window) == ["a", "b", "other"][3 - limit :]
    record = await conversations.read_record("fork")
    assert record is not None
    assert (record.forked_from, record.forked_at) == ("chat", entries[1].id)
    assert record.scope == "home"
    with pytest.raises(ConversationConflict):
        await conversations.fork("chat", new_conversation_id="fork")


async def test_a_fork_outlives_the_conversation_that_it_came_from(
    conversations: ConversationStore,
) -> None:
    await given(conversations, "chat", "a", "b")
    await conversations.fork("chat", new_conversation_id="fork")

    await conversations.delete("chat")

    assert await conversations.load("chat") is None
    assert said(await conversations.load("fork")) == ["a", "b"]


async def test_a_scope_hides_conversations_of_others(conversations: ConversationStore) -> None:
    mine = await given(conversations, "chat", "a", scope="mine")

    assert await conversations.load("chat", scope="theirs") is None
    assert said(await conversations.load("chat", scope="mine")) == ["a"]
    assert said(await conversations.load("chat")) == ["a"]
    with pytest.raises(ConversationConflict):
        await conversations.save(mine, scope="theirs")
    await conversations.delete("chat", scope="theirs")
    mine.messages += spoken("b")
    await conversations.save(mine)
    record = await conversations.read_record("chat")
    assert record is not None
    assert record.scope == "mine"
    with pytest.raises(UserError):
        await conversations.fork("chat", source_scope="theirs")


async def test_conversations_are_listed_last_saved_first(
    conversations: ConversationStore,
) -> None:
    first = await given(conversations, "1", "a", scope="x")
    await given(conversations, "2", "a", scope="y")
    await given(conversations, "3", "a", scope="x")
    await given(conversations, "4", "a")
    first.messages += spoken("b")
    await conversations.save(first)
    await conversations.delete("4")

    async def names(**given: object) -> list[str]:
        listed = await conversations.list_conversations(**given)  # type: ignore[arg-type]  # passed on
        return [record.conversation_id for record in listed]

    assert await names() == ["1", "3", "2"]
    assert await names(limit=2) == ["1", "3"]
    assert await names(limit=0) == []
    assert await names(scope="x") == ["1", "3"]
    assert await names(scope="y", limit=1) == ["2"]
    assert await names(scope="z") == []


async def test_a_deleted_conversation_is_gone_and_its_name_is_free(
    conversations: ConversationStore,
) -> None:
    old = await given(conversations, "chat", "a")
    await conversations.delete("chat")

    assert await conversations.load("chat") is None
    assert await conversations.list_conversations() == []
    await conversations.delete("chat")
    old.messages += spoken("b")
    with pytest.raises(ConversationConflict):
        await conversations.save(old)
    await given(conversations, "chat", "new")
    with pytest.raises(ConversationConflict):
        await conversations.save(old)
    assert said(await conversations.load("chat")) == ["new"]


async def test_a_run_that_waits_for_approval_goes_on_after_a_load(
    conversations: ConversationStore,
) -> None:
    agent = Agent(TestModel(), output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def pay(amount: int) -> str:
        return f"paid {amount}"

    paused = await agent.run("Pay", conversation=Conversation(conversation_id="chat"))
    await conversations.save(paused)
    loaded = await conversations.load("chat")
    assert loaded is not None
    waiting = loaded.deferred_tool_requests
    assert isinstance(waiting, DeferredToolRequests)
    assert waiting == paused.conversation.deferred_tool_requests
    (call,) = waiting.approvals

    ended = await agent.run(
        conversation=loaded,
        deferred_tool_results=DeferredToolResults(approvals={call.tool_call_id: True}),
    )
    await conversations.save(ended)

    loaded = await conversations.load("chat")
    assert loaded is not None
    assert loaded.deferred_tool_requests is None
    assert "paid" in str(ended.output)


async def test_the_primitives_refuse_a_wrong_revision_and_an_unknown_head(
    conversations: ConversationStore,
) -> None:
    lost = ConversationRecord(
        conversation_id="chat", head_id="0197a000-0000-7000-8000-000000000000"
    )
    entry = ConversationEntry(parent_id=None, message=spoken("a")[0])
    good = ConversationRecord(conversation_id="chat", head_id=entry.id, usage=RunUsage(requests=1))

    with pytest.raises(ConversationConflict):
        await conversations.write_record(lost, expected_revision=None)
    with pytest.raises(ConversationConflict):
        await conversations.write_record(good, new_entries=[entry], expected_revision="other")
    with pytest.raises(LookupError):
        await conversations.read_entry(entry.id)
    with pytest.raises(LookupError):
        await conversations.read_entry("no id of ours")
    with pytest.raises(LookupError):
        await conversations.read_history(entry.id)
    await conversations.write_record(good, new_entries=[entry], expected_revision=None)
    with pytest.raises(ConversationConflict):
        await conversations.delete_record("chat", expected_revision="other")

    assert await conversations.read_record("chat") == good
    assert await conversations.read_entry(entry.id) == entry
    assert await conversations.read_history(None) == []
