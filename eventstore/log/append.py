"""
Append events to one user's log.

Everything here is a plan (see `database.plan`): it asks for SQL, decides on rows, and never touches
a connection. An append is one transaction and one round trip. It writes every event, with
consecutive positions and versions, and the row changes that belong to them, or it writes nothing.

A reply may be lost although the append was committed, and an append that seemed lost may arrive
late. Under an idempotency key a retry finds the key in the log. Without one, the retry looks for
the ids of its events among the newest ones of the user; if they are not there it appends them, and
notes in the head of the log that a late first attempt is to be refused.

Assumes READ COMMITTED and the lock on the user's row that `append_events` takes
(migrations/sql/0001_append_events.sql).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from struct import unpack
from typing import Any, NamedTuple

from eventstore.database.errors import AlreadyAppended
from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.database.timestamps import EPOCH
from eventstore.errors import Erased, IdempotencyConflict
from eventstore.events.json_codec import loads
from eventstore.log.append_request import AppendRequest
from eventstore.log.envelope import EventEnvelope, RecordedEvent

__all__ = ["Appended", "append", "append_together", "first_result", "recorded", "recorded_events"]

_COLUMNS = """
e.position, e.version, e.recorded_at, e.event_id, e.metadata::text, e.correlation_id,
e.causation_id, e.occurred_at, e.stream_id, e.type, e.schema_version, e.payload::text
"""
# A retry is compared with the stored text, so psycopg is not to parse payloads.
# Index: event_idempotency_key, which has the first event of an append, then event_pkey.
_BY_KEY = f"""
select {_COLUMNS}
from eventstore.event as first
join eventstore.event as e
  on e.user_id = first.user_id
 and e.position >= first.position
 and e.position < first.position + first.append_size
where first.user_id = $1
  and first.idempotency_key = $2
order by e.position
"""
# An index on event ids would cost every append, so the search goes back 100,000 events, as far as
# `append_events` looks. Index: event_pkey.
_BY_IDS = f"""
select {_COLUMNS}
from eventstore.event as e
where e.user_id = $1
  and e.event_id = any($2)
  and e.position > (select position - 100000 from eventstore.user_log where user_id = $1)
order by e.position
"""


class Appended(NamedTuple):
    """
    What an append did.

    :ivar events: the recorded events, in order.
    :ivar repeated: they were in the log already: this was a retry.
    :ivar rows: what was to be read, as it was then; empty of a retry, because it may have moved on.
    """

    events: list[RecordedEvent]
    repeated: bool
    rows: Sequence[Rows]


def append(
    request: AppendRequest,
    row_changes: Sequence[Statement] = (),
    reads: Sequence[Statement] = (),
    *,
    retry: bool = False,
) -> Plan[Appended]:
    """
    Write an append and its row changes, or find that it was written before.

    Locks the user's row until commit; one round trip, or two for a retry.

    :param row_changes: the statements of the projectors, run in the same transaction.
    :param reads: select rows as they are after the append, in the same round trip.
    :param retry: whether an earlier attempt may have been committed.
    :return: the recorded events in order; their positions follow the head without a gap.
    :raises WrongVersion: a stream is not as expected; nothing was written.
    :raises StreamClosed: a task or conversation was deleted; nothing was written.
    :raises IdempotencyConflict: the key was used for other content; nothing was written.
    :raises Erased: the key was used for content that has been erased since, or an earlier attempt
        without a key was committed and erased since.
    :raises AlreadyExists: a row change inserts a row that is there already.
    """
    try:
        # Row changes come after the append: they read a position from the head as it left it.
        statements = (request.statement(retry=retry), *row_changes, *reads)
        rows = yield Batch(user_scope(request.user_id), statements, planned_once=True)
    except AlreadyAppended:
        return Appended((yield from first_result(request)), repeated=True, rows=[])
    events = recorded_events(request.envelopes, rows[0][0][0])
    return Appended(events, repeated=False, rows=rows[len(rows) - len(reads) :])


def append_together(requests: Sequence[tuple[AppendRequest, Sequence[Statement]]]) -> Plan[None]:
    """
    Write several appends of one user in one transaction; one round trip each.

    An import of more than 1,000 events needs this, because it is stored whole or not at all. A
    retry is told from the first attempt by what the first append expects of its stream: a version,
    or that it is new.

    :param requests: each append with its row changes; without an idempotency key, or each with one.
    :raises AlreadyAppended: a key was used before; see `first_result`.
    :raises WrongVersion: a stream is not as expected; nothing was written.
    :raises StreamClosed: a task or conversation was deleted; nothing was written.
    """
    last = len(requests) - 1
    for number, (request, row_changes) in enumerate(requests):
        yield Batch(
            user_scope(request.user_id),
            (request.statement(), *row_changes),
            hold=number < last,
            planned_once=True,
        )


def recorded_events(envelopes: Sequence[EventEnvelope], appended: bytes) -> list[RecordedEvent]:
    """
    Return the events of one append with what the database gave them.

    :param envelopes: the events of the append, in its order.
    :param appended: what `append_events` returned, 8 bytes each: the position of the first event,
        the microseconds since 2000, and the version of each event.
    """
    position, since_2000, *versions = unpack(f"!{len(appended) // 8}q", appended)
    recorded_at = EPOCH + timedelta(microseconds=since_2000)
    return [
        recorded(envelope, position + number, versions[number], recorded_at)
        for number, envelope in enumerate(envelopes)
    ]


def recorded(
    envelope: EventEnvelope, position: int, version: int, recorded_at: datetime
) -> RecordedEvent:
    """
    Return an event with what the database gives it.

    :param position: in the user's log, from 1.
    :param version: in the event's stream, from 1.
    :param recorded_at: with time zone, UTC.
    """
    return RecordedEvent(
        envelope.user_id,
        envelope.stream_id,
        envelope.event_id,
        envelope.data,
        envelope.metadata,
        envelope.correlation_id,
        envelope.causation_id,
        envelope.given_occurred_at,
        position,
        version,
        recorded_at,
    )


def first_result(request: AppendRequest) -> Plan[list[RecordedEvent]]:
    """
    Load what the first append recorded whose retry this is; one round trip.

    :return: the events of the request, with the ids, metadata and places of the first append.
    :raises IdempotencyConflict: it had the same key and other content.
    :raises Erased: its content has been erased.
    """
    user_id, key = request.user_id, request.idempotency_key
    # Ids of an append without a key are random, so whoever has them has sent the same content.
    ids = [envelope.event_id for envelope in request.envelopes]
    statement = Statement(_BY_IDS, (user_id, ids))
    if key is not None:
        statement = Statement(_BY_KEY, (user_id, key))
    (rows,) = yield Batch(user_scope(user_id), (statement,))
    position = rows[0][0]
    # An erased payload can neither confirm the retry nor show that its content differs, and what
    # was erased must not come back as if it were in the log.
    if any(row[-1] is None for row in rows):
        raise Erased(key, position)
    # Metadata, correlation, cause and time are not compared, because they may differ on a retry,
    # which takes the clock's time anew. What the first append recorded counts.
    if key is not None and [row[-4:] for row in rows] != request.contents():
        raise IdempotencyConflict(key, position)
    return list(map(_recorded_again, request.envelopes, rows))


def _recorded_again(envelope: EventEnvelope, row: tuple[Any, ...]) -> RecordedEvent:
    """Return the event as the first append recorded it; a retry may have other surroundings."""
    position, version, recorded_at, event_id, metadata, *others = row
    correlation_id, causation_id, occurred_at, *_ = others
    return RecordedEvent(
        envelope.user_id,
        envelope.stream_id,
        event_id,
        envelope.data,
        {} if metadata is None else loads(metadata),
        correlation_id,
        causation_id,
        occurred_at,
        position,
        version,
        recorded_at,
    )
