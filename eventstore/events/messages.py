"""
The events of a message.

Stored names and fields are the stored format (see `event`). The id of a message is the id of the
event that posted it. `body` is the whole chat message as it came, whatever keys it has. What is
shown of a message is derived from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any
from uuid import UUID

from eventstore.errors import InvalidInput
from eventstore.events.conversations import ConversationEvent
from eventstore.events.event import Event, make_event
from eventstore.events.fields import JsonObject, Sender
from eventstore.events.items import ItemParts, read_item
from eventstore.events.json_codec import dumps

__all__ = ["MessageEdited", "MessagePosted", "MessageRetracted", "edit"]


class MessagePosted(ConversationEvent, type="MessagePosted"):
    """
    A message was posted to a conversation.

    :ivar sender: `user`, `assistant`, `system`, `tool` or another name of the caller's.
    :ivar body: the chat message, a JSON object; its `content` is text, null or a list of parts.
    """

    sender: Sender
    body: JsonObject

    @cached_property
    def item(self) -> ItemParts:
        """What the store reads from the body; several projectors ask for it."""
        return read_item(self.body)


class MessageRetracted(ConversationEvent, type="MessageRetracted"):
    """A message was withdrawn: histories no longer show it from here on."""

    message_id: UUID


class MessageEdited(ConversationEvent, type="MessageEdited"):
    """
    A message says something else from here on; its place and id stay.

    :ivar sender: who said it, which an edit does not change.
    :ivar body: the whole item as it is now.
    """

    message_id: UUID
    sender: Sender
    body: JsonObject


def edit(
    message_id: UUID, sender: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Event | None:
    """
    Decide to put another item into the place of a message; the same one again changes nothing.

    Who said it, the calls that it asks for and those that it answers stay as they are. They are
    facts that others have acted on, so a message that is to ask for something else is a new one.

    :param sender: of the message.
    :param old: its body.
    :param new: a JSON object.
    :raises InvalidInput: the new item differs in more than what it says, or cannot be stored.
    """
    was, now = read_item(old), read_item(new)
    if now.sender != was.sender:
        raise InvalidInput("body", "is of another role; an edit keeps who said it")
    if now.calls != was.calls:
        raise InvalidInput(
            "body", "asks for other calls than the message did; rewind and post it instead"
        )
    if [one.call_id for one in now.answers] != [one.call_id for one in was.answers]:
        raise InvalidInput(
            "body", "answers other calls than the message did; rewind and post it instead"
        )
    edited = make_event(MessageEdited, message_id=message_id, sender=sender, body=new)
    # As text, because in Python True equals 1, and the order of keys is no difference.
    return None if dumps(edited.body) == dumps(old) else edited
