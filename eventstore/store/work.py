"""
Work: several commands as one append.

Commands are recorded as steps without touching the database. Committing them takes one round trip
if every step is certain, or two if some must look first: then what they look at is read, they
decide in Python, and the append expects exactly the versions that were seen. If another append
came between, they look and decide again, a bounded number of times.

What the rows are afterwards is computed by the projectors from what was read and what was
recorded, so a command's answer costs no further round trip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import IdempotencyConflict, NotFound, WrongVersion
from eventstore.events.event import Event
from eventstore.events.limits import MAX_KEY, check_label
from eventstore.log.append import append, first_result, recorded
from eventstore.log.envelope import Expected, ExpectedVersion, NewEvent, RecordedEvent
from eventstore.log.identity import NewId, derived_ids, uuid7
from eventstore.log.prepare import fact_of, prepare_append
from eventstore.log.read import Selection, every_page
from eventstore.store.context import UserContext
from eventstore.store.look import Seen, look
from eventstore.store.steps import (
    CallersVersion,
    Cause,
    Decision,
    Handle,
    event_id_of,
    pinned,
)
from projections import Conversation, Message, Task
from projections.live import live_statements
from projections.replay import Replay, Row

__all__ = ["Outcome", "Work"]

_ATTEMPTS = 10
"""Look-and-decide rounds before a conflict is the caller's: a person's clicks never need three."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    What committing did.

    :ivar recorded: the events in order; none if every decision found nothing to change.
    :ivar replay: the rows of what was looked at or created, as they are now.
    """

    recorded: list[RecordedEvent]
    replay: Replay

    def row(self, table: type[Any], key: UUID) -> Row:
        """Return the row of a thing this work created or changed."""
        return self.replay.rows(table)[key,]


class Work:
    """Steps to be committed together."""

    def __init__(self, context: UserContext, idempotency_key: str | None = None) -> None:
        self.context = context
        if idempotency_key is not None:
            check_label(idempotency_key, "idempotency_key", MAX_KEY)
        self.idempotency_key = idempotency_key
        self.new_id: NewId = (
            uuid7 if idempotency_key is None else derived_ids(context.user_id, idempotency_key)
        )
        self.steps: list[NewEvent | Decision] = []
        self.default_key: str | None = None
        """Used if the caller gave none: the outcome of a tool call is recorded once."""

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
    ) -> Handle:
        """Add a step that looks first."""
        decision = Decision(
            table, key, stream_id or key, decide, self.new_id(), event_id_of(caused_by)
        )
        self.steps.append(decision)
        return Handle(key, decision.event_id)

    @property
    def key(self) -> str:
        """The append's idempotency key: the same in every attempt, whatever is decided in it."""
        return self.idempotency_key or self.default_key or str(self.steps[0].event_id)

    def commit(self) -> Plan[Outcome]:
        """
        Append all steps, or nothing.

        :raises NotFound: a step is about something this user does not have.
        :raises Conflict: see the tree; nothing was written.
        """
        return self.context.retrying(self._attempts)

    def _attempts(self) -> Plan[Outcome]:
        looked_at = self._looked_at()
        attempt = 0
        while True:
            attempt += 1
            try:
                return (yield from self._attempt(looked_at))
            except WrongVersion as conflict:
                if conflict.stream_id not in {one.stream_id for one in looked_at}:
                    raise self._missing(conflict) from None
                if isinstance(conflict, CallersVersion):
                    raise WrongVersion(
                        conflict.stream_id, conflict.expected, conflict.actual
                    ) from None
                if attempt == _ATTEMPTS:
                    raise

    def _attempt(self, looked_at: list[Decision]) -> Plan[Outcome]:
        seen = Seen({}, {}, None)
        if looked_at:
            seen = yield from look(self.context.user_id, self.key, looked_at)
        if seen.keyed is not None:
            return (yield from self._decided_before(seen.keyed, looked_at))
        events = self._decided(self._seeded(seen.rows), seen.versions)
        replay = self._seeded(seen.rows)
        if not events:
            return Outcome([], replay)
        request = prepare_append(self.context.user_id, events, self.key)
        changes = live_statements(self.context.projections, request.facts)
        events_now = yield from append(request, changes)
        replay.see(events_now)
        return Outcome(events_now, replay)

    def _looked_at(self) -> list[Decision]:
        """Return the decisions about what was there before this work, once per row."""
        created = {
            step.stream_id
            for step in self.steps
            if isinstance(step, NewEvent) and step.expected == Expected.NEW
        }
        rows = {
            (step.table, step.key): step
            for step in self.steps
            if isinstance(step, Decision) and step.stream_id not in created
        }
        return list(rows.values())

    def _seeded(self, rows: dict[Decision, Row]) -> Replay:
        replay = Replay(self.context.projections)
        for decision, row in rows.items():
            replay.rows(decision.table)[decision.key,] = dict(row)
        return replay

    def _decided(self, trial: Replay, versions: dict[UUID, int]) -> list[NewEvent]:
        """Turn every step into its event, each decision seeing what the steps before it did."""
        events: list[NewEvent] = []
        deciding = any(isinstance(step, Decision) for step in self.steps)
        for step in self.steps:
            event = step if isinstance(step, NewEvent) else self._made(step, trial)
            if event is None:
                continue
            if event.stream_id in versions:
                event = pinned(event, versions[event.stream_id])
            events.append(event)
            if deciding:
                trial.see(_anticipated(self.context.user_id, event))
        return events

    def _made(self, step: Decision, trial: Replay) -> NewEvent | None:
        row = trial.rows(step.table).get((step.key,))
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

    def _decided_before(self, keyed: int, looked_at: list[Decision]) -> Plan[Outcome]:
        """
        Answer a retry: decide again as of just before the first append, and compare with it.

        The state has moved on since, so deciding on what is there now would not tell a retry from
        a key used twice.
        """
        context, key = self.context, self.key
        trial, replay = Replay(context.projections), Replay(context.projections)
        for stream_id in {one.stream_id for one in looked_at}:
            before = Selection(stream_id=stream_id, before=keyed)
            past = yield from every_page(context.user_id, before, context.registry)
            trial.see(past)
            replay.see(past)
        try:
            events = self._decided(trial, {})
        except NotFound:
            events = []
        if not events:
            raise IdempotencyConflict(key, keyed)
        first = yield from first_result(prepare_append(context.user_id, events, key))
        replay.see(first)
        return Outcome(first, replay)

    def _missing(self, conflict: WrongVersion) -> Exception:
        """Return NotFound where the conflict is that something expected to exist does not."""
        if conflict.expected != Expected.EXISTS:
            return conflict
        certain = [step for step in self.steps if isinstance(step, NewEvent)]
        kinds = {step.stream_id: step.data.stream_kind for step in certain}
        return NotFound(kinds[conflict.stream_id], conflict.stream_id)


def _anticipated(user_id: str, event: NewEvent) -> list[RecordedEvent]:
    """Return the event as if recorded now: enough for the decisions that follow it."""
    return recorded([fact_of(user_id, event)], 0, datetime.now(UTC), [0])
