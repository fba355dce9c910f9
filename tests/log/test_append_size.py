"""An append is limited by the bytes of all that it holds, before anything of it is sent."""

from __future__ import annotations

from uuid import uuid4

import pytest

from eventstore import BatchTooLarge, InvalidInput, NewEvent, TaskCreated, User
from eventstore.events.fields import MAX_APPEND, MAX_PAYLOAD
from eventstore.log import append_request
from eventstore.log.append_request import parts_of, prepare_append


def test_all_events_of_an_append_share_one_limit_in_bytes() -> None:
    big = {"text": "x" * (MAX_PAYLOAD - 1_000)}
    events = [
        NewEvent(stream_id=uuid4(), data=TaskCreated(title="Buy milk"), metadata=big)
        for _ in range(MAX_APPEND // MAX_PAYLOAD + 1)
    ]

    assert len(prepare_append("alice", events[:-1]).envelopes) == len(events) - 1
    with pytest.raises(BatchTooLarge, match=r"bytes in one append, .* split") as refused:
        prepare_append("alice", events)

    assert refused.value.unit == "bytes"
    assert refused.value.count > refused.value.limit == MAX_APPEND
    assert list(map(len, parts_of(events))) == [len(events) - 1, 1]


def test_an_event_is_limited_in_bytes_and_not_in_characters() -> None:
    half = {"text": "é" * (MAX_PAYLOAD // 2)}

    with pytest.raises(InvalidInput, match="bytes of JSON"):
        prepare_append(
            "alice",
            [NewEvent(stream_id=uuid4(), data=TaskCreated(title="Buy milk"), metadata=half)],
        )


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that a few short messages exceed."""
    monkeypatch.setattr(append_request, "MAX_APPEND", 1_000)


@pytest.mark.usefixtures("narrow")
def test_an_append_over_the_limit_writes_nothing(alice: User) -> None:
    chat = alice.conversations.start()
    before = len(alice.events())

    texts = [{"role": "user", "content": "x" * 200}] * 10
    with pytest.raises(BatchTooLarge):
        alice.messages.extend(chat.id, texts)

    assert len(alice.events()) == before


@pytest.mark.usefixtures("narrow")
def test_a_long_conversation_is_forked_in_parts_and_whole(alice: User) -> None:
    chat = alice.conversations.start()
    for number in range(10):
        alice.messages.post(chat.id, sender="user", content=f"{number}" * 200)

    fork = alice.conversations.fork(chat.id)

    copied = [one.content for one in alice.history(fork.id)]
    assert copied == [f"{number}" * 200 for number in range(10)]
