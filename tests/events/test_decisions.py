"""Decisions: given what is, when this is asked, then that happens, or nothing does."""

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
    ("given", "when", "then"),
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
def test_a_decision_records_what_changes_something_and_nothing_else(
    given: Any, when: Any, then: Event | None
) -> None:
    decided = when(given)

    assert decided == then
    assert type(decided) is type(then)


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
def test_an_update_records_only_what_differs(
    changes: dict[str, Any], stored: dict[str, Any] | None
) -> None:
    decided = tasks.update(OPEN, **changes)

    assert (decided and decided.to_payload()) == stored


@pytest.mark.parametrize("title", [None, "", "a\0"])
def test_a_title_can_be_changed_but_not_removed(title: str | None) -> None:
    with pytest.raises(InvalidInput) as error:
        tasks.update(OPEN, title=title)

    assert error.value.path == "title"


@pytest.mark.parametrize(
    ("title", "stored"), [("Food", {"title": "Food"}), (None, {"title": None})]
)
def test_a_conversation_may_lose_its_title_and_the_same_title_is_no_news(
    title: str | None, stored: dict[str, Any]
) -> None:
    renamed = conversations.rename(ACTIVE, title)

    assert isinstance(renamed, ConversationRenamed)
    assert renamed.to_payload() == stored
    assert conversations.rename(ACTIVE, "Groceries") is None
