"""
Feeds: deliver every event of all users to a handler, at least once and in order within a user.

Positions have no gap and follow commit order within a user, so a feed has one checkpoint per user
and needs no global order: whatever commits late has the next position of its own log. A worker
looks for users whose log goes on behind their checkpoint, takes one of them for some seconds, reads
a batch, calls the handler outside of any transaction, and moves the checkpoint.

The row of `feed_checkpoint` is the claim as well. Its `holder` and time fence what a worker writes
that was too slow, and a worker that was killed loses its user when the time is over. All of it is
beside the append, which neither knows of feeds nor pays for them: no index on `user_log`, whose
updates would no longer be HOT, and no NOTIFY, at whose commit all users would wait for one lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from eventstore.database.pages import PAGE_BYTES
from eventstore.database.plan import Batch, Plan, Rows, Statement, retrying
from eventstore.database.scope import Scope, operator, user_scope
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.fields import (
    MAX_TYPE,
    check_label,
    check_list,
    check_number,
    check_timestamp,
    check_user_id,
)
from eventstore.events.registry import EventRegistry
from eventstore.log.read import lock_log
from eventstore.log.stored_event import REPLAY_COLUMNS, select_list

__all__ = [
    "USERS_AT_A_TIME",
    "ClaimedBatch",
    "FailedDelivery",
    "Feed",
    "FeedPlans",
    "erase_errors",
    "failed_deliveries",
    "list_feeds",
    "remove_feed",
    "retry_failed",
    "skip_failed",
]

USERS_AT_A_TIME = 1_000
"""Users that a worker finds in one search."""

_POSITIONS_AT_A_TIME = 10_000
"""A feed of rare types reads no more of a log for one batch: there is no index on types."""

_LONGEST_PAUSE_SECONDS = 300
_LISTED = 100
_RECORDED_AT = REPLAY_COLUMNS.index("recorded_at")

# The order is drawn, so that workers do not meet at the same user and none waits for ever behind
# others. Without $2 both tables are read from end to end: 0.3 s for 200,000 users, and a tenth of
# that with it, because few heads are left to look up. Index: feed_checkpoint_pkey.
_LAGGING = f"""
select l.user_id
from eventstore.user_log as l
left join eventstore.feed_checkpoint as c on c.user_id = l.user_id and c.feed = $1
where l.recorded_at > coalesce($2, '-infinity'::timestamptz)
  and l.position > coalesce(c.position, 0)
  and (c.user_id is null or c.free_at <= now())
  and l.user_id <> ''
order by random()
limit {USERS_AT_A_TIME}
"""
_NOW = "select now()"

# A worker that does not know whether it gave a user back may take it again at once.
_CLAIM = """
insert into eventstore.feed_checkpoint as c
    (user_id, feed, position, since, holder, free_at, failures)
values ($1, $2, 0, $5, $3, clock_timestamp() + make_interval(secs => $4), 0)
on conflict (user_id, feed) do update
set holder = excluded.holder, free_at = excluded.free_at
where c.free_at <= now() or c.holder = excluded.holder
returning (select position from eventstore.user_log where user_id = $1), position, clock_timestamp()
"""
_MINE = """
select position from eventstore.feed_checkpoint
where user_id = $1 and feed = $2 and holder = $3"""
# The head was read before these, so no event up to it is missing here. Index: event_pkey.
_EVENTS = f"""
select {select_list(REPLAY_COLUMNS)}, found
from (
    select *, count(*) over () as found,
           sum(size) over (order by position rows unbounded preceding) - size as before
    from (
        select *, coalesce(pg_column_size(payload), 0) as size
        from eventstore.event
        where user_id = $1
          and position > ({_MINE})
          and position <= ({_MINE}) + {_POSITIONS_AT_A_TIME}
          and recorded_at > coalesce($4, '-infinity'::timestamptz)
          and ($5::text[] is null or type = any($5))
        order by position
        limit $6
    ) as batch
) as sized
where before < {PAGE_BYTES}
order by position
"""

_MOVE = """
update eventstore.feed_checkpoint
set position = $4, free_at = clock_timestamp() + make_interval(secs => $5), holder = $6,
    failures = case when position = $4 then failures else 0 end,
    error = case when position = $4 then error end,
    failed_at = case when position = $4 then failed_at end
where user_id = $1 and feed = $2 and holder = $3
returning position
"""
# Behind the lock on the user's row, so that no erasure is under way: what the error says of an
# erased event is left out, and what it says of another one will be found by its erasure.
_FAIL = f"""
update eventstore.feed_checkpoint as c
set position = $4, holder = null, failures = this.failure, failed_at = now(),
    free_at = case when this.failure < $5::bigint then now() + make_interval(
        secs => least($6 * power(2, least(this.failure - 1, 30)), {_LONGEST_PAUSE_SECONDS})) end,
    error = $7 || case when (
        select payload is not null from eventstore.event where user_id = $1 and position = $4 + 1
    ) then $8 else '' end
from (
    select case when position = $4 then failures else 0 end + 1 as failure
    from eventstore.feed_checkpoint where user_id = $1 and feed = $2
) as this
where c.user_id = $1 and c.feed = $2 and c.holder = $3
returning c.failures, c.free_at is null
"""
_ERASE_ERRORS = """
update eventstore.feed_checkpoint set error = split_part(error, ':', 1)
where user_id = $1 and error is not null
"""

_FEEDS = """
with feeds as (
    select feed, min(coalesce(since, '-infinity')) as since,
           count(*) filter (where free_at is null) as parked
    from eventstore.feed_checkpoint
    group by feed
)
select f.feed, f.parked, count(behind), coalesce(sum(behind), 0)::bigint
from feeds as f
left join lateral (
    select l.position - coalesce(c.position, 0) as behind
    from eventstore.user_log as l
    left join eventstore.feed_checkpoint as c on c.user_id = l.user_id and c.feed = f.feed
    where l.recorded_at > f.since and l.position > coalesce(c.position, 0)
) as lagging on true
group by f.feed, f.parked
order by f.feed
"""
_FAILED = """
select feed, user_id from eventstore.feed_checkpoint
where failures > 0 and ($1::text is null or feed = $1)
order by failed_at limit $2::bigint
"""
# What the operator may not read is read as the user. Index: feed_checkpoint_pkey.
_FAILURE = """
select c.position + 1, e.type, c.failures, c.failed_at, c.free_at is null, c.error
from eventstore.feed_checkpoint as c
left join eventstore.event as e on e.user_id = c.user_id and e.position = c.position + 1
where c.user_id = $1 and c.feed = $2 and c.failures > 0
"""
_RESUME = """
update eventstore.feed_checkpoint
set position = position + $3, holder = null, failures = 0, free_at = now(), failed_at = null,
    error = null
where user_id = $1 and feed = $2 and failures > 0 and (holder is null or free_at <= now())
  and ($4::bigint is null or position + 1 = $4)
returning position
"""
_REMOVE = "delete from eventstore.feed_checkpoint where feed = $1"


class ClaimedBatch(NamedTuple):
    """
    A batch of a user whom a worker has claimed.

    :ivar through: the position that the checkpoint moves to when all rows were delivered; behind
        the last row if what follows it is of other types.
    :ivar more: whether the log goes on behind that.
    :ivar rows: `REPLAY_COLUMNS` of the events.
    :ivar lag_seconds: how long ago the first of them was recorded, by the server's clock.
    """

    position: int
    through: int
    more: bool
    rows: Rows
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class Feed:
    """
    How far a feed is.

    :ivar users_behind: whose log goes on behind the checkpoint, parked ones among them.
    :ivar events_behind: of all types, at most: those of types that it does not deliver count until
        a worker has passed them.
    :ivar parked: users whose next event is not tried any more.
    """

    name: str
    users_behind: int
    events_behind: int
    parked: int


@dataclass(frozen=True, slots=True)
class FailedDelivery:
    """
    An event that a handler failed at, and behind which its user waits.

    :ivar failures: how often it was tried.
    :ivar parked: it is not tried again until somebody says so; otherwise it will be.
    :ivar error: the class of the exception and its text; the class alone once it is erased.
    """

    feed: str
    user_id: str
    position: int
    type: str | None
    failures: int
    failed_at: datetime
    parked: bool
    error: str


@dataclass(frozen=True, slots=True)
class FeedPlans:
    """A feed as its subscriber wants it: see `AdminPlans.subscribe`."""

    name: str
    handler: Callable[[Any], Any]
    registry: EventRegistry
    types: Collection[str] | None
    since: datetime | None
    batch: int
    attempts: int
    pause_seconds: float
    lease_seconds: float
    poll_seconds: float

    def __post_init__(self) -> None:
        check_label(self.name, "name", MAX_TYPE)
        if not callable(self.handler):
            raise InvalidInput("handler", f"a {type(self.handler).__name__}; give a function")
        if self.types is not None:
            check_list(self.types, "types", "stored names")
            # A name that is none would have the checkpoints pass all that was meant.
            unknown = [one for one in self.types if self.registry.stream_of(one) is None]
            if unknown or not self.types:
                raise InvalidInput(
                    "types", f"{unknown or 'an empty list'}; give stored names of event classes"
                )
        if self.since is not None:
            check_timestamp(self.since, "since")
        check_number(self.batch, "batch", least=1)
        check_number(self.attempts, "attempts", least=1)
        for name in ("pause_seconds", "lease_seconds", "poll_seconds"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or not 0 < seconds <= _DAY:
                raise InvalidInput(name, f"give a number over 0, and at most a day ({_DAY})")

    def lagging(self, since: datetime | None) -> Plan[tuple[list[str], datetime]]:
        """
        Return users who are free and behind, in any order, and the server's time.

        :param since: leave out those whose newest event is as old; None for a complete search.
        :raises AccessDenied: the login may not enter the operator role.
        """
        if since is None or (self.since is not None and self.since > since):
            since = self.since
        statements = (Statement(_LAGGING, (self.name, since)), Statement(_NOW))
        users, ((now,),) = yield from self._retrying(operator, *statements)
        return [user_id for (user_id,) in users], now

    def claim(self, user_id: str, worker: UUID) -> Plan[ClaimedBatch | None]:
        """Claim a user and read a batch, in one round trip; None if another worker has the user."""
        types = None if self.types is None else [*self.types]
        claimed, rows = yield from self._retrying(
            user_scope(user_id),
            Statement(_CLAIM, (user_id, self.name, worker, self.lease_seconds, self.since)),
            Statement(_EVENTS, (user_id, self.name, worker, self.since, types, self.batch)),
        )
        if not claimed:
            return None
        ((head, position, now),) = claimed
        head, last = head or 0, rows[-1][0] if rows else position
        cut = bool(rows) and (rows[-1][-1] == self.batch or len(rows) < rows[-1][-1])
        through = last if cut else max(last, min(head, position + _POSITIONS_AT_A_TIME))
        lag = max(0.0, (now - rows[0][_RECORDED_AT]).total_seconds()) if rows else 0.0
        return ClaimedBatch(position, through, through < head, [row[:-1] for row in rows], lag)

    def move(self, user_id: str, worker: UUID, position: int, *, hold: bool = False) -> Plan[bool]:
        """
        Move the checkpoint of a user whom the worker has.

        :param hold: have the user for another lease; otherwise give it back.
        :return: False if the user was lost to another worker, and then nothing is moved.
        """
        seconds, holder = (self.lease_seconds, worker) if hold else (0.0, None)
        binds = (user_id, self.name, worker, position, seconds, holder)

        (moved,) = yield from self._retrying(user_scope(user_id), Statement(_MOVE, binds))
        return bool(moved)

    def fail(
        self, user_id: str, worker: UUID, position: int, error: Exception
    ) -> Plan[tuple[int, bool]]:
        """
        Note that the event behind `position` failed, and give the user back.

        :return: how often it has failed, and whether it is parked now.
        """
        text = str(error).replace("\0", "\ufffd").encode(errors="replace").decode()
        kind = type(error).__name__
        binds = (user_id, self.name, worker, position, self.attempts, self.pause_seconds)
        note = Statement(_FAIL, (*binds, kind, f": {text[:_ERROR]}"))
        _, noted = yield from self._retrying(user_scope(user_id), lock_log(user_id), note)
        return noted[0] if noted else (0, False)

    def _retrying(self, scope: Scope, *statements: Statement) -> Plan[list[Rows]]:
        # Each of them may be sent again: a second time finds the worker's own claim, or that the
        # user was given back.
        def attempt() -> Plan[list[Rows]]:
            return (yield Batch(scope, statements))

        return retrying(attempt)


_DAY = 86_400
_ERROR = 500
"""Characters of what an exception says."""


def erase_errors(user_id: str) -> Statement:
    """Return the statement that erases what feeds know of a user's content: texts of errors."""
    return Statement(_ERASE_ERRORS, (user_id,))


def list_feeds() -> Plan[list[Feed]]:
    """Return every feed that has a checkpoint of some user, by name; one round trip."""
    (rows,) = yield Batch(operator, (Statement(_FEEDS),))
    return [Feed(name, users, events, parked) for name, parked, users, events in rows]


def failed_deliveries(feed: str | None) -> Plan[list[FailedDelivery]]:
    """Return the first hundred users who wait behind an event; a round trip for each of them."""
    if feed is not None:
        check_label(feed, "feed", MAX_TYPE)
    (rows,) = yield Batch(operator, (Statement(_FAILED, (feed, _LISTED)),))
    failed = []
    for name, user_id in rows:
        (found,) = yield Batch(user_scope(user_id), (Statement(_FAILURE, (user_id, name)),))
        for position, kind, failures, failed_at, parked, error in found:
            at = failed_at.astimezone(UTC)
            failed.append(
                FailedDelivery(name, user_id, position, kind, failures, at, parked, error or "")
            )
    return failed


def retry_failed(feed: str, user_id: str | None) -> Plan[int]:
    """Have failed events tried again at once; return of how many users."""
    check_label(feed, "feed", MAX_TYPE)
    if user_id is not None:
        yield from _resume(feed, user_id, 0)
        return 1
    (rows,) = yield Batch(operator, (Statement(_FAILED, (feed, None)),))
    resumed = 0
    for _, each in rows:
        (done,) = yield Batch(user_scope(each), (Statement(_RESUME, (each, feed, 0, None)),))
        resumed += len(done)
    return resumed


def skip_failed(feed: str, user_id: str, position: int) -> Plan[int]:
    """Go on behind the failed event at a position; return the position."""
    check_number(position, "position", least=1)
    return _resume(feed, user_id, 1, position)


def remove_feed(feed: str) -> Plan[None]:
    """Forget how far a feed is; one that is subscribed to again begins anew."""
    check_label(feed, "feed", MAX_TYPE)
    yield Batch(operator, (Statement(_REMOVE, (feed,)),))


def _resume(feed: str, user_id: str, skipped: int, position: int | None = None) -> Plan[int]:
    check_label(feed, "feed", MAX_TYPE)
    check_user_id(user_id)
    statement = Statement(_RESUME, (user_id, feed, skipped, position))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    if not rows:
        where = "" if position is None else f" at position {position}"
        raise NotFound("failed event of", f"{feed} for {user_id}{where}")
    return int(rows[0][0])
