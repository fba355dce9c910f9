"""
Drafts: a streamed answer is saved as it grows, without an event per token.

A draft is a message that is posted with its first text and edited now and then. Nobody else edits a
message whose text is still coming, so a save reads nothing first: one event and one round trip.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import ConfigurationError, InvalidInput
from eventstore.events.items import assistant_body, read_item
from eventstore.log.ids import uuid7
from eventstore.store.context import UserContext
from eventstore.store.sync_async import AsyncFacade, SyncFacade, async_method, sync_method
from eventstore.store.units.decisions import Cause, require_shown
from eventstore.store.units.item_events import item_events
from eventstore.store.units.unit_of_work import UnitOfWork
from projections import Message

__all__ = ["AsyncDraft", "Draft", "DraftPlans"]


class DraftPlans:
    """A message that grows, and the plans that save it."""

    def __init__(
        self,
        context: UserContext,
        conversation: UUID | str,
        sender: str,
        seconds: float,
        caused_by: Cause,
    ) -> None:
        if context.idempotency_key is not None:
            raise ConfigurationError(
                "a draft is saved by several appends, and an idempotency key names one; take the "
                "draft of the user without the key"
            )
        # False for NaN too.
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise InvalidInput("seconds", "give 0 or more")
        self.context = context
        self.message_id: UUID | None = None
        self._conversation = conversation
        self._sender = sender
        self._seconds = seconds
        self._caused_by = caused_by
        self._texts: list[str] = []
        self._unsaved = False
        self._saved_at = 0.0
        self._finished = False

    def write(self, text: str) -> Plan[None]:
        """
        Add text to the message; one round trip if it is saved now, else none.

        :raises InvalidInput: it is no text.
        :raises ConfigurationError: the draft has ended.
        :raises NotFound: no such conversation of this user.
        :raises StreamClosed: the conversation was deleted.
        """
        self._require_open()
        if not isinstance(text, str):
            raise InvalidInput("text", f"expected text, got {type(text).__name__}")
        self._texts.append(text)
        self._unsaved = self._unsaved or bool(text)
        if self._unsaved and (
            self.message_id is None or time.monotonic() - self._saved_at >= self._seconds
        ):
            yield from self._save(self._body())

    def finish(self, body: Mapping[str, Any] | None = None) -> Plan[None]:
        """
        Save the message as it is in the end; one round trip, none if nothing is left to save.

        The end of a `with` block does it too, if it was not done.

        :param body: the whole item instead of the texts, as the model's API gives it in the end;
            the calls that it asks for are recorded, as in `post`.
        :raises InvalidInput: the item cannot be stored, or is of another role.
        """
        self._require_open()
        if body is not None:
            if isinstance(body, Mapping) and read_item(body).sender != self._sender:
                raise InvalidInput("body", "is of another role than the draft's sender")
            yield from self._save(body)
        elif self._unsaved:
            yield from self._save(self._body())
        self._finished = True

    def end(self) -> Plan[None]:
        """Save what is left to save, unless the draft was finished."""
        if not self._finished:
            yield from self.finish()

    def _require_open(self) -> None:
        if self._finished:
            raise ConfigurationError("the draft has ended; its message can be edited")

    def _body(self) -> dict[str, Any]:
        return assistant_body(self._sender, "".join(self._texts), ())

    def _save(self, body: Mapping[str, Any]) -> Plan[None]:
        work = UnitOfWork(self.context)
        stream = work.conversation(self._conversation)
        message_id = self.message_id
        if message_id is not None and read_item(body).calls:
            # Nobody would wait for calls of a message that was taken away while it grew.
            work.decide(
                Message,
                message_id,
                lambda row: require_shown(row, stream, message_id),
                stream_id=stream,
            )
        events = item_events(body, "body", uuid7, sender=self._sender, completes=message_id)
        for event_id, data, causation_id in events:
            cause = self._caused_by if causation_id is None else causation_id
            work.record(stream, data, caused_by=cause, event_id=event_id)
        yield from work.commit()
        if message_id is None:
            self.message_id = events[0].event_id
        self._unsaved, self._saved_at = False, time.monotonic()


class Draft(SyncFacade[DraftPlans]):
    """A message that is saved while it grows; `messages.draft` makes one."""

    write = sync_method(DraftPlans.write)
    finish = sync_method(DraftPlans.finish)
    _end = sync_method(DraftPlans.end)

    @property
    def message_id(self) -> UUID | None:
        """The id of the message; None until its first text is saved."""
        return self._plans.message_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # What a model said before it failed was shown to the user, so it is saved too.
        self._end()


class AsyncDraft(AsyncFacade[DraftPlans]):
    """A message that is saved while it grows; `messages.draft` makes one."""

    write = async_method(DraftPlans.write)
    finish = async_method(DraftPlans.finish)
    _end = async_method(DraftPlans.end)

    @property
    def message_id(self) -> UUID | None:
        """The id of the message; None until its first text is saved."""
        return self._plans.message_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()
