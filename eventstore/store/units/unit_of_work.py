"""
Units of work: several commands as one append.

A command is a method of a `Commands` class. It adds steps to a unit of work without touching the
database and returns a `Handle`. Committing takes one round trip if every step is a certain event,
or two if some steps are decisions: the first one reads what they depend on, then they decide in
Python, and the append expects exactly the versions that were read. If another append came in
between, they are read and decided again in one transaction that has the user's row to itself, so
that whoever posts all the time cannot keep a decision from being made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import attrgetter
from uuid import UUID

from eventstore.database.errors import WrongKind, sqlstate_of
from eventstore.database.plan import AboutToolCall, Plan, Rollback, Rows, Statement, retrying
from eventstore.database.timestamps import as_utc
from eventstore.errors import (
    OUTCOME_KEY,
    AlreadyExists,
    ConfigurationError,
    EventStoreError,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    StreamClosed,
    WrongVersion,
)
from eventstore.events.event import Event
from eventstore.events.tool_calls import ToolCallOutcome
from eventstore.log.append import append, first_result, recorded
from eventstore.log.append_request import AppendRequest, envelope_of, prepare_append
from eventstore.log.envelope import Expected, ExpectedVersion, NewEvent, RecordedEvent
from eventstore.log.ids import NewId, derived_ids, resolve_conversation, uuid7
from eventstore.log.read import Selection, for_each_event, read_events
from eventstore.store.context import UserContext
from eventstore.store.units.decisions import (
    CallerVersionConflict,
    Cause,
    Decision,
    Overtaken,
    event_id_of,
    expect_version,
)
from eventstore.store.units.moves import Beside, Order
from eventstore.store.units.outcome import Outcome
from eventstore.store.units.read_for_decision import DecisionState, read_for_decision
from projections import Conversation, Message, Task, ToolCall
from projections.apply.replay import Replay
from projections.apply.table_shape import Row
from projections.models.task import TaskView
from projections.queries.lists import select_task
from projections.queries.tool_calls import ENDED_BEFORE, EndedCall, fence_outcome, obstacles

__all__ = ["UnitOfWork"]


class UnitOfWork:
    """Steps that are committed together, under the idempotency key of the context if it has one."""

    def __init__(self, context: UserContext) -> None:
        key = context.idempotency_key
        self.context = context
        # A retry from another process draws the same ids in the same order, so it sends the
        # identical append.
        self.new_id: NewId = uuid7 if key is None else derived_ids(context.user_id, key)
        self.steps: list[NewEvent | Decision] = []
        self.also: Sequence[Statement] = ()
        """Statements that are sent behind the append, in its transaction."""
        self.default_key: str | None = None
        """The key if the caller gave none, so that a tool call's outcome is recorded once."""
        self.tool_calls: list[AboutToolCall] = []
        """The tool calls that commands are about, for an observer."""
        self._ended = False
        # An id is derived from a key and cannot be turned back, but errors name what was given.
        self._references: dict[UUID, UUID | str] = {}
        self._tasks: set[UUID] = set()
        self._reads: UUID | None = None
        self._attempted = False
        self._overtaken = False
        self._sent: AppendRequest | None = None

    def conversation(self, reference: UUID | str) -> UUID:
        """
        Return the id of the conversation that a command names by its id or its key.

        :raises InvalidInput: the reference is neither a UUID nor text.
        :raises NotFound: the text holds a lone surrogate, which no key does.
        """
        # A subclass of UUID, as drivers return it, goes on and is made a plain one.
        if type(reference) is UUID:
            return reference
        resolved = resolve_conversation(self.context.user_id, reference)
        self._references[resolved] = reference
        return resolved

    def about_task(self, task_id: UUID) -> None:
        """Make it a `NotFound` if there is no such task, or only a deleted one."""
        self._tasks.add(task_id)

    def end(self) -> None:
        """Refuse commands from now on: nobody would write them."""
        self._ended = True

    def record(
        self,
        stream_id: UUID,
        data: Event,
        *,
        expected: ExpectedVersion = Expected.EXISTS,
        caused_by: Cause = None,
        event_id: UUID | None = None,
    ) -> NewEvent:
        """
        Add an event that is certain.

        :param expected: what its stream must be like; a stream that is absent against `EXISTS` is
            a `NotFound` at the commit.
        :param event_id: None takes the next id of this unit of work.
        :raises ConfigurationError: the transaction has ended.
        :raises InvalidInput: `caused_by` does not stand for an event.
        """
        if self._ended:
            raise _ended()
        context = self.context
        event = NewEvent(
            stream_id=stream_id,
            data=data,
            expected=expected,
            event_id=event_id or self.new_id(),
            correlation_id=context.correlation_id,
            causation_id=None if caused_by is None else event_id_of(caused_by),
            metadata=context.metadata,
            occurred_at=context.occurred_at,
        )
        self.steps.append(event)
        return event

    def decide(
        self,
        table: type[Task | Conversation | Message | ToolCall],
        key: UUID,
        decide: Callable[[Row], Event | None],
        *,
        stream_id: UUID | None = None,
        of_deleted: bool = False,
        beside: Beside | None = None,
        with_body: bool = False,
        caused_by: Cause = None,
    ) -> Decision:
        """
        Add a decision on the row of `table` with this id.

        :param decide: returns the event to append, or None if nothing would change; it is called
            again after each conflict.
        :param stream_id: None where the row's id is its stream's.
        :param of_deleted: whether the row may be that of something deleted.
        :param beside: makes it a move; nothing is decided then but where the task goes.
        :param with_body: whether the decision needs a message's body.
        :raises ConfigurationError: the transaction has ended.
        :raises InvalidInput: `caused_by` does not stand for an event.
        """
        if self._ended:
            raise _ended()
        # The event gets its id before it is known: the handle refers to it, and a retry without a
        # key is recognized by it, whatever is decided in the second attempt.
        decision = Decision(
            table,
            key,
            stream_id or key,
            decide,
            self.new_id(),
            event_id_of(caused_by),
            of_deleted,
            beside,
            with_body,
        )
        self.steps.append(decision)
        return decision

    def commit(self, reads: UUID | None = None) -> Plan[Outcome]:
        """
        Append all steps, or nothing.

        A decision that another append overtook is made again, under the lock on the user's row.

        :param reads: a task whose row is read with the append.
        :raises NotFound: a step is about something that this user does not have.
        :raises Conflict: another append came first; see the tree in `errors`.
        :raises InvalidInput: a value cannot be stored, or there are more than 1,000 events.
        :raises OutcomeUnknown: it may have been written.
        """
        self._reads = reads
        if self.tool_calls:
            yield from self._tell_tool_call()
        attempts = retrying(self._attempt, also=Overtaken, unknown=self._unknown)
        try:
            return (yield from attempts)
        except (Overtaken, CallerVersionConflict) as conflict:
            # Both classes are internal; callers know their base.
            raise WrongVersion(conflict.stream_id, conflict.expected, conflict.actual) from None

    def _tell_tool_call(self) -> Plan[None]:
        """Tell which tool call all of this is about, if it is one."""
        first, *others = self.tool_calls
        if all(one.call_id == first.call_id for one in others):
            name = next((one.name for one in self.tool_calls if one.name is not None), None)
            ended = any(one.ended for one in self.tool_calls)
            yield replace(first, name=name, ended=ended)

    def _attempt(self) -> Plan[Outcome]:
        # A second time a connection was lost, and with it perhaps the reply to a commit.
        retry, self._attempted = self._attempted, True
        certain = [step for step in self.steps if isinstance(step, NewEvent)]
        try:
            if len(certain) == len(self.steps):
                return (yield from self._append(certain, {}, retry))
            return (yield from self._decide_and_append(retry))
        except Overtaken:
            # PostgreSQL refused this attempt, so nothing of it is on its way.
            self._attempted, self._overtaken = retry, True
            raise
        except WrongVersion as conflict:
            # An event whose stream was not read expects no more than that it exists. Its absence
            # is no conflict for the caller, who gets the same answer from a query.
            stream_id = conflict.stream_id
            if stream_id in self._tasks and not conflict.actual:
                raise NotFound("task", stream_id) from None
            if conflict.expected != Expected.EXISTS:
                raise
            kinds = {step.stream_id: step.data.stream_kind for step in certain}
            # A decision has read its row, so its stream is gone only where somebody tampered.
            kind = kinds.get(stream_id, "stream")
            raise NotFound(kind, self._reference(stream_id)) from None
        except (StreamClosed, WrongKind) as refusal:
            if refusal.stream_id in self._tasks:
                raise NotFound("task", refusal.stream_id) from None
            named = self._references.get(refusal.stream_id)
            if isinstance(refusal, StreamClosed) and named is not None:
                raise StreamClosed(refusal.stream_id, refusal.version, named) from None
            raise
        except NotFound as error:
            raise NotFound(error.kind, self._reference(error.key)) from None

    def _unknown(self) -> OutcomeUnknown | None:
        return None if self._sent is None else self.context.outcome_unknown(self._sent)

    def _reference(self, key: object) -> object:
        """Return how the caller named what has an id."""
        return self._references.get(key, key) if isinstance(key, UUID) else key

    def _append(
        self, events: Sequence[NewEvent], rows: dict[Decision, Row], retry: bool
    ) -> Plan[Outcome]:
        context = self.context
        if not events:
            # Nothing to change leaves no trace of the key: the same command is decided anew.
            return Outcome([], (), lambda: self._replay_of(rows))
        request, changes, row_changes = context.prepared(events, self._key)
        self._sent = self._sent or request
        # A retry that is found in the log has this content, so these row changes are its own too.
        of_task = () if self._reads is None else (select_task(context.user_id, self._reads),)
        outcomes = _outcomes(events)
        fences = (fence_outcome(context.user_id, one) for one in outcomes)
        reads = (*of_task, *fences, *self.also)
        try:
            done = yield from append(request, row_changes, reads, retry=retry)
        except EventStoreError as error:
            fenced = sqlstate_of(error) == ENDED_BEFORE
            # The default key is a call's own, and so is the id of the message of its outcome.
            own_key = isinstance(error, IdempotencyConflict) and error.key == self.default_key
            if fenced or own_key or isinstance(error, AlreadyExists):
                yield from self._refuse(outcomes)
            if fenced:
                fact = "is ended, or taken away, by what comes before it in the same append"
                raise InvalidInput("call", fact) from None
            raise
        row = None
        if of_task:
            found = done.rows[0] if done.rows else []
            row = yield from self._row_after(done.events, found)
        # Without a key only this command itself can have sent the events before.
        repeated = done.repeated and self._key is not None
        also = done.rows[len(done.rows) - len(self.also) :]
        return Outcome(done.events, changes, lambda: self._replay_of(rows), repeated, row, also)

    def _refuse(self, outcomes: Sequence[EndedCall]) -> Plan[None]:
        """
        Raise why outcomes cannot be recorded, if there is a reason.

        :raises IdempotencyConflict: a call has ended.
        :raises NotFound: the message that asks for a call was taken away.
        """
        for call in outcomes:
            ended, withdrawn = yield from obstacles(self.context.user_id, call)
            if ended is not None:
                raise IdempotencyConflict(f"{OUTCOME_KEY}{call.id}", ended) from None
            if call.posts and withdrawn is not None:
                raise NotFound("message", withdrawn) from None

    def _row_after(self, in_log: Sequence[RecordedEvent], found: Rows) -> Plan[Row]:
        """Return the row of the task that the answer shows, as this append left it."""
        context, task_id = self.context, self._reads
        if found:
            return dict(zip(TaskView.columns(), found[0], strict=True))
        # A retry: the row may have moved on since, but the stream has what it was.
        wanted = Selection(stream_id=task_id, before=in_log[-1].position + 1)
        replay = Replay(context.projections.of(Task))
        yield from for_each_event(context.user_id, wanted, context.registry, replay.apply)
        for row in replay.rows(Task).values():
            return row
        raise NotFound("task", task_id)  # its stream begins with an event of the service's own

    def _decide_and_append(self, retry: bool) -> Plan[Outcome]:
        """
        Read what decisions depend on, decide and append.

        :raises Overtaken: another append came between.
        """
        decisions = self._decisions()
        moves = [one for one in self.steps if isinstance(one, Decision) and one.beside is not None]
        retried_ids = [step.event_id for step in self.steps] if retry else []
        state = DecisionState({}, {}, None)
        # Neither is left if all decisions are about what this unit of work creates.
        if decisions or moves:
            state = yield from read_for_decision(
                self.context.user_id,
                self._key,
                retried_ids,
                decisions,
                moves,
                lock=self._overtaken,
            )
        if state.existing_position is not None:
            yield Rollback()  # of the lock, if it was taken
            return (yield from self._answer_retry(state.existing_position, decisions, moves))
        replay = self._replay_of(state.rows)
        try:
            events = self._decide_all(replay, state.versions, Order(state.places))
        except EventStoreError:
            yield Rollback()
            raise
        if not events:
            yield Rollback()
        try:
            return (yield from self._append(events, state.rows, retry))
        except WrongVersion as conflict:
            # Another stream was not read here, so its version would be the same next time.
            if conflict.stream_id not in state.versions:
                raise
            raise Overtaken(conflict.stream_id, conflict.expected, conflict.actual) from None

    @property
    def _key(self) -> str | None:
        """The append's idempotency key, if it has one; the caller's goes before the default."""
        return self.context.idempotency_key or self.default_key

    def _decisions(self) -> list[Decision]:
        """Return one decision per row that existed before this unit of work."""
        # A row that is created here is not in its table yet; the replay shows it to decisions.
        created = {
            step.stream_id
            for step in self.steps
            if isinstance(step, NewEvent) and step.expected == Expected.NEW
        }
        # A row is read once for all decisions about it; later ones see it through the replay. Of
        # several about one row the one counts that needs most of it.
        by_row = {
            (step.table, step.key): step
            for step in sorted(
                (one for one in self.steps if isinstance(one, Decision)),
                key=attrgetter("needs_version", "with_body"),
            )
            if step.stream_id not in created
        }
        return list(by_row.values())

    def _replay_of(self, rows: dict[Decision, Row]) -> Replay:
        """Return a replay that begins with the rows that were read."""
        replay = Replay(self.context.projections)
        for decision, row in rows.items():
            # A copy, because a replay changes its rows, and the same ones begin the answer's.
            replay.rows(decision.table)[decision.key,] = dict(row)
        return replay

    def _decide_all(
        self, replay: Replay, versions: dict[UUID, int], order: Order
    ) -> list[NewEvent]:
        """Turn every step into its event; a decision sees what the steps before it did."""
        events: list[NewEvent] = []
        for step in self.steps:
            event = step if isinstance(step, NewEvent) else self._decide_one(step, replay, order)
            if event is None:
                continue
            # An append checks each stream once, at its first event, which may be a certain one.
            if event.stream_id in versions:
                event = expect_version(event, versions[event.stream_id])
            events.append(event)
            replay.apply(_as_if_recorded(self.context.user_id, event))
        return events

    def _decide_one(self, step: Decision, replay: Replay, order: Order) -> NewEvent | None:
        # A deletion earlier in this unit of work leaves the row, as in its table. `get`, because
        # messages have no such column.
        row = replay.rows(step.table).get((step.key,))
        if row is None or (row.get("deleted_position") is not None and not step.of_deleted):
            raise NotFound(str(step.table.__tablename__), step.key)
        beside = step.beside
        data = step.decide(row) if beside is None else order.move(step.key, beside, step.event_id)
        if data is None:
            return None
        return NewEvent(
            stream_id=step.stream_id,
            data=data,
            event_id=step.event_id,
            correlation_id=self.context.correlation_id,
            causation_id=step.causation_id,
            metadata=self.context.metadata,
            occurred_at=self.context.occurred_at,
        )

    def _answer_retry(
        self, position: int, decisions: list[Decision], moves: list[Decision]
    ) -> Plan[Outcome]:
        """
        Answer a retry: decide again as of just before the first append, and compare with it.

        :param position: where the first append begins.
        """
        context, key = self.context, self._key
        # The rows have moved on since. A decision on what they are now would not tell a retry from
        # another use of the key. Deciding changes the one replay; the other begins the answer.
        replay, answer = Replay(context.projections), Replay(context.projections)

        def apply(event: RecordedEvent) -> None:
            replay.apply(event)
            answer.apply(event)

        for stream_id in {one.stream_id for one in decisions}:
            before = Selection(stream_id=stream_id, before=position)
            yield from for_each_event(context.user_id, before, context.registry, apply)
        recorded: list[RecordedEvent] = []
        if moves:
            first_ones = Selection(after=position - 1, limit=len(self.steps))
            recorded = yield from read_events(context.user_id, first_ones, context.registry)
        order = Order({}, {one.event_id: one.data for one in recorded})
        try:
            events = self._decide_all(replay, {}, order)
        except NotFound:
            # What is absent then cannot have been decided on: the first append was another one.
            events = []
        if not events:
            raise IdempotencyConflict(key, position)
        first = yield from first_result(prepare_append(context.user_id, events, key))
        row = None if self._reads is None else (yield from self._row_after(first, []))
        changes = list(map(context.projections.project, first))
        return Outcome(first, changes, lambda: answer, repeated=True, read=row)


def _outcomes(events: Sequence[NewEvent]) -> list[EndedCall]:
    """Return the outcomes of calls that were requested before."""
    found = [
        EndedCall(
            one.data.request_event_id,
            one.stream_id,
            len(events) - 1 - number,
            one.data.reply is not None,
        )
        for number, one in enumerate(events)
        if isinstance(one.data, ToolCallOutcome)
    ]
    if not found:
        return found
    # A call that is requested here nobody else has ended.
    new = {one.event_id for one in events}
    return [call for call in found if call.id not in new]


def _ended() -> ConfigurationError:
    return ConfigurationError(
        "the transaction has ended, so this command would not be written; give it inside of the "
        "block, or to the user"
    )


def _as_if_recorded(user_id: str, event: NewEvent) -> RecordedEvent:
    """Return an event as if it were recorded now, for the decisions that follow it."""
    envelope = envelope_of(user_id, event, event.metadata, as_utc(event.occurred_at))
    # Position 0 tells the replay that a value it refuses is the caller's and not a stored one.
    return recorded(envelope, 0, 0, datetime.now(UTC))
