"""
Rebuild the read models of one user, or of all, while everybody keeps writing.

One user: replay, lock the user's row (see `locked_replay`), replace exactly the rows that are
wrong, commit. Only that user's writers wait, for as long as the repair takes, and readers see the
state before or the state after. A log that is too long for memory is rebuilt in parts.

All users: their names are put into `rebuild_progress`; workers take one at a time with SKIP LOCKED
in the transaction that rebuilds it. A killed worker therefore leaves its user undone, and the next
rebuild goes on where this one stopped, if its projectors and tables are the same. Several commands
at once share the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from eventstore.database.garbage import postpone_full_collections
from eventstore.database.plan import Batch, Plan, Rollback, Statement, retrying
from eventstore.database.scope import operator, user_scope
from eventstore.errors import (
    Conflict,
    CorruptLog,
    DatabaseFault,
    EventStoreError,
    InvalidInput,
    TimedOut,
)
from eventstore.events.registry import EventRegistry
from projections.apply.replay import Replay
from projections.projector import Projections
from projections.rebuild.compare import compare
from projections.rebuild.fingerprint import fingerprint
from projections.rebuild.locked_replay import (
    LockedReplay,
    repair_locked,
    replay_then_lock,
    replay_to_end,
)
from projections.rebuild.parts import WHOLE, parts_of, select_references, select_size
from projections.rebuild.users import users_union

__all__ = [
    "Progress",
    "Rebuilt",
    "Share",
    "check_user",
    "prepare_rebuild",
    "rebuild_user",
    "rebuild_worker",
]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """
    What a rebuild did.

    :ivar users: of whom there is a log, or was a row.
    :ivar rows: read-model rows after it.
    :ivar changed: rows that were missing, wrong or too many; with `check`, that would be mended.
    :ivar resumed: users that were done before, by a rebuild that was interrupted or is under way.
    :ivar since: when that one began; None if this one began anew.
    """

    users: int = 0
    events: int = 0
    rows: int = 0
    changed: int = 0
    resumed: int = 0
    since: datetime | None = None

    def __add__(self, other: Rebuilt) -> Rebuilt:
        return Rebuilt(
            self.users + other.users,
            self.events + other.events,
            self.rows + other.rows,
            self.changed + other.changed,
            self.resumed + other.resumed,
            self.since or other.since,
        )


type Progress = Callable[[Rebuilt], object]
"""Called after each user with what was done for that user."""

type Share = tuple[Rebuilt, dict[str, EventStoreError]]
"""What one of several workers did, and which users were left as they are, and why."""

_OF_ONE_USER = (Conflict, CorruptLog, DatabaseFault, InvalidInput, TimedOut)
"""What may be the matter with one user's log or rows, and is no reason to leave the others."""

_OPEN = """
select count(*) filter (where finished_at is null), count(finished_at), min(started_at)
from eventstore.rebuild_progress
where fingerprint = $1
"""
_CLEAR = "delete from eventstore.rebuild_progress"
_FILL = """
insert into eventstore.rebuild_progress (user_id, started_at, fingerprint)
select user_id, now(), $1 from ({users}) as list_users
on conflict (user_id) do nothing
"""
# Each worker goes on behind the user whom it had last, so that what is finished is not read again
# for each claim. Index: rebuild_progress_pkey.
_CLAIM = """
select user_id from eventstore.rebuild_progress
where user_id > $1 and finished_at is null and fingerprint = $2
order by user_id limit 1
for update skip locked
"""
# The commit of a part ends the claim on its user, so each further part claims anew.
_CLAIM_AGAIN = """
select 1 from eventstore.rebuild_progress
where user_id = $1 and finished_at is null
for update skip locked
"""
_FINISH = "update eventstore.rebuild_progress set finished_at = now() where user_id = $1"

# By then another worker may have taken this user, and need not be waited for: it will fail as well.
_GIVE_UP = """
update eventstore.rebuild_progress set finished_at = now() where user_id in (
    select user_id from eventstore.rebuild_progress where user_id = $1 for update skip locked
)
"""


def rebuild_user(
    user_id: str, projections: Projections, registry: EventRegistry, *, check: bool = False
) -> Plan[Rebuilt]:
    """
    Rebuild one user's read models.

    A log that is too long for memory takes one transaction for each of its parts.

    :param check: compare only, in one snapshot; nothing is written and nobody waits.
    :return: with `users` 0 if there is no log and was no row.
    :raises CorruptLog: the log holds an event that cannot be read; nothing was changed.
    :raises InvalidInput: a projector gives a value that cannot be stored.
    :raises DatabaseFault: a constraint refuses the rows, or a wrong row cannot be deleted.
    :raises TimedOut: the user's row was locked for too long.
    """
    if check:
        return (yield from _compared(user_id, projections, registry))
    return (yield from _rebuilt(user_id, projections, registry, Batch(user_scope(user_id), ())))


def prepare_rebuild(projections: Projections, *, restart: bool = False) -> Plan[Rebuilt]:
    """
    Put every user into the progress table, unless a rebuild was interrupted: that one goes on.

    One with other projectors or tables does not: what it did is not what this one would do.

    :param restart: begin with every user, whatever was done before.
    :return: what was done before.
    """
    mine = fingerprint(projections)
    if not restart:
        # Rows without an end are of a rebuild that was killed, or of one that runs: join it.
        ((left, done, since),) = (yield Batch(operator, (Statement(_OPEN, (mine,)),)))[0]
        if left:
            return Rebuilt(resumed=done, since=since)
    fill = Statement(_FILL.format(users=users_union(projections)), (mine,))
    yield Batch(operator, (Statement(_CLEAR), fill))
    return Rebuilt()


def rebuild_worker(
    projections: Projections, registry: EventRegistry, progress: Progress
) -> Plan[Share]:
    """
    Rebuild one user after another until none is left that no other worker has taken.

    :param progress: called after each user.
    :return: what this worker did, and the users whose own log or rows made the rebuild fail.
    :raises Unavailable: the database cannot be reached, which is no fault of one user.
    """
    total = Rebuilt()
    failures: dict[str, EventStoreError] = {}
    # Each user has retries of its own, so a lost connection repeats no user that was committed.
    claims = _Claims(fingerprint(projections))
    one = partial(_next_rebuilt, projections, registry, failures, claims)
    while (done := (yield from retrying(one))) is not None:
        progress(done)
        total += done
    return total, failures


@dataclass(slots=True)
class _Claims:
    """
    Where a worker is among the users.

    :ivar fingerprint: of the projectors that it runs.
    :ivar after: the user whom it claimed last.
    """

    fingerprint: str
    after: str = ""

    def next(self) -> Plan[str | None]:
        """Claim the next user; the transaction is left open, None for there is none."""
        while True:
            # The claim is a row lock and no column, so it ends with a worker that is killed.
            claim = Statement(_CLAIM, (self.after, self.fingerprint))
            (claimed,) = yield Batch(operator, (claim,), hold=True)
            if claimed:
                self.after = claimed[0][0]
                return self.after
            if not self.after:
                return None
            self.after = ""  # for users whom other workers had, and left undone


def _next_rebuilt(
    projections: Projections,
    registry: EventRegistry,
    failures: dict[str, EventStoreError],
    claims: _Claims,
) -> Plan[Rebuilt | None]:
    """Rebuild the next user, in one transaction; return None if there is none."""
    user_id = yield from claims.next()
    if user_id is None:
        yield Batch(operator, ())
        return None
    finish = Batch(operator, (Statement(_FINISH, (user_id,)),))
    # A user that failed here can come again, if another worker held the row when it was given up.
    if user_id in failures:
        yield finish
        return Rebuilt()
    try:
        claim = Statement(_CLAIM_AGAIN, (user_id,))
        return (yield from _rebuilt(user_id, projections, registry, finish, claim))
    except _TakenOverError as other:
        yield Batch(operator, ())
        return Rebuilt(changed=other.changed)
    except _OF_ONE_USER as error:
        failures[user_id] = error
        # After an error of a projector the transaction is open, with the claim and some rows.
        yield Rollback()
        yield Batch(operator, (Statement(_GIVE_UP, (user_id,)),))
        return Rebuilt()


def check_user(
    user_id: str,
    projections: Projections,
    registry: EventRegistry,
    failures: dict[str, EventStoreError],
) -> Plan[Rebuilt]:
    """
    Compare one user among many, in one snapshot.

    :param failures: gets the error of a user whose log or rows cannot be compared.
    :raises Unavailable: the database cannot be reached, which is no fault of one user.
    """
    try:
        return (yield from _compared(user_id, projections, registry))
    except _OF_ONE_USER as error:
        failures[user_id] = error
        yield Rollback()
        return Rebuilt()


class _TakenOverError(Exception):
    """Another worker claimed the user between two parts, and begins again."""

    def __init__(self, changed: int) -> None:
        super().__init__()
        self.changed = changed


def _rebuilt(
    user_id: str,
    projections: Projections,
    registry: EventRegistry,
    end: Batch,
    claim: Statement | None = None,
) -> Plan[Rebuilt]:
    """
    Do the work of one user.

    Only a log that is too long for memory takes more than one transaction, one for each part.

    :param end: commits the last transaction.
    :param claim: begins each transaction but the first one, so that other workers leave the user.
    """
    scope = user_scope(user_id)
    (sizes,) = yield Batch(scope, (select_size(user_id),), hold=True)
    parts = yield from parts_of(scope, projections, sizes[0])
    if len(parts) > 1:
        # A part would be repaired without the rows of others that its own refer to.
        (references,) = yield Batch(scope, (select_references(projections.tables),), hold=True)
        parts = [WHOLE] if references else parts
    events = rows = changed = 0
    for part in parts:
        if part.number and claim is not None:
            (claimed,) = yield Batch(operator, (claim,), hold=True)
            if not claimed:
                raise _TakenOverError(changed)
        with postpone_full_collections():
            locked = yield from replay_then_lock(scope, projections, registry, part=part)
            changed += yield from repair_locked(scope, locked, projections)
            # The commit ends the lock on the user's row: writers wait for one part, and not for its
            # rows to be freed either.
            yield end if part is parts[-1] else Batch(scope, ())
            rows += _count(projections, locked.replay)
            events = max(events, locked.events)
            yield from locked.release()
    return Rebuilt(int(bool(events or changed)), events, rows, changed)


def _compared(user_id: str, projections: Projections, registry: EventRegistry) -> Plan[Rebuilt]:
    scope = user_scope(user_id)
    # Nobody is locked out, so only a snapshot makes log and tables those of one moment.
    (sizes,) = yield Batch(scope, (select_size(user_id),), hold=True, snapshot=True)
    events = rows = changed = 0
    for part in (yield from parts_of(scope, projections, sizes[0])):
        with postpone_full_collections():
            locked = LockedReplay(part, Replay(projections, part.keeps_row))
            yield from replay_to_end(scope, locked, registry)
            changed += len((yield from compare(scope, projections, locked.replay, part)))
            rows += _count(projections, locked.replay)
            events = max(events, locked.events)
            yield from locked.release()
    yield Batch(scope, ())
    return Rebuilt(int(bool(events or changed)), events, rows, changed)


def _count(projections: Projections, replay: Replay) -> int:
    return sum(len(replay.rows(shape.model)) for shape in projections.shapes)
