"""
What can happen to a conversation, and when it may.

The names and fields are the stored format (see `event`). Archiving hides a conversation and does
not close it: the outcome of a tool call that comes in late must still be recorded. Deleting closes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eventstore.events.event import Event, checked
from eventstore.events.limits import Key, Title

__all__ = [
    "ConversationArchived",
    "ConversationDeleted",
    "ConversationEvent",
    "ConversationRenamed",
    "ConversationReopened",
    "ConversationStarted",
    "ConversationState",
    "ConversationStatus",
    "archive",
    "delete",
    "rename",
    "reopen",
]

type ConversationStatus = Literal["active", "archived", "deleted"]


class ConversationEvent(Event, stream_kind="conversation"):
    """An event of one conversation's stream; messages and tool calls are such events too."""


class ConversationStarted(ConversationEvent, type="ConversationStarted"):
    """A conversation began. Its `key`, if any, is the caller's own name for it."""

    key: Key | None = None
    title: Title | None = None


class ConversationRenamed(ConversationEvent, type="ConversationRenamed"):
    """The title changed."""

    title: Title | None


class ConversationArchived(ConversationEvent, type="ConversationArchived"):
    """The conversation was put away."""


class ConversationReopened(ConversationEvent, type="ConversationReopened"):
    """The conversation was taken up again."""


class ConversationDeleted(ConversationEvent, type="ConversationDeleted", closes=True):
    """The conversation was removed for good."""


@dataclass(frozen=True, slots=True)
class ConversationState:
    """What a decision needs to know of a conversation."""

    title: str | None
    status: ConversationStatus


def rename(conversation: ConversationState, title: str | None) -> Event | None:
    """Decide a new title; the same title changes nothing."""
    return None if conversation.title == title else checked(ConversationRenamed, title=title)


def archive(conversation: ConversationState) -> Event | None:
    """Decide to archive; an archived conversation stays as it is."""
    return ConversationArchived() if conversation.status == "active" else None


def reopen(conversation: ConversationState) -> Event | None:
    """Decide to reopen; an active conversation stays as it is."""
    return ConversationReopened() if conversation.status == "archived" else None


def delete(_: ConversationState) -> Event | None:
    """Decide to delete."""
    return ConversationDeleted()
