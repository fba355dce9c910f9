"""A rewind is one row change over many rows: live, replayed, in parts and in a rebuild alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

import eventstore.database.pages
import projections.rebuild.parts
from eventstore import ConversationRestarted, ConversationRewound, EventStore, NewEvent
from eventstore.log.ids import uuid7
from projections import Message
from projections.apply.statements import NOWHERE, update_after
from projections.apply.table_shape import TableShape
from projections.changes import UpdateAfter
from tests.projections.test_rebuild_locked import Meanwhile, meanwhile, other_store
from tests.support.properties import examples

__all__ = ["meanwhile", "other_store"]  # fixtures


@contextmanager
def parts(events: int) -> Iterator[None]:
    """Make a short log one of several parts and many pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projections.rebuild.parts, "EVENTS_PER_PART", events)
        patch.setattr(eventstore.database.pages, "PAGE_ROWS", 3)
        yield


ASKING = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "x"},
    ASKING,
    {"role": "tool", "tool_call_id": "c", "content": "ok"},
]
# What is done to one of two conversations: post an item, rewind by so many events, begin anew.
STEP = st.tuples(
    st.integers(0, 1),
    st.one_of(
        st.tuples(st.just("post"), st.integers(0, 2)),
        st.tuples(st.just("rewind"), st.integers(0, 9)),
        st.tuples(st.just("edit"), st.integers(0, 3)),
        st.tuples(st.just("retract"), st.integers(0, 3)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
)


def run(on: Any, chat: UUID, step: tuple[str, int], head: int, shown: list[UUID]) -> None:
    match step:
        case "post", number:
            on.messages.post(chat, body=ITEMS[number])
        case "rewind", back:
            on.append(chat, ConversationRewound(position=max(0, head - back)))
        case "edit", number if number < len(shown):
            on.messages.edit(chat, shown[-1 - number], body=None, content=str(head))
        case "retract", number if number < len(shown):
            on.messages.retract(chat, shown[-1 - number])
        case "restart", _:
            on.append(chat, ConversationRestarted())


@pytest.mark.slow
@examples(30)
@given(
    groups=st.lists(st.lists(STEP, min_size=1, max_size=6), max_size=6),
    events=st.integers(1, 9),
)
def test_rewinds_in_any_appends_are_equal_live_replayed_and_in_parts(
    sync_store: EventStore, groups: list[list[Any]], events: int
) -> None:
    user = sync_store.user(str(uuid7()))
    chats = [user.conversations.start(title=title).id for title in "ab"]
    for group in groups:
        head = user.events(backward=True, limit=1)[0].position
        shown = [[one.id for one in user.history(chat)] for chat in chats]
        used: set[UUID] = set()
        with user.transaction() as tx:
            for number, step in group:
                # A message is changed once in an append, and not behind a rewind of the same one.
                left = [] if used else shown[number]
                run(tx, chats[number], step, head, left)
                used.add(chats[number])
    for chat in chats:
        for event in user.events(limit=200):
            try:
                history = user.history(chat, as_of=event.position)
            except LookupError:
                continue
            assert history == user.history(chat, source="events", as_of=event.position)
    assert sync_store.verify(user.user_id).problems == ()
    with parts(events):
        assert sync_store.verify(user.user_id).problems == ()
        assert sync_store.rebuild(user.user_id).changed == 0


def test_a_rebuild_in_parts_repairs_what_a_rewind_took_away(
    sync_store: EventStore, admin: psycopg.Connection
) -> None:
    alice = sync_store.user("alice")
    chat = alice.conversations.start().id
    for _ in range(10):
        alice.messages.extend(chat, ITEMS[:2])
    alice.messages.clear(chat)
    admin.execute("update eventstore.message set retracted_at = null where position % 3 = 0")
    admin.execute("update eventstore.tool_call set status = 'pending' where position % 4 = 0")

    with parts(4):
        found = len(sync_store.verify().problems)
        rebuilt = sync_store.rebuild()

    assert found == rebuilt.changed > 5
    assert sync_store.verify().ok
    assert alice.history(chat) == []


def test_a_rebuild_includes_a_rewind_between_its_comparison_and_its_lock(
    sync_store: EventStore,
    other_store: EventStore,
    admin: psycopg.Connection,
    meanwhile: Meanwhile,
) -> None:
    alice = sync_store.user("alice")
    chat = alice.conversations.start().id
    alice.messages.extend(chat, ITEMS[:2] * 3)
    admin.execute("update eventstore.message set content = 'spoilt'")

    meanwhile(lambda: other_store.user("alice").messages.clear(chat))
    rebuilt = sync_store.rebuild("alice")

    assert rebuilt.changed == 6
    assert sync_store.verify().ok
    assert {one.status for one in alice.tool_calls.list(status=None)} == {"abandoned"}


def test_an_erasure_includes_a_rewind_and_what_was_edited(
    sync_store: EventStore, other_store: EventStore, meanwhile: Meanwhile
) -> None:
    alice = sync_store.user("alice")
    chat, other = (alice.conversations.start().id for _ in range(2))
    first = alice.messages.extend(chat, ITEMS)[0]
    alice.messages.edit(chat, first.id, content="zebra")
    alice.messages.extend(other, ITEMS)

    meanwhile(lambda: other_store.user("alice").conversations.rewind(chat, to=first))
    done = sync_store.erase("alice", ordered_by="alice", conversation=chat)

    assert done.events == len(alice.events(stream_id=chat))
    assert len(alice.history(other)) == 3
    assert sync_store.verify().ok


def test_a_rewind_finds_its_rows_along_the_index_of_the_conversation(
    database_url: str, direct_url: str
) -> None:
    shape = TableShape(Message, trusted=True)
    change = {"retracted_at": None, "retracted_position": None}
    group = {"conversation_id": UUID(int=1)}
    rewind = UpdateAfter(Message, group, 5, change, only_where={"retracted_at": None})
    statement = update_after(shape, "alice", rewind, NOWHERE)
    with psycopg.connect(direct_url, autocommit=True) as admin:
        admin.execute("set enable_seqscan = off")
        admin.execute(f"prepare rewind as {statement.sql}")
        admin.execute("set plan_cache_mode = force_generic_plan")
        plan = "\n".join(
            row[0]
            for row in admin.execute(
                "explain execute rewind('alice', 0, 5, gen_random_uuid(), null, null, null)"
            )
        )

    assert "message_conversation_position_key" in plan


def test_a_raw_rewind_to_a_position_of_another_stream_is_about_its_own(
    sync_store: EventStore,
) -> None:
    alice = sync_store.user("alice")
    chat, other = (alice.conversations.start().id for _ in range(2))
    alice.messages.extend(chat, ITEMS)
    alice.messages.extend(other, ITEMS)
    alice.append([NewEvent(stream_id=other, data=ConversationRewound(position=2))])

    assert len(alice.history(chat)) == 3
    assert alice.history(other) == []
    assert sync_store.verify().ok
