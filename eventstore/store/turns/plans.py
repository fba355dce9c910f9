"""
What a turn does: one request of a user and all that is done for it, once, whoever retries.

A turn has its conversation to itself. It starts in one round trip, together with the user's items
and the history that a model is to be given. From then on it knows the conversation, because nobody
else may write to it: what it appends expects exactly the version that it left. If something else
was written nevertheless, or another process took the turn over, it finds out before it writes.

Who starts a turn whose key is known gets what is recorded: the answer of one that is completed, and
of one whose process died, after its lease, the place where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from uuid import UUID, uuid4, uuid5

from eventstore.database.errors import AlreadyAppended
from eventstore.database.plan import Batch, Pause, Plan
from eventstore.database.scope import user_scope
from eventstore.errors import (
    AlreadyExists,
    ConfigurationError,
    ConversationBusy,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    TurnTakenOver,
    WrongVersion,
)
from eventstore.events.event import make_event
from eventstore.events.fields import check_number
from eventstore.events.json_codec import plain_json
from eventstore.events.messages import MessagePosted
from eventstore.events.tool_calls import ToolCallEvent, ToolCallOutcome
from eventstore.events.turns import TurnContinued, TurnEnded, TurnOutcome, TurnStarted
from eventstore.log.append import recorded_events
from eventstore.log.append_request import prepare_append
from eventstore.log.envelope import NOW, NewEvent, RecordedEvent
from eventstore.log.ids import resolve_conversation
from eventstore.store.commands.messages import MessageCommands
from eventstore.store.commands.tool_calls import ToolCallCommands, ToolCallReference
from eventstore.store.context import UserContext
from eventstore.store.units.unit_of_work import Handle, Outcome, UnitOfWork
from projections import ToolCall, Turn
from projections.apply.live import live_statements
from projections.apply.replay import Replay
from projections.models.message import MessageView, posted_view
from projections.models.tool_call import ToolCallView
from projections.models.turn import TurnView
from projections.queries.history import by_message, history, messages_of_page, page_statements
from projections.queries.turns import KnownTurn, get_turn, known_turns, turn_state_statements

__all__ = ["TurnPlans"]

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class TurnPlans:
    """
    One turn, as its process knows it.

    :ivar turn: the turn as it was read or recorded last.

    :param items: what the user sends; they are recorded when the turn starts.
    :param history_limit: messages of the conversation that are read when the turn starts.
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
        self._reference = conversation
        self._conversation = resolve_conversation(context.user_id, conversation)
        # By it this process finds its own turn again after a lost connection, and finds out that
        # another one has taken it over.
        self._holder = uuid4()
        self._started = make_event(
            TurnStarted, key=key, holder=self._holder, lease_seconds=lease_seconds
        )
        # Derived, so that two processes with one request meet in one turn.
        self.id = uuid5(self._conversation, f"turn:{key}")
        # What is done in a turn has no key of its own: a turn that is continued sees what was done.
        self._context = replace(context, correlation_id=self.id, idempotency_key=None)
        self._items = items
        self._wait_seconds = wait_seconds
        self._history_limit = check_number(history_limit, "history_limit")
        self._turn: TurnView | None = None
        self._version = 0
        self._messages: list[MessageView] = []
        self._calls = Replay(context.projections.of(ToolCall))
        self._turns = Replay(context.projections.of(Turn))

    @property
    def turn(self) -> TurnView:
        """The turn as it was read or recorded last."""
        if self._turn is None:
            raise ConfigurationError("the turn has not begun; use it in a `with` block")
        return self._turn

    @property
    def messages(self) -> list[MessageView]:
        """The newest messages of the conversation, oldest first, those of the turn among them."""
        calls = by_message(map(ToolCallView.from_row, self._call_rows()), NOW)
        return [
            replace(one, tool_calls=calls[one.id]) if one.id in calls else one
            for one in self._messages
        ]

    @property
    def calls(self) -> list[ToolCallView]:
        """The calls of the turn, in the order of their requests."""
        return [
            ToolCallView.from_row(row)
            for row in self._call_rows()
            if row["correlation_id"] == self.id
        ]

    def _call_rows(self) -> list[dict[str, Any]]:
        rows = self._calls.rows(ToolCall).values()
        return sorted(rows, key=lambda row: (row["index"], row["position"]))

    def begin(self) -> Plan[None]:
        """Start the turn, or find what is recorded of it: see `User.turn`."""
        deadline, pause = time.monotonic() + self._wait_seconds, _FIRST_PAUSE_SECONDS
        try:
            if (yield from self._context.retrying(self._start)):
                return
            while True:
                holder = yield from self._context.retrying(self._join)
                if holder is None:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ConversationBusy(self._conversation, holder)
                yield Pause(min(pause, left))
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except NotFound as error:
            raise NotFound(error.kind, self._reference) from None

    def _start(self) -> Plan[bool]:
        """Start the turn and read the history; False if the turn, or another one, is there."""
        work = self._first_steps()
        request = prepare_append(self._context.user_id, _certain(work), f"turn:{self.id}")
        projections = self._context.projections
        changes = [projections.project(one) for one in request.envelopes]
        page = page_statements(
            self._context.user_id, self._conversation, NOW, None, self._history_limit
        )
        statements = (
            request.statement(),
            *live_statements(projections, request.envelopes, changes),
            *page,
        )
        try:
            rows = yield Batch(user_scope(self._context.user_id), statements)
        except AlreadyAppended:
            return False
        except AlreadyExists as error:
            if error.table != Turn.__tablename__:
                raise
            return False
        except WrongVersion:
            raise NotFound("conversation", self._conversation) from None
        events = recorded_events(request.envelopes, rows[0][0][0])
        self._read_page(messages_of_page(self._conversation, NOW, rows[-len(page) :]))
        self._note(events)
        return True

    def _first_steps(self) -> UnitOfWork:
        work = UnitOfWork(self._context)
        work.record(self._conversation, self._started, event_id=self.id)
        MessageCommands(work).extend(self._conversation, self._items)
        return work

    def _join(self) -> Plan[UUID | None]:
        """Find the turn, or take its place; return the turn that has to be waited for, if any."""
        own, other = yield from self._read_state()
        if own is not None and own.turn.status == "completed":
            yield from self._read_recorded(own.turn)
            return None
        if own is not None and own.turn.status == "running" and own.live:
            return None if own.turn.holder == self._holder else self.id
        if other is not None and other.live:
            return other.turn.id
        try:
            if other is not None:
                # Its process died. Whoever sends that request again continues it. This is an append
                # of its own, because within one append rows are inserted before others are updated,
                # and the index would find two turns that run.
                yield from self._commit_at_version(self._abandoning(other.turn))
            yield from self._commit_at_version(
                self._first_steps() if own is None else self._continuing(own.turn)
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
        self._record_lease(work, turn.attempt + 1, self._started.lease_seconds)
        return work

    def _record_lease(self, work: UnitOfWork, attempt: int, seconds: int) -> None:
        leased = make_event(
            TurnContinued,
            turn_id=self.id,
            holder=self._holder,
            attempt=attempt,
            lease_seconds=seconds,
        )
        work.record(self._conversation, leased)

    def _read_state(self) -> Plan[tuple[KnownTurn | None, KnownTurn | None]]:
        user_id = self._context.user_id
        page = page_statements(user_id, self._conversation, NOW, None, self._history_limit)
        state = turn_state_statements(user_id, self._conversation, self.id)
        versions, turns, *answers = yield Batch(user_scope(user_id), (*state, *page))
        self._read_page(messages_of_page(self._conversation, NOW, answers))
        self._version = versions[0][0]
        own, other = known_turns(turns, self.id)
        if own is not None:
            self._require_same_request(own.turn)
            self._turn = own.turn
            self._turns.load(Turn, asdict(own.turn))
        return own, other

    def _require_same_request(self, turn: TurnView) -> None:
        mine = [one.body for one in self._messages if one.correlation_id == self.id]
        first = mine[: len(self._items)]
        # Of an old turn the messages may stand before the page; then there is nothing to compare.
        sent = [plain_json(one, "items") for one in self._items]
        if len(first) == len(sent) and first != sent and self._messages[0].position < turn.position:
            raise IdempotencyConflict(turn.key, turn.position)

    def _read_page(self, messages: Sequence[MessageView]) -> None:
        self._messages = list(messages)
        self._calls = Replay(self._context.projections.of(ToolCall))
        for message in messages:
            for call in message.tool_calls:
                self._calls.load(ToolCall, _row(call))

    def _read_recorded(self, turn: TurnView) -> Plan[None]:
        """Read the messages of a turn that is completed; it may be long ago."""
        if turn.ended_position is None or (
            self._messages[:1] and (self._messages[0].position <= turn.position)
        ):
            return
        context = self._context
        messages = yield from history(
            context.user_id,
            self._conversation,
            source="projection",
            moment=NOW,
            before=turn.ended_position + 1,
            limit=turn.ended_position - turn.position,
            projections=context.projections,
            registry=context.registry,
        )
        self._read_page(messages)

    def _commit_at_version(self, work: UnitOfWork) -> Plan[Outcome]:
        """Commit what expects the conversation's stream as this turn left it."""
        for number, step in enumerate(work.steps):
            if isinstance(step, NewEvent) and step.stream_id == self._conversation:
                work.steps[number] = replace(step, expected=self._version)
        outcome = yield from UnitOfWork.commit(work)
        self._note(outcome.recorded)
        return outcome

    def commit(self, work: UnitOfWork) -> Plan[Outcome]:
        """
        Commit steps of this turn, if it still has its conversation.

        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        if self.turn.status != "running":
            raise TurnTakenOver(self.id)
        while True:
            try:
                return (yield from self._commit_at_version(work))
            except WrongVersion as conflict:
                if conflict.stream_id != self._conversation:
                    raise
            # The conversation was renamed, for instance, or a late outcome came.
            own, _ = yield from self._context.retrying(self._read_state)
            if own is None or own.turn.status != "running" or own.turn.holder != self._holder:
                raise TurnTakenOver(self.id)

    def _note(self, events: Sequence[RecordedEvent]) -> None:
        """Take in what was recorded."""
        known = {one.id for one in self._messages}
        for event in events:
            if event.stream_id != self._conversation:
                continue
            self._version = event.version
            data = event.data
            if isinstance(data, MessagePosted | ToolCallEvent):
                # What the page shows was applied when it was read.
                if event.event_id not in known and not self._is_known(event):
                    self._calls.apply(event)
                posts = isinstance(data, MessagePosted) or (
                    isinstance(data, ToolCallOutcome) and data.reply is not None
                )
                if posts and event.event_id not in known:
                    self._messages.append(posted_view(event, ()))
            elif isinstance(data, TurnStarted | TurnContinued | TurnEnded):
                self._turns.apply(event)
        row = self._turns.rows(Turn).get((self.id,))
        if row is not None:
            self._turn = TurnView.from_row(row)

    def _is_known(self, event: RecordedEvent) -> bool:
        return (event.event_id,) in self._calls.rows(ToolCall)

    def _run[V](self, handle: Handle[V], work: UnitOfWork) -> Plan[V]:
        return handle.view((yield from self.commit(work)))

    def extend(self, items: Sequence[Mapping[str, Any]]) -> Plan[list[MessageView]]:
        """
        Record what the model said, with the calls that it asks for; one round trip.

        :param items: as in `messages.extend`.
        :return: the messages, with their calls.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        :raises InvalidInput: an item cannot be stored; nothing was written.
        """
        work = UnitOfWork(self._context)
        handle = MessageCommands(work).extend(self._conversation, items)
        return (yield from self._run(handle, work))

    def succeed(
        self, call: ToolCallReference, *, output: object, content: object = None
    ) -> Plan[MessageView | None]:
        """
        Record what a tool returned, as `tool_calls.succeed` does; one round trip.

        :param call: one of `pending_calls`.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        work = UnitOfWork(self._context)
        handle = ToolCallCommands(work).succeed(call, output=output, content=content)
        return (yield from self._run(handle, work))

    def fail(
        self, call: ToolCallReference, *, error: object, content: object = None
    ) -> Plan[MessageView | None]:
        """
        Record how a tool failed, as `tool_calls.fail` does; one round trip.

        :param call: one of `pending_calls`.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        work = UnitOfWork(self._context)
        handle = ToolCallCommands(work).fail(call, error=error, content=content)
        return (yield from self._run(handle, work))

    def renew(self, *, lease_seconds: int | None = None) -> Plan[None]:
        """
        Begin the lease anew, before something that takes long; one round trip.

        :param lease_seconds: None for as many as the turn was started with.
        :raises TurnTakenOver: another process has continued the turn, or it has ended.
        """
        work = UnitOfWork(self._context)
        seconds = self.turn.lease_seconds if lease_seconds is None else lease_seconds
        self._record_lease(work, self.turn.attempt, seconds)
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
        work = UnitOfWork(self._context)
        handle = MessageCommands(work).extend(self._conversation, items)
        given: dict[str, Any] = {} if model is None else {"model": model}
        if usage is not None:
            given |= _usage_fields(usage)
        self._record_end(work, "completed", **given)
        return (yield from self._run(handle, work))

    def fail_turn(self, error: BaseException) -> Plan[None]:
        """Record that the turn failed; its request can be sent again at once."""
        if self._turn is None or self._turn.status != "running":
            return
        work = UnitOfWork(self._context)
        self._record_end(work, "failed", error=f"{type(error).__name__}: {error}"[:1000])
        yield from self.commit(work)

    def _record_end(self, work: UnitOfWork, outcome: TurnOutcome, **fields: object) -> None:
        ended = make_event(TurnEnded, turn_id=self.id, outcome=outcome, **fields)
        work.record(self._conversation, ended)

    def refresh(self) -> Plan[TurnView]:
        """Return the turn as it is in the table now."""
        return get_turn(self._context.user_id, self.id)

    def work(self) -> UnitOfWork:
        """Return a unit of work that is committed as a part of this turn."""
        return _TurnWork(self._context, self)


class _TurnWork(UnitOfWork):
    """A unit of work that is committed only while the turn has its conversation."""

    def __init__(self, context: UserContext, turn: TurnPlans) -> None:
        super().__init__(context)
        self._turn = turn

    def commit(self, reads: UUID | None = None) -> Plan[Outcome]:  # noqa: ARG002 - for an answer
        return self._turn.commit(self)


def _certain(work: UnitOfWork) -> list[NewEvent]:
    return [step for step in work.steps if isinstance(step, NewEvent)]


def _row(call: ToolCallView) -> dict[str, Any]:
    """Return the row of a call, as a replay has it."""
    return {name: getattr(call, name) for name in ToolCallView.columns()}


_TOKENS = {
    "input_tokens": ("input_tokens", "prompt_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens"),
}


def _usage_fields(usage: object) -> dict[str, Any]:
    stored = plain_json(usage, "usage")
    if not isinstance(stored, dict):
        raise InvalidInput("usage", "is no object; give what the model's API reported")
    tokens = {
        field: next((stored[name] for name in names if isinstance(stored.get(name), int)), 0)
        for field, names in _TOKENS.items()
    }
    return {"usage": stored, **tokens}
