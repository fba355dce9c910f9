"""
`FeedAdmin`: what an administrator does to feeds, as the part of `AdminPlans` that is about them.

A subscription delivers events; the others tell how far feeds are and deal with what they could not
deliver (see `log.feeds`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime

from eventstore.database.plan import Plan, retrying
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import RecordedEvent
from eventstore.log.feeds import (
    FailedDelivery,
    Feed,
    FeedPlans,
    failed_deliveries,
    list_feeds,
    remove_feed,
    retry_failed,
    skip_failed,
)

__all__ = ["FeedAdmin"]


class FeedAdmin:
    """The plans about feeds."""

    __slots__ = ()

    registry: EventRegistry

    def subscribe(
        self,
        name: str,
        handler: Callable[[RecordedEvent], object],
        *,
        types: Collection[str] | None = None,
        since: datetime | None = None,
        batch: int = 100,
        attempts: int = 10,
        pause_seconds: float = 1.0,
        lease_seconds: float = 30.0,
        poll_seconds: float = 1.0,
    ) -> FeedPlans:
        """
        Deliver every event of all users to a handler: at least once, in order within a user.

        Nothing is sent before the subscription runs; docs/feeds.md tells what a handler can rely
        on. The login must be able to enter the operator role, which lists users.

        :param name: of the feed, up to 100 characters: its checkpoints stand under it, one for each
            user, so two names are two feeds.
        :param handler: called with one event after another, outside of any transaction.
        :param types: only events with one of these stored names; None for all.
        :param since: only events that were recorded later; None for all that were ever recorded.
            Give a fixed time, such as that of a release.
        :param batch: events of a user that are read at once, and delivered again if the worker is
            killed among them.
        :param attempts: how often an event is given to a handler that fails, before it is parked.
        :param pause_seconds: before the second attempt; each further pause is twice as long, up to
            five minutes.
        :param lease_seconds: how long a worker that was killed still has its user. A call of the
            handler must not take half as long, or another worker delivers the event too.
        :param poll_seconds: between two searches that found nothing.
        :raises InvalidInput: an argument is wrong.
        """
        return FeedPlans(
            name,
            handler,
            self.registry,
            types,
            since,
            batch,
            attempts,
            pause_seconds,
            lease_seconds,
            poll_seconds,
        )

    def feeds(self) -> Plan[list[Feed]]:
        """
        Return how far each feed is, by name; one round trip.

        It reads a row for each user and feed: half a second for 200,000 users.

        :raises AccessDenied: the login may not enter the operator role.
        """
        return retrying(list_feeds)

    def failed_deliveries(self, feed: str | None = None) -> Plan[list[FailedDelivery]]:
        """
        Return the events behind which users wait, at most 100, oldest failure first.

        A round trip, and another one for each of them: only the user's own scope shows the error.

        :param feed: only of this feed; None for all.
        :raises AccessDenied: the login may not enter the operator role.
        """
        return retrying(lambda: failed_deliveries(feed))

    def retry_failed(self, feed: str, user_id: str | None = None) -> Plan[int]:
        """
        Have a failed event tried again at once, with all its attempts.

        :param user_id: whose; None for those of all users.
        :return: of how many users.
        :raises NotFound: no event of this user has failed in that feed.
        """
        return retrying(lambda: retry_failed(feed, user_id))

    def skip_failed(self, feed: str, user_id: str, position: int) -> Plan[int]:
        """
        Go on behind a user's failed event, which this feed will never deliver.

        :param position: of the event, so that a second call does not skip the next one.
        :return: the position.
        :raises NotFound: no event of this user has failed there in that feed.
        """
        return skip_failed(feed, user_id, position)

    def remove_feed(self, feed: str) -> Plan[None]:
        """
        Forget how far a feed is. Whoever subscribes to it again gets all events from the start.

        :raises AccessDenied: the login may not enter the operator role.
        """
        return retrying(lambda: remove_feed(feed))
