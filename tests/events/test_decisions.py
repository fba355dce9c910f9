"""Decisions: a state and a command give an event, or nothing where nothing would change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from eventstore import (
    ConversationArchived,
    ConversationDeleted,
    ConversationRenamed,
    ConversationReopened,
    Event,
    InvalidInput,
    TaskCompleted,
    TaskReopened,
    TaskRestored,
)
from eventstore.events import conversations, tasks
from eventstore.events.conversations import ConversationState
from eventstore.events.tasks import TaskState

OPEN = TaskState(completed=False, deleted_position=None)
DONE = TaskState(completed=True, deleted_position=None)
DELETED = TaskState(completed=True, deleted_position=7)
ACTIVE = ConversationState("Groceries", "active")
ARCHIVED = ConversationState("Groceries", "archived")


@pytest.mark.parametrize(
    ("state", "decide", "expected"),
    [
        (OPEN, tasks.complete, TaskCompleted()),
        (DONE, tasks.complete, None),
        (DONE, tasks.reopen, TaskReopened()),
        (OPEN, tasks.reopen, None),
        (DELETED, tasks.restore, TaskRestored()),
        (OPEN, tasks.restore, None),
        (ACTIVE, conversations.archive, ConversationArchived()),
        (ARCHIVED, conversations.archive, None),
        (ARCHIVED, conversations.reopen, ConversationReopened()),
        (ACTIVE, conversations.reopen, None),
        (ACTIVE, conversations.delete, ConversationDeleted()),
        (ARCHIVED, conversations.delete, ConversationDeleted()),
    ],
)
def test_a_decision_gives_an_event_only_if_something_changes(
    state: Any, decide: Any, expected: Event | None
) -> None:
    decided = decide(state)

    assert decided == expected
    assert type(decided) is type(expected)


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        ({"title": "Fly"}, {"title": "Fly"}),
        ({"description": None}, {"description": None}),
        ({"description": ""}, {"description": ""}),
        ({"due_on": "2026-11-30"}, {"due_on": "2026-11-30"}),
        ({"due_on": None, "due_at": None}, {"due_on": None}),
        ({"due_at": None, "title": "Fly"}, {"title": "Fly", "due_on": None}),
        (
            {"due_at": "2026-03-29T02:30", "due_zone": "Europe/Berlin"},  # the clock skips it
            {"due_at": "2026-03-29T01:30:00+00:00", "due_zone": "Europe/Berlin"},
        ),
        (
            {"due_at": datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)},
            {"due_at": "2026-10-25T01:30:00+00:00", "due_zone": "Europe/Berlin"},
        ),
        ({"due_at": "2026-11-30T09:00+01:00"}, {"due_at": "2026-11-30T08:00:00+00:00"}),
        ({"tags": ["b", "a", "b"]}, {"tags": ["b", "a"]}),
        ({"tags": []}, {"tags": []}),
        ({"priority": "high"}, {"priority": "high"}),
    ],
)
def test_an_update_records_the_fields_that_are_given(
    changes: dict[str, Any], stored: dict[str, Any]
) -> None:
    assert tasks.changes_of(**changes).to_payload() == stored


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        *[("title", {"title": title}) for title in (None, "", "a\0")],
        ("priority", {"priority": None}),
        ("priority", {"priority": "middling"}),
        ("tags", {"tags": None}),
        ("tags", {"tags": "home"}),
        ("tags[1]", {"tags": ["home", " "]}),
        ("tags", {"tags": [str(n) for n in range(51)]}),
        ("due_on", {"due_on": "30.11.2026"}),
        ("due_on", {"due_on": datetime(2026, 11, 30, tzinfo=UTC)}),
        ("due_on", {"due_on": "2026-11-30", "due_at": "2026-11-30T09:00Z"}),
        ("due_at", {"due_at": "tomorrow"}),
        ("due_at", {"due_at": 5}),
        ("due_at", {"due_at": "2026-11-30T09:00"}),
        ("due_at", {"due_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=1)))}),
        ("due_zone", {"due_zone": "Europe/Berlin"}),
        ("due_zone", {"due_zone": None}),
        ("due_zone", {"due_on": "2026-11-30", "due_zone": "Europe/Berlin"}),
        ("due_zone", {"due_at": "2026-11-30T09:00Z", "due_zone": "Europe"}),
        ("due_zone", {"due_at": "2026-11-30T09:00Z", "due_zone": "../etc/passwd"}),
    ],
)
def test_a_field_that_cannot_be_set_so_is_refused_by_its_name(
    path: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput) as error:
        tasks.changes_of(**changes)

    assert error.value.path == path


@pytest.mark.parametrize(
    ("title", "stored"), [("Food", {"title": "Food"}), (None, {"title": None})]
)
def test_the_title_of_a_conversation_may_be_removed_and_the_same_title_changes_nothing(
    title: str | None, stored: dict[str, Any]
) -> None:
    renamed = conversations.rename(ACTIVE, title)

    assert isinstance(renamed, ConversationRenamed)
    assert renamed.to_payload() == stored
    assert conversations.rename(ACTIVE, "Groceries") is None
