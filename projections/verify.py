"""
Verify one user: the log against itself, and the read models against the log.

The log: positions and versions without gaps, every digest and the hash chain recomputed, time
never running backwards, heads as the last event left them. The read models: every row compared
with the replay. All in one snapshot, so it may run while users write. Each difference is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import user_scope
from eventstore.errors import CorruptLog
from eventstore.events.registry import EventRegistry
from eventstore.log.chain import (
    ZERO_HASH,
    ChainedEvent,
    chain_hash,
    payload_digest,
    request_digest,
)
from eventstore.log.read import COLUMNS, PAGE, decode
from projections.projector import Projections
from projections.replay import Replay
from projections.stored import differences, select_rows

__all__ = ["Problem", "Verified", "verify_user"]


@dataclass(frozen=True, slots=True)
class Problem:
    """
    One thing that is not as it must be.

    :ivar kind: `gap`, `version`, `payload`, `request`, `hash`, `time`, `head`, `stream` or
        `unreadable` in the log; `missing_row`, `extra_row` or `changed_row` in a read model.
    :ivar position: of the event, for problems of the log.
    :ivar table: of the row, with its `key`, for problems of a read model or of `stream`.
    """

    kind: str
    user_id: str
    detail: str
    position: int | None = None
    table: str | None = None
    key: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """How much was looked at and what was found."""

    users: int
    events: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not self.problems

    def __add__(self, other: Verified) -> Verified:
        return Verified(
            self.users + other.users, self.events + other.events, self.problems + other.problems
        )


_EVENTS = f"""
select {COLUMNS}, idempotency_key, request_digest, salt, payload_digest, hash
from eventstore.event
where user_id = $1 and position > $2
order by position
limit {PAGE}
"""
_HEAD = "select position, hash, recorded_at from eventstore.user_log where user_id = $1"
_STREAMS = "select stream_id, version, kind, closed from eventstore.stream where user_id = $1"


def verify_user(user_id: str, projections: Projections, registry: EventRegistry) -> Plan[Verified]:
    """Verify one user's log and read models in one snapshot; nothing is written, nobody waits."""
    scope = user_scope(user_id, patient=True)
    head, streams = yield Batch(
        scope,
        (Statement(_HEAD, (user_id,)), Statement(_STREAMS, (user_id,))),
        hold=True,
        snapshot=True,
    )
    log = _LogCheck(user_id)
    replay = Replay(projections)
    problems: list[Problem] = []
    readable = True
    while True:
        (rows,) = yield Batch(scope, (Statement(_EVENTS, (user_id, log.position)),), hold=True)
        for row in rows:
            problems.extend(log.see(row))
            try:
                if readable:
                    event = decode(user_id, row, registry)
                    replay.see([event])
                    log.kinds[event.stream_id] = (event.data.stream_kind, event.data.closes)
            except (CorruptLog, ValueError, KeyError) as error:
                readable = False
                problems.append(Problem("unreadable", user_id, str(error), position=row[0]))
        if len(rows) < PAGE:
            break
    problems.extend(log.ends(head, streams, readable=readable))
    tables = yield Batch(scope, select_rows(projections, user_id), hold=True)
    yield Batch(scope, ())
    if readable:
        problems.extend(_row_problems(user_id, projections, replay, tables))
    return Verified(1, log.count, tuple(problems))


class _LogCheck:
    """Follows one log event by event, remembering what the next one must be."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.count = 0
        self.position = 0
        self.hash = ZERO_HASH
        self.recorded_at: datetime | None = None
        self.versions: dict[UUID, int] = {}
        self.kinds: dict[UUID, tuple[str, bool]] = {}
        """Each stream's kind, and whether its last event closed it."""
        self._request: list[tuple[UUID, str, int, str]] = []
        self._request_digest: bytes | None = None
        self._request_position = 0

    def see(self, row: tuple[Any, ...]) -> Iterator[Problem]:
        """Check one row of `_EVENTS` against those before it."""
        position, stream_id, version, event_id, type_name, schema_version = row[:6]
        payload, metadata, correlation_id, causation_id, recorded_at = row[6:11]
        key, request, salt, digest, stored_hash = row[11:]
        self.count += 1
        if position != self.position + 1:
            yield self._problem("gap", position, f"follows position {self.position}")
        expected_version = self.versions.get(stream_id, 0) + 1
        if version != expected_version:
            detail = f"version {version} of stream {stream_id}, expected {expected_version}"
            yield self._problem("version", position, detail)
        if self.recorded_at is not None and recorded_at < self.recorded_at:
            yield self._problem("time", position, "recorded earlier than the event before it")
        if payload_digest(salt, payload, metadata) != digest:
            yield self._problem("payload", position, "payload or metadata differ from their digest")
        chained = ChainedEvent(
            self.user_id, position, stream_id, version, event_id, type_name, schema_version,
            digest, correlation_id, causation_id, key, recorded_at,
        )  # fmt: skip
        if chain_hash(self.hash, chained) != stored_hash:
            yield self._problem("hash", position, "the hash does not follow from the event")
        if key is not None:
            yield from self._end_of_request()
            self._request, self._request_digest = [], request
            self._request_position = position
        elif request is not None:
            yield self._problem("request", position, "a fingerprint without a key")
        self._request.append((stream_id, type_name, schema_version, payload))
        # Going on from what is stored, so that one change is one problem and not a thousand.
        self.position, self.hash, self.recorded_at = position, stored_hash, recorded_at
        self.versions[stream_id] = version

    def ends(self, head: Rows, streams: Rows, *, readable: bool) -> Iterator[Problem]:
        """Check that the heads are where the last events left them."""
        yield from self._end_of_request()
        known = head[0] if head else (0, ZERO_HASH, None)
        if known[:2] != (self.position, self.hash) or (self.count and known[2] != self.recorded_at):
            detail = f"the head is at position {known[0]}, the log ends at {self.position}"
            if known[0] == self.position:
                detail = "the head's hash or time is not that of the last event"
            yield self._problem("head", known[0], detail)
        stored = {row[0]: row[1:] for row in streams}
        for stream_id in sorted(stored.keys() | self.versions.keys()):
            there, last = stored.get(stream_id), self.versions.get(stream_id)
            if there is None or there[0] != last:
                at = None if there is None else there[0]
                yield self._stream(stream_id, f"the stream is at {at}, its last event is {last}")
            elif readable and there[1:] != self.kinds[stream_id]:
                yield self._stream(
                    stream_id, "its kind, or whether it is closed, is not as recorded"
                )

    def _stream(self, stream_id: UUID, detail: str) -> Problem:
        return Problem(
            "stream", self.user_id, detail, table="eventstore.stream", key=(str(stream_id),)
        )

    def _end_of_request(self) -> Iterator[Problem]:
        if self._request and request_digest(self._request) != self._request_digest:
            yield self._problem(
                "request", self._request_position, "the append differs from its fingerprint"
            )

    def _problem(self, kind: str, position: int, detail: str) -> Problem:
        return Problem(kind, self.user_id, detail, position=position)


def _row_problems(
    user_id: str, projections: Projections, replay: Replay, tables: list[Rows]
) -> Iterator[Problem]:
    for one in differences(projections, replay, tables):
        detail = {
            "missing_row": "the replay has this row, the table does not",
            "extra_row": "the table has this row, the replay does not",
            "changed_row": f"differs from the replay in {', '.join(one.columns)}",
        }[one.kind]
        key = tuple(str(part) for part in one.key)
        yield Problem(one.kind, user_id, detail, table=one.shape.name, key=key)
