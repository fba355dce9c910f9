"""
Read one user's events in pages: by position, by stream or by type, forward or backward.

Everything here is a plan; a page is one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from eventstore.database.garbage import postpone_full_collections
from eventstore.database.pages import page_query
from eventstore.database.plan import (
    GIVE_WAY,
    ROWS_AT_A_TIME,
    Batch,
    Plan,
    Rows,
    Statement,
)
from eventstore.database.scope import user_scope
from eventstore.events.fields import MAX_TYPE, check_label, check_list, check_number
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import NOW, PointInTime, RecordedEvent
from eventstore.log.paging import Cursors, Page, fetched
from eventstore.log.stored_event import (
    REPLAY_COLUMNS,
    VARIABLE_SIZE_COLUMNS,
    recorded_event,
    select_list,
)

__all__ = [
    "BEFORE_ALL",
    "Selection",
    "find_append",
    "for_each_event",
    "for_each_row",
    "lock_log",
    "read_event_page",
    "read_events",
    "select_events",
    "select_log_page",
    "select_stream_page",
]

EVENTS_AT_ONCE = 5_000
"""
Of a selection that is read to its end: fewer are read in one round trip and no snapshot.

Their values are read in one go, in some 30 milliseconds, and no other task runs meanwhile.
"""

# Each bound excludes nothing when it is null. There is no index on type or time: a log is read
# along its key, and every further index would cost every append.
_SELECT = f"""
select {select_list(REPLAY_COLUMNS)}
from eventstore.event
where user_id = $1
  and position > $2
  and position < $3
  and position <= coalesce($4, 9223372036854775807)
  and recorded_at <= coalesce($5, 'infinity'::timestamptz)
  and ($6::text[] is null or type = any($6))
"""
_BY_POSITION = _SELECT + "order by position limit $7"
_BY_POSITION_BACKWARD = _SELECT + "order by position desc limit $7"
# The order by stream, which is one and the same, leaves only the index of streams to read along.
_IN_STREAM = _SELECT + "and stream_id = $7 order by stream_id, position limit $8"
_IN_STREAM_BACKWARD = _SELECT + "and stream_id = $7 order by stream_id desc, position desc limit $8"

_LOCK = "select position from eventstore.user_log where user_id = $1 for no key update"
# Index: event_idempotency_key.
_OF_KEY = """
select position, append_size from eventstore.event where user_id = $1 and idempotency_key = $2
"""
# An index on event ids would cost every append. Index: event_pkey.
_OF_IDS = f"""
select {select_list(REPLAY_COLUMNS)} from eventstore.event
where user_id = $1 and event_id = any($2)
  and position > (select position - 100000 from eventstore.user_log where user_id = $1)
order by position
"""

_POSITION = REPLAY_COLUMNS.index("position")


def lock_log(user_id: str) -> Statement:
    """Return what keeps this user's appends waiting until the transaction ends."""
    return Statement(_LOCK, (user_id,))


_END = 2**63 - 1
BEFORE_ALL = -(2**63)
"""Where reading a whole log begins: tampering may have put events before position 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Which events of a user's log to read.

    :ivar stream_id: only events of this stream; None for all streams.
    :ivar after: only positions greater than this.
    :ivar before: only positions less than this; None for no bound.
    :ivar types: only events with one of these stored names; None for all.
    :ivar moment: only events that had been recorded by then.
    :ivar backward: newest first.
    :ivar limit: events at most.
    """

    stream_id: UUID | None = None
    after: int = 0
    before: int | None = None
    types: Collection[str] | None = None
    moment: PointInTime = NOW
    backward: bool = False
    limit: int = 1_000


def find_append(
    user_id: str, key: str | list[UUID], registry: EventRegistry
) -> Plan[list[RecordedEvent]]:
    """
    Return the events of one append, none if it was not written; two round trips, one by ids.

    :param key: its idempotency key, or the ids of its events.
    """
    by_key = isinstance(key, str)
    wanted = Statement(_OF_KEY if by_key else _OF_IDS, (user_id, key))
    # An append that is still on its way holds the lock, and so this waits for it.
    _, rows = yield Batch(user_scope(user_id), (lock_log(user_id), wanted))
    if not by_key:
        return [recorded_event(user_id, row, registry) for row in rows]
    if not rows:
        return []
    ((position, size),) = rows
    wanted_events = Selection(after=position - 1, before=position + size, limit=size)
    return (yield from read_events(user_id, wanted_events, registry))


def select_events(user_id: str, wanted: Selection) -> Statement:
    """
    Return the statement that selects `REPLAY_COLUMNS` of the wanted events.

    Index: `event_pkey`, or `event_stream` for one stream.

    :param wanted: its attributes may be a caller's values; they are checked here.
    :raises InvalidInput: an attribute of `wanted` has a wrong type or is out of range.
    """
    check_number(wanted.limit, "limit")
    check_number(wanted.after, "after")
    if wanted.before is not None:
        check_number(wanted.before, "before")
    types = None
    if wanted.types is not None:
        names = check_list(wanted.types, "types", "stored names")
        types = [check_label(name, "types", MAX_TYPE) for name in names]
    bounds = (
        user_id,
        wanted.after,
        _END if wanted.before is None else wanted.before,
        wanted.moment.position,
        wanted.moment.timestamp,
        types,
    )
    if wanted.stream_id is None:
        sql = _BY_POSITION_BACKWARD if wanted.backward else _BY_POSITION
        return Statement(sql, (*bounds, wanted.limit))
    sql = _IN_STREAM_BACKWARD if wanted.backward else _IN_STREAM
    return Statement(sql, (*bounds, wanted.stream_id, wanted.limit))


def select_log_page(
    columns: Sequence[str], user_id: str, after: int, condition: str = ""
) -> Statement:
    """
    Return the statement for the next page of a log, to be read with `page_of`.

    :param columns: columns of `event`, selected as `StoredEvent` holds them.
    :param after: the last position of the page before. Index: `event_pkey`.
    :param condition: SQL that begins with ` and`: only these events; all if it is empty.
    """
    where = f"user_id = $1 and position > $2{condition}"
    sql = page_query(
        select_list(columns), "eventstore.event", where, "position", VARIABLE_SIZE_COLUMNS
    )
    return Statement(sql, (user_id, after), prepared=not condition)


def select_stream_page(columns: Sequence[str], user_id: str, after: UUID | None) -> Statement:
    """
    Return the statement for the next page of a user's streams, to be read with `page_of`.

    :param columns: columns of `stream`.
    :param after: the last stream id of the page before. Index: `stream_pkey`.
    """
    where = "user_id = $1 and ($2::uuid is null or stream_id > $2)"
    sql = page_query(", ".join(columns), "eventstore.stream", where, "stream_id", ())
    return Statement(sql, (user_id, after))


def read_events(
    user_id: str, wanted: Selection, registry: EventRegistry
) -> Plan[list[RecordedEvent]]:
    """
    Read one page of events; one round trip.

    :param wanted: its `limit` is the size of the page.
    :raises InvalidInput: an attribute of `wanted` has a wrong type or is out of range.
    :raises UnknownEventType: no registered class reads an event; its position is named.
    :raises UnreadableEvent: a payload does not fit its class.
    """
    (rows,) = yield Batch(user_scope(user_id), (select_events(user_id, wanted),))
    return [recorded_event(user_id, row, registry) for row in rows]


def read_event_page(
    user_id: str, wanted: Selection, after: int | str | None, registry: EventRegistry
) -> Plan[Page[RecordedEvent]]:
    """
    Read one page of events that knows how to go on; one round trip.

    :param wanted: which events, in which order; its `limit` is the size of the page.
    :param after: a cursor, or a position: only events behind it, in the order of reading.
    :raises InvalidInput: an attribute of `wanted` or `after` has a wrong type or is out of range,
        or the cursor is none of this list.
    :raises UnknownEventType: no registered class reads an event; its position is named.
    :raises UnreadableEvent: a payload does not fit its class.
    """
    select_events(user_id, wanted)  # refuses what does not fit before it goes into a cursor
    types = wanted.types and sorted(wanted.types)
    about = ("events", wanted.stream_id, types, *wanted.moment.bounds, wanted.backward)
    cursors = Cursors(user_id, about, (int,))
    if isinstance(after, int):
        end, cursor = check_number(after, "after"), None
    else:
        end, cursor = (cursors.read(after) or (None,))[0], after
    page = replace(wanted, limit=fetched(wanted.limit))
    if end is not None:
        page = replace(page, before=end) if wanted.backward else replace(page, after=end)
    (rows,) = yield Batch(user_scope(user_id), (select_events(user_id, page),))
    return cursors.page(
        rows,
        wanted.limit,
        cursor,
        lambda row: (row[_POSITION],),
        lambda row: recorded_event(user_id, row, registry),
    )


def for_each_event(
    user_id: str,
    wanted: Selection,
    registry: EventRegistry,
    do: Callable[[RecordedEvent], object],
) -> Plan[None]:
    """
    Read all events of a forward selection, whatever its limit; one round trip a page.

    :param do: is given one after another.
    :raises UnknownEventType: no registered class reads an event; its position is named.
    :raises UnreadableEvent: a payload does not fit its class.
    """
    scope, page = user_scope(user_id), replace(wanted, limit=EVENTS_AT_ONCE)
    (rows,) = yield Batch(scope, (select_events(user_id, page),))
    if len(rows) < EVENTS_AT_ONCE:
        yield from for_each_row(user_id, rows, registry, do)
        return
    with postpone_full_collections():
        yield from _for_each_page(user_id, page, registry, do)


def _for_each_page(
    user_id: str, page: Selection, registry: EventRegistry, do: Callable[[RecordedEvent], object]
) -> Plan[None]:
    # An erasure between two pages would show a state that never existed. So all pages are read in
    # one snapshot, the first one for the second time.
    scope = user_scope(user_id)
    while True:
        (rows,) = yield Batch(scope, (select_events(user_id, page),), hold=True, snapshot=True)
        yield from for_each_row(user_id, rows, registry, do)
        if len(rows) < EVENTS_AT_ONCE:
            yield Batch(scope, ())  # ends the transaction that is held
            return
        page = replace(page, after=rows[-1][_POSITION])


def for_each_row(
    user_id: str, rows: Rows, registry: EventRegistry, do: Callable[[RecordedEvent], object]
) -> Plan[None]:
    """
    Read rows of `REPLAY_COLUMNS` as events; no round trip, and others run in between.

    :param do: is given one event after another.
    :raises CorruptLog: a row cannot be read.
    """
    for number, row in enumerate(rows, 1):
        do(recorded_event(user_id, row, registry))
        if number % ROWS_AT_A_TIME == 0:
            yield GIVE_WAY
