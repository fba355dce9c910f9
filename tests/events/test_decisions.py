"""Decisions: a state and a command give an event, or nothing where nothing would change."""

from __future__ import annotations

from typing import Any

import pytest

from eventstore import (
    ConversationArchived,
    ConversationDeleted,
    ConversationRenamed,
    ConversationReopened,
    Event,
    InvalidInput,
    TaskCompleted,
    TaskDeleted,
    TaskReopened,
)
from eventstore.events import conversations, tasks
from eventstore.events.conversations import ConversationState
from eventstore.events.tasks import TaskState

OPEN = TaskState("Buy milk", "Two litres", completed=False)
DONE = TaskState("Buy milk", "Two litres", completed=True)
ACTIVE = ConversationState("Groceries", "active")
ARCHIVED = ConversationState("Groceries", "archived")


@pytest.mark.parametrize(
    ("state", "decide", "expected"),
    [
        (OPEN, tasks.complete, TaskCompleted()),
        (DONE, tasks.complete, None),
        (DONE, tasks.reopen, TaskReopened()),
        (OPEN, tasks.reopen, None),
        (OPEN, tasks.delete, TaskDeleted()),
        (DONE, tasks.delete, TaskDeleted()),
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
        ({}, None),
        ({"title": "Buy milk"}, None),
        ({"title": "Buy milk", "description": "Two litres"}, None),
        ({"title": "Fly", "description": "Two litres"}, {"title": "Fly"}),
        ({"description": None}, {"description": None}),
        ({"description": ""}, {"description": ""}),
    ],
)
def test_an_update_records_only_the_fields_that_change(
    changes: dict[str, Any], stored: dict[str, Any] | None
) -> None:
    decided = tasks.update(OPEN, **changes)

    assert (decided and decided.to_payload()) == stored


@pytest.mark.parametrize("title", [None, "", "a\0"])
def test_the_title_of_a_task_cannot_be_removed_or_made_unstorable(title: str | None) -> None:
    with pytest.raises(InvalidInput) as error:
        tasks.update(OPEN, title=title)

    assert error.value.path == "title"


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
