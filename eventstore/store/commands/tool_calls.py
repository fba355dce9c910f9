"""
A user's tool calls: request before the tool runs, claim, then succeed, fail or abandon; find, list.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, get_args
from uuid import UUID, uuid5

from eventstore.database.plan import AboutToolCall, Pause, Plan
from eventstore.errors import OUTCOME_KEY, Conflict, IdempotencyConflict, InvalidInput, NotFound
from eventstore.events.event import Event, make_event
from eventstore.events.fields import MAX_KEY, check_choice, check_label, check_timestamp
from eventstore.events.items import RequestedCall, tool_body
from eventstore.events.json_codec import checked_text, dumps, plain_json
from eventstore.events.tool_calls import (
    ToolCallAbandoned,
    ToolCallClaimed,
    ToolCallFailed,
    ToolCallOutcome,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.paging import Page
from eventstore.store.commands.messages import (
    MessageCommands,
    ToolCallReference,
    posted_message,
)
from eventstore.store.context import Queries, parse_id
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_command,
    async_method,
    sync_command,
    sync_method,
)
from eventstore.store.units.commands import Commands
from eventstore.store.units.decisions import Cause
from eventstore.store.units.outcome import Handle, Outcome
from projections import ToolCall
from projections.apply.table_shape import Row
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallStatus, ToolCallView
from projections.queries.history import get_answer
from projections.queries.tool_calls import find_tool_call, get_tool_call, list_tool_calls

__all__ = [
    "AsyncToolCalls",
    "Claim",
    "ToolCallCommands",
    "ToolCallHandle",
    "ToolCallQueries",
    "ToolCalls",
]


@dataclass(slots=True, kw_only=True)
class ToolCallHandle[V](Handle[V]):
    """What requesting a call in a transaction returns; `call_id` is the model's name for it."""

    conversation_id: UUID
    message_id: UUID | None
    call_id: str


@dataclass(frozen=True, slots=True)
class Claim:
    """
    What a worker gets that asked for a call.

    :ivar granted: it has the call until `call.claimed_until`. If not, another worker has it, or the
        call has ended, as its `status` says.
    """

    granted: bool
    call: ToolCallView


class ToolCallCommands(Commands):
    """The commands on tool calls."""

    def request(
        self,
        conversation: UUID | str,
        *,
        name: str,
        arguments: str | Mapping[str, Any],
        call_id: str | None = None,
        content: object = None,
        in_history: bool = True,
        caused_by: Cause = None,
    ) -> ToolCallHandle[ToolCallView]:
        """
        Record that the model asks for a tool, before the tool runs; one round trip.

        The request is a message of the assistant. A message with several calls is posted with
        `messages.post`.

        :param conversation: its id or key.
        :param name: the tool's, up to 255 characters.
        :param arguments: the model's text, kept verbatim, valid JSON or not; or a mapping.
        :param call_id: the model's name for the call; None makes one up.
        :param content: what the assistant says beside the call.
        :param in_history: False for a call that stands in no history, neither its request nor its
            outcome: that of an MCP server, or of an SDK that keeps its own items.
        :return: the call, to give to `claim`, `succeed`, `fail` or `caused_by`. Under a key that
            was used before, the call as it is now, and its `first` is False. Who may run the tool
            is told for certain by `claim`: after a lost connection a worker may find its own
            request.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        :raises InvalidInput: a value does not fit or cannot be stored; nothing was written.
        """
        work = self._work
        text = arguments if isinstance(arguments, str) else checked_text(arguments, "arguments")
        # The name is made of an id of the unit of work, so a retry under a key makes the same one.
        call_id = f"call_{work.new_id().hex}" if call_id is None else call_id
        call = RequestedCall(
            check_label(call_id, "call_id", MAX_KEY, empty=True),
            check_label(name, "name", MAX_KEY, empty=True),
            text,
        )
        message_id = None
        if in_history:
            message = MessageCommands(work).post(
                conversation,
                sender="assistant",
                content=content,
                tool_calls=[call],
                caused_by=caused_by,
            )
            # `post` adds the message first and then its only call.
            message_id, requested = message.id, work.steps[-1]
        elif content is not None:
            raise InvalidInput("content", "needs a message; leave it out, or in_history as it is")
        else:
            data = make_event(ToolCallRequested, call_id=call.id, name=name, arguments=text)
            requested = work.record(work.conversation(conversation), data, caused_by=caused_by)
        event_id = requested.event_id
        work.tool_calls.append(AboutToolCall(call.id, requested.stream_id, name))

        def now() -> Plan[ToolCallView]:
            known = yield from get_tool_call(work.context.user_id, event_id)
            return replace(known, first=False)

        return ToolCallHandle(
            id=event_id,
            event_id=event_id,
            view=lambda outcome: ToolCallView.from_row(outcome.row(ToolCall, event_id)),
            on_repeat=lambda: work.context.retrying(now),
            conversation_id=requested.stream_id,
            message_id=message_id,
            call_id=call.id,
        )

    def claim(self, call: ToolCallReference, *, seconds: int) -> Handle[Claim]:
        """
        Take a call to run its tool; two round trips. Only one worker has it until the time is over.

        Of workers that retry one request at once, one is granted the call and runs the tool; the
        others wait for what it records (`wait`). A worker that died is followed by the next one
        that claims, once the time is over. The clock is the server's.

        :param call: what `request` or `find` returned.
        :param seconds: 1 to 604,800: longer than the tool may take.
        :return: the call, and whether it was granted.
        :raises NotFound: the call is another user's.
        :raises InvalidInput: the seconds are out of range.
        """
        self._tell(call)
        claim = make_event(
            ToolCallClaimed,
            call_id=call.call_id,
            request_event_id=call.event_id,
            seconds=seconds,
        )

        def decide(row: Row) -> Event | None:
            # The replayed row of a retry, or of a new call, knows nothing of the server's clock.
            return claim if row["status"] == "pending" and not row.get("claimed") else None

        call_id = call.event_id
        decision = self._work.decide(
            ToolCall, call_id, decide, stream_id=call.conversation_id, caused_by=call
        )

        def view(outcome: Outcome) -> Claim:
            granted = any(one.event_id == decision.event_id for one in outcome.recorded)
            return Claim(granted, ToolCallView.from_row(outcome.row(ToolCall, call_id)))

        return Handle(call_id, decision.event_id, view)

    def succeed(
        self, call: ToolCallReference, *, output: object, content: object = None
    ) -> Handle[MessageView | None]:
        """
        Record what the tool returned; one round trip.

        A call ends once: the same outcome again returns the first one's message, for two more round
        trips, and another one is refused. An item that answers the call is an outcome as well.

        :param call: what `request` or `find` returned.
        :param output: text, or any JSON value, kept exactly; models, dataclasses, sets and bytes as
            pydantic writes them, and what has no JSON form as its text with a note.
        :param content: what the model is given instead of the output: text or a list of content
            parts. None gives it the output, as JSON text if it is neither of these.
        :return: the tool's message; None if the call is in no history.
        :raises IdempotencyConflict: the call has already ended with another outcome.
        :raises StreamClosed: the conversation was deleted.
        :raises NotFound: the call is another user's; or the message that asks for it, or the answer
            that it has, was taken away.
        """
        value = plain_json(output, "output")
        shown = value if content is None else plain_json(content, "content")
        reply = _reply(call, shown, content)
        # What stands in the reply already, as it is, is not stored again.
        # Of equal values of two types (1 and True) the answer would give back the other one.
        repeated = reply is not None and isinstance(value, str | list) and reply["content"] == value
        stored = {} if repeated else {"output": value}
        return self._end(call, ToolCallSucceeded, reply, stored)

    def fail(
        self, call: ToolCallReference, *, error: object, content: object = None
    ) -> Handle[MessageView | None]:
        """
        Record how the tool failed; one round trip.

        :param call: what `request` or `find` returned.
        :param error: as the output of `succeed`.
        :param content: what the model is given instead of the error, as in `succeed`.
        :return: the tool's message; None if the call is in no history.
        :raises IdempotencyConflict: the call has already ended with another outcome.
        :raises StreamClosed: the conversation was deleted.
        :raises NotFound: the call is another user's; or the message that asks for it, or the answer
            that it has, was taken away.
        """
        value = plain_json(error, "error")
        shown = value if content is None else plain_json(content, "content")
        return self._end(call, ToolCallFailed, _reply(call, shown, content), {"error": value})

    def abandon(self, call: ToolCallReference, *, reason: str | None = None) -> Handle[None]:
        """
        Record that nobody will run the tool any more; one round trip. No message is posted.

        :param call: what `request` or `find` returned.
        :param reason: shown as the call's `error`.
        :raises IdempotencyConflict: the call has already ended with another outcome.
        :raises NotFound: the call is another user's.
        """
        ended = self._end(call, ToolCallAbandoned, None, {"error": reason})
        return Handle(ended.id, ended.event_id, lambda _: None)

    def _tell(self, call: ToolCallReference, *, ended: bool = False) -> None:
        """Check what a caller gave as a call, and have an observer told of it."""
        _require_reference(call)
        name = getattr(call, "name", None)  # the handle of a request has none
        self._work.tool_calls.append(
            AboutToolCall(call.call_id, call.conversation_id, name, ended=ended)
        )

    def _end(
        self,
        call: ToolCallReference,
        kind: type[ToolCallOutcome],
        reply: dict[str, Any] | None,
        stored: dict[str, Any],
    ) -> Handle[MessageView | None]:
        self._tell(call, ended=kind is not ToolCallAbandoned)
        if reply is not None:
            stored = {"reply": reply, **stored}
        data = make_event(kind, call_id=call.call_id, request_event_id=call.event_id, **stored)
        # The same on a retry, from any process. So a second outcome that no key stops meets the
        # first one's row of `message`.
        message_id = uuid5(call.event_id, "outcome")
        self._work.record(call.conversation_id, data, caused_by=call, event_id=message_id)
        outcome_key = f"{OUTCOME_KEY}{call.event_id}"
        if all(step.event_id != call.event_id for step in self._work.steps):
            # Somebody else may end a call that was requested before; one that is new nobody knows.
            # An append has one key: that of the first call which it ends.
            self._work.default_key = self._work.default_key or outcome_key
        user_id = self._work.context.user_id

        def answer() -> Plan[MessageView | None]:
            if reply is None:
                return None
            known = yield from get_tool_call(user_id, call.event_id)
            return (yield from get_answer(user_id, known))

        def same_answer(conflict: Conflict | NotFound) -> Plan[MessageView | None]:
            if not isinstance(conflict, IdempotencyConflict) or conflict.key != outcome_key:
                raise conflict
            known = yield from get_tool_call(user_id, call.event_id)
            if not _ended_so(known, data):
                raise conflict
            message = None if reply is None else (yield from get_answer(user_id, known))
            # The tool's output may be the same, and what the model was given another.
            if (
                message is not None
                and message.id == message_id
                and message.edited_at is None
                and dumps(message.body) != dumps(reply)
            ):
                raise conflict
            return message

        retrying = self._work.context.retrying
        return Handle(
            message_id,
            message_id,
            lambda outcome: None if reply is None else posted_message(outcome, message_id),
            on_conflict=lambda conflict: retrying(lambda: same_answer(conflict)),
            on_repeat=lambda: retrying(answer),
        )


def _ended_so(call: ToolCallView, outcome: ToolCallOutcome) -> bool:
    """Return whether a call ended with an outcome, whatever recorded it."""
    match outcome:
        case ToolCallSucceeded(result=output):
            status, recorded, value = "succeeded", call.output, output
        case ToolCallFailed(error=error):
            status, recorded, value = "failed", call.error, error
        case _:
            return False
    return call.status == status and dumps(recorded) == dumps(value)


def _require_reference(call: object) -> None:
    if not (hasattr(call, "event_id") and hasattr(call, "call_id") and hasattr(call, "message_id")):
        fact = f"a {type(call).__name__}; give what request or find returned"
        raise InvalidInput("call", fact)


def _reply(call: ToolCallReference, shown: Any, content: object) -> dict[str, Any] | None:
    """Return the tool's message; None of a call that is in no history."""
    _require_reference(call)
    if call.message_id is not None:
        return tool_body(call.call_id, shown)
    if content is not None:
        raise InvalidInput("content", "needs a message; the call is in no history")
    return None


_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class ToolCallQueries(Queries):
    """The queries on a user's tool calls, as plans."""

    def find(self, conversation: UUID | str, call_id: str) -> Plan[ToolCallView]:
        """
        Return the newest call with that name in a conversation; one round trip.

        This is for a process that knows only the model's name for the call. Models repeat names;
        the newest call is returned. Index: `tool_call_call_id`.

        :param conversation: its id or key.
        :param call_id: the model's name for the call.
        :raises NotFound: no such call, or not this user's.
        """
        context = self.context
        return context.about_conversation(
            conversation, lambda resolved: find_tool_call(context.user_id, resolved, call_id)
        )

    def get(self, call: UUID | str) -> Plan[ToolCallView]:
        """
        Return a call by its id; one round trip. Index: `tool_call_pkey`.

        :param call: the `id` of a call, which is that of the event that requested it.
        :raises NotFound: no such call, or not this user's.
        """
        context, call_id = self.context, parse_id(call, "tool call")
        return context.retrying(lambda: get_tool_call(context.user_id, call_id))

    def list(
        self,
        *,
        conversation: UUID | str | None = None,
        status: ToolCallStatus | None = "pending",
        requested_before: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Plan[Page[ToolCallView]]:
        """
        Return calls in the order of their requests; one round trip.

        Pending ones come from the index `tool_call_pending`, whatever the length of the log.

        :param conversation: its id or key; None for all of the user's.
        :param status: None for all.
        :param requested_before: with time zone: only calls that are older.
        :param after: `next` of the page before, with the same `conversation` and `status`.
        :param limit: calls on a page.
        :raises InvalidInput: a parameter does not fit.
        """
        if status is not None:
            check_choice(status, "status", get_args(ToolCallStatus.__value__))
        if requested_before is not None:
            check_timestamp(requested_before, "requested_before")
        context = self.context
        return context.about_one_or_all(
            conversation,
            lambda resolved: list_tool_calls(
                context.user_id,
                conversation=resolved,
                status=status,
                requested_before=requested_before,
                after=after,
                limit=limit,
            ),
        )

    def wait(self, call: ToolCallReference, *, seconds: float) -> Plan[ToolCallView]:
        """
        Return a call once it has ended, or as it is when the time is over.

        Asks again and again, at first after 50 milliseconds, later every second.

        :param call: what `request`, `claim` or `find` returned.
        :param seconds: how long to wait at most.
        :raises NotFound: the call is another user's.
        """
        _require_reference(call)
        deadline, pause = time.monotonic() + seconds, _FIRST_PAUSE_SECONDS
        while True:
            known = yield from self.get(call.event_id)
            left = deadline - time.monotonic()
            if known.status != "pending" or left <= 0:
                return known
            yield Pause(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class ToolCalls(SyncFacade[ToolCallQueries]):
    """A user's tool calls."""

    _commands = ToolCallCommands

    request = sync_command(ToolCallCommands.request)
    claim = sync_command(ToolCallCommands.claim)
    succeed = sync_command(ToolCallCommands.succeed)
    fail = sync_command(ToolCallCommands.fail)
    abandon = sync_command(ToolCallCommands.abandon)
    find = sync_method(ToolCallQueries.find)
    get = sync_method(ToolCallQueries.get)
    list = sync_method(ToolCallQueries.list)
    wait = sync_method(ToolCallQueries.wait)


class AsyncToolCalls(AsyncFacade[ToolCallQueries]):
    """A user's tool calls."""

    _commands = ToolCallCommands

    request = async_command(ToolCallCommands.request)
    claim = async_command(ToolCallCommands.claim)
    succeed = async_command(ToolCallCommands.succeed)
    fail = async_command(ToolCallCommands.fail)
    abandon = async_command(ToolCallCommands.abandon)
    find = async_method(ToolCallQueries.find)
    get = async_method(ToolCallQueries.get)
    list = async_method(ToolCallQueries.list)
    wait = async_method(ToolCallQueries.wait)
