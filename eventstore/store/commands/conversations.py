"""A user's conversations: start, rename, archive, reopen, delete; get one, list a page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.errors import NotFound, WrongVersion
from eventstore.events import conversations
from eventstore.events.conversations import ConversationStarted, ConversationState
from eventstore.events.event import Event, make_event
from eventstore.log.envelope import NOW, Expected
from eventstore.store.context import AsOf, Queries, point_in_time
from eventstore.store.decisions import Cause, state_of
from eventstore.store.sync_async import (
    AsyncFacade,
    SyncFacade,
    async_command,
    async_method,
    sync_command,
    sync_method,
)
from eventstore.store.unit_of_work import Commands, Handle
from projections import Conversation
from projections.models.conversation import ConversationView
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
            key again returns the conversation that exists, at the cost of a second round trip. In
            a transaction the key must be new.
        :param caused_by: the event, or the tool call, that led to it.
        :raises InvalidInput: a field does not fit; nothing was written.
        :raises StreamClosed: the conversation with this key was deleted.
        :raises WrongVersion: in a transaction: the conversation with this key exists.
        """
        work = self._work
        given = {"key": key, "title": title}
        # An event stores the fields that were given to it, so None is left out and not passed on.
        fields = {name: value for name, value in given.items() if value is not None}
        data = make_event(ConversationStarted, **fields)
        # The id of a key is derived from user and key, so that two requests which start the same
        # key at once meet in one stream, where one of them is the first.
        new_id = work.new_id() if key is None else work.conversation(key)
        event = work.record(new_id, data, expected=Expected.NEW, caused_by=caused_by)

        def existing(error: WrongVersion | NotFound) -> Plan[ConversationView]:
            if isinstance(error, NotFound):
                raise error
            context = work.context
            return context.retrying(
                lambda: get_conversation(
                    context.user_id, new_id, NOW, context.projections, context.registry
                )
            )

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
        Delete a conversation for good; two round trips. Its events stay in the log.

        :param conversation: its id or key, which cannot be used again.
        :raises NotFound: absent, deleted already or another user's.
        """
        deleted = self._decide(conversation, conversations.delete, caused_by)
        return Handle(deleted.id, deleted.event_id, lambda _: None)

    def _decide(
        self,
        conversation: UUID | str,
        decide: Callable[[ConversationState], Event | None],
        caused_by: Cause,
    ) -> Handle[ConversationView]:
        conversation_id = self._work.conversation(conversation)
        decision = self._work.decide(
            Conversation,
            conversation_id,
            lambda row: decide(state_of(ConversationState, row)),
            caused_by=caused_by,
        )
        return Handle(conversation_id, decision.event_id, _view_of(conversation_id))


def _view_of(conversation_id: UUID) -> Callable[[Any], ConversationView]:
    return lambda outcome: ConversationView.from_row(outcome.row(Conversation, conversation_id))


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
        before: int | None = None,
        as_of: AsOf = None,
    ) -> Plan[list[ConversationView]]:
        """
        Return a page of conversations, newest activity first; one round trip.

        :param archived: False for active ones, True for archived ones, None for both.
        :param limit: conversations on a page.
        :param before: the `last_position` of the last conversation on the page before.
        :param as_of: a position or a timestamp: the list as it was then; one more round trip for
            each thousand conversations that changed since.
        :raises InvalidInput: a parameter has a wrong type or is out of range.
        """
        # A page begins after a position and not at an offset, because a message that is posted
        # between two pages moves its conversation to the front.
        context, moment = self.context, point_in_time(as_of)
        return context.retrying(
            lambda: list_conversations(
                context.user_id,
                archived=archived,
                limit=limit,
                before=before,
                moment=moment,
                projections=context.projections,
                registry=context.registry,
            )
        )


class Conversations(SyncFacade[ConversationQueries]):
    """A user's conversations."""

    _commands = ConversationCommands

    start = sync_command(ConversationCommands.start)
    rename = sync_command(ConversationCommands.rename)
    archive = sync_command(ConversationCommands.archive)
    reopen = sync_command(ConversationCommands.reopen)
    delete = sync_command(ConversationCommands.delete)
    get = sync_method(ConversationQueries.get)
    list = sync_method(ConversationQueries.list)


class AsyncConversations(AsyncFacade[ConversationQueries]):
    """A user's conversations."""

    _commands = ConversationCommands

    start = async_command(ConversationCommands.start)
    rename = async_command(ConversationCommands.rename)
    archive = async_command(ConversationCommands.archive)
    reopen = async_command(ConversationCommands.reopen)
    delete = async_command(ConversationCommands.delete)
    get = async_method(ConversationQueries.get)
    list = async_method(ConversationQueries.list)
