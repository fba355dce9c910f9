"""Drafts: a streamed answer is saved as it grows, without an event per token."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from eventstore import AsyncEventStore, ConfigurationError, EventStore, InvalidInput, NotFound, User

ASKING = {
    "role": "assistant",
    "content": "I look",
    "tool_calls": [{"id": "c", "function": {"name": "look", "arguments": "{}"}}],
}


def kinds(alice: User) -> list[str]:
    return [event.type for event in alice.events()][1:]  # after the start of the conversation


def test_a_draft_posts_its_first_text_and_saves_the_rest_at_its_end(
    store: EventStore, alice: User, chat: UUID
) -> None:
    with alice.messages.draft("chat", seconds=3600) as draft:
        assert alice.history(chat) == []
        for token in ("", "Milk", " is", " on", " the", " list"):
            draft.write(token)
        (growing,) = alice.history(chat)

    (message,) = alice.history(chat)
    assert (growing.content, growing.sender) == ("Milk", "assistant")
    assert (message.id, message.content) == (draft.message_id, "Milk is on the list")
    assert message.body == {"role": "assistant", "content": "Milk is on the list"}
    assert kinds(alice) == ["MessagePosted", "MessageEdited"]
    assert alice.history(chat, source="events") == [message]
    assert store.verify().ok


def test_a_draft_saves_no_more_often_than_it_is_told(alice: User, chat: UUID) -> None:
    with alice.messages.draft(chat, seconds=0) as draft:
        for token in "abc":
            draft.write(token)
        draft.finish()

    assert kinds(alice) == ["MessagePosted", "MessageEdited", "MessageEdited"]
    assert [one.content for one in alice.history(chat)] == ["abc"]


def test_a_draft_saves_what_there_was_when_the_model_failed(alice: User, chat: UUID) -> None:
    with pytest.raises(ZeroDivisionError), alice.messages.draft(chat) as draft:  # noqa: PT012 - the block ends by the error
        draft.write("Half")
        draft.write(" an answer")
        raise ZeroDivisionError

    assert [one.content for one in alice.history(chat)] == ["Half an answer"]


def test_an_empty_draft_leaves_nothing(alice: User, chat: UUID) -> None:
    with alice.messages.draft(chat) as draft:
        draft.write("")

    assert alice.history(chat) == []
    assert draft.message_id is None


@pytest.mark.parametrize("text", ["", "I lo"])
def test_a_draft_ends_as_the_item_that_the_model_gives_in_the_end(
    store: EventStore, alice: User, chat: UUID, text: str
) -> None:
    with alice.messages.draft(chat) as draft:
        draft.write(text)
        draft.finish(ASKING)

    (message,) = alice.history(chat)
    assert (message.id, message.body) == (draft.message_id, ASKING)
    assert [(one.name, one.status) for one in message.tool_calls] == [("look", "pending")]
    for event in alice.events():
        tables, log = (
            alice.history(chat, source=source, as_of=event.position)
            for source in ("projection", "events")
        )
        assert tables == log
    alice.messages.post(chat, body={"role": "tool", "tool_call_id": "c", "content": "ok"})
    assert alice.history(chat)[0].tool_calls[0].status == "succeeded"
    assert store.verify().ok


def test_a_draft_that_was_taken_away_asks_for_no_calls(alice: User, chat: UUID) -> None:
    draft = alice.messages.draft(chat)
    draft.write("I lo")
    alice.messages.clear(chat)
    draft.write("ok")

    with pytest.raises(NotFound):
        draft.finish(ASKING)

    assert alice.tool_calls.list() == []
    assert alice.history(chat) == []


def test_a_draft_refuses_what_it_cannot_save(alice: User, chat: UUID) -> None:
    for seconds in (-1, float("nan"), "1", True):
        with pytest.raises(InvalidInput):
            alice.messages.draft(chat, seconds=seconds)  # type: ignore[arg-type]  # refused
    with pytest.raises(ConfigurationError):
        alice.keyed("k").messages.draft(chat)
    draft = alice.messages.draft(chat)
    with pytest.raises(InvalidInput):
        draft.write(b"x")  # type: ignore[arg-type]  # refused
    with pytest.raises(InvalidInput):
        draft.finish({"role": "user", "content": "x"})
    draft.finish()
    with pytest.raises(ConfigurationError):
        draft.write("too late")
    with pytest.raises(NotFound):
        alice.messages.draft("nobody's").write("x")


def test_an_async_draft_is_awaited(database_url: str) -> None:
    async def answer() -> list[object]:
        async with AsyncEventStore.connect(database_url) as store:
            alice = store.user("alice")
            chat = await alice.conversations.start()
            async with alice.messages.draft(chat.id) as draft:
                for token in ("Milk", " is", " bought"):
                    await draft.write(token)
            return [one.content for one in await alice.history(chat.id)]

    assert asyncio.run(answer()) == ["Milk is bought"]
