"""How many tasks and conversations there are: the lengths of the lists of them."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from eventstore import InvalidInput, User
from projections.queries.counts import ConversationCounts, TaskCounts

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)  # a Saturday


def test_tasks_are_counted_by_status_and_by_when_they_are_due(alice: User, bob: User) -> None:
    assert alice.tasks.counts() == TaskCounts(0, 0, 0, 0, 0)
    days = [date(2026, 3, day) for day in (22, 23, 27, 28, 29, 30)]
    for day in days:
        alice.tasks.create(str(day), due_on=day, tags=["dated"])
    for hour in (11, 13):
        at = datetime(2026, 3, 28, hour, tzinfo=UTC)
        alice.tasks.create("timed", due_at=at, due_zone="Europe/Berlin", priority="high")
    alice.tasks.create("some day")
    done = alice.tasks.create("done", due_on=date(2026, 3, 28), tags=["dated"])
    alice.tasks.complete(done.id)
    alice.tasks.delete(alice.tasks.create("gone", due_on=date(2026, 3, 1)).id)
    bob.tasks.create("bob's", due_on=date(2026, 3, 1))

    counts = alice.tasks.counts(zone="Europe/Berlin", now=NOON)
    dated = alice.tasks.counts(tag="dated", zone="Europe/Berlin", now=NOON)

    assert counts == TaskCounts(open=9, completed=1, overdue=4, due_today=3, due_this_week=6)
    assert dated == TaskCounts(open=6, completed=1, overdue=3, due_today=1, due_this_week=4)
    assert alice.tasks.counts(priority="high", now=NOON) == TaskCounts(2, 0, 1, 2, 2)
    for due, number in (("overdue", 4), ("today", 3), ("week", 6)):
        listed = alice.tasks.list(
            completed=False,
            due=due,  # type: ignore[arg-type]  # from the tuple above
            zone="Europe/Berlin",
            now=NOON,
        )
        assert len(listed) == number


def test_today_is_that_of_the_zone(alice: User) -> None:
    alice.tasks.create("tomorrow, in Berlin", due_on=date(2026, 3, 29))

    assert alice.tasks.counts(zone="Europe/Berlin", now=NOON).due_today == 0
    assert alice.tasks.counts(zone="Pacific/Kiritimati", now=NOON).due_today == 1


def test_a_count_refuses_what_a_list_refuses(alice: User) -> None:
    for options in ({"zone": "Mars"}, {"tag": ""}, {"priority": "huge"}, {"now": "today"}):
        with pytest.raises(InvalidInput) as refused:
            alice.tasks.counts(**options)  # type: ignore[arg-type]
        assert [refused.value.path] == list(options)


def test_conversations_are_counted_by_status_and_messages_by_conversation(
    alice: User, bob: User
) -> None:
    first, second, third, fourth = (alice.conversations.start().id for _ in range(4))
    alice.conversations.archive(second)
    alice.conversations.delete(third)
    alice.messages.post(first, sender="user", content="hi")
    retracted = alice.messages.post(first, sender="user", content="hi").id
    alice.messages.retract(first, retracted)

    assert alice.conversations.counts() == ConversationCounts(active=2, archived=1)
    assert bob.conversations.counts() == ConversationCounts(0, 0)
    by_id = {one.id: one.message_count for one in alice.conversations.list()}
    assert by_id == {first: 1, fourth: 0}
