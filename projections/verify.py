"""
Verify one user: the log against itself, and the read models against the log.

All in one snapshot, so it may run while users write, and in pages, so that memory is bounded: of a
log of more than `EVENTS_PER_PASS` events, or `BYTES_PER_PASS`, the rows are replayed and compared
in parts, one pass over the log for each. Each difference is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from eventstore.database.instants import readable_instant
from eventstore.database.pages import page_of, size_of
from eventstore.database.plan import Batch, Plan, Rows, Statement
from eventstore.database.scope import Scope, user_scope
from eventstore.errors import ConfigurationError, CorruptLog, InvalidInput
from eventstore.events.erasure import ContentErased, Erasures
from eventstore.events.jsontext import loads
from eventstore.events.registry import EventRegistry
from eventstore.log.anchor import Head
from eventstore.log.identity import erasure_stream
from eventstore.log.read import COLUMNS, LARGE, decode, select_log_page, select_stream_page
from projections.comparison import Difference, compare
from projections.log_check import LogCheck
from projections.problem import Problem
from projections.projector import Projections
from projections.replay import Replay
from projections.stream_check import StreamCheck

__all__ = [
    "BYTES_PER_PASS",
    "EVENTS_PER_PASS",
    "MAX_PROBLEMS",
    "Problem",
    "Verified",
    "verify_user",
]

EVENTS_PER_PASS = 200_000
MAX_PROBLEMS = 1_000
"""Named of one user; how many more there are is told."""
BYTES_PER_PASS = 96 * 1024 * 1024
"""Of payloads and metadata. Whichever is less: what one verification may hold at a time."""


@dataclass(frozen=True, slots=True)
class Verified:
    """
    How much was looked at and what was found.

    :ivar users: of whom there is a log, or a problem.
    :ivar erased: events whose payload was removed, as an erasure on record says.
    :ivar anchors: anchored heads that the logs still have.
    :ivar anchored: events that such a head confirms: those that are newer, none does.
    """

    users: int = 0
    events: int = 0
    erased: int = 0
    anchors: int = 0
    anchored: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing was found."""
        return not self.problems

    def __add__(self, other: Verified) -> Verified:
        return Verified(
            self.users + other.users,
            self.events + other.events,
            self.erased + other.erased,
            self.anchors + other.anchors,
            self.anchored + other.anchored,
            self.problems + other.problems,
        )


_CHECKED = f"{COLUMNS}, idempotency_key, request_digest, salt, payload_digest, hash"
_SIZE = f"""
select count(*), coalesce(sum({size_of(LARGE)}), 0) from eventstore.event where user_id = $1
"""
_BEFORE_ALL = -(2**63)
_HEAD = f"""
select position, hash, {readable_instant("recorded_at")}
from eventstore.user_log where user_id = $1
"""
_STREAM = "stream_id, version, kind, closed"
_ERASURES = """
select payload::text from eventstore.event
where user_id = $1 and stream_id = $2 and type = 'ContentErased' and payload is not null
  and pg_column_size(payload) < 100000  -- ours are far smaller
order by version
"""


def verify_user(
    user_id: str,
    projections: Projections,
    registry: EventRegistry,
    anchored: Sequence[Head],
    seen: Callable[[int], object],
) -> Plan[Verified]:
    """
    Verify one user's log and read models in one snapshot; nothing is written, nobody waits.

    :param anchored: heads of this user that were kept outside the database.
    :param seen: called after each page, with how many events more are done.
    """
    scope = user_scope(user_id, patient=True)
    head, sizes, records = yield Batch(  # the head first, in the order in which an append locks
        scope,
        (
            Statement(_HEAD, (user_id,)),
            Statement(_SIZE, (user_id,)),
            Statement(_ERASURES, (user_id, erasure_stream(user_id))),
        ),
        hold=True,
        snapshot=True,
    )
    erasures = Erasures(_readable(records))
    log = LogCheck(user_id, erasures, anchored)
    problems: list[Problem] = []
    events, stored = sizes[0]
    parts = _parts(events, stored)
    passes = _Passes(parts, seen)
    for part in range(parts):
        keep = _part_of(part, parts)
        streams = StreamCheck(user_id, registry, erasures, keep)
        replay = Replay(projections, keep)
        checks = [streams.see] if part else [log.see, streams.see]
        unreadable = yield from _replayed(scope, replay, registry, checks, problems, passes)
        if part == 0:
            problems.extend(log.ends(head, events))
        yield from _stream_heads(scope, streams, problems)
        if unreadable is None:
            unreadable = yield from _compared(scope, projections, replay, keep, problems)
        if unreadable is not None:
            problems.append(unreadable)
            break
    yield Batch(scope, ())
    users = int(bool(head or problems))
    return Verified(users, log.count, log.erased, log.anchors, log.anchored, _told(problems))


def _told(problems: list[Problem]) -> tuple[Problem, ...]:
    """Return the first problems of a user, and how many more there are."""
    told, more = problems[:MAX_PROBLEMS], len(problems) - MAX_PROBLEMS
    if more > 0:
        told.append(Problem("more", told[-1].user_id, f"{more:,} more problems of this user"))
    return tuple(told)


class _Passes:
    """Tells how far the work is, as if the passes over the log were one."""

    def __init__(self, passes: int, tell: Callable[[int], object]) -> None:
        self._passes, self._tell = passes, tell
        self._read = self._told = 0

    def read(self, events: int) -> None:
        """Count a page of one pass."""
        self._read += events
        more = self._read // self._passes - self._told
        self._told += more
        self._tell(more)


def _replayed(
    scope: Scope,
    replay: Replay,
    registry: EventRegistry,
    checks: Sequence[Callable[[tuple[Any, ...]], Iterator[Problem]]],
    problems: list[Problem],
    passes: _Passes,
) -> Plan[Problem | None]:
    """Replay the log, checking it on the way; return what cannot be read, if any."""
    user_id, position = scope.user_id, _BEFORE_ALL  # what stands before 1 is to be seen too
    unreadable: Problem | None = None
    while True:
        (page,) = yield Batch(scope, (select_log_page(_CHECKED, user_id, position),), hold=True)
        rows, more = page_of(page)
        for row in rows:
            position = row[0]
            try:
                for check in checks:
                    problems.extend(check(row))
                if unreadable is None:
                    replay.see([decode(user_id, row, registry)])
            except (ConfigurationError, MemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - tampered with, anything can be in a column
                kind = type(error).__name__
                told = str(error) if isinstance(error, CorruptLog) else f"reading it ends in {kind}"
                unreadable = Problem("unreadable", user_id, told, position=position)
        passes.read(len(rows))
        if not more:
            return unreadable


def _stream_heads(scope: Scope, streams: StreamCheck, problems: list[Problem]) -> Plan[None]:
    """Check where the streams stand against where the events, all seen now, have left them."""
    after: UUID | None = None
    more = True
    while more:
        (page,) = yield Batch(
            scope, (select_stream_page(_STREAM, scope.user_id, after),), hold=True
        )
        rows, more = page_of(page)
        problems.extend(streams.heads(rows))
        after = rows[-1][0] if rows else None
        more = more and after is not None  # nulls come last, and nothing follows them
    problems.extend(streams.ends())


def _compared(
    scope: Scope,
    projections: Projections,
    replay: Replay,
    keep: Callable[[tuple[Any, ...]], bool] | None,
    problems: list[Problem],
) -> Plan[Problem | None]:
    """Compare the rows with the replay; return what of it could not be stored, if any."""
    try:
        found = yield from compare(scope, projections, replay, keep)
    except InvalidInput as error:
        told = f"a projector gives what cannot be stored: {error}"
        return Problem("unreadable", scope.user_id, told)
    problems.extend(_row_problem(scope.user_id, one) for one in found)
    return None


def _readable(rows: Rows) -> Iterator[ContentErased]:
    """Yield the erasures on record; one that was tampered with counts for nothing."""
    for (payload,) in rows:
        try:
            yield ContentErased.from_payload(loads(payload))
        except (ValueError, TypeError):
            continue


def _parts(events: int, stored: int) -> int:
    """Return in how many parts a log has to be replayed, each of which fits into memory."""
    return 1 + max(events // EVENTS_PER_PASS, stored // BYTES_PER_PASS)


def _part_of(part: int, parts: int) -> Callable[[tuple[Any, ...]], bool] | None:
    if parts == 1:
        return None
    return lambda key: hash(key) % parts == part  # the same all through this process


_TOLD = {
    "missing_row": "the replay has this row, the table does not",
    "extra_row": "the table has this row, the replay does not",
}


def _row_problem(user_id: str, one: Difference) -> Problem:
    detail = _TOLD.get(one.kind) or f"differs from the replay in {', '.join(one.columns)}"
    key = tuple(str(part) for part in one.key)
    return Problem(one.kind, user_id, detail, table=one.shape.name, key=key)
