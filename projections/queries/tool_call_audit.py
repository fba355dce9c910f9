"""
The trail of tool calls, read from the log alone.

Pairs each request with its outcome, shows what is pending or failed and what each call caused.
Nothing has side effects, unless the caller hands over functions to run recorded calls again.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import NotFound
from eventstore.events.erasure import ErasedEvent
from eventstore.events.json_codec import check_json, loads
from eventstore.events.registry import EventRegistry
from eventstore.events.tool_calls import (
    ToolCallFailed,
    ToolCallOutcome,
    ToolCallRequested,
    ToolCallSucceeded,
)
from eventstore.log.envelope import PointInTime, RecordedEvent
from eventstore.log.read import Selection, read_all_events
from projections.models.tool_call import ToolCallStatus

__all__ = ["AuditEntry", "Caused", "Rerun", "audit", "rerun"]


type AuditStatus = ToolCallStatus | Literal["erased"]


@dataclass(frozen=True, slots=True)
class Caused:
    """An event that named the call's request as its cause."""

    position: int
    type: str
    stream_id: UUID


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """
    One tool call, as the log tells it.

    :ivar status: `erased` where the request's payload was: then only its place and time are known.
    :ivar position: of the request.
    :ivar output: what the tool returned, or None; `error` likewise for a failed one.
    """

    user_id: str
    conversation_id: UUID
    call_id: str
    name: str
    arguments: str
    status: AuditStatus
    output: Any
    error: Any
    requested_at: datetime
    finished_at: datetime | None
    position: int
    caused: tuple[Caused, ...] = ()

    @property
    def duration_ms(self) -> float | None:
        """Milliseconds from request to outcome, or None while it is pending."""
        if self.finished_at is None:
            return None
        return (self.finished_at - self.requested_at).total_seconds() * 1000


type RerunResult = Literal["same", "different", "raised", "no_function", "bad_arguments", "skipped"]


@dataclass(frozen=True, slots=True)
class Rerun:
    """
    What running a recorded call again gave.

    :ivar result: `same` or `different` output, `raised`, `no_function` of that name,
        `bad_arguments` (not a JSON object), or `skipped` (it never succeeded, nothing to compare).
    """

    entry: AuditEntry
    result: RerunResult
    output: Any = None
    error: str | None = None


def audit(
    user_id: str,
    registry: EventRegistry,
    *,
    conversation: UUID | None = None,
    moment: PointInTime,
) -> Plan[list[AuditEntry]]:
    """
    Return one user's tool calls in the order of their requests, as of `moment`.

    Reads the whole log of the user, a page a round trip.

    :param conversation: only calls of this conversation; what they caused may be elsewhere.
    :raises NotFound: the log has nothing of that conversation.
    :raises CorruptLog: an event of the log cannot be read.
    """
    # What a call caused may be anywhere after it, and an index on causes would cost every append.
    events = yield from read_all_events(user_id, Selection(moment=moment), registry)
    if conversation is not None and not any(one.stream_id == conversation for one in events):
        raise NotFound("conversation", conversation)
    return _paired(events, conversation)


def _paired(events: Iterable[RecordedEvent], conversation: UUID | None) -> list[AuditEntry]:
    entries: dict[UUID, AuditEntry] = {}  # by the id of the request's event
    for event in events:
        match event.data:
            case ToolCallRequested() as call:
                if conversation is None or event.stream_id == conversation:
                    entries[event.event_id] = _requested(event, call)
            case ToolCallOutcome(request_event_id=request) as outcome:
                entry = entries.get(request)
                if (
                    entry is not None
                    and entry.status == "pending"  # the first outcome counts
                    and entry.conversation_id == event.stream_id
                ):
                    entries[request] = _ended(entry, event, outcome)
            case ErasedEvent(erased_type=ToolCallRequested.type):
                if conversation is None or event.stream_id == conversation:
                    entries[event.event_id] = _request_erased(event)
            case _:
                pass
        cause = event.causation_id
        if cause in entries:
            caused = Caused(event.position, event.type, event.stream_id)
            entries[cause] = replace(entries[cause], caused=(*entries[cause].caused, caused))
    return list(entries.values())


def _requested(event: RecordedEvent, call: ToolCallRequested) -> AuditEntry:
    return AuditEntry(
        event.user_id,
        event.stream_id,
        call.call_id,
        call.name,
        call.arguments,
        "pending",
        None,
        None,
        event.recorded_at,
        None,
        event.position,
    )


def _request_erased(event: RecordedEvent) -> AuditEntry:
    return AuditEntry(
        event.user_id,
        event.stream_id,
        "",
        "",
        "",
        "erased",
        None,
        None,
        event.recorded_at,
        None,
        event.position,
    )


def _ended(entry: AuditEntry, event: RecordedEvent, outcome: ToolCallOutcome) -> AuditEntry:
    match outcome:
        case ToolCallSucceeded():
            return replace(
                entry, status="succeeded", output=outcome.result, finished_at=event.recorded_at
            )
        case ToolCallFailed(error=error):
            return replace(entry, status="failed", error=error, finished_at=event.recorded_at)
        case _:
            return entry


def rerun(
    entries: Iterable[AuditEntry], functions: Mapping[str, Callable[..., object]]
) -> list[Rerun]:
    """
    Run recorded calls again against `functions` and compare what they return.

    Only calls that succeeded are run. Nothing is recorded.

    :param functions: by tool name, `async` ones too; called with the recorded arguments as
        keywords. They should have no side effects: the store does not know what they do.
    :return: one result for each entry, in their order; errors of the functions are results.
    """
    return [_run_again(entry, functions.get(entry.name)) for entry in entries]


def _run_again(entry: AuditEntry, function: Callable[..., object] | None) -> Rerun:
    if entry.status != "succeeded":
        return Rerun(entry, "skipped")
    if function is None:
        return Rerun(entry, "no_function")
    try:
        arguments = loads(entry.arguments) if entry.arguments.strip() else {}
    except ValueError as error:
        return Rerun(entry, "bad_arguments", error=str(error))
    if not isinstance(arguments, dict):
        return Rerun(entry, "bad_arguments", error="the arguments are not a JSON object")
    try:
        returned = function(**arguments)
        if inspect.iscoroutine(returned):
            returned = asyncio.run(returned)
        # What is recorded is JSON, so the answer is compared in that form: tuples as lists.
        output = check_json(returned, "output")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the function raises is the answer
        return Rerun(entry, "raised", error=f"{type(error).__name__}: {error}")
    same = output == entry.output or _parsed(entry.output) == output
    return Rerun(entry, "same" if same else "different", output)


def _parsed(output: Any) -> Any:
    """Return the JSON that a text output holds: tools often return their result written out."""
    try:
        return loads(output) if isinstance(output, str) else output
    except ValueError:
        return output
