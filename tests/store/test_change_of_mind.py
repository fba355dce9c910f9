"""Edit, rewind, pop, clear, replace a tail, fork, restore, and what counts as activity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from eventstore import (
    ConversationRestarted,
    ConversationRestored,
    ConversationRewound,
    EventStore,
    IdempotencyConflict,
    InvalidInput,
    MessageEdited,
    MessagePosted,
    MessageRetracted,
    NewEvent,
    NotFound,
    NotLast,
    RequestedCall,
    StreamClosed,
    User,
    WrongVersion,
)
from eventstore.store import change_of_mind
from eventstore.store.units.read_for_decision import read_for_decision
from projections.models.message import MessageView

CALL = RequestedCall("call_1", "look", "{}")


def say(alice: User, chat: UUID, *texts: str) -> list[MessageView]:
    return [alice.messages.post(chat, sender="user", content=text) for text in texts]


def head(alice: User) -> int:
    return alice.events(backward=True, limit=1)[0].position


def histories(alice: User, chat: UUID) -> dict[int, list[MessageView] | None]:
    """Return the history as of every position, after checking that both sources agree."""
    found: dict[int, list[MessageView] | None] = {}
    for event in alice.events():
        both: list[Any] = []
        for source in ("projection", "events"):
            try:
                both.append(alice.history(chat, source=source, as_of=event.position))
            except NotFound:
                both.append(None)
        assert both[0] == both[1], event
        found[event.position] = both[0]
        if both[0] is not None:
            then = alice.conversations.get(chat, as_of=event.position)
            assert then.message_count == len(both[0])
    assert alice.history(chat) == alice.history(chat, source="events") == found[event.position]
    return found


def texts(history: list[MessageView] | None) -> list[Any] | None:
    return None if history is None else [one.content for one in history]


class TestAnEdit:
    def test_changes_what_a_message_says_and_not_its_place(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        first, second = say(alice, chat, "one", "two")

        alice.messages.edit(chat, first.id, content="ONE")
        alice.messages.edit(chat, str(first.id), body={"role": "user", "content": "1", "name": "A"})

        edited, unchanged = alice.history(chat)
        assert (edited.id, edited.position, edited.body["name"]) == (first.id, first.position, "A")
        assert edited.edited_at is not None
        assert unchanged == second
        assert [texts(one) for one in histories(alice, chat).values()] == [
            [],
            ["one"],
            ["one", "two"],
            ["ONE", "two"],
            ["1", "two"],
        ]
        assert store.verify().ok

    def test_keeps_the_rest_of_the_item_and_what_no_text_column_can_hold(
        self, alice: User, chat: UUID
    ) -> None:
        body = {"content": "a", "z": 1, "role": "user", "n": None}
        posted = alice.messages.post(chat, body=body)

        for content in ("a\0b", "\ud83d", [{"type": "text", "text": "a\0"}], [{"n": 10**30}], "ä"):
            alice.messages.edit(chat, posted.id, content=content)

            (edited,) = alice.history(chat)
            assert edited.body == {**body, "content": content}
            assert list(edited.body) == list(body)
        histories(alice, chat)

    def test_to_the_same_item_records_nothing(self, alice: User, chat: UUID) -> None:
        (posted,) = say(alice, chat, "one")
        before = head(alice)

        alice.messages.edit(chat, posted.id, content="one")

        assert head(alice) == before
        numbered = alice.messages.post(chat, body={"role": "user", "content": "x", "n": 1})
        alice.messages.edit(chat, numbered.id, body={"role": "user", "content": "x", "n": True})
        assert alice.history(chat)[-1].body["n"] is True

    @pytest.mark.parametrize(
        ("body", "fact"),
        [
            ({"role": "assistant", "content": "now without"}, "other calls"),
            ({"role": "user", "content": "one"}, "another role"),
            ("text", "a str"),
        ],
    )
    def test_that_changes_calls_or_the_role_is_refused(
        self, alice: User, chat: UUID, body: Any, fact: str
    ) -> None:
        asking = alice.messages.post(chat, sender="assistant", content="I look", tool_calls=[CALL])

        with pytest.raises(InvalidInput, match=fact):
            alice.messages.edit(chat, asking.id, body=body)

        alice.messages.edit(chat, asking.id, content="I have looked")
        (edited,) = alice.history(chat)
        assert (edited.content, edited.tool_calls) == ("I have looked", asking.tool_calls)

    def test_of_an_answer_keeps_its_call_and_the_output(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        call = alice.tool_calls.request(chat, name="look", arguments="{}", call_id="call_1")
        reply = alice.tool_calls.succeed(call, output="a very long text")
        assert reply is not None

        with pytest.raises(InvalidInput, match="answers other calls"):
            alice.messages.edit(chat, reply.id, body={"role": "tool", "tool_call_id": "call_2"})
        alice.messages.edit(chat, reply.id, content="short")

        asking, answer = alice.history(chat)
        assert (answer.content, asking.tool_calls[0].output) == ("short", "a very long text")
        histories(alice, chat)
        assert store.verify().ok

    def test_needs_one_new_value_that_a_message_can_have(self, alice: User, chat: UUID) -> None:
        (posted,) = say(alice, chat, "one")

        refused: list[dict[str, Any]] = [
            {},
            {"content": "x", "body": {"role": "user"}},
            {"content": 5},
            {"content": "x" * 4_000_001},
            {"body": {"role": "user", "content": float("nan")}},
        ]
        for given in refused:
            with pytest.raises(InvalidInput):
                alice.messages.edit(chat, posted.id, **given)
        assert alice.history(chat) == [posted]

    def test_of_what_is_not_in_the_history_is_refused(self, alice: User, chat: UUID) -> None:
        gone, behind = say(alice, chat, "one", "two")
        other = alice.conversations.start().id
        alice.messages.retract(chat, gone.id)
        alice.conversations.rewind(chat, to=gone.position)
        before = head(alice)

        for conversation, message in ((chat, gone.id), (chat, behind.id), (other, gone.id)):
            with pytest.raises(NotFound):
                alice.messages.edit(conversation, message, content="x")
        assert head(alice) == before

    def test_works_in_the_transaction_that_posts_and_under_a_key(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        for _ in range(2):
            with alice.transaction(idempotency_key="k") as tx:
                posted = tx.messages.post(chat, sender="user", content="one")
                tx.messages.edit(chat, posted.id, content="two")
        alice.keyed("again").messages.edit(chat, posted.id, content="three")
        alice.messages.edit(chat, posted.id, content="four")
        alice.keyed("again").messages.edit(chat, posted.id, content="three")

        assert texts(alice.history(chat)) == ["four"]
        histories(alice, chat)
        assert store.verify().ok

    def test_by_a_raw_append_counts_where_the_message_is_shown(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        asking = alice.messages.post(chat, sender="assistant", content="", tool_calls=[CALL])
        other = alice.conversations.start().id
        (gone,) = say(alice, other, "gone")
        alice.messages.retract(other, gone.id)
        body = {"role": "user", "content": "raw"}

        for stream, message in ((other, asking.id), (other, gone.id), (chat, asking.id)):
            data = MessageEdited(message_id=message, sender="somebody", body=body)
            alice.append([NewEvent(stream_id=stream, data=data)])

        (edited,) = alice.history(chat)
        assert (edited.sender, edited.body, edited.tool_calls) == ("somebody", body, ())
        histories(alice, chat)
        histories(alice, other)
        assert store.verify().ok


class TestARewind:
    def test_takes_away_what_follows_and_the_past_still_shows_it(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        one, two, *_ = say(alice, chat, "one", "two", "three", "four")
        other = alice.conversations.start().id
        (untouched,) = say(alice, other, "elsewhere")

        position = alice.conversations.rewind(chat, to=two)

        assert alice.history(chat) == [one, two]
        assert texts(alice.history(chat, as_of=position - 1)) == ["one", "two", "three", "four"]
        assert alice.conversations.get(chat).message_count == 2
        assert alice.history(other) == [untouched]
        histories(alice, chat)
        assert store.verify().ok

    @pytest.mark.parametrize("to", ["view", "id", "text", "position"])
    def test_goes_to_a_message_or_a_position(self, alice: User, chat: UUID, to: str) -> None:
        one, two = say(alice, chat, "one", "two")
        points: dict[str, Any] = {
            "view": one,
            "id": one.id,
            "text": str(one.id),
            "position": two.position - 1,
        }

        alice.conversations.rewind("chat", to=points[to])

        assert alice.history(chat) == [one]

    def test_and_a_post_are_a_regenerated_answer(self, alice: User, chat: UUID) -> None:
        (question,) = say(alice, chat, "why?")
        alice.messages.post(chat, sender="assistant", content="because")

        alice.conversations.rewind(chat, to=question)
        alice.messages.post(chat, sender="assistant", content="I do not know")

        assert texts(alice.history(chat)) == ["why?", "I do not know"]

    def test_abandons_pending_calls_behind_it_and_keeps_outcomes(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        (first,) = say(alice, chat, "one")
        early = alice.tool_calls.request(chat, name="early", arguments="{}", call_id="a")
        point = alice.history(chat)[-1]
        late = alice.tool_calls.request(chat, name="late", arguments="{}", call_id="b")
        alone = alice.tool_calls.request(chat, name="alone", arguments="{}", in_history=False)
        alice.tool_calls.succeed(early, output="seen")
        elsewhere = alice.tool_calls.request(
            alice.conversations.start().id, name="else", arguments="{}"
        )

        position = alice.conversations.rewind(chat, to=point)

        assert alice.tool_calls.list() == [elsewhere]
        assert [one.id for one in alice.tool_calls.list(status="abandoned")] == [late.id, alone.id]
        ended = alice.tool_calls.get(late.id)
        assert (ended.finished_position, ended.output) == (position, None)
        (_, asking) = alice.history(chat)
        assert (asking.id, asking.tool_calls[0].output) == (point.id, "seen")
        assert alice.history(chat)[0] == first
        audited = {one.name: one.status for one in alice.audit(conversation=chat)}
        assert audited == {"early": "succeeded", "late": "abandoned", "alone": "abandoned"}
        histories(alice, chat)
        assert store.verify().ok

    @pytest.mark.parametrize("to", ["view", "id", "pop"])
    def test_leaves_the_calls_of_the_last_message_that_stays(
        self, store: EventStore, alice: User, chat: UUID, to: str
    ) -> None:
        asking = alice.messages.post(chat, sender="assistant", content="", tool_calls=[CALL])
        say(alice, chat, "hm, wait")
        behind = alice.tool_calls.request(chat, name="f", arguments="{}")

        if to == "pop":
            alice.messages.pop(chat, 2)
        else:
            alice.conversations.rewind(chat, to=asking if to == "view" else asking.id)

        assert alice.history(chat) == [asking]
        assert [one.name for one in alice.tool_calls.list()] == ["look"]
        assert alice.tool_calls.get(behind.id).status == "abandoned"
        alice.messages.post(chat, body={"role": "tool", "tool_call_id": "call_1", "content": "ok"})
        alice.conversations.rewind(chat, to=asking)
        alice.messages.clear(chat)
        histories(alice, chat)
        assert store.verify().ok
        assert store.rebuild().changed == 0

    def test_leaves_the_name_of_a_call_to_the_one_that_asks_again(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        (first,) = say(alice, chat, "one")
        asking = {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
        answer = {"role": "tool", "tool_call_id": "c", "content": "ok"}
        alice.messages.post(chat, body=asking)

        with alice.transaction() as tx:
            tx.conversations.rewind(chat, to=first)
            tx.messages.extend(chat, [asking, answer])

        assert [one.status for one in alice.tool_calls.list(status=None)] == [
            "abandoned",
            "succeeded",
        ]
        histories(alice, chat)
        assert store.verify().ok

    def test_within_one_transaction_is_about_what_came_before_it(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        (first,) = say(alice, chat, "old")
        with alice.transaction() as tx:
            tx.messages.post(chat, sender="user", content="one")
            asking = tx.tool_calls.request(chat, name="f", arguments="{}", call_id="x")
            tx.conversations.rewind(chat, to=first)
            tx.messages.post(chat, sender="user", content="two")
            tx.tool_calls.request(chat, name="g", arguments="{}", call_id="y")
            tx.messages.clear(chat)
            survivor = tx.messages.post(chat, sender="user", content="three")
            tx.messages.retract(chat, survivor.id)
            tx.messages.post(chat, sender="user", content="four")

        assert texts(alice.history(chat)) == ["four"]
        assert [one.status for one in alice.tool_calls.list(status=None)] == ["abandoned"] * 2
        assert alice.tool_calls.get(asking.id).finished_position == tx.recorded[3].position
        histories(alice, chat)
        assert store.verify().ok
        assert store.rebuild().changed == 0

    def test_to_a_message_that_is_not_shown_or_not_recorded_is_refused(
        self, alice: User, chat: UUID
    ) -> None:
        one, two = say(alice, chat, "one", "two")
        alice.messages.retract(chat, two.id)
        other = alice.conversations.start().id
        before = head(alice)

        refused: list[Any] = [(chat, two.id), (other, one.id), (other, one), (chat, UUID(int=7))]
        for conversation, to in refused:
            with pytest.raises(NotFound):
                alice.conversations.rewind(conversation, to=to)
        for to in (-1, True, 2**63, 1.5, None):
            with pytest.raises(InvalidInput):
                alice.conversations.rewind(chat, to=to)  # type: ignore[arg-type]  # refused
        with pytest.raises(NotFound):
            alice.conversations.rewind("nobody's", to=0)
        transaction = alice.transaction()
        tx = transaction.__enter__()
        posted = tx.messages.post(chat, sender="user", content="x")
        tx.conversations.rewind(chat, to=posted.id)
        with pytest.raises(InvalidInput, match="posted in this transaction"):
            transaction.__exit__(None, None, None)
        assert head(alice) == before

    @pytest.mark.slow
    def test_of_thousands_of_messages_is_one_event(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        for _ in range(4):
            alice.messages.extend(chat, [{"role": "user", "content": "x"}] * 1000)
        before = head(alice)

        alice.messages.clear(chat)

        assert head(alice) == before + 1
        assert alice.history(chat) == []
        assert alice.conversations.get(chat).message_count == 0
        assert len(alice.history(chat, as_of=before)) == 4_000
        assert store.verify().ok
        assert store.rebuild().changed == 0

    def test_abandons_a_call_whose_outcome_comes_too_late(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        call = alice.tool_calls.request(chat, name="slow", arguments="{}")
        alice.messages.clear(chat)

        with pytest.raises(IdempotencyConflict):
            alice.tool_calls.succeed(call, output="at last")

        assert alice.tool_calls.get(call.id).status == "abandoned"
        assert alice.history(chat) == []
        histories(alice, chat)
        assert store.verify().ok

    def test_by_a_raw_append_to_any_position_is_the_same_everywhere(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        say(alice, chat, "one", "two")
        for position in (10**9, 2, 0, 0):
            alice.append(
                [
                    NewEvent(stream_id=chat, data=ConversationRewound(position=position)),
                    NewEvent(
                        stream_id=chat,
                        data=MessagePosted(sender="user", body={"content": str(position)}),
                    ),
                ]
            )

        histories(alice, chat)
        assert store.verify().ok


class TestPop:
    def test_returns_and_removes_the_last_messages(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        one, two, three = say(alice, chat, "one", "two", "three")
        asking = alice.messages.post(chat, sender="assistant", content="", tool_calls=[CALL])

        assert alice.messages.pop(chat) == [asking]
        assert alice.messages.pop(chat, 2) == [two, three]
        assert alice.history(chat) == [one]
        assert alice.messages.pop("chat", n=9) == [one]
        before = head(alice)
        assert alice.messages.pop(chat) == []
        assert head(alice) == before
        assert alice.tool_calls.list() == []
        histories(alice, chat)
        assert store.verify().ok

    def test_under_a_key_is_done_once(self, alice: User, chat: UUID) -> None:
        one, two, three = say(alice, chat, "one", "two", "three")
        keyed = alice.keyed("k")

        first = keyed.messages.pop(chat)
        alice.messages.edit(chat, two.id, content="TWO")
        again = keyed.messages.pop(chat)

        assert first == again == [three]
        assert texts(alice.history(chat)) == ["one", "TWO"]
        other = alice.conversations.start().id
        with pytest.raises(IdempotencyConflict):
            keyed.messages.pop(other)
        with pytest.raises(IdempotencyConflict):
            alice.keyed("k").tasks.create("x")
        alice.keyed("task").tasks.create("x")
        with pytest.raises(IdempotencyConflict):
            alice.keyed("task").messages.pop(chat)
        assert one in alice.history(chat)

    def test_takes_a_message_that_came_while_it_read(
        self, alice: User, chat: UUID, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (one,) = say(alice, chat, "one")
        read, late = read_for_decision, list[MessageView]()

        def read_and_then(*arguments: Any, **options: Any) -> Any:
            state = yield from read(*arguments, **options)
            if not late:
                with EventStore.connect(database_url) as other:
                    late.extend(say(other.user("alice"), chat, "late"))
            return state

        monkeypatch.setattr(change_of_mind, "read_for_decision", read_and_then)

        assert alice.messages.pop(chat) == late
        assert alice.history(chat) == [one]

    def test_is_refused_for_nothing_and_for_nobody(self, alice: User, chat: UUID) -> None:
        for n in (0, -1, True, "1"):
            with pytest.raises(InvalidInput) as error:
                alice.messages.pop(chat, n)  # type: ignore[arg-type]  # refused
            assert error.value.path == "n"
        with pytest.raises(NotFound, match="nobody's"):
            alice.messages.pop("nobody's")
        alice.conversations.delete(chat)
        with pytest.raises(NotFound):
            alice.messages.pop(chat)


class TestReplacingATail:
    ITEMS = ({"role": "assistant", "content": "new"}, {"role": "user", "content": "newer"})

    def test_puts_other_items_in_its_place(self, alice: User, chat: UUID) -> None:
        one, two, three = say(alice, chat, "one", "two", "three")
        before = head(alice)

        made = alice.messages.replace_tail(
            chat, self.ITEMS, after=one.id, expected_last=str(three.id)
        )

        assert alice.history(chat) == [one, *made]
        assert head(alice) == before + 3
        histories(alice, chat)
        assert two not in alice.history(chat)

    def test_is_refused_if_another_message_came(self, alice: User, chat: UUID) -> None:
        one, two = say(alice, chat, "one", "two")
        (more,) = say(alice, chat, "more")
        before = alice.events()

        changes: list[Callable[[Any], object]] = [
            lambda on: on.messages.replace_tail(chat, self.ITEMS, after=one, expected_last=two.id),
            lambda on: on.messages.extend(chat, self.ITEMS, expected_last=two.id),
        ]
        for change in changes:
            with pytest.raises(NotLast) as error:
                change(alice)
            assert (error.value.message_id, error.value.last) == (two.id, more.id)
            transaction = alice.transaction()
            change(transaction.__enter__())
            with pytest.raises(NotLast):
                transaction.__exit__(None, None, None)
        assert alice.events() == before
        made = alice.messages.extend(chat, self.ITEMS, expected_last=more.id)
        assert alice.history(chat) == [one, two, more, *made]

    def test_of_a_conversation_that_lost_its_messages_is_refused(
        self, alice: User, chat: UUID
    ) -> None:
        (one,) = say(alice, chat, "one")
        alice.messages.clear(chat)

        with pytest.raises(NotLast, match="has no message"):
            alice.messages.extend(chat, self.ITEMS, expected_last=one.id)
        with pytest.raises(NotFound):
            alice.messages.extend("new", self.ITEMS, expected_last=one.id, start=True)

    def test_under_a_key_is_done_once(self, alice: User, chat: UUID) -> None:
        one, two = say(alice, chat, "one", "two")
        keyed = alice.keyed("k")

        first = keyed.messages.replace_tail(chat, self.ITEMS, after=one.id, expected_last=two.id)
        again = keyed.messages.replace_tail(chat, self.ITEMS, after=one.id, expected_last=two.id)

        assert first == again
        assert alice.history(chat) == [one, *first]


class TestAFork:
    def test_copies_messages_calls_and_outcomes_under_new_ids(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        (slip,) = say(alice, chat, "a slip")
        alice.messages.edit(chat, slip.id, content="said better")
        done = alice.tool_calls.request(chat, name="done", arguments="{not json", call_id="c")
        alice.tool_calls.succeed(done, output={"n": 10**30}, content="shown")
        failed = alice.tool_calls.request(chat, name="failed", arguments="{}", call_id="c")
        alice.tool_calls.fail(failed, error=["x"])
        alice.tool_calls.request(chat, name="pending", arguments="{}", call_id="c")
        alice.messages.post(chat, body={"role": "tool", "tool_call_id": "other", "content": "\0"})
        point = alice.history(chat)[-1]
        say(alice, chat, "after the point")

        made = alice.conversations.fork(chat, at=point, key="copy", title="Copy")

        original, copy = alice.history(chat)[:-1], alice.history("copy")
        assert [one.body for one in copy] == [one.body for one in original]
        assert not {one.id for one in copy} & {one.id for one in original}
        calls = [(c.name, c.arguments, c.status, c.output) for m in copy for c in m.tool_calls]
        assert calls == [
            ("done", "{not json", "succeeded", {"n": 10**30}),
            ("failed", "{}", "failed", None),
            ("pending", "{}", "abandoned", None),
        ]
        assert (made.key, made.title, made.message_count) == ("copy", "Copy", len(copy))
        started = alice.events(stream_id=made.id)[0]
        assert started.metadata == {
            "forked_from": {"conversation": str(chat), "position": point.position}
        }
        assert [one.name for one in alice.tool_calls.list()] == ["pending"]
        histories(alice, made.id)
        assert store.verify().ok

    def test_of_an_earlier_moment_brings_back_what_was_rewound(
        self, alice: User, chat: UUID
    ) -> None:
        one, two = say(alice, chat, "one", "two")
        position = alice.conversations.rewind(chat, to=one)

        branch = alice.conversations.fork(chat, as_of=position - 1)
        short = alice.conversations.fork(chat, at=one.position, as_of=position - 1)
        empty = alice.conversations.fork(chat, at=0)

        assert texts(alice.history(branch.id)) == ["one", "two"]
        assert texts(alice.history(short.id)) == ["one"]
        assert alice.history(empty.id) == []
        with pytest.raises(NotFound):
            alice.conversations.fork(chat, at=two)
        with pytest.raises(NotFound, match="nobody's"):
            alice.conversations.fork("nobody's")

    def test_of_two_thousand_messages_is_whole(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        for _ in range(2):
            alice.messages.extend(chat, [{"role": "user", "content": "x"}] * 1000)

        made = alice.conversations.fork(chat)

        assert made.message_count == 2000
        assert store.verify().ok

    def test_under_a_key_is_made_once_and_an_old_key_of_a_conversation_is_refused(
        self, alice: User, chat: UUID
    ) -> None:
        say(alice, chat, "one")
        keyed = alice.keyed("k")

        assert keyed.conversations.fork(chat) == keyed.conversations.fork(chat)
        with pytest.raises(WrongVersion):
            alice.conversations.fork(chat, key="chat")
        alice.conversations.start(key="gone")
        alice.conversations.delete("gone")
        with pytest.raises(StreamClosed, match="'gone'"):
            alice.conversations.fork(chat, key="gone")


class TestADeletedConversation:
    def test_comes_back_with_all_that_was_said(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        (one,) = say(alice, chat, "one")
        call = alice.tool_calls.request(chat, name="slow", arguments="{}")
        alice.conversations.archive(chat)
        alice.conversations.delete(chat)
        with pytest.raises(StreamClosed):
            alice.tool_calls.succeed(call, output="too early")

        restored = alice.conversations.restore("chat")
        alice.tool_calls.succeed(call, output="in time")

        assert (restored.status, restored.id, restored.message_count) == ("active", chat, 2)
        assert alice.history(chat)[0] == one
        assert alice.tool_calls.get(call.id).output == "in time"
        before = head(alice)
        assert alice.conversations.restore(chat) == alice.conversations.get(chat)
        assert head(alice) == before
        alice.conversations.delete(chat)
        alice.conversations.restore(chat)
        found = histories(alice, chat)
        assert [position for position, history in found.items() if history is None] == [6, 9]
        assert alice.conversations.list() == [alice.conversations.get(chat)]
        assert store.verify().ok
        assert store.rebuild().changed == 0

    def test_begins_anew_under_its_key(self, store: EventStore, alice: User, chat: UUID) -> None:
        say(alice, chat, "private")
        call = alice.tool_calls.request(chat, name="slow", arguments="{}")
        alice.conversations.rename(chat, "Old")
        was = alice.conversations.get(chat)
        alice.conversations.delete("chat")

        anew = alice.conversations.start(key="chat", title="New")
        again = alice.conversations.start(key="chat")

        assert anew == again
        assert (anew.id, anew.title, anew.message_count) == (chat, "New", 0)
        assert anew.position == anew.activity_position == head(alice)
        assert anew.created_at > was.created_at
        assert alice.history(chat) == []
        assert alice.tool_calls.list() == []
        assert alice.tool_calls.get(call.id).status == "abandoned"
        assert alice.conversations.get(chat, as_of=was.last_position) == was
        assert alice.conversations.list(as_of=was.last_position) == [was]
        assert alice.conversations.list(as_of=was.last_position + 1) == []
        assert alice.conversations.list() == [anew]
        say(alice, chat, "hello")
        found = histories(alice, chat)
        assert [texts(one) for one in found.values()][-3:] == [None, [], ["hello"]]
        assert store.verify().ok
        assert store.rebuild().changed == 0

    def test_begins_anew_once_under_an_idempotency_key(self, alice: User, chat: UUID) -> None:
        alice.conversations.delete(chat)
        keyed = alice.keyed("k")

        first = keyed.conversations.start(key="chat", title="New")
        say(alice, chat, "hello")
        again = keyed.conversations.start(key="chat", title="New")

        assert first.id == again.id
        assert texts(alice.history(chat)) == ["hello"]
        with pytest.raises(IdempotencyConflict):
            keyed.conversations.start(key="chat", title="Other")

    def test_is_named_by_its_key_where_it_takes_nothing(self, alice: User, chat: UUID) -> None:
        alice.conversations.delete("chat")

        with pytest.raises(StreamClosed, match="stream 'chat'") as error:
            alice.messages.post("chat", sender="user", content="x")
        assert (error.value.stream_id, error.value.reference) == (chat, "chat")
        with pytest.raises(StreamClosed, match="'chat'"), alice.transaction() as tx:
            tx.conversations.start(key="chat")

    def test_that_was_erased_comes_back_in_no_way(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        alice.messages.edit(chat, say(alice, chat, "private")[0].id, content="more private")
        alice.messages.clear(chat)
        alice.conversations.delete(chat)
        store.erase("alice", conversation=chat, ordered_by="alice")

        with pytest.raises(StreamClosed, match="'chat'"):
            alice.conversations.start(key="chat")
        with pytest.raises(StreamClosed):
            alice.messages.extend("chat", [{"role": "user"}], start=True)
        with pytest.raises(NotFound):
            alice.conversations.restore(chat)
        for data in (ConversationRestored(), ConversationRestarted()):
            with pytest.raises(StreamClosed):
                alice.append([NewEvent(stream_id=chat, data=data)])
        assert store.verify().ok

    def test_is_deleted_and_restored_in_one_transaction(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        say(alice, chat, "one")
        with alice.transaction() as tx:
            tx.conversations.delete(chat)
            tx.conversations.restore(chat)
            tx.messages.post(chat, sender="user", content="two")

        assert texts(alice.history(chat)) == ["one", "two"]
        histories(alice, chat)
        assert store.verify().ok

    def test_raw_events_of_a_conversation_that_is_not_deleted_are_the_same_everywhere(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        say(alice, chat, "one")
        alice.append([NewEvent(stream_id=chat, data=ConversationRestored())])
        alice.append([NewEvent(stream_id=chat, data=ConversationRestarted())])
        say(alice, chat, "two")

        histories(alice, chat)
        assert texts(alice.history(chat)) == ["two"]
        assert store.verify().ok


class TestActivity:
    def test_is_what_is_said_and_what_tools_do_and_nothing_else(self, alice: User) -> None:
        old = alice.conversations.start(title="old").id
        (said,) = say(alice, old, "one")
        call = alice.tool_calls.request(old, name="f", arguments="{}")
        new = alice.conversations.start(title="new").id
        before = alice.conversations.get(old)

        alice.conversations.rename(old, "renamed")
        alice.conversations.archive(old)
        alice.conversations.reopen(old)
        alice.messages.retract(old, said.id)
        alice.conversations.delete(old)
        alice.conversations.restore(old)

        after = alice.conversations.get(old)
        assert after.last_activity_at == before.last_activity_at
        assert after.activity_position == before.activity_position
        assert after.updated_at > before.updated_at
        assert [one.id for one in alice.conversations.list()] == [new, old]
        assert [one.id for one in alice.conversations.list(limit=1)] == [new]
        alice.tool_calls.succeed(call, output=1)
        assert [one.id for one in alice.conversations.list()] == [old, new]
        for event in alice.events():
            listed = alice.conversations.list(as_of=event.position, archived=None)
            assert [one.activity_position for one in listed] == sorted(
                (one.activity_position for one in listed), reverse=True
            )
            assert all(one.activity_position <= event.position for one in listed)

    def test_does_not_make_the_number_of_messages_drift(
        self, store: EventStore, alice: User, chat: UUID
    ) -> None:
        other = alice.conversations.start().id
        first, second = say(alice, chat, "one", "two")
        for stream in (chat, chat, other):
            for message in (first.id, UUID(int=7)):
                data = MessageRetracted(message_id=message)
                alice.append([NewEvent(stream_id=stream, data=data)])

        assert alice.history(chat) == [second]
        assert alice.conversations.get(chat).message_count == 1
        assert {one.id: one.message_count for one in alice.conversations.list()} == {
            chat: 1,
            other: 0,
        }
        histories(alice, chat)
        assert store.verify().ok

    def test_answers_of_commands_count_messages(self, alice: User, chat: UUID) -> None:
        say(alice, chat, "one", "two")

        renamed = alice.keyed("k").conversations.rename(chat, "x")
        again = alice.keyed("k").conversations.rename(chat, "x")

        assert renamed.message_count == again.message_count == 2
        assert renamed == again == alice.conversations.get(chat)
