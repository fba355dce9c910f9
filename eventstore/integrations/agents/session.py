"""The SDK's session on a conversation of the store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import batched
from typing import Any, NamedTuple, cast

from agents import ItemHelpers, RunContextWrapper, TResponseInputItem
from agents.memory import OpenAIResponsesCompactionArgs, SessionSettings

from eventstore import (
    AsyncUser,
    ConfigurationError,
    InvalidInput,
    NotFound,
    NotLast,
    StreamClosed,
)
from eventstore.integrations.agents.hooks import RecordToolCalls
from eventstore.integrations.agents.run import MOST_ITEMS, Run, enter_run
from eventstore.integrations.agents.turn import SessionTurn
from eventstore.store.sync_async import settled
from eventstore.store.turns.block import AsyncActiveTurn
from projections.models.message import MessageView

__all__ = ["Compact", "EventStoreSession"]

type Items = list[TResponseInputItem]
type Compact = Callable[[Items], Awaitable[Items | None]]
"""Makes fewer items of a history; None leaves it as it is."""
type UserOf = Callable[[RunContextWrapper[Any]], AsyncUser]

_SEARCHED_FOR_CALL = 500


class EventStoreSession:
    """
    A session of the Agents SDK: the items of the conversation whose key is the session's id.

    The conversation is started with the first items, by whichever process adds them first. Items
    come back exactly as they were added. What a run adds while its caller is cancelled is written
    before the cancellation goes on.

    :param session_id: the conversation's key, 1 to 255 characters; each user has his own.
    :param user: whose conversation it is; or a function that finds him by the run's context, which
        is given as hooks and tools get it.
    :param session_settings: its `limit` is how many items a run is given; None for all.
    :param compact: what makes fewer items of the history after a run; see `run_compaction`.
    :raises InvalidInput: `user` is neither an `AsyncUser` nor a function.
    """

    session_id: str
    session_settings: SessionSettings | None

    def __init__(
        self,
        session_id: str,
        user: AsyncUser | UserOf,
        *,
        session_settings: SessionSettings | None = None,
        compact: Compact | None = None,
    ) -> None:
        if not isinstance(user, AsyncUser) and not callable(user):
            fact = f"a {type(user).__name__}; give a user of an AsyncEventStore, or a function"
            raise InvalidInput("user", fact)
        self.session_id = session_id
        self.session_settings = session_settings
        self.compact = compact
        self._user = user

    async def get_items(
        self, limit: int | None = None, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> Items:
        """
        Return the newest items, oldest first; one round trip.

        :param limit: exactly so many, as the SDK needs it to find its own items again; of a run's
            history it leaves out an output that the cut has parted from its call. None gives as
            many as the settings say, or all: where their cut would part a call from its output, or
            from its reasoning, more items, for another round trip.
        :param wrapper: the run's context.
        """
        user = self._user_of(wrapper)
        if wrapper is not None:
            self.run_of(wrapper)
        settings = self.session_settings
        if limit is None and settings is not None and settings.limit is not None:
            return _items(await self._page(user, settings.limit))
        return [] if limit == 0 else await self._newest_items(user, limit)

    async def add_items(
        self, items: Items, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> None:
        """
        Add items at the end; one round trip, three if they begin the conversation.

        With `RecordToolCalls` the calls that they ask for are those that were recorded before, and
        what the run has cost so far is written with them.

        :param wrapper: the run's context.
        :raises InvalidInput: an item cannot be stored; nothing was written.
        """
        user = self._user_of(wrapper)
        if items:
            run = None if wrapper is None else self.run_of(wrapper)
            await settled(self._add(user, run, cast("list[dict[str, Any]]", items)))

    async def _add(self, user: AsyncUser, run: Run | None, items: list[dict[str, Any]]) -> None:
        if run is not None and (run.has_news or run.final):
            await run.add(items)
            return
        writer = user if run is None else run.user
        # More than an append takes is written in several; each is whole.
        for part in batched(items, MOST_ITEMS, strict=False):
            await writer.messages.extend(self.session_id, part, start=True)

    async def pop_item(
        self, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> TResponseInputItem | None:
        """
        Take the newest item away and return it, or None; two round trips.

        It stays in the log: `history(…, as_of=…)` still has it.

        :param wrapper: the run's context.
        """
        user = self._user_of(wrapper)
        try:
            popped = await settled(user.messages.pop(self.session_id))
        except NotFound:
            return None
        return _items(popped)[0] if popped else None

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        """
        Take all items away; one round trip. They stay in the log.

        :param wrapper: the run's context.
        """
        user = self._user_of(wrapper)
        try:
            await settled(user.messages.clear(self.session_id))
        except (NotFound, StreamClosed):
            return

    async def run_compaction(
        self,
        args: OpenAIResponsesCompactionArgs | None = None,  # noqa: ARG002 - the SDK's signature
        *,
        wrapper: RunContextWrapper[Any] | None = None,
    ) -> None:
        """
        Put what `compact` makes of the history in its place; the SDK asks for it after a run.

        Nothing is replaced if another item came while `compact` worked. Without `compact` nothing
        is done. OpenAI's own compaction is `OpenAIResponsesCompactionSession` around this session.

        :param args: the SDK's, not used.
        :param wrapper: the run's context.
        """
        if self.compact is None:
            return
        user = self._user_of(wrapper)
        messages = await self._newest(user, None)
        if not messages:
            return
        compacted = await self.compact(_items(messages))
        if compacted is not None:
            await settled(self._replace(user, 0, messages[-1], compacted))

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: object = None
    ) -> CompactionSnapshot:
        """
        Return the newest items with what replaces them; OpenAI's compaction asks for it.

        :param prune_prefix: what would remove expired items of `EncryptedSession`; they stay.
        """
        del prune_prefix
        user = self._user_of(None)
        messages = await self._newest(user, limit + 1)
        complete = len(messages) <= limit
        before, shown = (0, messages) if complete else (messages[0], messages[1:])

        async def replace_suffix(start: int, output: Items) -> bool:
            if not shown[start:]:
                return False
            after = shown[start - 1] if start else before
            return await self._replace(user, after, shown[-1], output)

        return CompactionSnapshot(_items(shown), complete, replace_suffix)

    async def _replace(
        self, user: AsyncUser, after: MessageView | int, last: MessageView, items: Items
    ) -> bool:
        """Replace what follows a message if the last one is still the last; tell whether it was."""
        replacing = user.messages.replace_tail(
            self.session_id,
            cast("list[dict[str, Any]]", items),
            after=after,
            expected_last=last.id,
        )
        try:
            await settled(replacing)
        except (NotLast, NotFound, StreamClosed):
            return False
        return True

    async def _page(self, user: AsyncUser, limit: int) -> list[MessageView]:
        """Return the newest messages, and those before that a whole exchange needs."""
        if limit == 0:
            return []
        messages = await self._newest(user, limit)
        if len(messages) < limit:
            return messages
        missing = _calls_before(messages)
        if not missing and _pair_id(messages[0].body, _asks) is None:
            return messages
        more = await self._newest(user, limit + _SEARCHED_FOR_CALL)
        earlier = [one for one in more if one.position < messages[0].position]
        start = len(earlier)
        while missing and start:
            start -= 1
            body = earlier[start].body
            missing.discard(_pair_id(body, _asks) or "")
            if (answered := _pair_id(body, _answers)) is not None:
                missing.add(answered)
        if missing:  # their calls are nowhere near, and what came between says nothing of them
            return messages
        # Reasoning belongs to the call that came of it.
        while start and earlier[start - 1].body.get("type") == "reasoning":
            start -= 1
        return earlier[start:] + messages

    async def _newest_items(self, user: AsyncUser, limit: int | None) -> Items:
        try:
            return cast("Items", await user.items(self.session_id, limit=limit))
        except NotFound:
            return []

    async def _newest(self, user: AsyncUser, limit: int | None) -> list[MessageView]:
        try:
            return await user.history(self.session_id, limit=limit)
        except NotFound:
            return []

    def turn(
        self,
        input: str | Items,  # noqa: A002 - the SDK's word
        *,
        key: str,
        context: object = None,
        hooks: RecordToolCalls | None = None,
        lease_seconds: int = 120,
        wait_seconds: float = 10.0,
        history_limit: int = 100,
    ) -> SessionTurn:
        """
        Return the block in which one request is answered, once, whoever retries it.

        ::

            async with session.turn(text, key=request_id, context=me) as turn:
                if not turn.ended:
                    await Runner.run(
                        agent, turn.input, session=turn.session, hooks=turn.hooks, context=me
                    )
            return turn.answer

        It is a turn of the store (`AsyncUser.turn`). The input is written, and the history read,
        when it begins, and outcomes are written with the items that follow them, so that a run with
        a tool call takes four round trips. A run that raises makes the turn failed, with what it
        has cost, and calls whose tools did not end are abandoned.

        :param input: what the user sends, as for `Runner.run`.
        :param key: the caller's name for the request, the same on each retry.
        :param context: the run's, for a session that finds its user by it.
        :param hooks: None for a `RecordToolCalls` of the turn's session.
        :param lease_seconds: as of `AsyncUser.turn`; `wait_seconds` as well.
        :param history_limit: messages that are read in the round trip that begins the turn; a run
            that needs more reads them in another one.
        :raises InvalidInput: a parameter does not fit. The rest is raised on entering, as by
            `AsyncUser.turn`.
        """
        user = self._user_of(RunContextWrapper(context))
        sent = ItemHelpers.input_to_new_input_list(input)

        def session_of(active: AsyncActiveTurn, run: Run) -> _TurnSession:
            return _TurnSession(self, user, active, run, sent, history_limit)

        options = {
            "key": key,
            "lease_seconds": lease_seconds,
            "wait_seconds": wait_seconds,
            "history_limit": history_limit,
        }
        return SessionTurn(
            self.session_id,
            user,
            sent,
            hooks=hooks,
            session_of=session_of,
            options=options,
        )

    def _user_of(self, wrapper: RunContextWrapper[Any] | None) -> AsyncUser:
        if isinstance(self._user, AsyncUser):
            return self._user
        if wrapper is None:
            raise ConfigurationError(
                "the session finds its user by the run's context, and was called outside of a run; "
                "give it a user, or call it with wrapper=RunContextWrapper(context)"
            )
        return self._user(wrapper)

    def run_of(self, wrapper: RunContextWrapper[Any]) -> Run | None:
        """Return the run of a context if it is this session's; one may be used with several."""
        user = self._user_of(wrapper)
        run = enter_run(wrapper, lambda: Run.of_session(self.session_id, user))
        mine = run.conversation == self.session_id and run.user.user_id == user.user_id
        return run if mine else None


class _TurnSession(EventStoreSession):
    """The session of a run in a turn: it writes through the turn, and reads what the turn has."""

    def __init__(
        self,
        session: EventStoreSession,
        user: AsyncUser,
        active: AsyncActiveTurn,
        run: Run,
        sent: Items,
        history_limit: int,
    ) -> None:
        super().__init__(
            session.session_id,
            user,
            session_settings=session.session_settings,
            compact=session.compact,
        )
        self._active, self._own_run, self._history_limit = active, run, history_limit
        # The run reads the history before it adds what was sent, which is in the log already.
        self._sent = sent if active.attempt == 1 else []
        self._changed = False

    def run_of(self, wrapper: RunContextWrapper[Any]) -> Run | None:
        return enter_run(wrapper, lambda: self._own_run, instead=True)

    async def _add(
        self,
        user: AsyncUser,
        run: Run | None,  # noqa: ARG002 - the turn's run, whichever context the SDK uses
        items: list[dict[str, Any]],
    ) -> None:
        sent, self._sent = self._sent, []
        items = [*items]
        for item in cast("list[dict[str, Any]]", sent):
            if item in items:  # a `session_input_callback` may have put others among them
                items.remove(item)
        if items and not self._own_run.ended:
            await self._own_run.add(items)
        elif items:
            await super()._add(user, None, items)

    async def _newest_items(self, user: AsyncUser, limit: int | None) -> Items:
        return _items(await self._newest(user, limit))

    async def _newest(self, user: AsyncUser, limit: int | None) -> list[MessageView]:
        known = self._active.messages
        before = self._active.record.position if self._sent else None
        complete = len(known) < self._history_limit
        if before is not None:
            known = [one for one in known if one.position < before]
        if not self._changed and (complete or (limit is not None and limit <= len(known))):
            return known if limit is None else known[max(0, len(known) - limit) :]
        wanted = None if limit is None else limit + len(self._sent)
        found = await user.history(self.session_id, limit=wanted)
        return [one for one in found if before is None or one.position < before]

    async def pop_item(
        self, *, wrapper: RunContextWrapper[Any] | None = None
    ) -> TResponseInputItem | None:
        self._changed, self._sent = True, []
        return await super().pop_item(wrapper=wrapper)

    async def clear_session(self, *, wrapper: RunContextWrapper[Any] | None = None) -> None:
        self._changed, self._sent = True, []
        await super().clear_session(wrapper=wrapper)

    async def run_compaction(
        self,
        args: OpenAIResponsesCompactionArgs | None = None,
        *,
        wrapper: RunContextWrapper[Any] | None = None,
    ) -> None:
        self._changed = True
        await super().run_compaction(args, wrapper=wrapper)


class CompactionSnapshot(NamedTuple):
    """
    The newest items of a session, as OpenAI's compaction wants them.

    :ivar complete: whether there are no older ones.
    :ivar replace_suffix: puts others in the place of the items from an index on; False, and nothing
        written, if another item came meanwhile.
    """

    items: Items
    complete: bool
    replace_suffix: Callable[[int, Items], Awaitable[bool]]


def _calls_before(messages: Sequence[MessageView]) -> set[str]:
    """Return the ids of the calls whose output stands in a page and which stand before it."""
    requested: set[str] = set()
    missing: set[str] = set()
    for one in messages:
        if (call := _pair_id(one.body, _answers)) is not None and call not in requested:
            missing.add(call)
        if (call := _pair_id(one.body, _asks)) is not None:
            requested.add(call)
    return missing


def _answers(kind: str) -> str | None:
    if kind == "mcp_approval_response":
        return "approval_request_id"
    return "call_id" if kind.endswith("_output") else None


def _asks(kind: str) -> str | None:
    if kind == "mcp_approval_request":
        return "id"
    return None if kind.endswith("_output") else "call_id"


def _pair_id(item: Mapping[str, Any], field_of: Callable[[str], str | None]) -> str | None:
    """Return what joins a call with its output, if an item is the one of them that is meant."""
    kind = item.get("type")
    name = field_of(kind) if isinstance(kind, str) else None
    value = None if name is None else item.get(name)
    return value if isinstance(value, str) else None


def _items(messages: Sequence[MessageView]) -> Items:
    return cast("Items", [one.body for one in messages])
