"""
Units of work: several commands as one append.

A command is a method of a `Commands` class. It adds steps to a unit of work without touching the
database and returns a `Handle`. Committing takes one round trip if every step is a certain event,
or two if some steps are decisions: the first one reads what they depend on, then they decide in
Python, and the append expects exactly the versions that were read. If another append came in
between, they are read and decided again, a bounded number of times.

The rows as they are afterwards are computed by the projectors, from what was read and what was
recorded, so a command's answer costs no further round trip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import IdempotencyConflict, NotFound, WrongVersion
from eventstore.events.event import Event
from eventstore.events.fields import MAX_KEY, check_label
from eventstore.log.append import append, first_result, recorded_events
from eventstore.log.append_request import envelope_of, prepare_append
from eventstore.log.envelope import Expected, ExpectedVersion, NewEvent, RecordedEvent
from eventstore.log.ids import NewId, derived_ids, resolve_conversation, uuid7
from eventstore.log.read import Selection, read_all_events
from eventstore.store.context import UserContext
from eventstore.store.decisions import (
    CallerVersionConflict,
    Cause,
    Decision,
    event_id_of,
    expect_version,
)
from eventstore.store.read_for_decision import DecisionState, read_for_decision
from projections import Conversation, Message, Task
from projections.apply.live import live_statements
from projections.apply.replay import Replay, Row

__all__ = ["Commands", "Handle", "Outcome", "UnitOfWork", "check_key", "run_command"]

_ATTEMPTS = 10
"""Rounds of reading and deciding before a conflict is reported to the caller."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What a commit did.

    :ivar recorded: the events in order; none if every decision found nothing to change.
    :ivar replay: the rows that were read or created, as they are now.
    """

    recorded: list[RecordedEvent]
    replay: Replay

    def row(self, table: type[Any], key: UUID) -> Row:
        """Return the row of something that this unit of work created or changed."""
        return self.replay.rows(table)[key,]


@dataclass(frozen=True, slots=True)
class Handle[V]:
    """
    What a command in a transaction returns, before anything is written.

    :ivar id: of the entity that the command is about, known at once.
    :ivar event_id: of the command's event; give the handle as `caused_by` of later commands.
    :ivar view: makes the command's answer from the outcome.
    :ivar on_conflict: answers instead of a `WrongVersion`, where the command runs alone.
    """

    id: UUID
    event_id: UUID
    view: Callable[[Outcome], V] = field(repr=False)
    on_conflict: Callable[[WrongVersion], Plan[V]] | None = field(default=None, repr=False)


class Commands:
    """
    The base of the command classes; each command adds steps to one unit of work.

    An instance is what a transaction offers (`tx.tasks`, …).
    """

    def __init__(self, work: UnitOfWork) -> None:
        self._work = work


def run_command[V](context: UserContext, record: Callable[[UnitOfWork], Handle[V]]) -> Plan[V]:
    """
    Commit one command in a unit of work of its own, and return its answer.

    :param record: adds the command to the unit of work.
    """
    work = UnitOfWork(context)
    handle = record(work)
    try:
        outcome = yield from work.commit()
    except WrongVersion as conflict:
        if handle.on_conflict is None:
            raise
        return (yield from handle.on_conflict(conflict))
    return handle.view(outcome)


class UnitOfWork:
    """Steps that are committed together, under the idempotency key of the context if it has one."""

    def __init__(self, context: UserContext) -> None:
        key = context.idempotency_key
        self.context = context
        self.new_id: NewId = uuid7 if key is None else derived_ids(context.user_id, key)
        self.steps: list[NewEvent | Decision] = []
        self.default_key: str | None = None
        """The key if the caller gave none, so that a tool call's outcome is recorded once."""
        self._references: dict[UUID, UUID | str] = {}

    def conversation(self, reference: UUID | str) -> UUID:
        """Return the id of the conversation that a command names by its id or its key."""
        resolved = resolve_conversation(self.context.user_id, reference)
        self._references[resolved] = reference
        return resolved

    def record(
        self,
        stream_id: UUID,
        data: Event,
        *,
        expected: ExpectedVersion = Expected.EXISTS,
        caused_by: Cause = None,
    ) -> NewEvent:
        """Add an event that is certain."""
        event = NewEvent(
            stream_id=stream_id,
            data=data,
            expected=expected,
            event_id=self.new_id(),
            correlation_id=self.context.correlation_id,
            causation_id=event_id_of(caused_by),
            metadata=self.context.metadata,
        )
        self.steps.append(event)
        return event

    def decide(
        self,
        table: type[Task | Conversation | Message],
        key: UUID,
        decide: Callable[[Row], Event | None],
        *,
        stream_id: UUID | None = None,
        caused_by: Cause = None,
    ) -> Decision:
        """Add a decision on the row of `table` with this id."""
        decision = Decision(
            table, key, stream_id or key, decide, self.new_id(), event_id_of(caused_by)
        )
        self.steps.append(decision)
        return decision

    @property
    def key(self) -> str:
        """The append's idempotency key, the same in every attempt whatever is decided in it."""
        return self.context.idempotency_key or self.default_key or str(self.steps[0].event_id)

    def commit(self) -> Plan[Outcome]:
        """
        Append all steps, or nothing.

        :raises NotFound: a step is about something that this user does not have.
        :raises Conflict: another append came first; see the tree in `errors`.
        """
        try:
            return (yield from self.context.retrying(self._attempts))
        except NotFound as error:
            reference = self._references.get(error.key) if isinstance(error.key, UUID) else None
            if reference is None or reference == error.key:
                raise
            raise NotFound(error.kind, reference) from None

    def _attempts(self) -> Plan[Outcome]:
        decisions = self._decisions()
        attempt = 0
        while True:
            attempt += 1
            try:
                return (yield from self._attempt(decisions))
            except WrongVersion as conflict:
                if conflict.stream_id not in {one.stream_id for one in decisions}:
                    raise self._not_found(conflict) from None
                if isinstance(conflict, CallerVersionConflict):
                    raise WrongVersion(
                        conflict.stream_id, conflict.expected, conflict.actual
                    ) from None
                if attempt == _ATTEMPTS:
                    raise

    def _attempt(self, decisions: list[Decision]) -> Plan[Outcome]:
        state = DecisionState({}, {}, None)
        if decisions:
            state = yield from read_for_decision(self.context.user_id, self.key, decisions)
        if state.existing_position is not None:
            return (yield from self._answer_retry(state.existing_position, decisions))
        events = self._decide_all(self._replay_of(state.rows), state.versions)
        replay = self._replay_of(state.rows)
        if not events:
            return Outcome([], replay)
        request = prepare_append(self.context.user_id, events, self.key)
        changes = live_statements(self.context.projections, request.envelopes)
        recorded = yield from append(request, changes)
        replay.apply(recorded)
        return Outcome(recorded, replay)

    def _decisions(self) -> list[Decision]:
        """Return one decision per row that existed before this unit of work."""
        created = {
            step.stream_id
            for step in self.steps
            if isinstance(step, NewEvent) and step.expected == Expected.NEW
        }
        by_row = {
            (step.table, step.key): step
            for step in self.steps
            if isinstance(step, Decision) and step.stream_id not in created
        }
        return list(by_row.values())

    def _replay_of(self, rows: dict[Decision, Row]) -> Replay:
        """Return a replay that begins with the rows that were read."""
        replay = Replay(self.context.projections)
        for decision, row in rows.items():
            replay.rows(decision.table)[decision.key,] = dict(row)
        return replay

    def _decide_all(self, replay: Replay, versions: dict[UUID, int]) -> list[NewEvent]:
        """Turn every step into its event; a decision sees what the steps before it did."""
        events: list[NewEvent] = []
        deciding = any(isinstance(step, Decision) for step in self.steps)
        for step in self.steps:
            event = step if isinstance(step, NewEvent) else self._decide_one(step, replay)
            if event is None:
                continue
            if event.stream_id in versions:
                event = expect_version(event, versions[event.stream_id])
            events.append(event)
            if deciding:
                replay.apply(_as_if_recorded(self.context.user_id, event))
        return events

    def _decide_one(self, step: Decision, replay: Replay) -> NewEvent | None:
        row = replay.rows(step.table).get((step.key,))
        if row is None:
            raise NotFound(str(step.table.__tablename__), step.key)
        data = step.decide(row)
        if data is None:
            return None
        return NewEvent(
            stream_id=step.stream_id,
            data=data,
            event_id=step.event_id,
            correlation_id=self.context.correlation_id,
            causation_id=step.causation_id,
            metadata=self.context.metadata,
        )

    def _answer_retry(self, position: int, decisions: list[Decision]) -> Plan[Outcome]:
        """
        Answer a retry: decide again as of just before the first append, and compare with it.

        The rows have moved on since. A decision on what they are now would not tell a retry from
        another use of the key.
        """
        context, key = self.context, self.key
        replay, answer = Replay(context.projections), Replay(context.projections)
        for stream_id in {one.stream_id for one in decisions}:
            before = Selection(stream_id=stream_id, before=position)
            past = yield from read_all_events(context.user_id, before, context.registry)
            replay.apply(past)
            answer.apply(past)
        try:
            events = self._decide_all(replay, {})
        except NotFound:
            events = []
        if not events:
            raise IdempotencyConflict(key, position)
        first = yield from first_result(prepare_append(context.user_id, events, key))
        answer.apply(first)
        return Outcome(first, answer)

    def _not_found(self, conflict: WrongVersion) -> Exception:
        """Return NotFound where a stream that must exist does not, else the conflict itself."""
        if conflict.expected != Expected.EXISTS:
            return conflict
        certain = [step for step in self.steps if isinstance(step, NewEvent)]
        kinds = {step.stream_id: step.data.stream_kind for step in certain}
        return NotFound(kinds[conflict.stream_id], conflict.stream_id)


def check_key(idempotency_key: str | None) -> str | None:
    """
    Return a caller's idempotency key if it can be one.

    :raises InvalidInput: not text, blank, or over 255 characters.
    """
    if idempotency_key is not None:
        check_label(idempotency_key, "idempotency_key", MAX_KEY)
    return idempotency_key


def _as_if_recorded(user_id: str, event: NewEvent) -> list[RecordedEvent]:
    """Return an event as if it were recorded now, for the decisions that follow it."""
    return recorded_events([envelope_of(user_id, event)], 0, datetime.now(UTC), [0])
