"""
The events of a conversation, and the decisions that lead to them.

Stored names and fields are the stored format (see `event`). An archived conversation is hidden but
still takes events, because the outcome of a slow tool call must be recorded whenever it arrives.
Deleting closes the stream, until the conversation is restored or its key is used again. Decisions
are pure functions: they take what a conversation is now and return the event to append, or None if
nothing would change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from pydantic import Field

from eventstore.events.event import Event, make_event
from eventstore.events.fields import Key, Title

__all__ = [
    "REWOUND",
    "ConversationArchived",
    "ConversationDeleted",
    "ConversationEvent",
    "ConversationRenamed",
    "ConversationReopened",
    "ConversationRestarted",
    "ConversationRestored",
    "ConversationRewound",
    "ConversationStarted",
    "ConversationState",
    "ConversationStatus",
    "archive",
    "delete",
    "rename",
    "reopen",
    "restart",
    "restore",
    "start",
]

type ConversationStatus = Literal["active", "archived", "deleted"]


class ConversationEvent(Event, stream_kind="conversation", starts=False):
    """The base of all events in a conversation's stream, also of messages and tool calls."""


class ConversationStarted(ConversationEvent, type="ConversationStarted", starts=True):
    """A conversation began; its `key`, if it has one, is a name that the caller chose."""

    key: Key | None = None
    title: Title | None = None


class ConversationRenamed(ConversationEvent, type="ConversationRenamed"):
    """The title changed."""

    title: Title | None


class ConversationArchived(ConversationEvent, type="ConversationArchived"):
    """The conversation was hidden from the list of active ones."""


class ConversationReopened(ConversationEvent, type="ConversationReopened"):
    """An archived conversation became active again."""


class ConversationRewound(ConversationEvent, type="ConversationRewound"):
    """
    The conversation went back to an earlier point.

    What was said after it is in no history from here on, and calls that were pending are abandoned.

    :ivar position: in the user's log: of the last message that stays; 0 leaves none.
    :ivar message_id: of that message, whose own calls stay as they are; None if only a position was
        given.
    """

    position: int = Field(ge=0, lt=2**63)
    # Calls are requested after the message that asks for them, so the position alone would abandon
    # those of the last message that stays.
    message_id: UUID | None = None


class ConversationDeleted(ConversationEvent, type="ConversationDeleted", closes=True):
    """The conversation was removed; only a restoration or a new start may follow."""


class ConversationRestored(ConversationEvent, type="ConversationRestored", reopens=True):
    """A deleted conversation came back with all that was said in it, as an active one."""


class ConversationRestarted(ConversationEvent, type="ConversationRestarted", reopens=True):
    """
    The key of a deleted conversation was used again: the conversation begins anew.

    What was said before is in no history from here on, and calls that were pending are abandoned.
    """

    # The id of a conversation is derived from its key, so the stream is the deleted one's too.
    title: Title | None = None


@dataclass(frozen=True, slots=True)
class ConversationState:
    """The part of a conversation that decisions depend on."""

    title: str | None
    status: ConversationStatus


REWOUND = "the conversation was rewound to before this call"
"""The `error` of a call that was pending when its conversation was rewound or begun anew."""


def start(key: str | None, title: str | None) -> Event:
    """
    Decide to start a conversation.

    :raises InvalidInput: key or title does not fit its field.
    """
    # An event stores the fields that were given to it, so None is left out and not passed on.
    given = {"key": key, "title": title}
    return make_event(
        ConversationStarted, **{name: value for name, value in given.items() if value is not None}
    )


def rename(conversation: ConversationState, title: str | None) -> Event | None:
    """
    Decide to change the title; the same title again changes nothing.

    :param title: 1 to 500 characters; None removes the title.
    :raises InvalidInput: the title does not fit its field.
    """
    return None if conversation.title == title else make_event(ConversationRenamed, title=title)


def archive(conversation: ConversationState) -> Event | None:
    """Decide to archive; for an archived conversation nothing changes."""
    return ConversationArchived() if conversation.status == "active" else None


def reopen(conversation: ConversationState) -> Event | None:
    """Decide to reopen; for an active conversation nothing changes."""
    return ConversationReopened() if conversation.status == "archived" else None


def delete(_: ConversationState) -> Event | None:
    """Decide to delete, whatever the conversation's status."""
    # A conversation that was deleted before is not found, so no decision is asked for.
    return ConversationDeleted()


def restore(conversation: ConversationState) -> Event | None:
    """Decide to restore; for a conversation that is not deleted nothing changes."""
    return ConversationRestored() if conversation.status == "deleted" else None


def restart(conversation: ConversationState, title: str | None) -> Event | None:
    """
    Decide to begin a deleted conversation anew; for one that is not deleted nothing changes.

    :param title: of the new conversation.
    :raises InvalidInput: the title does not fit its field.
    """
    if conversation.status != "deleted":
        return None
    return make_event(ConversationRestarted, **({} if title is None else {"title": title}))
