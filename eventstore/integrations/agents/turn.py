"""A run as a turn of the store: once for each request, whoever retries it, and with its failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, cast

from agents import Model, ToolTimeoutError, TResponseInputItem
from agents.memory import Session

from eventstore import AsyncUser, ConfigurationError, EventStoreError, NotFound, StreamClosed
from eventstore.integrations.agents.continued import ContinuedModel
from eventstore.integrations.agents.hooks import RecordToolCalls, RunSession
from eventstore.integrations.agents.run import Run
from eventstore.store.sync_async import settled
from eventstore.store.turns.block import AsyncActiveTurn, AsyncTurnBlock
from projections.models.message import MessageView
from projections.models.tool_call import ToolCallView
from projections.models.turn import TurnView

__all__ = ["SessionTurn", "TurnSession"]


class TurnSession(Session, RunSession, Protocol):
    """A session of the SDK that knows the runs in which it is used."""


class SessionTurn:
    """
    What `async with session.turn(…) as turn` gives: a session and hooks for one run.

    :param hooks: as of `EventStoreSession.turn`.
    :param session_of: makes the session that writes through the turn.
    """

    def __init__(
        self,
        session_id: str,
        user: AsyncUser,
        items: Sequence[TResponseInputItem],
        *,
        hooks: RecordToolCalls | None,
        session_of: Callable[[AsyncActiveTurn, Run], TurnSession],
        options: dict[str, Any],
    ) -> None:
        self._hooks = hooks
        self._session_id, self._user, self._sent = session_id, user, list(items)
        self._session_of = session_of
        self._options = options
        self._block: AsyncTurnBlock | None = None
        self._active: AsyncActiveTurn | None = None
        self._run: Run | None = None
        self._session: TurnSession | None = None
        self._left_open: list[ToolCallView] = []

    async def __aenter__(self) -> Self:
        if self._block is not None:
            raise ConfigurationError("a turn is used once; call session.turn() for another one")
        try:
            await self._begin()
        except (NotFound, StreamClosed):
            await self._user.conversations.start(key=self._session_id)
            await self._begin()
        return self

    async def _begin(self) -> None:
        sent = cast("list[dict[str, Any]]", self._sent)
        self._block = self._user.turn(self._session_id, items=sent, **self._options)
        active = self._active = await self._block.__aenter__()
        run = Run(
            self._session_id,
            self._user.annotated(correlation_id=active.id),
            active,
            active.id,
            own_turn=False,
            deferred=True,
        )
        # Those with an item are in the history, where a model sees them.
        self._left_open = [one for one in active.pending_calls if one.message_id is None]
        run.left_open(self._left_open)
        self._run = run
        self._session = self._session_of(active, run)
        if self._hooks is None:
            # A run that goes on after an approval runs the tool before it asks the session.
            self._hooks = RecordToolCalls(self._session)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        run, active, block = self._run, self._active, self._block
        if run is None or active is None or block is None or active.ended:
            return

        async def close() -> None:
            try:
                await run.flush()
            except EventStoreError as unwritten:
                # The calls stay pending. The first error is what the caller must see.
                if error is None:
                    await block.__aexit__(type(unwritten), unwritten, unwritten.__traceback__)
                    raise
            await block.__aexit__(kind, error, trace)

        # They were cancelled, or still run in threads that nobody waits for. No hook is called for
        # a tool that took too long, if that ends the run.
        if isinstance(error, ToolTimeoutError):
            run.fail_running(error.tool_name, f"ToolTimeoutError: {error}")
        run.abandon_running("the run ended before its tool did")
        # Together, because some cancel again at each step of who cleans up, as anyio does.
        try:
            await settled(close())
        except asyncio.CancelledError as cancelled:
            # An event loop that ends cancels that too. A turn that has ended stays as it is.
            await block.__aexit__(type(cancelled), cancelled, cancelled.__traceback__)
            raise

    async def end(self) -> None:
        """
        Record that the run is over, before the block is left.

        Whoever is sent a streamed answer can then rely on its being recorded.
        """
        run, active = self._run, self._require_active()

        async def end() -> None:
            if run is not None:
                await run.flush()
            await active.end()

        if not active.ended:
            if run is not None:
                run.abandon_running("the run ended before its tool did")
            await settled(end())

    @property
    def session(self) -> TurnSession:
        """The session to give to the run, which writes through the turn."""
        if self._session is None:
            raise _not_begun()
        return self._session

    @property
    def hooks(self) -> RecordToolCalls:
        """The hooks to give to the run."""
        if self._hooks is None:
            raise _not_begun()
        return self._hooks

    @property
    def input(self) -> list[TResponseInputItem]:
        """
        What to give to the run: the items that were sent, or none if the turn is continued.

        A turn whose process died has them in its history, with what was recorded after them.
        """
        active = self._require_active()
        return list(self._sent) if active.attempt == 1 else []

    def continued(self, model: Model) -> Model:
        """
        Return the model to give to the agent, which first finishes what the turn left open.

        If a process died after it had recorded calls and before it wrote their items, the first
        response is these calls, with their ids, and the model is not asked. So an MCP server that
        has recorded what a call returned answers it, and runs nothing; a local tool runs, as its
        outcome is not recorded. In a turn that begins, it is just the model.

        :param model: the model itself, not its name: `OpenAIProvider().get_model(name)`.
        """
        self._require_active()
        return ContinuedModel(model, self._left_open) if self._left_open else model

    @property
    def ended(self) -> bool:
        """Whether the request was answered before; then there is nothing to run."""
        return self._require_active().ended

    @property
    def answer(self) -> MessageView | None:
        """The last message that the model said to the user in this turn."""
        return self._require_active().answer

    @property
    def record(self) -> TurnView:
        """The turn as it was recorded last: its status, model, usage and error."""
        return self._require_active().record

    def _require_active(self) -> AsyncActiveTurn:
        if self._active is None:
            raise _not_begun()
        return self._active


def _not_begun() -> ConfigurationError:
    return ConfigurationError("the turn has not begun; use it in an `async with` block")
