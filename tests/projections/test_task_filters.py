"""Lists of tasks by tag, by priority and by due time, in the zone of the user who asks."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from eventstore import EventStore, InvalidInput, User

BERLIN = ZoneInfo("Europe/Berlin")


def titles(user: User, **wanted: Any) -> list[str]:
    """Return the titles of a list, which is the same from the tables and as of the newest event."""
    found = [task.title for task in user.tasks.list(**wanted)]
    head = len(user.events(limit=1_000))
    assert [task.title for task in user.tasks.list(as_of=head, **wanted)] == found
    # The same list from the streams: every task has changed since.
    for task in user.tasks.list(limit=1_000):
        user.tasks.update(task.id, title=task.title)
    assert [task.title for task in user.tasks.list(as_of=head, **wanted)] == found
    return found


def test_tasks_are_found_by_tag_and_by_priority(alice: User) -> None:
    alice.tasks.create("a", tags=["home", "x y"], priority="high")
    alice.tasks.create("b", tags=["home", "Work"])
    alice.tasks.create("c", tags=['"', "a,b", "null", "\\"], priority="high")

    assert titles(alice, tag="home") == ["a", "b"]
    assert titles(alice, tag="work") == []
    assert titles(alice, tag="a,b") == titles(alice, tag='"') == titles(alice, tag="\\") == ["c"]
    assert titles(alice, priority="high") == ["a", "c"]
    assert titles(alice, priority="high", tag="home") == ["a"]
    assert titles(alice, priority="normal") == ["b"]


# The day on which the clock is changed has 23 or 25 hours.
DAYS = {
    "an ordinary day": ("2026-06-10T12:00", "2026-06-09T22:00Z", "2026-06-10T22:00Z"),
    "the clock goes forward": ("2026-03-29T12:00", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
    "the clock goes back": ("2026-10-25T00:30", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
}


@pytest.mark.parametrize("day", DAYS)
def test_today_begins_and_ends_at_the_users_midnight(alice: User, day: str) -> None:
    local, *bounds = DAYS[day]
    now = datetime.fromisoformat(local).replace(tzinfo=BERLIN)
    start, end = map(datetime.fromisoformat, bounds)
    for title, at in {
        "before": start.replace(hour=start.hour - 1, minute=59),
        "first": start,
        "last": end.replace(hour=end.hour - 1, minute=59),
        "after": end,
    }.items():
        alice.tasks.create(title, due_at=at)
    alice.tasks.create("the day", due_on=now.date())
    alice.tasks.create("the day before", due_on=now.date().replace(day=now.day - 1))
    alice.tasks.create("never")

    assert titles(alice, due="today", zone=BERLIN, now=now) == ["first", "last", "the day"]
    assert "last" not in titles(alice, due="today", zone="Asia/Tokyo", now=now)


def test_a_day_whose_midnight_the_clock_skips_begins_an_hour_later(alice: User) -> None:
    now = datetime(2026, 4, 24, 15, tzinfo=UTC)  # in Cairo it begins at one o'clock
    alice.tasks.create("before", due_at="2026-04-23T21:59:59Z")
    alice.tasks.create("first", due_at="2026-04-23T22:00:00Z")

    assert titles(alice, due="today", zone="Africa/Cairo", now=now) == ["first"]


def test_this_week_is_monday_to_sunday_where_the_user_is(alice: User) -> None:
    for day in range(24, 32):
        alice.tasks.create(f"{day}", due_on=date(2026, 10, day))  # the 25th and 1st are Sundays
    alice.tasks.create("late on Sunday", due_at="2026-11-01T23:30", due_zone="America/New_York")
    alice.tasks.create("Monday", due_at="2026-11-02T00:00", due_zone="America/New_York")

    for now in ("2026-10-26T04:00Z", "2026-11-02T04:59Z"):  # the clock was changed in between
        week = titles(alice, due="week", zone="America/New_York", now=datetime.fromisoformat(now))
        assert week == ["26", "27", "28", "29", "30", "31", "late on Sunday"]


def test_overdue_is_what_was_due_before_now_and_is_not_done(alice: User) -> None:
    now = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)  # in Berlin it is December
    alice.tasks.create("an hour ago", due_at="2026-11-30T22:30Z")
    alice.tasks.create("now", due_at=now)
    alice.tasks.create("yesterday in Berlin", due_on="2026-11-30")
    alice.tasks.create("today in Berlin", due_on="2026-12-01")
    done = alice.tasks.create("done", due_on="2020-01-01")
    alice.tasks.complete(done.id)
    alice.tasks.create("never")

    berlin = titles(alice, due="overdue", zone="Europe/Berlin", now=now)
    assert berlin == ["an hour ago", "yesterday in Berlin"]
    assert titles(alice, due="overdue", zone="UTC", now=now) == ["an hour ago"]
    assert titles(alice, due="today", zone="UTC", now=now, completed=True) == []


def test_the_list_of_an_earlier_time_is_what_was_due_then(alice: User) -> None:
    task = alice.tasks.create("a", due_at="2000-01-01T00:00Z")
    then = alice.tasks.update(task.id, title="b").updated_at
    alice.tasks.update(task.id, due_at="2999-01-01T00:00Z")

    overdue = alice.tasks.list(due="overdue", zone="UTC", as_of=then)

    assert [one.title for one in overdue] == ["b"]
    assert alice.tasks.list(due="overdue", zone="UTC") == []


def test_tasks_come_by_due_time_and_a_day_counts_as_its_end(alice: User) -> None:
    alice.tasks.create("never")
    alice.tasks.create("the first", due_on="2026-12-01")
    alice.tasks.create("evening", due_at="2026-12-01T20:00Z")
    alice.tasks.create("the thirtieth", due_on="2026-11-30")
    alice.tasks.create("noon", due_at="2026-12-01T12:00Z")
    alice.tasks.create("far", due_on="9999-12-31")
    alice.tasks.create("near", due_on="0001-01-01")

    in_utc = ["near", "the thirtieth", "noon", "evening", "the first", "far", "never"]
    assert titles(alice, order="due") == in_utc
    assert titles(alice, order="due", newest_first=True) == in_utc[::-1]
    # In Tokyo the first ends at 15:00 in UTC.
    assert titles(alice, order="due", zone="Asia/Tokyo") == [
        "near", "the thirtieth", "noon", "the first", "evening", "far", "never"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("tag", {"tag": " "}),
        ("tag", {"tag": 5}),
        ("priority", {"priority": "highest"}),
        ("priority", {"priority": ["high"]}),
        ("due", {"due": "tomorrow", "zone": "UTC"}),
        ("due", {"due": ["today"], "zone": "UTC"}),
        ("zone", {"due": "today"}),
        ("zone", {"due": "today", "zone": "Mars/Base"}),
        ("zone", {"order": "due", "zone": ""}),
        ("now", {"due": "today", "zone": "UTC", "now": datetime(2026, 11, 30)}),  # noqa: DTZ001 - refused
        ("now", {"due": "today", "zone": "UTC", "now": "2026-11-30"}),
        ("now", {"due": "week", "zone": "UTC", "now": datetime.max.replace(tzinfo=UTC)}),
        ("completed", {"due": "overdue", "zone": "UTC", "completed": True}),
        ("order", {"order": "priority"}),
        ("order", {"order": ["due"]}),
    ],
)
def test_a_filter_that_means_nothing_is_refused_by_its_name(
    alice: User, path: str, wanted: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as error:
        alice.tasks.list(**wanted)

    assert error.value.path == path


def test_the_new_columns_equal_the_replay_after_every_change(store: EventStore) -> None:
    user = store.user("alice")
    task = user.tasks.create("a", due_on="2026-12-01", tags=["x"])
    user.tasks.update(task.id, tags=[], priority="urgent")
    user.tasks.update(task.id, due_at="2026-12-01T09:00", due_zone="Asia/Kolkata")
    with user.transaction() as tx:
        for number in range(3):
            made = tx.tasks.create(str(number), due_on="2026-12-01", tags=[str(number), "y"])
            tx.tasks.update(made.id, due_at="2026-12-01T09:00Z", tags=["z"])

    assert store.verify().ok
    assert store.rebuild(check=True).changed == 0
