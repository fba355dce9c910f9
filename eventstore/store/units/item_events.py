"""The events of one item: it is posted, its calls are requested, and some end at once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from eventstore.errors import InvalidInput
from eventstore.events.event import Event, make_event
from eventstore.events.items import read_item
from eventstore.events.json_codec import check_json
from eventstore.events.messages import MessageEdited, MessagePosted
from eventstore.events.tool_calls import (
    ToolCallFailed,
    ToolCallPlaced,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.ids import NewId

__all__ = ["ItemEvent", "item_events"]


class ItemEvent(NamedTuple):
    """
    An event of an item, before it is recorded.

    :ivar causation_id: None for the item itself, the item for its calls.
    """

    event_id: UUID
    data: Event
    causation_id: UUID | None


def item_events(
    body: Mapping[str, Any],
    path: str,
    new_id: NewId,
    *,
    sender: str | None = None,
    completes: UUID | None = None,
    waiting: Mapping[str, list[UUID]] = MappingProxyType({}),
) -> list[ItemEvent]:
    """
    Return the events of an item, the item itself first.

    What the item answers ends in the projector of `tool_call`, without an event of its own.

    :param path: where the item stands in the caller's input, for error messages.
    :param sender: None takes what the item says.
    :param completes: the message whose beginning was saved, and which asks for no calls yet; None
        posts a new one.
    :param waiting: calls that were requested before their item, the ids of the requests by call id;
        those that the item asks for are taken out of it.
    :raises InvalidInput: it is no JSON object, or has a value that cannot be stored.
    """
    if type(body) is not dict and not isinstance(body, Mapping):
        raise InvalidInput(path, f"a {type(body).__name__}; give a dict, as model_dump() does")
    try:
        item = read_item(body)
    except (TypeError, ValueError, RecursionError):
        check_json(body, path)  # names the place of what JSON cannot hold
        raise
    said = {"sender": item.sender if sender is None else sender, "body": body}
    event_id = new_id()
    if completes is None:
        message_id = event_id
        events = [ItemEvent(event_id, make_event(MessagePosted, **said), None)]
    else:
        message_id = completes
        edited = make_event(MessageEdited, message_id=message_id, **said)
        events = [ItemEvent(event_id, edited, None)]
    requested: dict[str, UUID] = {}
    for index, call in enumerate(item.calls):
        if before := waiting.get(call.id):
            request_id = before.pop(0)
            placed = make_event(
                ToolCallPlaced,
                call_id=call.id,
                request_event_id=request_id,
                message_id=message_id,
                index=index,
            )
            requested[call.id] = request_id
            events.append(ItemEvent(new_id(), placed, message_id))
            continue
        request_id = new_id()
        data = make_event(
            ToolCallRequested,
            # The name is made of the event's id, so a retry under a key makes the same one.
            call_id=call.id or f"call_{request_id.hex}",
            name=call.name,
            arguments=call.arguments,
            message_id=message_id,
            index=index,
        )
        requested[data.call_id] = request_id
        # The cause is how the calls of a message that was just posted are found.
        events.append(ItemEvent(request_id, data, message_id))
    for answer in item.answers:
        # An item that is call and answer in one, like `mcp_call`, was posted before its call was
        # requested, so the projector finds no call that it could end.
        request = requested.get(answer.call_id)
        if request is not None:
            common = {"call_id": answer.call_id, "request_event_id": request}
            if answer.failed:
                outcome: Event = make_event(ToolCallFailed, **common, error=answer.output)
            else:
                outcome = make_event(ToolCallSucceeded, **common, output=answer.output)
            events.append(ItemEvent(new_id(), outcome, request))
    return events
