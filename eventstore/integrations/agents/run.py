"""
What is known of one run: its conversation, the calls that it has open, and what it has cost.

The SDK gives a session and hooks one object in common, the run's `usage`, to which every context of
the run refers. By it the hooks find the session in whose conversation they record.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from itertools import batched
from typing import Any, Literal, Protocol
from uuid import UUID, uuid4

from agents import ModelResponse, RunContextWrapper, Usage
from pydantic_core import to_jsonable_python
from uuid_utils.compat import uuid7

from eventstore import (
    AsyncUser,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    StreamClosed,
    TurnEnded,
    TurnStarted,
    TurnUsed,
)
from eventstore.store.units.transaction import TransactionCommands
from projections.models.tool_call import ToolCallView

__all__ = ["MOST_ITEMS", "RecordedCall", "Run", "Writer", "enter_run", "run_of"]

MOST_ITEMS = 500
"""Items in one append, which takes 1,000 events: each may ask for a call, which is one too."""


class Writer(Protocol):
    """What opens transactions: a user, or a turn that has its conversation."""

    def transaction(self) -> AbstractAsyncContextManager[TransactionCommands]:
        """Return a block whose commands become one append."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """
    The recorded request of a call; a cause of what its tool does, and what `tool_calls` takes.

    :ivar event_id: of the request, which is the call's `id` too.
    :ivar message_id: of the item that asks for it; None if the SDK writes that later.
    """

    event_id: UUID
    conversation_id: UUID
    call_id: str
    name: str
    arguments: str
    message_id: UUID | None = None

    @property
    def id(self) -> UUID:
        """The call's id."""
        return self.event_id


@dataclass(slots=True, eq=False)
class _Request:
    call_id: str
    name: str
    arguments: str
    recorded: RecordedCall | None = None


@dataclass(slots=True, eq=False)
class _Outcome:
    """How a call ended; the value is its output, its error, or why it was abandoned."""

    call: RecordedCall
    value: object
    kind: Literal["succeeded", "failed", "abandoned"]


@dataclass(slots=True, eq=False)
class Run:
    """
    One run of the SDK with a session of the store.

    Its appends are made one after another, and each has all that waits: what parallel calls want
    to have recorded is one append.

    :ivar conversation: the session's id, which is the conversation's key.
    :ivar writer: through which it appends.
    :ivar turn_id: of the turn that records the run.
    :ivar own_turn: whether the run begins its turn itself: one without a lease.
    :ivar deferred: whether outcomes wait for the items, because somebody writes them in the end.
    :ivar final: whether the agent has its final output.
    """

    conversation: str
    user: AsyncUser
    writer: Writer
    turn_id: UUID
    own_turn: bool = True
    deferred: bool = False
    final: bool = False
    ended: bool = False
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    running: dict[str, RecordedCall] = field(default_factory=dict)
    _left_open: dict[str, RecordedCall] = field(default_factory=dict)
    _placeable: list[RecordedCall] = field(default_factory=list)
    _requests: list[_Request] = field(default_factory=list)
    _outcomes: list[_Outcome] = field(default_factory=list)
    _responses: int = 0
    _reported: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def of_session(cls, conversation: str, user: AsyncUser) -> Run:
        """Return a run of which the session hears first."""
        turn_id = uuid7()
        annotated = user.annotated(correlation_id=turn_id)
        return cls(conversation, annotated, annotated, turn_id)

    @property
    def has_news(self) -> bool:
        """Whether anything waits for the next append, or for the items that it holds."""
        return bool(self._outcomes or self._placeable or self._reported < self._responses)

    def responded(self, response: ModelResponse, model: str | None) -> None:
        """Take in what a request to the model has cost; the next append records it."""
        self.usage.add(response.usage)
        self._responses += 1
        self.model = model or self.model

    async def request(self, call_id: str, name: str, arguments: str) -> RecordedCall:
        """Record a call before its tool runs; one round trip for all that start together."""
        known = self._left_open.pop(call_id, None)
        if known is not None:
            self._placeable.append(known)
        elif not self._responses:
            known = await self._approved(call_id)
        if known is None:
            wanted = _Request(call_id, name, arguments)
            self._requests.append(wanted)
            await asyncio.sleep(0)  # the other calls of the response start in this moment too
            try:
                await self._append(lambda: wanted.recorded is not None)
            finally:
                # The tool of a call that was refused does not run, and later appends go without it.
                self._requests = [one for one in self._requests if one is not wanted]
            known = wanted.recorded
        assert known is not None  # noqa: S101 - for the type checker; the append made it
        self.running[call_id] = known
        return known

    def left_open(self, calls: Sequence[ToolCallView]) -> None:
        """Take in what an earlier attempt recorded: asked for again, it is the same call."""
        self._left_open = {one.call_id: _recorded(one) for one in calls}

    async def _approved(self, call_id: str) -> RecordedCall | None:
        """Find a call that waited for a person: its item was written when the run paused."""
        try:
            found = await self.user.tool_calls.find(self.conversation, call_id)
        except NotFound:
            return None
        return _recorded(found) if found.status == "pending" else None

    async def end(self, call_id: str, value: object, *, failed: bool) -> None:
        """Record how a call ended, unless that is recorded; no round trip if outcomes wait."""
        call = self.running.pop(call_id, None)
        if call is None:
            return
        outcome = _Outcome(call, value, "failed" if failed else "succeeded")
        self._outcomes.append(outcome)
        if not self.deferred:
            await asyncio.sleep(0)
            await self._append_outcome(outcome)

    def ended_by_tool(self, call: RecordedCall) -> None:
        """Take in that the tool has recorded the outcome itself, with what it changed."""
        self.running.pop(call.call_id, None)

    def fail_running(self, name: str, reason: str) -> None:
        """Have the running calls of a tool failed with what is written next."""
        failed = [one for one in self.running.values() if one.name == name]
        self._outcomes += [_Outcome(one, reason, "failed") for one in failed]
        for one in failed:
            del self.running[one.call_id]

    def abandon_running(self, reason: str) -> None:
        """Have the calls whose tools did not end abandoned with what is written next."""
        self._outcomes += [_Outcome(one, reason, "abandoned") for one in self.running.values()]
        self.running.clear()

    async def flush(self) -> None:
        """Write what waits; an outcome that cannot be stored keeps back no other."""

        def done() -> bool:
            return not self._outcomes and self._reported == self._responses

        try:
            await self._append(done)
        except InvalidInput:
            waiting, self._outcomes = self._outcomes, []
            await self._append(done)
            for outcome in waiting:
                self._outcomes.append(outcome)
                with suppress(InvalidInput):
                    await self._append_outcome(outcome)

    async def _append_outcome(self, outcome: _Outcome) -> None:
        try:
            await self._append(lambda: outcome not in self._outcomes)
        except InvalidInput:
            self._outcomes = [one for one in self._outcomes if one is not outcome]
            raise

    async def add(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Write items and what waits; one round trip for each 500 items."""
        for part in batched(items, MOST_ITEMS, strict=False):
            await self._append(items=part)

    async def _append(
        self,
        done: Callable[[], bool] = lambda: False,
        *,
        items: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        async with self._lock:
            began = not self.own_turn
            while items or not done():
                try:
                    await self._append_all(items)
                except (NotFound, StreamClosed):
                    # Somebody deleted the conversation while the run went on, or nobody began it.
                    if began:
                        raise
                    await self.user.conversations.start(key=self.conversation)
                    began = True
                except IdempotencyConflict:
                    # The tool, or somebody else, has ended a call; its first outcome counts.
                    if not await self._drop_ended():
                        raise
                else:
                    return

    async def _append_all(self, items: Sequence[Mapping[str, Any]]) -> None:
        requests, outcomes, reported = [*self._requests], [*self._outcomes], self._responses
        final = self.final and not self.ended and bool(items)
        placeable, made = [*self._placeable], []
        async with self.writer.transaction() as tx:
            # Nothing is posted by it; it says which conversation it is.
            conversation = tx.messages.extend(self.conversation, ()).id
            if self._reported < reported and not self.ended:
                self._report(tx, conversation, final=final)
            for request in requests:
                handle = tx.tool_calls.request(
                    conversation,
                    name=request.name,
                    arguments=request.arguments,
                    call_id=request.call_id,
                    in_history=False,
                )
                about = (handle.call_id, request.name, request.arguments)
                made.append(RecordedCall(handle.id, conversation, *about))
            # Before the items, because the answer among them ends a call that is still pending.
            for one in outcomes:
                # The answer in the history is written by the SDK, and not by the outcome.
                call = replace(one.call, message_id=None)
                match one.kind:
                    case "succeeded":
                        tx.tool_calls.succeed(call, output=one.value)
                    case "failed":
                        tx.tool_calls.fail(call, error=one.value)
                    case "abandoned":
                        tx.tool_calls.abandon(call, reason=str(one.value))
            tx.messages.extend(self.conversation, items, calls=placeable)
            if final:
                ended = TurnEnded(turn_id=self.turn_id, outcome="completed", **self._costs())
                tx.append(conversation, ended)
        for request, call in zip(requests, made, strict=True):
            request.recorded = call
        self._requests = [one for one in self._requests if one not in requests]
        self._outcomes = [one for one in self._outcomes if one not in outcomes]
        placed = {item.get("call_id") for item in items if isinstance(item, Mapping)}
        self._placeable = [one for one in self._placeable if one.call_id not in placed] + made
        self._reported = max(self._reported, reported)
        self.ended = self.ended or final

    async def _drop_ended(self) -> bool:
        """Forget outcomes of calls that have one; tell whether there were any."""
        before = len(self._outcomes)
        waiting = []
        for one in self._outcomes:
            known = await self.user.tool_calls.get(one.call.event_id)
            if known.status == "pending":
                waiting.append(one)
        self._outcomes = waiting
        return len(waiting) < before

    def _report(self, tx: TransactionCommands, conversation: UUID, *, final: bool) -> None:
        """Record what the run has cost so far, with its beginning if this is the first time."""
        if self.own_turn and not self._reported:
            started = TurnStarted(
                key=f"run:{self.turn_id}", request="run", holder=uuid4(), lease_seconds=0
            )
            tx.append(conversation, started, event_id=self.turn_id)
        if not final:  # the end says it all
            tx.append(conversation, TurnUsed(turn_id=self.turn_id, **self._costs()))

    def _costs(self) -> dict[str, Any]:
        usage = self.usage
        return {
            "model": self.model,
            "usage": to_jsonable_python(usage),
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
        }


def _recorded(call: ToolCallView) -> RecordedCall:
    about = (call.call_id, call.name, call.arguments, call.message_id)
    return RecordedCall(call.id, call.conversation_id, *about)


_RUNS: dict[int, Run] = {}


def enter_run(
    context: RunContextWrapper[Any], make: Callable[[], Run], *, instead: bool = False
) -> Run:
    """
    Return the run that a context belongs to, made now if the session hears of it first.

    A run that has ended is followed by another one, if its context is used again.

    :param instead: put the run that is made in the place of one that goes on: it is a turn's, and
        the context comes from a run before the turn.
    """
    usage = context.usage
    known = _RUNS.get(id(usage))
    if known is not None and not known.ended and not instead:
        return known
    if known is None:
        weakref.finalize(usage, _RUNS.pop, id(usage), None).atexit = False
    run = _RUNS[id(usage)] = make()
    return run


def run_of(context: RunContextWrapper[Any]) -> Run | None:
    """Return the run that a context belongs to; None if no session of the store was used in it."""
    return _RUNS.get(id(context.usage))
