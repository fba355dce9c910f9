"""
Verify one user: the log against itself, and the read models against the log.

Everything is read in one snapshot, so users may write meanwhile, and in pages, so memory is
bounded: a log that is too long for it is replayed and compared in parts (see `rebuild.parts`).
Every difference is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

from eventstore.admin.problems import Problem
from eventstore.admin.verify_log import LogCheck
from eventstore.admin.verify_streams import STREAM_COLUMNS, StreamCheck
from eventstore.database.garbage import postpone_full_collections
from eventstore.database.pages import page_of
from eventstore.database.plan import GIVE_WAY, ROWS_AT_A_TIME, Batch, Plan, Rows, Statement
from eventstore.database.scope import Scope, user_scope
from eventstore.database.timestamps import readable_timestamp
from eventstore.errors import ConfigurationError, CorruptLog, InvalidInput
from eventstore.events.erasure import ContentErased, Erasures
from eventstore.events.json_codec import loads
from eventstore.events.registry import EventRegistry
from eventstore.log.anchors import Head
from eventstore.log.ids import erasure_stream
from eventstore.log.read import BEFORE_ALL, select_log_page, select_stream_page
from eventstore.log.stored_event import ALL_COLUMNS, StoredEvent, recorded_event
from projections.apply.replay import Replay
from projections.projector import Projections
from projections.rebuild.compare import Difference, compare
from projections.rebuild.parts import Part, parts_of, select_size

__all__ = [
    "MAX_PROBLEMS",
    "Problem",
    "Verified",
    "verify_user",
]

MAX_PROBLEMS = 1_000
"""Problems listed of one user; of further ones the number is reported."""


@dataclass(frozen=True, slots=True)
class Verified:
    """
    How much was checked and what was found.

    :ivar users: users that have a log, or a problem.
    :ivar erased: events whose payload was removed, as a recorded erasure says.
    :ivar anchors: anchored heads that the logs still have.
    :ivar anchored: events that an anchored head confirms; newer events no anchor confirms.
    """

    users: int = 0
    events: int = 0
    erased: int = 0
    anchors: int = 0
    anchored: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def ok(self) -> bool:
        """True if there is no problem."""
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


_HEAD = f"""
select position, hash, {readable_timestamp("recorded_at")}
from eventstore.user_log where user_id = $1
"""
_STREAMS = "select count(*) from eventstore.stream where user_id = $1"
_ERASURES = """
select payload::text from eventstore.event
where user_id = $1 and stream_id = $2 and type = 'ContentErased' and payload is not null
  and pg_column_size(payload) < 1000000  -- ours, with the ids of 5,000 streams, are far smaller
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
    Verify one user's log and read models in one snapshot; nothing is written and nobody waits.

    :param anchored: heads of this user that were kept outside the database.
    :param seen: called after each page with the number of further events checked.
    :return: counts and at most `MAX_PROBLEMS` problems, with one more that counts the others.
    :raises ConfigurationError: a projector is wrong, which tells nothing about the log.
    """
    scope = user_scope(user_id)
    head, sizes, counts, erasure_rows = yield Batch(
        scope,  # the tables come in the order in which an append locks them
        (
            Statement(_HEAD, (user_id,)),
            select_size(user_id),
            Statement(_STREAMS, (user_id,)),
            Statement(_ERASURES, (user_id, erasure_stream(user_id))),
        ),
        hold=True,
        snapshot=True,
    )
    # An erasure stands in the log after the events that it covers, so all are read beforehand.
    erasures = Erasures(_readable(erasure_rows))
    problems: list[Problem] = []
    log = LogCheck(user_id, erasures, problems, anchored)
    parts = yield from parts_of(scope, projections, sizes[0])
    # By stream all further parts together read the log once more, but for the events of the first.
    progress = _Progress(2 if parts[0].by_stream else len(parts), seen)
    unreadable: Problem | None = None
    for part in parts:
        streams = StreamCheck(user_id, registry, erasures, problems, part.keeps)
        replay = Replay(projections, part.keeps_row)
        # The first part reads the whole log.
        checks = [streams.check] if part.number else [log.check, streams.check]
        with postpone_full_collections():
            unreadable = yield from _replay_log(
                scope, part, replay, registry, checks, progress, problems, unreadable
            )
            if part.number == 0:
                log.end(head, events=sizes[0][0])
            rows = yield from _check_streams(scope, streams)
            # A replay without that event is another state: rows would differ that nobody touched.
            if unreadable is None:
                unreadable = yield from _compare_rows(scope, projections, replay, part, problems)
            yield from replay.release()
    problems += _hidden_streams(user_id, rows, counts[0][0])
    if unreadable is not None:
        problems.append(unreadable)
    progress.end(log.count)
    yield Batch(scope, ())
    users = int(bool(head or problems))
    return Verified(users, log.count, log.erased, log.anchors, log.anchored, _first(problems))


def _first(problems: list[Problem]) -> tuple[Problem, ...]:
    """Return the first problems of a user, and a last one that counts the rest."""
    # A log whose every event was changed has as many problems, and they are sent between processes.
    first, more = problems[:MAX_PROBLEMS], len(problems) - MAX_PROBLEMS
    if more > 0:
        first.append(Problem("more", first[-1].user_id, f"{more:,} more problems of this user"))
    return tuple(first)


class _Progress:
    """Reports progress as if the passes over a log were one."""

    def __init__(self, passes: int, report: Callable[[int], object]) -> None:
        self._passes, self._report = passes, report
        self._read = self._reported = 0

    def add_page(self, events: int) -> None:
        """Count a page of one pass."""
        self._read += events
        self._report_up_to(self._read // self._passes)

    def end(self, events: int) -> None:
        """Report the events of the log that are not reported yet."""
        if events > self._reported:
            self._report_up_to(events)

    def _report_up_to(self, events: int) -> None:
        more = events - self._reported
        self._reported += more
        self._report(more)


def _replay_log(
    scope: Scope,
    part: Part,
    replay: Replay,
    registry: EventRegistry,
    checks: Sequence[Callable[[StoredEvent], None]],
    progress: _Progress,
    problems: list[Problem],
    unreadable: Problem | None,
) -> Plan[Problem | None]:
    """
    Check and replay the log; return the problem that ended the replay, if any.

    :param unreadable: of a part before; nothing is replayed then.
    """
    user_id, position = scope.user_id, BEFORE_ALL
    while True:
        statement = select_log_page(ALL_COLUMNS, user_id, position, part.events)
        (page,) = yield Batch(scope, (statement,), hold=True)
        rows, more = page_of(page)
        for number, row in enumerate(rows, 1):
            if number % ROWS_AT_A_TIME == 0:
                yield GIVE_WAY
            event = StoredEvent._make(row)
            position = event.position
            try:
                # After an event that cannot be read the chain is still checked to its end.
                for check in checks:
                    check(event)
                if unreadable is None:
                    replay.apply(recorded_event(user_id, event, registry))
            except (ConfigurationError, MemoryError):
                raise  # neither says anything about the log
            except Exception as error:  # noqa: BLE001 - a tampered column may hold anything
                kind = type(error).__name__
                detail = str(error) if isinstance(error, CorruptLog) else f"reading raises {kind}"
                problem = Problem("unreadable", user_id, detail, position=position)
                if unreadable is None:
                    unreadable = problem
                else:  # of a check, because the replay has ended at the first
                    problems.append(problem)
        progress.add_page(len(rows))
        if not more:
            return unreadable


def _check_streams(scope: Scope, streams: StreamCheck) -> Plan[int]:
    """Check the rows of `stream`, once all events were seen; return how many there are."""
    count = 0
    after: UUID | None = None
    more = True
    while more:
        statement = select_stream_page(STREAM_COLUMNS, scope.user_id, after)
        (page,) = yield Batch(scope, (statement,), hold=True)
        rows, more = page_of(page)
        count += len(rows)
        streams.check_rows(rows)
        after = rows[-1][0] if rows else None
        more = more and after is not None  # nulls are ordered last
    streams.end()
    return count


def _hidden_streams(user_id: str, found: int, count: int) -> list[Problem]:
    """Report rows of `stream` that no page has: one that is there twice, or has no id."""
    if found == count:
        return []
    detail = f"{count} rows, and only {found} of them are found by their stream"
    return [Problem("stream", user_id, detail, table="eventstore.stream")]


def _compare_rows(
    scope: Scope,
    projections: Projections,
    replay: Replay,
    part: Part,
    problems: list[Problem],
) -> Plan[Problem | None]:
    """Compare the rows with the replay; return the problem of what cannot be stored, if any."""
    try:
        differences = yield from compare(scope, projections, replay, part)
    except InvalidInput as error:
        detail = f"a projector yields what cannot be stored: {error}"
        return Problem("unreadable", scope.user_id, detail)
    problems.extend(_row_problem(scope.user_id, one) for one in differences)
    return None


def _readable(rows: Rows) -> Iterator[ContentErased]:
    """Yield the recorded erasures; one that was tampered with covers nothing."""
    # The check of the log reports the tampering itself: the payload differs from its digest.
    for (payload,) in rows:
        try:
            yield ContentErased.from_payload(loads(payload))
        except (ValueError, TypeError):
            continue


_DETAILS = {
    "missing_row": "the replay has this row, the table does not",
    "extra_row": "the table has this row, the replay does not",
}


def _row_problem(user_id: str, one: Difference) -> Problem:
    if one.kind == "extra_row" and one.row is not None:
        detail = "the table has this row more than once"
    else:
        detail = _DETAILS.get(one.kind) or f"differs from the replay in {', '.join(one.columns)}"
    return Problem(one.kind, user_id, detail, table=one.shape.name, key=one.key)
