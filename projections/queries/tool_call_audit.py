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
from operator import attrgetter
from typing import Any, Literal
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import NotFound
from eventstore.events.erasure import ErasedEvent
from eventstore.events.json_codec import check_json, loads
from eventstore.events.registry import EventRegistry
from eventstore.events.tool_calls import ToolCallRequested
from eventstore.log.envelope import PointInTime, RecordedEvent
from eventstore.log.read import Selection, for_each_event
from projections.apply.replay import Replay
from projections.apply.table_shape import Row
from projections.models.tool_call import CALL_EVENTS, ToolCall, ToolCallStatus
from projections.projector import Projections

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
    :ivar requested_at: when that happened, as its caller told, or else when it was recorded;
        `finished_at` likewise.
    :ivar position: of the request.
    :ivar recorded_at: when the request was recorded, by the server's clock.
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
    recorded_at: datetime
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


# What a call caused may be anywhere after it. Its own claims and outcomes stand in its conversation
# and are not in the index, as the condition on the type says. Index: event_caused.
_CAUSED = """
select causation_id, position, type, stream_id
from eventstore.event
where user_id = $1
  and causation_id = any($2)
  and type not in ('ToolCallClaimed', 'ToolCallSucceeded', 'ToolCallFailed', 'ToolCallAbandoned')
  and stream_id <> $3
  and position <= coalesce($4, 9223372036854775807)
  and recorded_at <= coalesce($5, 'infinity'::timestamptz)
"""


def audit(
    user_id: str,
    projections: Projections,
    registry: EventRegistry,
    *,
    conversation: UUID | None = None,
    moment: PointInTime,
) -> Plan[list[AuditEntry]]:
    """
    Return one user's tool calls in the order of their requests, as of `moment`.

    Reads the log alone: all of it, a page a round trip, or the conversation's stream and, along
    `event_caused`, what its calls caused elsewhere.

    :param conversation: only calls of this conversation; what they caused may be elsewhere.
    :raises NotFound: the log has nothing of that conversation.
    :raises CorruptLog: an event of the log cannot be read.
    """
    wanted = Selection(stream_id=conversation, moment=moment)
    calls = _Calls(Replay(projections.of(ToolCall)))
    yield from for_each_event(user_id, wanted, registry, calls.apply)
    if conversation is not None and not calls.events:
        raise NotFound("conversation", conversation)
    entries, caused = calls.entries(), calls.caused
    if conversation is not None and entries:
        parameters = (user_id, list(entries), conversation, *moment.bounds)
        (rows,) = yield Batch(user_scope(user_id), (Statement(_CAUSED, parameters),))
        for cause, *event in rows:
            caused.setdefault(cause, []).append(Caused(*event))
    return [
        replace(entry, caused=tuple(sorted(caused.get(event_id, ()), key=attrgetter("position"))))
        for event_id, entry in entries.items()
    ]


class _Calls:
    """
    The calls of the events applied so far, and what those events name as their cause.

    :ivar events: how many there were.
    :ivar caused: by the id of the causing event, which need not be a request.
    """

    # The projector of the read model decides how a call ends, so that what is found, what a history
    # shows and what the audit tells are the same.
    def __init__(self, replay: Replay) -> None:
        self.events = 0
        self.caused: dict[UUID, list[Caused]] = {}
        self._replay = replay
        self._requests: dict[UUID, RecordedEvent] = {}

    def apply(self, event: RecordedEvent) -> None:
        """Take in the next event."""
        self.events += 1
        if event.causation_id is not None:
            effect = Caused(event.position, event.type, event.stream_id)
            self.caused.setdefault(event.causation_id, []).append(effect)
        match event.data:
            case ErasedEvent(erased_type=ToolCallRequested.type):
                self._requests[event.event_id] = event
            case ToolCallRequested():
                self._requests[event.event_id] = event
                self._replay.apply(event)
            case data if isinstance(data, CALL_EVENTS):
                self._replay.apply(event)
            case _:
                pass

    def entries(self) -> dict[UUID, AuditEntry]:
        """Return the calls by the id of the event that requested them, in that order."""
        rows = self._replay.rows(ToolCall)
        return {
            event_id: _request_erased(event) if event.erased else _entry(event, rows[event_id,])
            for event_id, event in self._requests.items()
        }


def _entry(event: RecordedEvent, row: Row) -> AuditEntry:
    return AuditEntry(
        event.user_id,
        row["conversation_id"],
        row["call_id"],
        row["name"],
        row["arguments"],
        row["status"],
        row["output"],
        row["error"],
        row["requested_at"],
        row["finished_at"],
        row["position"],
        event.recorded_at,
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
        event.occurred_at,
        None,
        event.position,
        event.recorded_at,
    )


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
