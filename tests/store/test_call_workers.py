"""A call is requested once and run by one worker, whoever retries; calls need no message."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier, Lock
from uuid import UUID

import psycopg
import pytest

from eventstore import EventStore, IdempotencyConflict, InvalidInput, User


def test_five_retries_run_the_tool_once_and_get_its_result(database_url: str) -> None:
    runs, lock, together = [], Lock(), Barrier(5, timeout=30)
    with EventStore.connect(database_url) as store:
        alice = store.user("alice")
        alice.conversations.start(key="mcp")

        def retry(_: int) -> object:
            call = alice.keyed("request 7").tool_calls.request(
                "mcp", name="add", arguments="{}", in_history=False
            )
            together.wait()
            claim = alice.tool_calls.claim(call, seconds=60)
            if claim.granted:
                with lock:
                    runs.append(call.id)
                alice.tool_calls.succeed(call, output={"task": 1})
            return alice.tool_calls.wait(call, seconds=30).output

        with ThreadPoolExecutor(5) as pool:
            outputs = list(pool.map(retry, range(5)))

        assert outputs == [{"task": 1}] * 5
        assert len(runs) == 1
        assert alice.history("mcp") == []
        assert store.verify().ok


def test_a_claim_excludes_others_until_it_is_over(
    store: EventStore, alice: User, chat: UUID, admin: psycopg.Connection
) -> None:
    call = alice.tool_calls.request(chat, name="f", arguments="{}")
    first = alice.tool_calls.claim(call, seconds=60)
    second = alice.tool_calls.claim(call, seconds=60)

    claimed = first.call
    assert (first.granted, second.granted) == (True, False)
    assert claimed.claimed_until == second.call.claimed_until
    assert claimed.claimed_at is not None
    assert claimed.claimed_until == claimed.claimed_at + timedelta(seconds=60)
    # The time is over: the row is as an hour ago.
    admin.execute("update eventstore.tool_call set claimed_at = claimed_at - interval '1 hour'")
    assert alice.tool_calls.claim(call, seconds=1).granted
    assert store.rebuild().changed == 0
    alice.tool_calls.succeed(call, output=1)
    ended = alice.tool_calls.claim(call, seconds=60)
    assert (ended.granted, ended.call.status) == (False, "succeeded")
    assert store.verify().ok


def test_a_claim_under_a_key_is_granted_again_to_who_has_the_key(
    store: EventStore, alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    first = alice.keyed("mine").tool_calls.claim(call, seconds=60)
    before = alice.events()

    again = alice.keyed("mine").tool_calls.claim(call, seconds=60)
    assert (again.granted, again.call) == (first.granted, first.call) == (True, again.call)
    assert not alice.keyed("other").tool_calls.claim(call, seconds=60).granted
    with pytest.raises(IdempotencyConflict):
        alice.keyed("mine").tool_calls.claim(call, seconds=61)
    assert alice.events() == before
    with alice.transaction() as tx:
        new = tx.conversations.start()
        tx.tool_calls.claim(tx.tool_calls.request(new.id, name="f", arguments=""), seconds=60)
    assert store.verify().ok


@pytest.mark.parametrize("seconds", [0, -1, 604_801])
def test_a_claim_has_a_length(alice: User, chat: UUID, seconds: int) -> None:
    call = alice.tool_calls.request(chat, name="f", arguments="{}")

    with pytest.raises(InvalidInput, match="seconds"):
        alice.tool_calls.claim(call, seconds=seconds)


def test_a_request_under_a_used_key_is_the_call_as_it_is_now(alice: User, chat: UUID) -> None:
    def request() -> tuple[bool, str, object]:
        call = alice.keyed("request 7").tool_calls.request(chat, name="f", arguments="{}")
        return call.first, call.status, call.output

    assert request() == (True, "pending", None)
    assert request() == (False, "pending", None)
    alice.tool_calls.succeed(alice.tool_calls.list()[0], output=1)
    assert request() == (False, "succeeded", 1)


def test_a_call_without_a_message_is_in_no_history(
    store: EventStore, alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="f", arguments="{}", in_history=False)
    with pytest.raises(InvalidInput, match="content"):
        alice.tool_calls.succeed(call, output=1, content="one")
    reply = alice.tool_calls.succeed(call, output=None)

    assert reply is None
    assert alice.history(chat) == []
    (entry,) = alice.audit()
    assert (entry.status, entry.output) == ("succeeded", None)
    assert alice.tool_calls.get(call.id).status == "succeeded"
    assert alice.conversations.get(chat).message_count == 0
    assert store.verify().ok


def test_what_the_model_is_given_may_differ_from_the_output(alice: User, chat: UUID) -> None:
    parts = [{"type": "text", "text": "a picture"}]
    call = alice.tool_calls.request(chat, name="f", arguments="{}")
    reply = alice.tool_calls.succeed(call, output={"image": "…"}, content=parts)

    assert reply is not None
    assert reply.content == parts
    assert alice.tool_calls.get(call.id).output == {"image": "…"}


def test_an_abandoned_call_is_pending_no_more_and_posts_nothing(
    store: EventStore, alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="f", arguments="{}")
    before = alice.history(chat)
    alice.tool_calls.abandon(call, reason="the user left")

    (entry,) = alice.audit()
    assert (entry.status, entry.error) == ("abandoned", "the user left")
    assert len(alice.history(chat)) == len(before)
    assert alice.tool_calls.list() == []
    assert store.verify().ok


def test_pending_calls_are_listed_in_pages(alice: User, chat: UUID) -> None:
    other = alice.conversations.start(key="other").id
    calls = [
        alice.tool_calls.request(where, name=f"f{n}", arguments="{}", in_history=n % 2 == 0)
        for n, where in enumerate([chat, other, chat, other, chat])
    ]
    alice.tool_calls.succeed(calls[2], output=1)

    first = alice.tool_calls.list(limit=2)
    rest = alice.tool_calls.list(limit=2, after=first.next)

    assert [one.name for one in (*first, *rest)] == ["f0", "f1", "f3", "f4"]
    assert [one.name for one in alice.tool_calls.list(conversation=chat)] == ["f0", "f4"]
    assert [one.name for one in alice.tool_calls.list(status="succeeded")] == ["f2"]
    older = alice.tool_calls.list(requested_before=calls[1].requested_at)
    assert [one.name for one in older] == ["f0"]
    with pytest.raises(InvalidInput, match="status"):
        alice.tool_calls.list(status="done")  # type: ignore[arg-type]  # no status


def test_wait_returns_a_pending_call_when_the_time_is_over(alice: User, chat: UUID) -> None:
    call = alice.tool_calls.request(chat, name="f", arguments="{}")

    assert alice.tool_calls.wait(call, seconds=0.1).status == "pending"


def test_the_audit_of_a_conversation_tells_what_its_calls_caused_elsewhere(
    alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="f", arguments="{}")
    alice.tasks.create("Buy milk", caused_by=call)
    other = alice.conversations.start(key="other", caused_by=call).id
    alice.tool_calls.request(other, name="g", arguments="{}", caused_by=call)
    alice.tool_calls.succeed(call, output=1)
    alice.tasks.create("Unrelated")

    (entry,) = alice.audit(conversation=chat)

    assert entry == alice.audit()[0]
    assert [one.type for one in entry.caused] == [
        "TaskCreated",
        "ConversationStarted",
        "MessagePosted",
        "ToolCallSucceeded",
    ]
