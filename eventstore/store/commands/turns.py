"""A user's turns: get, list, and what they cost; `User.turn` runs one."""

from __future__ import annotations

from datetime import datetime
from typing import get_args
from uuid import UUID

from eventstore.database.plan import Plan
from eventstore.events.fields import check_choice, check_timestamp
from eventstore.events.task_fields import check_zone
from eventstore.log.paging import Page
from eventstore.store.context import Queries, parse_id
from eventstore.store.sync_async import AsyncFacade, SyncFacade, async_method, sync_method
from projections.models.turn import TurnView
from projections.queries.turns import Usage, UsageBy, get_turn, list_turns, usage

__all__ = ["AsyncTurns", "TurnQueries", "Turns"]


class TurnQueries(Queries):
    """The queries on a user's turns, as plans."""

    def get(self, turn: UUID | str) -> Plan[TurnView]:
        """
        Return a turn by its id; one round trip. Index: `turn_pkey`.

        :raises NotFound: no such turn, or not this user's.
        """
        context, turn_id = self.context, parse_id(turn, "turn")
        return context.retrying(lambda: get_turn(context.user_id, turn_id))

    def usage(
        self,
        *,
        by: UsageBy | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        zone: str = "UTC",
    ) -> Plan[list[Usage]]:
        """
        Return what the user's turns cost, as they ended; one round trip.

        :param by: `day`, `conversation` or `model`; None for one sum.
        :param since: with time zone: turns that started then or later.
        :param until: with time zone: turns that started before then.
        :param zone: the IANA name of the time zone in which a day begins.
        :raises InvalidInput: a parameter does not fit.
        """
        if by is not None:
            check_choice(by, "by", get_args(UsageBy.__value__))
        for value, name in ((since, "since"), (until, "until")):
            if value is not None:
                check_timestamp(value, name)
        zone = check_zone(zone, "zone").key
        context = self.context
        return context.retrying(
            lambda: usage(context.user_id, by=by, since=since, until=until, zone=zone)
        )

    def list(
        self, conversation: UUID | str, *, after: str | None = None, limit: int = 100
    ) -> Plan[Page[TurnView]]:
        """
        Return the newest turns of a conversation, newest first; one round trip.

        Index: `turn_conversation`.

        :param conversation: its id or key.
        :param after: `next` of the page before.
        :param limit: turns on a page.
        :raises InvalidInput: a parameter does not fit.
        """
        context = self.context
        return context.about_conversation(
            conversation,
            lambda resolved: list_turns(context.user_id, resolved, after=after, limit=limit),
        )


class Turns(SyncFacade[TurnQueries]):
    """A user's turns; `User.turn` runs one."""

    get = sync_method(TurnQueries.get)
    list = sync_method(TurnQueries.list)
    usage = sync_method(TurnQueries.usage)


class AsyncTurns(AsyncFacade[TurnQueries]):
    """A user's turns; `AsyncUser.turn` runs one."""

    get = async_method(TurnQueries.get)
    list = async_method(TurnQueries.list)
    usage = async_method(TurnQueries.usage)
