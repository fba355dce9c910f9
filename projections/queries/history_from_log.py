"""
The history of one conversation from its events, where the read model is not trusted or says less.

It is what the tables would show: the projector of calls decides how a call ended, here as there.
"""

from __future__ import annotations

from operator import attrgetter
from uuid import UUID

from eventstore.database.plan import GIVE_WAY, ROWS_AT_A_TIME, Plan
from eventstore.errors import NotFound
from eventstore.events.conversations import ConversationRestarted, ConversationRewound
from eventstore.events.items import read_item
from eventstore.events.messages import MessageEdited, MessagePosted, MessageRetracted
from eventstore.events.registry import EventRegistry
from eventstore.events.tool_calls import ToolCallEvent, ToolCallOutcome
from eventstore.log.envelope import NOW, PointInTime, RecordedEvent
from eventstore.log.read import Selection, for_each_event
from projections.apply.replay import Replay
from projections.models.conversation import Conversation
from projections.models.message import MessageView, edited_view, posted_view, with_calls
from projections.models.tool_call import CALL_EVENTS, ToolCall, ToolCallView
from projections.projector import Projections
from projections.queries.moments import END
from projections.queries.tool_calls import by_message

__all__ = ["ShownMessages", "history_from_log"]


def history_from_log(
    user_id: str,
    conversation: UUID,
    moment: PointInTime,
    projections: Projections,
    registry: EventRegistry,
    before: int | None,
    limit: int | None,
) -> Plan[list[MessageView]]:
    """
    Return a page of the messages of a conversation from its events, oldest first.

    :param before: only messages at earlier positions; None for the newest page.
    :param limit: messages at most; None for all.
    :raises NotFound: the conversation is absent, deleted or another user's, as of `moment`.
    :raises CorruptLog: an event cannot be read.
    """
    shown = ShownMessages()
    calls, rest = Replay(projections.of(ToolCall)), Replay(projections.of(Conversation))
    wanted = Selection(stream_id=conversation, moment=moment)

    def apply(event: RecordedEvent) -> None:
        data = event.data
        # Most messages answer no call.
        if isinstance(data, MessagePosted):
            if read_item(data.body).answers:
                calls.apply(event)
        elif isinstance(data, CALL_EVENTS):
            calls.apply(event)
        # Messages and calls are most of a stream, and say nothing of whether it was deleted.
        if not shown.apply(event):
            rest.apply(event)

    yield from for_each_event(user_id, wanted, registry, apply)
    row = rest.rows(Conversation).get((conversation,))
    if row is None or row["deleted_position"] is not None:
        raise NotFound("conversation", conversation)
    page = shown.page(before, limit)
    found = calls.rows(ToolCall)
    if not found:
        return page
    ids = {message.id for message in page}
    rows = (one for one in found.values() if one["message_id"] in ids)
    ordered = sorted(map(ToolCallView.from_row, rows), key=attrgetter("index", "position"))
    # What was replayed ends at the moment.
    requested = by_message(ordered, None if moment == NOW else END)
    views = []
    for message in page:
        own = requested.get(message.id)
        views.append(message if own is None else with_calls(message, own))
        if len(views) % ROWS_AT_A_TIME == 0:
            yield GIVE_WAY
    return views


class ShownMessages:
    """The messages that a history shows after the events of one conversation applied so far."""

    def __init__(self) -> None:
        # A view is all that is left of an event, whose other parts are freed at once.
        self._messages: dict[UUID, MessageView] = {}

    def apply(self, event: RecordedEvent) -> bool:
        """Apply the next event of the conversation; tell whether it is about its messages alone."""
        messages = self._messages
        match event.data:
            case MessagePosted() | ToolCallOutcome(reply=dict()):
                messages[event.event_id] = posted_view(event)
            case MessageEdited(message_id=message_id) as edit:
                # A raw append may name a message of another conversation, or one that is gone.
                message = messages.get(message_id)
                if message is not None:
                    messages[message_id] = edited_view(message, edit, event.occurred_at)
            case MessageRetracted(message_id=message_id):
                messages.pop(message_id, None)
            case ConversationRewound(position=position):
                # The newest ones are last.
                while messages and next(reversed(messages.values())).position > position:
                    messages.popitem()
            case ConversationRestarted():
                messages.clear()
                return False
            case data:
                return isinstance(data, ToolCallEvent)
        return True

    def page(self, before: int | None, limit: int | None) -> list[MessageView]:
        """
        Return the newest messages without their calls, oldest first.

        :param before: only messages at earlier positions; None for all.
        :param limit: messages at most; None for all.
        """
        found = [one for one in self._messages.values() if before is None or one.position < before]
        return found if limit is None else found[max(0, len(found) - limit) :]
