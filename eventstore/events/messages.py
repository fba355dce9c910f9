"""
The events of a message.

Stored names and fields are the stored format (see `event`). The id of a message is the id of the
event that posted it. `body` is the whole chat message as it came, whatever keys it has. What is
shown of a message is derived from it.
"""

from __future__ import annotations

from uuid import UUID

from eventstore.events.conversations import ConversationEvent
from eventstore.events.fields import JsonObject, Sender

__all__ = ["MessagePosted", "MessageRetracted"]


class MessagePosted(ConversationEvent, type="MessagePosted"):
    """
    A message was posted to a conversation.

    :ivar sender: `user`, `assistant`, `system`, `tool` or another name of the caller's.
    :ivar body: the chat message, a JSON object; its `content` is text, null or a list of parts.
    """

    sender: Sender
    body: JsonObject


class MessageRetracted(ConversationEvent, type="MessageRetracted"):
    """A message was withdrawn: histories no longer show it from here on."""

    message_id: UUID
