"""The audit of tool calls: their status, duration and effects, and running them again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from eventstore import EventStore, RecordedEvent, User
from eventstore.log import read
from eventstore.log.stored_event import recorded_event
from projections.queries.tool_call_audit import AuditEntry, rerun


def statuses(entries: list[AuditEntry]) -> list[tuple[str, str]]:
    return [(entry.call_id, entry.status) for entry in entries]


def test_the_audit_lists_calls_in_order_with_their_status(alice: User, chat: UUID) -> None:
    other = alice.conversations.start(key="other").id
    first = alice.tool_calls.request(chat, name="a", arguments="{}", call_id="1")
    second = alice.tool_calls.request(other, name="b", arguments="{}", call_id="2")
    alice.tool_calls.request(chat, name="c", arguments="{}", call_id="3")
    failed = alice.tool_calls.fail(second, error="no")
    assert failed is not None
    moment = failed.position
    alice.tool_calls.succeed(first, output=1)

    entries = alice.audit()

    assert statuses(entries) == [("1", "succeeded"), ("2", "failed"), ("3", "pending")]
    assert [entry.name for entry in entries] == ["a", "b", "c"]
    assert [entry.conversation_id for entry in entries] == [chat, other, chat]
    assert entries[0].position == first.position
    assert statuses(alice.audit(conversation="other")) == [("2", "failed")]
    assert statuses(alice.audit(as_of=moment)) == [
        ("1", "pending"),
        ("2", "failed"),
        ("3", "pending"),
    ]
    assert statuses(alice.audit(as_of=first.requested_at)) == [("1", "pending")]


def test_the_audit_lists_the_events_that_a_call_caused(alice: User, bob: User, chat: UUID) -> None:
    call = alice.tool_calls.request(chat, name="plan", arguments="{}")
    idle = alice.tool_calls.request(chat, name="idle", arguments="{}")
    with alice.transaction() as tx:
        task = tx.tasks.create("walk", caused_by=call)
        tx.tasks.complete(task.id, caused_by=call)
        tx.tool_calls.succeed(call, output="planned")
    alice.tasks.create("by itself")
    alice.conversations.rename(chat, "planning", caused_by=call.event_id)

    planned, idled = alice.audit()

    assert [(one.type, one.stream_id) for one in planned.caused] == [
        ("TaskCreated", task.id),
        ("TaskCompleted", task.id),
        ("ToolCallSucceeded", chat),
        ("ConversationRenamed", chat),
    ]
    assert [one.position for one in planned.caused] == [6, 7, 8, 10]
    assert (idled.call_id, idled.caused) == (idle.call_id, ())
    assert bob.audit() == []


def test_the_duration_of_a_call_lasts_from_request_to_outcome(alice: User, chat: UUID) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    reply = alice.tool_calls.succeed(call, output=1)
    assert reply is not None

    milliseconds = (reply.created_at - call.requested_at).total_seconds() * 1000
    (entry,) = alice.audit()

    assert call.duration_ms is None
    assert alice.history(chat)[0].tool_calls[0].duration_ms == entry.duration_ms == milliseconds > 0


def test_a_call_of_a_retracted_message_remains_in_the_audit(
    store: EventStore, alice: User, chat: UUID
) -> None:
    call = alice.tool_calls.request(chat, name="look", arguments="{}")
    alice.messages.retract(chat, alice.history(chat)[0].id)

    alice.tool_calls.abandon(call, reason="nobody asks for it any more")

    assert alice.history(chat) == []
    assert statuses(alice.audit()) == [(call.call_id, "abandoned")]
    assert store.verify().ok


def test_a_rerun_compares_new_outputs_with_the_recorded_ones(alice: User, chat: UUID) -> None:
    def ask(name: str, arguments: str, output: object) -> None:
        call = alice.tool_calls.request(chat, name=name, arguments=arguments)
        alice.tool_calls.succeed(call, output=output)

    ran: list[dict[str, Any]] = []

    def double(**arguments: Any) -> object:
        ran.append(arguments)
        return {"double": arguments.get("n", 0) * 2}

    ask("double", '{"n": 2}', {"double": 4})
    ask("double", '{"n": 3}', '{"double": 6}')  # a tool may write its output as JSON text itself
    ask("double", '{"n": 4}', {"double": 9})
    ask("double", "", {"double": 0})
    ask("double", "{not json", "?")
    ask("double", "[1]", "?")
    ask("double", '{"n": NaN}', "?")
    ask("double", '{"n": {}}', "?")
    ask("unstorable", "{}", "?")
    ask("unknown", "{}", "?")
    failed = alice.tool_calls.request(chat, name="double", arguments='{"n": 1}')
    alice.tool_calls.fail(failed, error="it did")
    alice.tool_calls.request(chat, name="double", arguments='{"n": 1}')
    before = alice.events()

    runs = rerun(alice.audit(), {"double": double, "unstorable": lambda: float("nan")})

    assert [run.result for run in runs] == [
        "same",
        "same",
        "different",
        "same",
        "bad_arguments",
        "bad_arguments",
        "bad_arguments",
        "raised",
        "raised",
        "no_function",
        "skipped",
        "skipped",
    ]
    assert runs[2].output == {"double": 8}
    assert runs[7].error is not None
    assert runs[7].error.startswith("TypeError: ")
    assert ran == [{"n": 2}, {"n": 3}, {"n": 4}, {}, {"n": {}}]
    assert [run.entry for run in runs] == alice.audit()
    assert alice.events() == before


async def _look(q: str) -> dict[str, str]:
    return {"q": q}


def _leave(q: str) -> None:
    raise SystemExit(q)


@pytest.mark.parametrize(
    ("function", "result"), [(_look, "same"), (_leave, "raised"), (print, "raised")]
)
def test_a_rerun_accepts_sync_and_async_functions_and_survives_their_errors(
    alice: User, function: Any, result: str
) -> None:
    chat = alice.conversations.start()
    call = alice.tool_calls.request(chat.id, name="look", arguments='{"q": "x"}')
    alice.tool_calls.succeed(call, output={"q": "x"})

    (again,) = rerun(alice.audit(), {"look": function})

    assert again.result == result


def test_an_erasure_between_two_pages_leaves_the_audit_as_of_its_first_page(
    store: EventStore, alice: User, chat: UUID, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = alice.tool_calls.request(chat, name="pay", arguments="{}")
    for number in range(4):
        alice.tasks.create(str(number))
    alice.tool_calls.succeed(call, output=1)
    before = alice.audit()

    def meanwhile(*arguments: Any) -> RecordedEvent:
        event = recorded_event(*arguments)
        # The event is the last of the first page, so the second page is read after the erasure.
        if event.position == 3 and not event.erased:
            monkeypatch.setattr(read, "recorded_event", recorded_event)
            with EventStore.connect(database_url) as other_store:
                other_store.erase("alice", ordered_by="x", conversation=chat)
        return event

    monkeypatch.setattr(read, "EVENTS_AT_ONCE", 3)
    monkeypatch.setattr(read, "recorded_event", meanwhile)

    assert alice.audit() == before
    assert [entry.status for entry in alice.audit()] == ["erased"]
