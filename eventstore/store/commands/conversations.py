"""
A user's conversations: start, rename, archive, reopen, rewind, delete, restore, fork; get, list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import Conflict, IdempotencyConflict, NotFound, StreamClosed, WrongVersion
from eventstore.events import conversations
from eventstore.events.conversations import ConversationState
from eventstore.events.event import Event
from eventstore.log.envelope import NOW, Expected
from eventstore.log.paging import Page
from eventstore.store.change_of_mind import Point, decide_restart, fork, rewind_to
from eventstore.store.context import AsOf, Queries, UserContext, point_in_time
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_command,
    async_method,
    sync_command,
    sync_method,
)
from eventstore.store.units.commands import Commands, run_command
from eventstore.store.units.decisions import Cause, state_of
from eventstore.store.units.outcome import Handle, Outcome
from eventstore.store.units.unit_of_work import UnitOfWork
from projections import Conversation, Message
from projections.models.conversation import ConversationView
from projections.queries.counts import ConversationCounts, count_conversations
from projections.queries.lists import get_conversation, list_conversations

__all__ = ["AsyncConversations", "ConversationCommands", "ConversationQueries", "Conversations"]


class ConversationCommands(Commands):
    """The commands on conversations."""

    def start(
        self, *, title: str | None = None, key: str | None = None, caused_by: Cause = None
    ) -> Handle[ConversationView]:
        """
        Start a conversation; one round trip.

        :param title: 1 to 500 characters.
        :param key: your own name for it, 1 to 255 characters, like a session id. Starting the same
            key again returns the conversation that exists, at the cost of a second round trip. If
            that one was deleted, it begins anew under its id, without what was said before. In a
            transaction the key must be new.
        :param caused_by: the event, or the tool call, that led to it.
        :raises InvalidInput: a field does not fit; nothing was written.
        :raises StreamClosed: the conversation with this key was erased; in a transaction also if
            it was deleted.
        :raises WrongVersion: in a transaction: the conversation with this key exists.
        """
        work = self._work
        data = conversations.start(key, title)
        # The id of a key is derived from user and key, so that two requests which start the same
        # key at once meet in one stream, where one of them is the first.
        new_id = work.new_id() if key is None else work.conversation(key)
        event = work.record(new_id, data, expected=Expected.NEW, caused_by=caused_by)

        def existing(error: Conflict | NotFound) -> Plan[ConversationView]:
            context = work.context
            if isinstance(error, WrongVersion):
                return context.retrying(
                    lambda: get_conversation(
                        context.user_id, new_id, NOW, context.projections, context.registry
                    )
                )
            # Under an idempotency key the first attempt may have begun the conversation anew.
            if isinstance(error, StreamClosed | IdempotencyConflict):
                return begin_anew(context, str(key), title, error, caused_by)
            raise error

        return Handle(new_id, event.event_id, _view_of(new_id), None if key is None else existing)

    def rename(
        self, conversation: UUID | str, title: str | None, *, caused_by: Cause = None
    ) -> Handle[ConversationView]:
        """
        Change the title; two round trips.

        :param conversation: its id or key.
        :param title: None removes it.
        :return: the conversation as it is now; for the same title nothing is recorded.
        :raises NotFound: absent, deleted or another user's.
        :raises InvalidInput: the title does not fit; nothing was written.
        """
        return self._decide(
            conversation, lambda state: conversations.rename(state, title), caused_by
        )

    def archive(
        self, conversation: UUID | str, *, caused_by: Cause = None
    ) -> Handle[ConversationView]:
        """
        Hide a conversation from the active ones; two round trips. It still takes messages.

        :param conversation: its id or key.
        :return: the conversation as it is now; for an archived one nothing is recorded.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._decide(conversation, conversations.archive, caused_by)

    def reopen(
        self, conversation: UUID | str, *, caused_by: Cause = None
    ) -> Handle[ConversationView]:
        """
        Make an archived conversation active again; two round trips.

        :param conversation: its id or key.
        :return: the conversation as it is now; for an active one nothing is recorded.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._decide(conversation, conversations.reopen, caused_by)

    def delete(self, conversation: UUID | str, *, caused_by: Cause = None) -> Handle[None]:
        """
        Delete a conversation; two round trips. Its events stay in the log.

        It takes no messages and no outcomes of calls until it is restored, or started anew with
        its key.

        :param conversation: its id or key.
        :raises NotFound: absent, deleted already or another user's.
        """
        deleted = self._decide(conversation, conversations.delete, caused_by)
        return Handle(deleted.id, deleted.event_id, lambda _: None)

    def restore(
        self, conversation: UUID | str, *, caused_by: Cause = None
    ) -> Handle[ConversationView]:
        """
        Bring a deleted conversation back, as an active one; two round trips.

        :param conversation: its id or key.
        :return: the conversation as it is now; for one that is not deleted nothing is recorded.
        :raises NotFound: absent, erased or another user's.
        """
        return self._decide(conversation, conversations.restore, caused_by, of_deleted=True)

    def rewind(
        self,
        conversation: UUID | str,
        *,
        to: Point,
        caused_by: Cause = None,
    ) -> Handle[int]:
        """
        Go back to an earlier point: what was said after it is in no history from here on.

        One event, whatever is behind it, and one round trip; two if the message is named by its id.
        Calls behind the point that were pending are abandoned; those that ended keep their outcome,
        and those that the last message asks for wait on.
        To have a model answer again, rewind to the user's message and post the new answer.

        :param conversation: its id or key.
        :param to: the last message that stays, as a view or by its id; or a position in the user's
            log, of which 0 leaves no message. After a position every pending call is abandoned,
            also those that the message at the position asks for.
        :return: the position of the rewind; `as_of` one less shows what was there.
        :raises NotFound: no such conversation of this user, or no such message in its history.
        :raises StreamClosed: the conversation was deleted.
        :raises InvalidInput: the message is posted in this transaction.
        """
        event_id = rewind_to(self._work, conversation, to, "to", caused_by)
        return Handle(event_id, event_id, lambda outcome: outcome.event(event_id).position)

    def _decide(
        self,
        conversation: UUID | str,
        decide: Callable[[ConversationState], Event | None],
        caused_by: Cause,
        *,
        of_deleted: bool = False,
    ) -> Handle[ConversationView]:
        conversation_id = self._work.conversation(conversation)
        decision = self._work.decide(
            Conversation,
            conversation_id,
            lambda row: decide(state_of(ConversationState, row)),
            of_deleted=of_deleted,
            caused_by=caused_by,
        )
        return Handle(conversation_id, decision.event_id, _view_of(conversation_id))


def _view_of(conversation_id: UUID) -> Callable[[Outcome], ConversationView]:
    def view(outcome: Outcome) -> ConversationView:
        row = outcome.row(Conversation, conversation_id)
        if "message_count" in row:
            return ConversationView.from_row(row)
        # It was not read from its table, so all of its messages were replayed, if it has any.
        shown = sum(
            one["conversation_id"] == conversation_id and one["retracted_at"] is None
            for one in outcome.rows(Message).values()
        )
        return ConversationView.from_row({**row, "message_count": shown})

    return view


def begin_anew(
    context: UserContext, key: str, title: str | None, error: Conflict, caused_by: Cause
) -> Plan[ConversationView]:
    """
    Begin the deleted conversation with a key anew; two round trips.

    :param error: what starting it raised; raised again if it was erased.
    :return: the conversation; one that somebody else has begun anew meanwhile as it is.
    """

    def restarted(work: UnitOfWork) -> Handle[ConversationView]:
        decision = decide_restart(work, key, title, caused_by)
        known = _view_of(decision.key)

        def view(outcome: Outcome) -> ConversationView:
            # The number of messages was read before they were left behind.
            begun = any(one.event_id == decision.event_id for one in outcome.recorded)
            return replace(known(outcome), message_count=0) if begun else known(outcome)

        return Handle(decision.key, decision.event_id, view)

    try:
        return (yield from run_command(context, restarted))
    except NotFound:
        raise error from None


class ConversationQueries(Queries):
    """The queries on a user's conversations, as plans."""

    def get(self, conversation: UUID | str, *, as_of: AsOf = None) -> Plan[ConversationView]:
        """
        Return one conversation by its id or key; one round trip. Index: `conversation_pkey`.

        :param as_of: a position or a timestamp: the conversation as it was then.
        :raises NotFound: absent, deleted or another user's, as of then.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.about_conversation(
            conversation,
            lambda resolved: get_conversation(
                context.user_id, resolved, moment, context.projections, context.registry
            ),
        )

    def list(
        self,
        *,
        archived: bool | None = False,
        limit: int = 50,
        after: str | None = None,
        as_of: AsOf = None,
    ) -> Plan[Page[ConversationView]]:
        """
        Return a page of conversations, newest activity first; one round trip.

        Activity is what is said and what tools do. Titles, archiving and reopening are not.
        Each conversation comes once, also one that is active between two pages: it has moved to the
        front since the first page was read, and keeps for the later pages the place that it had.

        :param archived: False for active ones, True for archived ones, None for both.
        :param limit: conversations on a page.
        :param after: `next` of the page before, with the same `archived` and `as_of`.
        :param as_of: a position or a timestamp: the list as it was then; one more round trip for
            each thousand conversations that changed since.
        :raises InvalidInput: a parameter has a wrong type or is out of range, or `after` is no
            cursor of this list.
        """
        context, moment = self.context, point_in_time(as_of)
        return context.retrying(
            lambda: list_conversations(
                context.user_id,
                archived=archived,
                limit=limit,
                after=after,
                moment=moment,
                projections=context.projections,
                registry=context.registry,
            )
        )

    def counts(self) -> Plan[ConversationCounts]:
        """
        Return how many conversations are active and archived; one round trip.

        How many messages one has, its view says: `message_count`.
        """
        context = self.context
        return context.retrying(lambda: count_conversations(context.user_id))

    def fork(
        self,
        conversation: UUID | str,
        *,
        at: Point | None = None,
        as_of: AsOf = None,
        key: str | None = None,
        title: str | None = None,
    ) -> Plan[ConversationView]:
        """
        Copy the messages up to a point into a new conversation; three round trips.

        Messages and calls get new ids, calls keep their outcomes, and one that is pending is
        abandoned in the copy: its tool runs for the conversation that it came from. Calls that
        stand in no message are not copied. Where the copy comes from stands in the metadata of its
        first event, as `forked_from`. More than 1,000 events take another round trip each thousand.

        :param conversation: its id or key.
        :param at: the last message that is copied, as a view or by its id, or a position in the
            user's log; None copies all.
        :param as_of: a position or a timestamp: the conversation as it was then, which brings back
            what a rewind took away.
        :param key: of the new conversation, as in `start`; it must be new.
        :param title: of the new conversation.
        :return: the new conversation.
        :raises NotFound: no such conversation of this user, or no such message in its history.
        :raises WrongVersion: the new key has a conversation, `StreamClosed` if it was deleted.
        :raises IdempotencyConflict: under a key of `keyed` that was used before, for other
            content; what is copied must not have changed between a command and its retry.
        :raises InvalidInput: a parameter does not fit.
        """
        context, moment = self.context, point_in_time(as_of)
        forked = yield from fork(context, conversation, at=at, moment=moment, key=key, title=title)
        return (yield from self.get(forked))


class Conversations(SyncFacade[ConversationQueries]):
    """A user's conversations."""

    _commands = ConversationCommands

    start = sync_command(ConversationCommands.start)
    rename = sync_command(ConversationCommands.rename)
    archive = sync_command(ConversationCommands.archive)
    reopen = sync_command(ConversationCommands.reopen)
    delete = sync_command(ConversationCommands.delete)
    restore = sync_command(ConversationCommands.restore)
    rewind = sync_command(ConversationCommands.rewind)
    fork = sync_method(ConversationQueries.fork)
    get = sync_method(ConversationQueries.get)
    list = sync_method(ConversationQueries.list)
    counts = sync_method(ConversationQueries.counts)


class AsyncConversations(AsyncFacade[ConversationQueries]):
    """A user's conversations."""

    _commands = ConversationCommands

    start = async_command(ConversationCommands.start)
    rename = async_command(ConversationCommands.rename)
    archive = async_command(ConversationCommands.archive)
    reopen = async_command(ConversationCommands.reopen)
    delete = async_command(ConversationCommands.delete)
    restore = async_command(ConversationCommands.restore)
    rewind = async_command(ConversationCommands.rewind)
    fork = async_method(ConversationQueries.fork)
    get = async_method(ConversationQueries.get)
    list = async_method(ConversationQueries.list)
    counts = async_method(ConversationQueries.counts)
