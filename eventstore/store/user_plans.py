"""
`UserPlans`: what is done for one user beside tasks, conversations, messages, calls and turns.

Every method is a plan (see `database.plan`), from which `User` and `AsyncUser` make theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import InvalidInput, OutcomeUnknown
from eventstore.events.fields import MAX_BATCH, MAX_KEY, check_label, check_list, check_occurred_at
from eventstore.events.json_codec import check_json
from eventstore.log.append import append
from eventstore.log.envelope import NewEvent, RecordedEvent
from eventstore.log.paging import Page
from eventstore.log.read import Selection, find_append, read_event_page
from eventstore.store.context import (
    AsOf,
    Queries,
    UserContext,
    parse_id,
    point_in_time,
)
from eventstore.store.turns.plans import TurnPlans
from eventstore.store.units.unit_of_work import UnitOfWork
from projections.model_input.arrange import Pending
from projections.model_input.formats import FormatName
from projections.models.message import MessageView
from projections.queries.history import Source, history_page, items_page
from projections.queries.model_input import model_input
from projections.queries.tool_call_audit import AuditEntry, audit

__all__ = ["UserPlans"]


class UserPlans(Queries):
    """What can be done for one user beside tasks, conversations, messages and tool calls."""

    def history(
        self,
        conversation: UUID | str,
        *,
        source: Source = "projection",
        as_of: AsOf = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> Plan[Page[MessageView]]:
        """
        Return a conversation's messages, oldest first; with a limit, the newest ones.

        :param conversation: its id or key.
        :param source: `projection` reads the read model in one round trip, `events` replays the
            log; both give the same answer.
        :param as_of: a position or a timestamp: the conversation as it was then.
        :param limit: only the newest so many messages; None returns all.
        :param after: `next` of a page: the messages that were said before those. A source, unlike
            the moment, may be another one than that page's.
        :return: each with its tool calls, whose outcomes are those of then.
        :raises NotFound: absent, deleted or another user's, as of then.
        :raises InvalidInput: a parameter has a wrong type or is out of range.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.about_conversation(
            conversation,
            lambda resolved: history_page(
                context.user_id,
                resolved,
                source=source,
                moment=moment,
                after=after,
                limit=limit,
                projections=context.projections,
                registry=context.registry,
            ),
        )

    def items(
        self, conversation: UUID | str, *, limit: int | None = None
    ) -> Plan[list[dict[str, Any]]]:
        """
        Return a conversation's items exactly as they came, oldest first; one round trip.

        They are the `body` of each message of `history`, which costs more for what it says of them.

        :param conversation: its id or key.
        :param limit: only the newest so many; None returns all.
        :raises NotFound: absent, deleted or another user's.
        :raises InvalidInput: the limit is no whole number, or negative.
        """
        context = self.context
        return context.about_conversation(
            conversation, lambda resolved: items_page(context.user_id, resolved, limit)
        )

    def model_input(
        self,
        conversation: UUID | str,
        *,
        limit: int | None = None,
        pending: Pending = "leave_out",
        format: FormatName | None = None,  # noqa: A002 - the word that callers look for
        as_of: AsOf = None,
    ) -> Plan[list[dict[str, Any]]]:
        """
        Return what a model is given of a conversation: the list of its next request, plain JSON.

        `history` is what was recorded, this is what an API accepts of it; one round trip.

        - Each call is followed by its answer, whatever was recorded in between and whichever way
          the call ended; parallel calls by their answers in the order of the calls.
        - Retracted messages, answers without their call, second answers, reasoning without what
          came of it, and shapes that no format knows are left out.
        - Calls without an id, or whose id the API does not take twice, get one of the store's.
        - Lone surrogates and NUL become U+FFFD, numbers are int or float; `json.dumps` takes all.

        An item in the format of the request stays as it is beyond that. One in another format is
        converted: its texts, images, calls and answers go over, what only its provider reads does
        not. A role that the API does not have, like a person's name, becomes `user`; in Anthropic's
        format so do `system` and `developer`, whose texts are better given as the request's own
        `system`.

        :param conversation: its id or key.
        :param limit: only the newest so many messages, and with them what they need: the call of an
            answer, if it is one of the 500 messages before, and the other items of a response.
        :param pending: what becomes of a call that has no result, since it is pending, was
            abandoned or its answer was retracted: `leave_out` the call (a message of which nothing
            is left goes as a whole), or `answer` it with a short error text.
        :param format: `chat_completions`, `responses` or `anthropic`. None takes the format of the
            newest item of the model's that has one, or else of the newest item that has one, or
            else Chat Completions.
        :param as_of: a position or a timestamp: what the model would have been given then.
        :raises NotFound: absent, deleted or another user's, as of then.
        :raises InvalidInput: a parameter has a wrong type or value.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.about_conversation(
            conversation,
            lambda resolved: model_input(
                context.user_id,
                resolved,
                limit=limit,
                pending=pending,
                format=format,
                moment=moment,
                projections=context.projections,
                registry=context.registry,
            ),
        )

    def append(
        self, events: Sequence[NewEvent], *, idempotency_key: str | None = None
    ) -> Plan[list[RecordedEvent]]:
        """
        Append events of any registered class; one round trip.

        :param events: 1 to 1,000, all or nothing, in order; `NewEvent.expected` is checked.
        :param idempotency_key: the same key and content again returns the first result; None makes
            one of the id of the first event, so that sending the same events again is safe.
        :return: the recorded events; their positions follow the head without a gap.
        :raises WrongVersion: a stream is not as expected; nothing was written.
        :raises StreamClosed: a task or conversation was deleted; nothing was written.
        :raises IdempotencyConflict: the key was used for other content; nothing was written.
        :raises Erased: the key was used for content that has been erased since.
        :raises InvalidInput: a value cannot be stored, or a class is not registered; the message
            has its path.
        :raises BatchTooLarge: more than 1,000 events, or 64 MiB of JSON.
        """
        events = [*check_list(events, "events", "events")]
        context = self.context
        key = context.idempotency_key if idempotency_key is None else idempotency_key
        if key is None and events and isinstance(events[0], NewEvent):
            # The caller knows the ids and may send the same events again, from any process. A
            # command draws new ids each time, so only the store's own retry repeats them.
            key = f"append:{events[0].event_id}"
        prepared = context.prepared(events, key, foreign=True)

        # There always is a key here, so an attempt need not say that it is a retry.
        def attempt() -> Plan[list[RecordedEvent]]:
            return (yield from append(prepared.request, prepared.row_changes)).events

        return context.retrying(attempt, lambda: context.outcome_unknown(prepared.request))

    def find_append(
        self, append: str | UUID | Sequence[UUID] | OutcomeUnknown
    ) -> Plan[list[RecordedEvent]]:
        """
        Return the events of one append, none if it was not written.

        Two round trips, or one by ids. An append that is still on its way is waited for: it holds
        the lock on the user's log, which this takes for a moment.

        :param append: its idempotency key, the ids of its events, or the error with which the
            command ended. Index: `event_idempotency_key`; for ids, the newest 100,000 events of the
            user along `event_pkey`.
        :return: its events in order; erased ones have an `ErasedEvent` as their data.
        :raises InvalidInput: the argument is none of these.
        """
        key: str | list[UUID]
        match append:
            case OutcomeUnknown():
                key = append.idempotency_key or [*append.event_ids]
            case str():
                key = check_label(append, "append", MAX_KEY)
            case UUID():
                key = [append]
            case [*ids] if all(isinstance(one, UUID) for one in ids):
                key = ids
            case _:
                fact = f"a {type(append).__name__}; give a key, ids of events or the error"
                raise InvalidInput("append", fact)
        context = self.context
        return context.retrying(lambda: find_append(context.user_id, key, context.registry))

    def events(
        self,
        *,
        stream_id: UUID | str | None = None,
        after: int | str | None = None,
        types: Sequence[str] | None = None,
        as_of: AsOf = None,
        backward: bool = False,
        limit: int = MAX_BATCH,
    ) -> Plan[Page[RecordedEvent]]:
        """
        Read a page of events; one round trip.

        :param stream_id: only those of one task or conversation. Index: `event_stream`, otherwise
            `event_pkey`; type and time have none.
        :param after: `next` of the page before, or a position: only events that come behind it, so
            with `backward` those at smaller positions.
        :param types: only events with one of these stored names.
        :param as_of: a position or a timestamp: only events recorded by then.
        :param backward: newest first.
        :param limit: events on a page.
        :return: in the order of their positions; erased ones have an `ErasedEvent` as their data.
        :raises UnknownEventType: no registered class reads an event; its position is named.
        :raises UnreadableEvent: a stored payload does not fit its class.
        :raises NotFound: `stream_id` is text and no UUID.
        :raises InvalidInput: a parameter has a wrong type or is out of range.
        """
        context = self.context
        wanted = Selection(
            stream_id=None if stream_id is None else parse_id(stream_id, "stream"),
            types=types,
            moment=point_in_time(as_of),
            backward=backward,
            limit=limit,
        )
        return context.retrying(
            lambda: read_event_page(context.user_id, wanted, after, context.registry)
        )

    def audit(
        self, *, conversation: UUID | str | None = None, as_of: AsOf = None
    ) -> Plan[list[AuditEntry]]:
        """
        Return the tool calls in the order they were requested, from the log alone.

        Each has its outcome, or is pending, and lists the events that it caused. They can be run
        again with `projections.queries.tool_call_audit.rerun`.

        :param conversation: only calls of this conversation, by its id or key.
        :param as_of: a position or a timestamp: the calls as they were then.
        :raises NotFound: no such conversation; one that was deleted or erased is found.
        :raises CorruptLog: an event cannot be read.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.about_one_or_all(
            conversation,
            lambda resolved: audit(
                context.user_id,
                context.projections,
                context.registry,
                conversation=resolved,
                moment=moment,
            ),
        )

    def transaction(self, *, idempotency_key: str | None = None) -> UnitOfWork:
        """
        Record several commands in a `with` block and append them together when it ends.

        :param idempotency_key: the same commands under the same key again change nothing; None
            keeps the key of `keyed`.
        :return: a block to be used once; its end raises what the append of the commands raises.
        :raises InvalidInput: the key is not text, blank or too long.
        """
        context = self.context if idempotency_key is None else self.keyed(idempotency_key)
        return UnitOfWork(context)

    def turn(
        self,
        conversation: UUID | str,
        *,
        key: str,
        items: Sequence[Mapping[str, Any]] = (),
        lease_seconds: int = 120,
        wait_seconds: float = 10.0,
        history_limit: int = 100,
    ) -> TurnPlans:
        """
        Return the block in which one request is answered, once, whoever retries it.

        ::

            said = [{"role": "user", "content": text}]
            with alice.turn(chat, key=request_id, items=said) as turn:
                while not turn.ended:
                    for call in turn.pending_calls:
                        turn.succeed(call, output=run(call.name, call.arguments))
                    reply = model(turn.model_input())
                    if reply.calls:
                        turn.extend(reply.items)
                    else:
                        turn.end(reply.items, model=reply.model, usage=reply.usage)
            return turn.answer

        Entering starts the turn, in one round trip. The turn has the conversation to itself; others
        wait. A key whose turn is completed gives that turn, with its answer, and `ended` is True.
        A turn whose process died is continued by whoever sends its key after the lease: with what
        it recorded, so that a call that has its outcome is not run again. Leaving the block ends
        the turn; an exception that leaves it makes it failed, and its key continues it at once. An
        async caller that is cancelled waits for what is under way, and a second at most for the
        turn to be failed.

        :param conversation: its id or key.
        :param key: the caller's name for the request, 1 to 255 characters, the same on each retry.
        :param items: what the user sends, recorded when the turn starts, as in `messages.extend`.
        :param lease_seconds: how long the turn is this process's, 1 to 86,400; `turn.renew` begins
            it anew. Longer than a model or a tool may take.
        :param wait_seconds: how long to wait while another turn has the conversation.
        :param history_limit: messages of the conversation to read, for the model.
        :return: a block to be used once. The answer of a turn is None once it was taken back:
            retracted, rewound, or deleted with the conversation, which may have begun anew.
        :raises InvalidInput: a parameter does not fit. The rest is raised on entering:
            `ConversationBusy` if the time is over, `NotFound` without such a conversation,
            `StreamClosed` if it was deleted, `IdempotencyConflict` if the key is another
            request's, and `TurnTakenOver` if the turn was not completed when its conversation was
            deleted, which has begun anew since.
        """
        return TurnPlans(
            self.context,
            conversation,
            key=key,
            items=items,
            lease_seconds=lease_seconds,
            wait_seconds=wait_seconds,
            history_limit=history_limit,
        )

    def annotated(
        self,
        correlation_id: UUID | None,
        metadata: Mapping[str, Any] | None,
        occurred_at: datetime | None,
    ) -> UserContext:
        """
        Return the context with other annotations; what is not given stays.

        :raises InvalidInput: an argument has a wrong type, or the time cannot be stored.
        :raises NotStorable: the metadata has a value that JSON cannot hold.
        """
        if not isinstance(correlation_id, UUID | None):
            kind = type(correlation_id).__name__
            raise InvalidInput("correlation_id", f"is a {kind}; give a UUID")
        if not isinstance(metadata, Mapping | None):
            raise InvalidInput("metadata", f"is a {type(metadata).__name__}; give a dict")
        # Checked here, where the mistake is, and not at each append. The result is a copy, so the
        # caller may change the dict afterwards.
        given: dict[str, Any] = {}
        if metadata is not None:
            given["metadata"] = check_json(dict(metadata), "metadata")
        if correlation_id is not None:
            given["correlation_id"] = correlation_id
        if occurred_at is not None:
            given["occurred_at"] = check_occurred_at(occurred_at, "occurred_at")
        return replace(self.context, **given)

    def keyed(self, idempotency_key: str | None) -> UserContext:
        """
        Return the context with another idempotency key.

        :raises InvalidInput: not text, blank or too long.
        """
        if idempotency_key is not None:
            check_label(idempotency_key, "idempotency_key", MAX_KEY)
        return replace(self.context, idempotency_key=idempotency_key)
