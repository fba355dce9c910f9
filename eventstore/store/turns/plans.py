"""
What a turn does: one request of a user and all that is done for it, once, whoever retries.

A turn has its conversation to itself. It starts in one round trip, together with the user's items
and the history that a model is to be given. Every append of a turn ends with a statement that fails
unless this process still has the turn, so one that was only slow writes nothing; behind it stands
what the turn and its calls are now, read in the same round trip. Messages are read once: the turn
knows what it has appended, and by the conversation's version whether somebody else has.

Who starts a turn whose key is known gets what is recorded: the answer of one that is completed, and
of one whose process died, after its lease, the place where it stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4, uuid5

from eventstore.database.errors import sqlstate_of
from eventstore.database.plan import Batch, Pause, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import (
    AlreadyExists,
    ConfigurationError,
    ConversationBusy,
    Erased,
    EventStoreError,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    TurnTakenOver,
    WrongVersion,
)
from eventstore.events.event import make_event
from eventstore.events.fields import MAX_BATCH, check_list, check_number
from eventstore.events.json_codec import checked_text, plain_json
from eventstore.events.messages import MessagePosted
from eventstore.events.tool_calls import ToolCallEvent, ToolCallOutcome
from eventstore.events.turns import (
    TurnContinued,
    TurnEnded,
    TurnEvent,
    TurnOutcome,
    TurnRenewed,
    TurnStarted,
)
from eventstore.log.envelope import NOW, NewEvent, RecordedEvent
from eventstore.log.ids import resolve_conversation
from eventstore.store.commands.messages import MessageCommands, ToolCallReference
from eventstore.store.commands.tool_calls import ToolCallCommands
from eventstore.store.context import UserContext
from eventstore.store.units.commands import run_command
from eventstore.store.units.outcome import Handle, Outcome
from eventstore.store.units.unit_of_work import UnitOfWork
from projections import Turn
from projections.models.message import MessageView, posted_view, posts_message
from projections.models.tool_call import ToolCallView
from projections.models.turn import TurnView
from projections.queries.history import (
    history,
    messages_of_page,
    page_statements,
    require_conversation,
)
from projections.queries.moments import END
from projections.queries.tool_calls import by_message, tool_call_view
from projections.queries.turns import (
    FENCED,
    KnownTurn,
    fence_turn,
    known_turns,
    select_others_ended,
    turn_state_statements,
)

__all__ = ["TurnPlans"]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
_ERROR_CHARACTERS = 1000
_MOST_TOKENS = 2**53


class TurnPlans:
    """
    One turn, as its process knows it.

    Behind each append stands what the turn and its calls are now, in the same round trip. What it
    has appended it adds to the messages that it has read, or reads them all again: whatever a
    transaction did, and whatever others wrote, the turn has what the store has.

    :param items: what the user sends; they are recorded when the turn starts.
    :param history_limit: messages of the conversation that are read.
    :ivar calls: the calls of the turn, in the order of their requests.
    """

    def __init__(
        self,
        context: UserContext,
        conversation: UUID | str,
        *,
        key: str,
        items: Sequence[Mapping[str, Any]],
        lease_seconds: int,
        wait_seconds: float,
        history_limit: int,
    ) -> None:
        check_list(items, "items", "items")
        if not isinstance(wait_seconds, int | float) or not 0 <= wait_seconds < math.inf:
            raise InvalidInput("wait_seconds", "give a number of seconds, 0 or more")
        self._reference = conversation
        self._conversation = resolve_conversation(context.user_id, conversation)
        # By it this process finds its own turn again after a lost connection, and finds out that
        # another one has taken it over.
        self._holder = uuid4()
        sent = checked_text(list(items), "items").encode("utf-8", "surrogatepass")
        self._started = make_event(
            TurnStarted,
            key=key,
            request=sha256(sent).hexdigest(),
            holder=self._holder,
            # Turns without a lease are those that frameworks run.
            lease_seconds=check_number(lease_seconds, "lease_seconds", least=1),
        )
        # Derived, so that two processes with one request meet in one turn.
        self.id = uuid5(self._conversation, f"turn:{key}")
        # What is done in a turn has no key of its own: a turn that is continued sees what was done.
        self._context = replace(context, correlation_id=self.id, idempotency_key=None)
        self._items = items
        self._wait_seconds = wait_seconds
        self._stopped = self._interrupted = False
        self._limit = check_number(history_limit, "history_limit")
        self._known: KnownTurn | None = None
        self._lost = False
        self._version = 0
        self._began = 0
        # The page of messages as it was read last, with older ones of the turn's own, and what the
        # turn has appended since. Messages are made of these when they are looked at.
        self._page: Sequence[Rows] = ()
        self._older: list[MessageView] = []
        self._appended: list[RecordedEvent] = []
        self._messages: list[MessageView] | None = []
        self.calls: list[ToolCallView] = []

    @property
    def turn(self) -> TurnView:
        """The turn as it was read last."""
        if self._known is None:
            raise ConfigurationError("the turn has not begun; use it in a `with` block")
        return self._known.turn

    @property
    def sent(self) -> int:
        """How many items the user sent."""
        return len(self._items)

    @property
    def messages(self) -> list[MessageView]:
        """The newest messages of the conversation, oldest first, the turn's own among them."""
        if self._messages is None:
            read = messages_of_page(self._conversation, NOW, self._page)
            # What the calls of the turn are now; those of others are as they were read.
            known = {one.id: one for one in self.calls}
            self._messages = [
                replace(one, tool_calls=tuple(known.get(call.id, call) for call in one.tool_calls))
                for one in (*self._older, *read)
            ]
            calls = by_message(self.calls, None)
            self._messages += [
                posted_view(one, calls.get(one.event_id, ()))
                for one in self._appended
                if posts_message(one)
            ]
        return self._messages

    def begin(self) -> Plan[None]:
        """Start the turn, or find what is recorded of it: see `User.turn`."""
        deadline, pause = time.monotonic() + self._wait_seconds, _FIRST_PAUSE_SECONDS
        try:
            if self._stopped:
                raise ConversationBusy(self._conversation, self.id)
            if (yield from self._start()):
                return
            while True:
                holder = yield from self._context.retrying(self._join)
                if holder is None:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ConversationBusy(self._conversation, holder)
                yield Pause(min(pause, left))
                if self._stopped:
                    raise ConversationBusy(self._conversation, holder)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except NotFound as error:
            raise NotFound(error.kind, self._reference) from None
        except GeneratorExit:  # cut off: what was sent may still be written
            self._interrupted = True
            raise

    def stop_waiting(self) -> None:
        """Have `begin` send nothing more than what is under way: its caller was cancelled."""
        self._stopped = True

    def _start(self) -> Plan[bool]:
        """Start the turn; False if it is there, or another one has the conversation."""
        work = self._first_steps(replace(self._context, idempotency_key=f"turn:{self.id}"))
        work.also = self._state_statements()
        try:
            outcome = yield from work.commit()
        # Another process drew another number, so the same turn of its is other content.
        except (IdempotencyConflict, Erased):
            return False
        except AlreadyExists as error:
            if error.table != Turn.__tablename__:
                raise
            return False
        if not outcome.also:  # a lost connection: the turn is found, and known by its number
            return False
        yield from self._know(outcome.also)
        return True

    def _first_steps(self, context: UserContext) -> UnitOfWork:
        work = UnitOfWork(context)
        work.record(self._conversation, self._started, event_id=self.id)
        MessageCommands(work).extend(self._conversation, self._items)
        return work

    def _join(self) -> Plan[UUID | None]:
        """Find the turn, or take its place; return the turn that has to be waited for, if any."""
        other = yield from self._read_state()
        own = self._known
        if own is not None and own.turn.request != self._started.request:
            raise IdempotencyConflict(own.turn.key, own.turn.position)
        if own is not None and own.turn.status == "completed":
            return None
        if own is not None and own.turn.position < self._began:
            # What was asked was deleted with the conversation, which has begun anew since.
            raise TurnTakenOver(self.id)
        if own is not None and own.turn.status == "running" and own.live:
            return None if own.turn.holder == self._holder else self.id
        if other is not None and other.live and other.turn.position > self._began:
            return other.turn.id
        try:
            if other is not None:
                # Its process died. Whoever sends that request again continues it. This is an append
                # of its own, because within one append rows are inserted before others are updated,
                # and the index would find two turns that run.
                yield from self._commit_at_version(self._abandoning(other.turn))
            yield from self._commit_at_version(
                self._first_steps(self._context) if own is None else self._continuing(own.turn)
            )
        except (WrongVersion, AlreadyExists):
            return self.id if other is None else other.turn.id  # somebody else was faster
        return None

    def _abandoning(self, turn: TurnView) -> UnitOfWork:
        work = UnitOfWork(self._context)
        ended = make_event(TurnEnded, turn_id=turn.id, outcome="abandoned")
        work.record(self._conversation, ended)
        return work

    def _continuing(self, turn: TurnView) -> UnitOfWork:
        work = UnitOfWork(self._context)
        again = make_event(
            TurnContinued,
            turn_id=self.id,
            holder=self._holder,
            attempt=turn.attempt + 1,
            lease_seconds=self._started.lease_seconds,
        )
        work.record(self._conversation, again)
        return work

    def _commit_at_version(self, work: UnitOfWork) -> Plan[None]:
        """Commit what was decided on the state that was read, and read the state again."""
        for number, step in enumerate(work.steps):
            if isinstance(step, NewEvent) and step.stream_id == self._conversation:
                work.steps[number] = replace(step, expected=self._version)
        work.also = self._state_statements()
        outcome = yield from UnitOfWork.commit(work)
        if outcome.also:
            yield from self._know(outcome.also)
        else:  # a lost connection: it is in the log
            yield from self._context.retrying(self._read_state)

    def commit(self, work: UnitOfWork) -> Plan[Outcome]:
        """
        Commit steps of this turn, if this process still has it, and read what is known again.

        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        self._require_held()
        about = (self._context.user_id, self._conversation, self.id)
        state = turn_state_statements(*about)
        answered = _answered(work)
        others = (select_others_ended(*about, answered, len(work.steps)),) if answered else ()
        work.also = (fence_turn(about[0], self.id, self._holder), *others, *state)
        try:
            outcome = yield from UnitOfWork.commit(work)
        except IdempotencyConflict:
            # The process that has continued the turn may have ended the call.
            yield from self._context.retrying(self._read_state)
            self._require_held()
            raise
        except EventStoreError as error:
            if sqlstate_of(error) != FENCED:
                raise
            self._lost = True
            raise TurnTakenOver(self.id) from None
        if not (outcome.also and self._follow(outcome)):
            # Nothing was written, or it had been before, or others have written too.
            yield from self._context.retrying(self._read_state)
            if self.turn.holder != self._holder:
                self._require_held()
        return outcome

    def _require_held(self) -> None:
        # `turn` may have been read after another process took it over.
        turn = self.turn
        if self._lost or turn.holder != self._holder or turn.status != "running":
            raise TurnTakenOver(self.id)

    def _state_statements(self) -> tuple[Statement, ...]:
        user_id, conversation = self._context.user_id, self._conversation
        return (
            *turn_state_statements(user_id, conversation, self.id),
            *page_statements(user_id, conversation, NOW, None, self._limit),
        )

    def _read_state(self) -> Plan[KnownTurn | None]:
        """Read what there is to know; return another turn that runs in the conversation."""
        scope = user_scope(self._context.user_id)
        answers = yield Batch(scope, self._state_statements(), planned_once=True)
        return (yield from self._know(answers))

    def _know(self, answers: Sequence[Rows]) -> Plan[KnownTurn | None]:
        """Take in what the state statements selected; return another turn that runs."""
        *state, existence, messages, calls = answers
        require_conversation(self._conversation, existence)
        self._page = existence, messages, calls
        self._older, self._appended = [], []
        self._began = existence[0][0]
        other = self._learn(state)
        if self._known is not None:
            yield from self._read_more(self._known.turn)
        return other

    def _learn(self, state: Sequence[Rows]) -> KnownTurn | None:
        """Take in the turn and its calls; return another turn that runs."""
        versions, turns, calls = state
        self._messages = None
        self.calls = list(map(tool_call_view, calls))
        self._version = versions[0][0] if versions else 0
        self._known, other = known_turns(turns, self.id)
        return other

    def _follow(self, outcome: Outcome) -> bool:
        """
        Take in what the turn itself has appended; tell whether everything is known again.

        If somebody else has appended to the conversation meanwhile, or this append has changed what
        was there before the turn, the messages have to be read again.
        """
        version, (_, *others_ended, versions, turns, calls) = self._version, outcome.also
        self._learn((versions, turns, calls))
        own = [one for one in outcome.recorded if one.stream_id == self._conversation]
        self._appended += own
        alone = self._version == version + len(own) and not any(others_ended)
        return alone and all(map(self._is_of_turn, own))

    def _is_of_turn(self, event: RecordedEvent) -> bool:
        """Return whether what an event has changed is new, or of a call of the turn."""
        if isinstance(event.data, ToolCallOutcome):
            return any(one.finished_position == event.position for one in self.calls)
        # Which calls a message has ended is asked.
        return isinstance(event.data, MessagePosted | ToolCallEvent | TurnEvent)

    def _read_more(self, turn: TurnView) -> Plan[None]:
        """Read the turn's own messages too, where others came after them or the page is short."""
        newest_first = [position for _, position, *_ in self._page[1]]
        cut = len(newest_first) == self._limit
        if not cut or (newest_first and newest_first[-1] <= turn.position):
            return
        context = self._context
        before = None if turn.ended_position is None else turn.ended_position + 1
        earlier = yield from history(
            context.user_id,
            self._conversation,
            source="projection",
            moment=NOW,
            before=before,
            limit=MAX_BATCH,
            projections=context.projections,
            registry=context.registry,
        )
        first = newest_first[-1] if newest_first else END
        self._older = [one for one in earlier if turn.position < one.position < first]

    def _run[V](self, record: Callable[[UnitOfWork], Handle[V]]) -> Plan[V]:
        return run_command(self._context, record, self.transaction())

    def extend(self, items: Sequence[Mapping[str, Any]]) -> Plan[list[MessageView]]:
        """
        Record what the model said, with the calls that it asks for; one round trip.

        :param items: as in `messages.extend`.
        :return: the messages, with their calls.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        :raises InvalidInput: an item cannot be stored; nothing was written.
        """
        return self._run(lambda work: MessageCommands(work).extend(self._conversation, items))

    def succeed(
        self, call: ToolCallReference, *, output: object, content: object = None
    ) -> Plan[MessageView | None]:
        """
        Record what a tool returned, as `tool_calls.succeed` does; one round trip.

        :param call: one of `pending_calls`.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        return self._run(
            lambda work: ToolCallCommands(work).succeed(call, output=output, content=content)
        )

    def fail(
        self, call: ToolCallReference, *, error: object, content: object = None
    ) -> Plan[MessageView | None]:
        """
        Record how a tool failed, as `tool_calls.fail` does; one round trip.

        :param call: one of `pending_calls`.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        return self._run(
            lambda work: ToolCallCommands(work).fail(call, error=error, content=content)
        )

    def renew(self, *, lease_seconds: int | None = None) -> Plan[None]:
        """
        Begin the lease anew, before something that takes long; one round trip.

        :param lease_seconds: None for as many as the turn was started with.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        work = UnitOfWork(self._context)
        seconds = self.turn.lease_seconds if lease_seconds is None else lease_seconds
        renewed = make_event(
            TurnRenewed, turn_id=self.id, holder=self._holder, lease_seconds=seconds
        )
        work.record(self._conversation, renewed)
        yield from self.commit(work)

    def end(
        self,
        items: Sequence[Mapping[str, Any]] = (),
        *,
        model: str | None = None,
        usage: object = None,
    ) -> Plan[list[MessageView]]:
        """
        Record the answer and that the turn is completed, together; one round trip.

        :param items: as in `messages.extend`.
        :param model: which model answered, up to 255 characters.
        :param usage: what its API reported for the whole turn: a mapping or a pydantic model.
            `input_tokens` or `prompt_tokens`, and `output_tokens` or `completion_tokens`, are
            summed by `turns.usage`.
        :return: the messages of the answer.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        :raises InvalidInput: an item cannot be stored; nothing was written.
        """
        given: dict[str, Any] = {} if model is None else {"model": model}
        if usage is not None:
            given |= _usage_fields(usage)

        def record(work: UnitOfWork) -> Handle[list[MessageView]]:
            handle = MessageCommands(work).extend(self._conversation, items)
            self._record_end(work, "completed", **given)
            return handle

        return self._run(record)

    def fail_turn(self, error: BaseException) -> Plan[None]:
        """Record that the turn failed; its request can be sent again at once."""
        if self._interrupted:
            # Begun again under its own key, it is found, or what is still on its way is refused.
            self._interrupted = self._stopped = False
            self._wait_seconds = 0
            yield from self.begin()
        if self._known is None or self.turn.status != "running":
            return
        work = UnitOfWork(self._context)
        self._record_end(work, "failed", error=_description(error))
        yield from self.commit(work)

    def _record_end(self, work: UnitOfWork, outcome: TurnOutcome, **fields: object) -> None:
        ended = make_event(TurnEnded, turn_id=self.id, outcome=outcome, **fields)
        work.record(self._conversation, ended)

    def transaction(self) -> UnitOfWork:
        """
        Record several commands as a part of the turn: what a tool did, and its outcome.

        :return: a block to be used once, as of `User.transaction`.
        """
        return _TurnWork(self._context, self)


class _TurnWork(UnitOfWork):
    """A unit of work that is committed only while the turn has its conversation."""

    def __init__(self, context: UserContext, turn: TurnPlans) -> None:
        super().__init__(context)
        self._turn = turn

    def commit(self, reads: UUID | None = None) -> Plan[Outcome]:  # noqa: ARG002 - for an answer
        return self._turn.commit(self)


def _answered(work: UnitOfWork) -> list[str]:
    """Return which calls the messages of an append answer, as the model names them."""
    posted = [one.data for one in work.steps if isinstance(one, NewEvent)]
    items = [data.item for data in posted if isinstance(data, MessagePosted)]
    return [answer.call_id for item in items for answer in item.answers]


def _description(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]
    except Exception:  # noqa: BLE001 - an exception's own `__str__` may raise anything
        return type(error).__name__


_TOKENS = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
}


def _usage_fields(usage: object) -> dict[str, Any]:
    stored = plain_json(usage, "usage")
    if not isinstance(stored, dict):
        raise InvalidInput("usage", "is no object; give what the model's API reported")
    tokens = {
        field: next((stored[name] for name in names if _is_count(stored.get(name))), 0)
        for field, names in _TOKENS.items()
    }
    return {"usage": stored, **tokens}


def _is_count(value: object) -> bool:
    # True is an int in Python. What is no count is kept in `usage` and left out of the sums.
    return type(value) is int and 0 <= value <= _MOST_TOKENS
