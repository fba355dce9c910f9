"""
What can happen to a message.

The names and fields are the stored format (see `event`). `body` is the whole chat message as it
came, whatever keys it carried; what is shown of it is derived, so nothing is stored twice.
"""

from __future__ import annotations

from uuid import UUID

from eventstore.events.conversations import ConversationEvent
from eventstore.events.limits import JsonObject, Sender

__all__ = ["MessagePosted", "MessageRetracted"]


class MessagePosted(ConversationEvent, type="MessagePosted"):
    """
    A message was said in a conversation.

    :ivar sender: `user`, `assistant`, `system`, `tool` or a name of the caller's own.
    :ivar body: the chat message, a JSON object; its `content` is text, null or a list of parts.
    """

    message_id: UUID
    sender: Sender
    body: JsonObject


class MessageRetracted(ConversationEvent, type="MessageRetracted"):
    """A message was taken back: it leaves the history from here on."""

    message_id: UUID
