"""The history of a conversation: equal from both sources, on every page, as of every event."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

import pytest

from eventstore import (
    EventStore,
    EventStoreError,
    InvalidInput,
    MessagePosted,
    MessageRetracted,
    NewEvent,
    NotFound,
    Page,
    RequestedCall,
    ToolCallRequested,
    User,
)
from projections.models.message import MessageView
from projections.queries.history import Source

SOURCES: tuple[Source, Source] = ("projection", "events")
# A text column cannot hold NUL or a lone surrogate, and bigint cannot hold the number.
PARTS = [{"type": "text", "text": "a\0b"}, {"type": "text", "text": "\ud83d alone"}, {"n": 10**30}]


def history(user: User, conversation: UUID | str, **options: Any) -> Page[MessageView]:
    """Return the history, after checking that both sources give the same."""
    from_tables, from_log = (
        user.history(conversation, source=source, **options) for source in SOURCES
    )
    assert (from_tables, from_tables.next) == (from_log, from_log.next)
    return from_tables


def collect_errors(
    error: type[EventStoreError], user: User, conversation: UUID | str, **options: Any
) -> list[Any]:
    """Return the error from each source, after checking that both raise one."""
    refusals = []
    for source in SOURCES:
        with pytest.raises(error) as refusal:
            user.history(conversation, source=source, **options)
        refusals.append(refusal.value)
    return refusals


def contents(history: list[MessageView]) -> list[Any]:
    return [message.content for message in history]


def change_conversation(alice: User, chat: UUID) -> Iterator[None]:
    """Change a conversation step by step, and yield after each step."""
    hello = alice.messages.post(chat, sender="user", content="hello")
    yield
    call = alice.tool_calls.request(chat, name="look", arguments="{not json")
    yield
    alice.messages.post(chat, sender="user", content=PARTS)
    yield
    alice.conversations.archive(chat)
    yield
    with alice.transaction() as tx:
        tx.tool_calls.succeed(call, output={"found": 1})
        tx.messages.post(chat, sender="assistant", content="I looked")
        tx.messages.retract(chat, hello.id)
    yield
    late = alice.tool_calls.request(chat, name="look", arguments="{}", content="again")
    yield
    alice.tool_calls.fail(late, error="out of sight")
    yield
    alice.conversations.reopen(chat)
    yield
    alice.messages.retract(chat, alice.history(chat)[-2].id)
    yield


def test_pages_read_backward_make_up_the_complete_history(alice: User) -> None:
    chat = alice.conversations.start()
    for _ in change_conversation(alice, chat.id):
        alice.tasks.create("an event of another stream in between")
    complete = history(alice, chat.id)

    for size in (1, 2, 3, 100):
        pages = [history(alice, chat.id, limit=size)]
        while pages[0].more:
            pages.insert(0, history(alice, chat.id, limit=size, after=pages[0].next))

        assert [message for page in pages for message in page] == complete
        assert all(len(page) == size for page in pages[1:])
    assert len(complete) == 5


def test_the_history_as_of_an_event_equals_the_history_at_that_time(alice: User) -> None:
    chat = alice.conversations.start()
    histories: dict[int, list[MessageView]] = {}
    for _ in change_conversation(alice, chat.id):
        (newest,) = alice.events(backward=True, limit=1)
        histories[newest.position] = history(alice, chat.id)
        alice.tasks.create("an event of another stream in between")

    for event in alice.events():
        by_position = history(alice, chat.id, as_of=event.position)
        by_time = history(alice, chat.id, as_of=event.recorded_at)

        # The events of an append share a time, which is compared at the last of them.
        if event.position in histories:
            assert by_position == by_time == histories.pop(event.position)
    assert not histories


def test_a_page_can_be_combined_with_an_earlier_position(alice: User) -> None:
    chat = alice.conversations.start()
    posted = [alice.messages.post(chat.id, sender="user", content=str(n)) for n in range(6)]
    alice.messages.retract(chat.id, posted[2].id)

    then = posted[4].position
    page = history(alice, chat.id, as_of=then, limit=2)
    before = history(alice, chat.id, as_of=then, limit=2, after=page.next)
    all_before = history(alice, chat.id, as_of=then, after=page.next)

    assert contents(page) == ["3", "4"]
    assert contents(before) == ["1", "2"]
    assert contents(all_before) == ["0", "1", "2"]


def test_a_retracted_message_is_in_the_history_only_as_of_an_earlier_event(alice: User) -> None:
    chat = alice.conversations.start()
    slip = alice.messages.post(chat.id, sender="user", content="a slip")
    other = alice.messages.post(chat.id, sender="user", content="not a slip")

    alice.messages.retract(chat.id, slip.id)

    assert history(alice, chat.id) == [other]
    assert history(alice, chat.id, as_of=other.position) == [slip, other]
    assert history(alice, chat.id, as_of=other.created_at) == [slip, other]
    assert history(alice, chat.id, as_of=other.position + 1) == [other]


def test_the_outcome_of_a_call_is_absent_as_of_an_earlier_event(alice: User) -> None:
    chat = alice.conversations.start()
    call = alice.tool_calls.request(chat.id, name="look", arguments="{}")
    reply = alice.tool_calls.succeed(call, output=["found"])
    assert reply is not None

    (just_posted,) = history(alice, chat.id, as_of=call.position - 1)
    (requested,) = history(alice, chat.id, as_of=call.position)
    ended, answer = history(alice, chat.id, as_of=reply.position)

    assert just_posted.tool_calls == ()
    assert requested.tool_calls == (call,)
    assert (call.status, call.output, call.finished_at) == ("pending", None, None)
    assert ended.tool_calls[0].output == ["found"]
    assert ended.tool_calls[0].finished_at == reply.created_at
    assert answer == reply


def test_a_deleted_conversation_is_found_only_as_of_an_earlier_event(alice: User) -> None:
    chat = alice.conversations.start()
    posted = alice.messages.post(chat.id, sender="user", content="once")

    alice.conversations.delete(chat.id)

    assert history(alice, chat.id, as_of=posted.position) == [posted]
    assert history(alice, chat.id, as_of=posted.created_at) == [posted]
    for as_of in (None, posted.position + 1, datetime.now(UTC) + timedelta(hours=1)):
        collect_errors(NotFound, alice, chat.id, as_of=as_of)


def test_a_conversation_is_not_found_as_of_an_event_before_its_start(alice: User) -> None:
    alice.tasks.create("first")
    chat = alice.conversations.start()

    assert history(alice, chat.id, as_of=2) == []
    assert history(alice, chat.id, as_of=chat.created_at) == []
    for before in (0, 1, chat.created_at - timedelta(microseconds=1)):
        collect_errors(NotFound, alice, chat.id, as_of=before)


def test_unknown_and_foreign_conversations_raise_the_same_error(alice: User, bob: User) -> None:
    chat = alice.conversations.start(key="mine")

    for reference in (chat.id, UUID(int=7), "mine", "nobody's"):
        for refusal in collect_errors(NotFound, bob, reference):
            assert str(refusal) == f"conversation {refusal.key} not found"


def test_an_archived_conversation_still_accepts_messages_and_outcomes(alice: User) -> None:
    chat = alice.conversations.start()
    call = alice.tool_calls.request(chat.id, name="look", arguments="{}")
    alice.conversations.archive(chat.id)

    alice.tool_calls.succeed(call, output="late")
    alice.messages.post(chat.id, sender="user", content="still here")

    assert contents(history(alice, chat.id)) == [None, "late", "still here"]
    assert alice.conversations.get(chat.id).status == "archived"


def test_a_conversation_is_found_by_its_key(alice: User, bob: User) -> None:
    chat = alice.conversations.start(key="session 1")
    alice.messages.post("session 1", sender="user", content="alice's")
    bob.conversations.start(key="session 1")

    by_key = history(alice, "session 1")

    assert contents(by_key) == ["alice's"]
    assert by_key == history(alice, chat.id)
    assert history(bob, "session 1") == []


def test_a_key_in_the_form_of_a_uuid_is_the_id_of_the_conversation(alice: User) -> None:
    key = "3f2b8c1e-0a4d-4c58-9b1e-1f0a6f3f9d10"
    chat = alice.conversations.start(key=key)
    posted = alice.messages.post(UUID(key), sender="user", content="hi")

    assert chat.id == UUID(key)
    assert history(alice, key) == history(alice, UUID(key)) == [posted]
    assert history(alice, key.upper()) == history(alice, f"{{{key}}}") == [posted]


def test_the_body_of_a_message_is_returned_exactly(alice: User) -> None:
    chat = alice.conversations.start()
    body = {"role": "user", "content": PARTS, "name": "\0", "z": 1, "a": None, "refusal": 1.5e300}
    alice.messages.post(chat.id, body=body)

    (message,) = history(alice, chat.id)

    assert message.body == body
    assert list(message.body) == list(body)
    assert message.content == PARTS


def test_an_unknown_source_is_refused(alice: User) -> None:
    chat = alice.conversations.start()

    with pytest.raises(InvalidInput, match="source: 'tables'; give one of projection, events"):
        alice.history(chat.id, source=cast("Source", "tables"))


def test_an_invalid_as_of_is_refused(alice: User) -> None:
    chat = alice.conversations.start()
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - on purpose

    for wrong in (naive, True, False, -1, "1", 1.5):
        for refusal in collect_errors(InvalidInput, alice, chat.id, as_of=wrong):
            assert refusal.path == "as_of"


def test_a_limit_of_zero_gives_an_empty_page_and_a_negative_limit_is_refused(alice: User) -> None:
    chat = alice.conversations.start()
    alice.messages.post(chat.id, sender="user", content="hi")

    assert history(alice, chat.id, limit=0) == []
    for refusal in collect_errors(InvalidInput, alice, chat.id, limit=-1):
        assert refusal.path == "limit"


def test_thousands_of_messages_are_equal_from_both_sources(store: EventStore, alice: User) -> None:
    chat = alice.conversations.start()
    for start in range(0, 4_000, 1_000):
        alice.append(
            [
                NewEvent(
                    stream_id=chat.id,
                    data=MessagePosted(
                        sender="user",
                        body={"role": "user", "content": f"message {number}"},
                    ),
                )
                for number in range(start, start + 1_000)
            ]
        )

    complete = history(alice, chat.id)

    assert contents(complete) == [f"message {number}" for number in range(4_000)]
    assert history(alice, chat.id, as_of=3_001, limit=2) == complete[2_998:3_000]
    assert store.verify("alice").ok


def test_a_retraction_counts_once_and_in_its_own_conversation_only(
    store: EventStore, alice: User
) -> None:
    chat, other = (alice.conversations.start().id for _ in range(2))
    first, second = (alice.messages.post(chat, sender="user", content=c) for c in "12")
    alice.append([NewEvent(stream_id=other, data=MessageRetracted(message_id=first.id))])
    alice.messages.retract(chat, second.id)
    between = alice.events(backward=True, limit=1)[0].position
    alice.append([NewEvent(stream_id=chat, data=MessageRetracted(message_id=second.id))])

    for as_of in (None, between):
        for source in ("projection", "events"):
            assert alice.history(chat, source=source, as_of=as_of) == [first]
    assert store.verify().ok


def test_a_call_that_names_a_message_of_another_conversation_is_not_shown_there(
    alice: User,
) -> None:
    chat, other = (alice.conversations.start().id for _ in range(2))
    call = RequestedCall(id="call_1", name="f", arguments="{}")
    asks = alice.messages.post(chat, sender="assistant", content=None, tool_calls=[call])
    foreign = ToolCallRequested(call_id="x", name="g", arguments="{}", message_id=asks.id)
    alice.append([NewEvent(stream_id=other, data=foreign)])

    assert [one.name for one in asks.tool_calls] == ["f"]
    for source in ("projection", "events"):
        assert alice.history(chat, source=source) == [asks]
