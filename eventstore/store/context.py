"""What the plans of one user need to know: whose log it is, how to read it, what to add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from eventstore.database.plan import Plan, Statement, retrying
from eventstore.database.settings import LONGEST_SECONDS
from eventstore.errors import InvalidInput, NotFound, OutcomeUnknown
from eventstore.events.fields import check_number
from eventstore.events.registry import EventRegistry
from eventstore.log.append_request import AppendRequest, prepare_append
from eventstore.log.envelope import NOW, NewEvent, PointInTime
from eventstore.log.ids import (
    parse_uuid,
    resolve_conversation,
    standard_uuid,
    with_given_reference,
)
from projections import Projections
from projections.apply.live import live_statements
from projections.changes import RowChange

__all__ = [
    "AsOf",
    "PreparedAppend",
    "Queries",
    "UserContext",
    "check_deadline",
    "parse_id",
    "point_in_time",
]

type AsOf = int | datetime | None
"""A position, a timestamp with time zone, or None for now."""


class PreparedAppend(NamedTuple):
    """
    A checked append with what the projectors make of it.

    :ivar changes: by event, as values; `row_changes` are the statements that write them.
    """

    request: AppendRequest
    changes: list[list[RowChange]]
    row_changes: list[Statement]


@dataclass(frozen=True, slots=True)
class UserContext:
    """
    One user of one store.

    :ivar idempotency_key: the key of what is appended, or None.
    :ivar correlation_id: put on every event that is appended, like `metadata` and `occurred_at`.
    """

    user_id: str
    projections: Projections
    registry: EventRegistry
    idempotency_key: str | None = None
    correlation_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    occurred_at: datetime | None = None

    def prepared(
        self, events: Sequence[NewEvent], key: str | None = None, *, foreign: bool = False
    ) -> PreparedAppend:
        """
        Check events, and run the projectors on them.

        :param key: the idempotency key of their append.
        :param foreign: the events are a caller's, and their classes may not be registered.
        :raises InvalidInput: a value cannot be stored; the message has its path.
        :raises BatchTooLarge: more than 1,000 events, or 64 MiB of JSON.
        """
        request = prepare_append(self.user_id, events, key)
        if foreign:  # one could be written and never be read back
            for number, event in enumerate(events):
                self.registry.require(event.data, f"events[{number}].data")
        changes = [self.projections.project(envelope) for envelope in request.envelopes]
        row_changes = live_statements(self.projections, request.envelopes, changes)
        return PreparedAppend(request, changes, row_changes)

    def retrying[T](
        self,
        attempt: Callable[[], Plan[T]],
        unknown: Callable[[], OutcomeUnknown | None] = lambda: None,
    ) -> Plan[T]:
        """
        Run a plan, again while the connection is lost, until the deadline of the call.

        :param attempt: makes the plan anew for each attempt, because a generator runs once.
        :param unknown: of a plan that writes; see `plan.retrying`.
        """
        return retrying(attempt, unknown=unknown)

    def outcome_unknown(self, *requests: AppendRequest) -> OutcomeUnknown:
        """
        Return the error of an append that may have been written.

        :param requests: what was sent; several, if they are one transaction.
        """
        ids = [envelope.event_id for request in requests for envelope in request.envelopes]
        return OutcomeUnknown(requests[0].idempotency_key, ids)

    def about_conversation[T](
        self, reference: UUID | str, plan: Callable[[UUID], Plan[T]]
    ) -> Plan[T]:
        """
        Run a plan about the conversation that the caller named by its id or its key.

        :param plan: makes the plan, given the conversation's id.
        :raises InvalidInput: the reference is neither a UUID nor text.
        :raises NotFound: the plan raised it; the error names the conversation as the caller did.
        """
        # Computed and not looked up: the id of a key is derived from user and key.
        resolved = resolve_conversation(self.user_id, reference)
        return with_given_reference(self.retrying(lambda: plan(resolved)), reference, resolved)

    def about_one_or_all[T](
        self, reference: UUID | str | None, plan: Callable[[UUID | None], Plan[T]]
    ) -> Plan[T]:
        """
        Run a plan about one conversation as `about_conversation` does, or, for None, about all.

        :param plan: makes the plan, given the conversation's id or None.
        """
        if reference is None:
            return self.retrying(lambda: plan(None))
        return self.about_conversation(reference, plan)


@dataclass(frozen=True, slots=True)
class Queries:
    """The base of the query classes: plans that read for one user."""

    context: UserContext


def check_deadline(seconds: float) -> float:
    """
    Return how long a call may take, if it is a number of seconds that PostgreSQL can hold.

    :raises InvalidInput: it is none.
    """
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= LONGEST_SECONDS:
        raise InvalidInput("seconds", f"give a number over 0, up to {LONGEST_SECONDS:,}")
    return seconds


def parse_id(value: UUID | str, kind: str) -> UUID:
    """
    Return an id that may come as text, as tool arguments do.

    :param kind: what the id is of, for error messages: `task`, `message`.
    :raises NotFound: a text that is no UUID; nothing has such an id.
    :raises InvalidInput: neither a UUID nor text.
    """
    match value:
        case UUID():
            return standard_uuid(value)
        case str():
            if (parsed := parse_uuid(value)) is None:
                # A model that makes an id up gets the answer that any unknown id gets.
                raise NotFound(kind, value)
            return parsed
        case _:
            raise InvalidInput(kind, f"a {type(value).__name__}; give its id")


def point_in_time(as_of: AsOf) -> PointInTime:
    """
    Return the moment that a caller's `as_of` means.

    :raises InvalidInput: neither a position, nor a timestamp with time zone, nor None.
    """
    match as_of:
        case None:
            return NOW
        # Before `int`, whose subclass it is: True would be the position 1.
        case bool():
            raise InvalidInput("as_of", "a bool; give a position or a timestamp")
        case int():
            return PointInTime(position=check_number(as_of, "as_of"))
        case datetime():
            # Without a zone it would be another moment on each machine.
            if as_of.tzinfo is None:
                raise InvalidInput("as_of", "a timestamp without time zone; attach one")
            return PointInTime(timestamp=as_of)
        case _:
            raise InvalidInput("as_of", f"a {type(as_of).__name__}; give a position or a timestamp")
