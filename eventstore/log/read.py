"""
Read one user's events: by position, by stream, by type, forward and backward, in pages.

Plans; a page is one round trip. Payloads come as text and are read by the registry, so an unknown
type stops the reading with its name and position.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Any
from uuid import UUID

from eventstore.database.instants import readable_instant
from eventstore.database.pages import PAGE_ROWS, page_query
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import EventStoreError, InvalidInput, UnreadableEvent
from eventstore.events.erasure import ErasedEvent
from eventstore.events.event import Event
from eventstore.events.jsontext import loads
from eventstore.events.limits import MAX_TITLE, check_label, check_number
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import NOW, Cut, RecordedEvent

__all__ = [
    "COLUMNS",
    "LARGE",
    "Selection",
    "decode",
    "every_page",
    "read_events",
    "select_events",
    "select_log_page",
    "select_stream_page",
]

LARGE = (
    "payload", "metadata", "type", "idempotency_key", "request_digest", "salt", "payload_digest",
    "hash",
)  # fmt: skip
"""The columns of an event that may have megabytes: nobody of ours makes all of them that large."""

COLUMNS = f"""position, stream_id, version, event_id, type, schema_version,
       payload::text, metadata::text, correlation_id, causation_id,
       {readable_instant("recorded_at")}"""

# No index on type or time: a user's log is read along its key, and an index would cost every
# append. `$2 … $6` are bounds that say nothing when null.
_SELECT = f"""
select {COLUMNS}
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
_IN_STREAM = _SELECT + "and stream_id = $7 order by version limit $8"
_IN_STREAM_BACKWARD = _SELECT + "and stream_id = $7 order by version desc limit $8"

_END = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """
    Which events of a user's log.

    :ivar after: positions greater than this.
    :ivar before: positions less than this.
    :ivar types: stored names; None for all.
    :ivar cut: up to a moment.
    :ivar backward: newest first.
    """

    stream_id: UUID | None = None
    after: int = 0
    before: int | None = None
    types: Iterable[str] | None = None
    cut: Cut = NOW
    backward: bool = False
    limit: int = 1_000


def select_events(user_id: str, wanted: Selection) -> Statement:
    """Return the statement for `wanted`. Index: the primary key, or `event_stream_version_key`."""
    check_number(wanted.limit, "limit")
    check_number(wanted.after, "after")
    if wanted.before is not None:
        check_number(wanted.before, "before")
    if isinstance(wanted.types, str) or not isinstance(wanted.types, Iterable | None):
        raise InvalidInput("types", f"{wanted.types!r}; give a list of stored names")
    types = None
    if wanted.types is not None:
        types = [check_label(name, "types", MAX_TITLE) for name in wanted.types]
    bounds = (
        user_id,
        wanted.after,
        _END if wanted.before is None else wanted.before,
        wanted.cut.position,
        wanted.cut.instant,
        types,
    )
    if wanted.stream_id is None:
        sql = _BY_POSITION_BACKWARD if wanted.backward else _BY_POSITION
        return Statement(sql, (*bounds, wanted.limit))
    sql = _IN_STREAM_BACKWARD if wanted.backward else _IN_STREAM
    return Statement(sql, (*bounds, wanted.stream_id, wanted.limit))


def select_log_page(columns: str, user_id: str, after: int) -> Statement:
    """
    Return the statement for the next page of a whole log, to be read with `page_of`.

    :param columns: what to select of each event.
    :param after: positions greater than this. Index: the primary key.
    """
    where = "user_id = $1 and position > $2"
    return Statement(
        page_query(columns, "eventstore.event", where, "position", LARGE), (user_id, after)
    )


def select_stream_page(columns: str, user_id: str, after: UUID | None) -> Statement:
    """
    Return the statement for the next page of a user's streams, to be read with `page_of`.

    :param after: the last id of the page before. Index: the primary key.
    """
    where = "user_id = $1 and ($2::uuid is null or stream_id > $2)"
    return Statement(
        page_query(columns, "eventstore.stream", where, "stream_id", ()), (user_id, after)
    )


def read_events(
    user_id: str, wanted: Selection, registry: EventRegistry
) -> Plan[list[RecordedEvent]]:
    """Read one page of events; one round trip."""
    (rows,) = yield Batch(user_scope(user_id), (select_events(user_id, wanted),))
    return [decode(user_id, row, registry) for row in rows]


def every_page(
    user_id: str, wanted: Selection, registry: EventRegistry
) -> Plan[list[RecordedEvent]]:
    """
    Read all events of a forward selection, whatever its limit; one round trip a page.

    More than a page is read in one snapshot: an erasure between two would show what never was.
    """
    scope, page = user_scope(user_id), replace(wanted, limit=PAGE_ROWS)
    (rows,) = yield Batch(scope, (select_events(user_id, page),))
    if len(rows) < PAGE_ROWS:
        return [decode(user_id, row, registry) for row in rows]
    events: list[RecordedEvent] = []
    while True:
        (rows,) = yield Batch(scope, (select_events(user_id, page),), hold=True, snapshot=True)
        events.extend(decode(user_id, row, registry) for row in rows)
        if len(rows) < PAGE_ROWS:
            yield Batch(scope, ())
            return events
        page = replace(page, after=events[-1].position)


def decode(user_id: str, row: tuple[Any, ...], registry: EventRegistry) -> RecordedEvent:
    """
    Return the event of a row of `COLUMNS`; an `ErasedEvent` where the payload is gone.

    :raises CorruptLog: no class reads it, or what stands there was written by nobody of ours.
    """
    position, stream_id, version, event_id, type_name, schema_version, payload = row[:7]
    try:
        data: Event = ErasedEvent(erased_type=type_name)
        if payload is not None:
            data = registry.read(type_name, schema_version, loads(payload), position)
        return RecordedEvent(
            user_id,
            stream_id,
            event_id,
            data,
            {} if row[7] in {"{}", None} else loads(row[7]),
            row[8],
            row[9],
            position,
            version,
            row[10].astimezone(UTC),
        )
    except EventStoreError:
        raise
    except ValueError as error:
        raise UnreadableEvent(type_name, position, str(error)) from error
    except Exception as error:
        raise UnreadableEvent(type_name, position, type(error).__name__) from error
