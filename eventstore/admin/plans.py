"""
`AdminPlans`: what an administrator does to whole logs and to all users of a store.

Every method is a plan (see `database.plan`), so `EventStore` and `AsyncEventStore` run the same
code. The content of a log is always read and written in the scope of its own user. The operator
role lists only user ids and the heads of logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import batched
from threading import Event
from typing import Any
from uuid import UUID

from eventstore.admin.erase import Erasure, ErasureOrder, erase
from eventstore.admin.export import Exported, export_user
from eventstore.admin.feeds import FeedAdmin
from eventstore.admin.health import Health, read_health
from eventstore.admin.problems import Problem
from eventstore.admin.quota import Quota, read_quota, write_quota
from eventstore.admin.status import Status, read_status
from eventstore.admin.verify import Verified, verify_user
from eventstore.database.plan import Parallel, Plan, retrying
from eventstore.database.settings import Settings
from eventstore.errors import DatabaseFault, EventStoreError, Incomplete, InvalidInput
from eventstore.events.fields import (
    MAX_TITLE,
    MAX_USER_ID,
    check_label,
    check_list,
    check_number,
    check_user_id,
)
from eventstore.events.registry import EventRegistry
from eventstore.log.anchors import Anchor, Head
from eventstore.log.heads import heads_of, heads_page
from eventstore.log.ids import resolve_conversation, uuid7, with_given_reference
from eventstore.schema.doctor import diagnose, refusal
from eventstore.schema.findings import Finding
from projections import Projections
from projections.rebuild.rebuild import (
    Progress,
    Rebuilt,
    Share,
    check_user,
    prepare_rebuild,
    rebuild_user,
    rebuild_worker,
)
from projections.rebuild.users import list_users

__all__ = ["AdminPlans", "sum_of_shares"]

_USERS_AT_A_TIME = 1_000
"""Users whose plans exist at once: a million users must not need a million plans in memory."""

_MOST_JOBS = 1_000
"""Plans that rebuild at once; a pool has fewer connections."""

_UNTRUSTWORTHY_READS = {"reading", "function"}
"""Doctor checks that fail where verify could be shown other rows than everybody else."""


@dataclass(frozen=True, slots=True)
class AdminPlans(FeedAdmin):
    """Everything a store does that is not one user's own request."""

    projections: Projections
    registry: EventRegistry
    settings: Settings

    def doctor(self) -> Plan[list[Finding]]:
        """
        Return what weakens isolation, evidence or durability in this database; one round trip.

        `connect` runs the same checks: it refuses a database that has errors and logs warnings.

        :return: errors first, then warnings; an empty list means that nothing was found.
        """
        tables = self.projections.tables
        return retrying(lambda: diagnose(tables, self.settings))

    def users(self) -> Plan[list[str]]:
        """
        Return the ids of all users that have a row in any table of the store, sorted.

        :raises AccessDenied: the login may not enter the operator role.
        """
        return retrying(lambda: list_users(self.projections))

    def health(self) -> Plan[Health]:
        """
        Ask whether the database can serve: for probes, with the login of the service.

        One round trip of some milliseconds, whatever is stored. Like any call it ends by its
        deadline, which is what a probe waits for where the server is away.

        :return: also if a migration is pending or the server takes no writes: `ok` is False then.
        :raises Unavailable: the server cannot be reached, or no connection became free.
        :raises SchemaMissing: the database was not migrated.
        :raises AccessDenied: the login may not enter the application role.
        """
        return retrying(read_health)

    def status(self) -> Plan[Status]:
        """
        Return what the database holds and what goes on in it, as far as the login may see.

        Three round trips, in which the database counts users, calls, turns and what feeds have
        still to deliver. A login that may not enter the operator role is told nothing about all
        users.

        :return: where nothing is told of a value, it is None.
        :raises SchemaMissing: the database was not migrated.
        """
        return retrying(read_status)

    def quota(self, user_id: str) -> Plan[Quota]:
        """
        Return how many events a user's log holds, and how many it may hold; one round trip.

        :raises NotFound: the user has no log yet.
        :raises AccessDenied: the login may not enter the operator role.
        """
        check_user_id(user_id)
        return retrying(lambda: read_quota(user_id))

    def set_quota(self, user_id: str, limit: int | None) -> Plan[Quota]:
        """
        Set how many events a user's log may hold; one round trip.

        An append that would exceed it is refused with `QuotaReached`. Reading goes on, an append
        that is sent again is answered as before, and an erasure is recorded all the same.

        :param limit: may be less than the log holds, and then nothing more is appended; None lets
            the user append without a limit.
        :return: the quota as it is now.
        :raises NotFound: the user has no log yet. What new users get is the default of the column
            `eventstore.user_log.quota`.
        :raises InvalidInput: the limit is no number of events.
        :raises AccessDenied: the login may not enter the operator role.
        """
        check_user_id(user_id)
        if limit is not None:
            check_number(limit, "limit", least=0)
        return retrying(lambda: write_quota(user_id, limit))

    def heads(
        self, users: Sequence[str] | None = None, *, after: str = "", limit: int = 10_000
    ) -> Plan[list[Head]]:
        """
        Return where logs end, to be kept outside the database with `write_anchor`.

        :param users: read these users' heads, one round trip each; None reads a page of all users
            in the order of their ids, in one round trip.
        :param after: for a page of all users: the last user id of the page before.
        :param limit: for a page of all users: how many users at most.
        :return: of each user position, hash and time of the last event.
        :raises NotFound: one of the given users has no log.
        :raises InvalidInput: an id or the limit is wrong.
        :raises AccessDenied: without `users`: the login may not enter the operator role.
        :raises CorruptLog: a head has nulls, which the store never writes.
        """
        if users is not None:
            # A user who is given twice has one head in an anchor.
            given = check_list(users, "users", "ids")
            ids = [*dict.fromkeys(check_user_id(one) for one in given)]
            return retrying(lambda: heads_of(ids))
        check_number(limit, "limit", least=1)
        check_label(after, "after", MAX_USER_ID, empty=True)
        return retrying(lambda: heads_page(after, limit))

    def verify(
        self,
        user_id: str | None = None,
        *,
        jobs: int = 1,
        progress: Callable[[Verified], None] | None = None,
        seen: Callable[[int], object] | None = None,
        anchors: Sequence[Anchor] = (),
    ) -> Plan[Verified]:
        """
        Check logs against their hash chain and read models against the replay; writes nothing.

        :param user_id: verify only this user; None verifies every user that has a row in any table
            or a head in an anchor.
        :param jobs: how many users are verified at once.
        :param progress: called after each user with that user's result.
        :param seen: called after each page of a log with the number of further events checked.
        :param anchors: heads that were kept outside the database, from `read_anchor`. They reveal
            a chain that was recomputed, a log whose tail was cut, and an older backup.
        :return: how much was checked, and each problem with its place.
        :raises UnsafeDatabase: the rows shown to verify may differ from those shown to others; the
            doctor says why.
        :raises InvalidInput: the user id or an anchor is of a wrong form.
        :raises AccessDenied: without `user_id`: the login may not enter the operator role.
        """
        check_number(jobs, "jobs", least=1)
        for number, anchor in enumerate(check_list(anchors, "anchors", "anchors")):
            if not isinstance(anchor, Anchor):
                kind = type(anchor).__name__
                raise InvalidInput(f"anchors[{number}]", f"a {kind}; give what read_anchor returns")
        # With a restrictive policy, for instance, verify could be shown an untouched log, and
        # everybody else another one.
        findings = yield from self.doctor()
        blinding = [one for one in findings if one.check in _UNTRUSTWORTHY_READS]
        if (error := refusal(blinding)) is not None:
            raise error
        if user_id is not None:
            users = [check_user_id(user_id)]
        else:
            # A log that is gone from every table is known by its anchored head alone.
            known = yield from self.users()
            users = sorted({*known, *(name for anchor in anchors for name in anchor.heads)})
        return (
            yield from self.verify_users(
                users,
                jobs=jobs,
                progress=progress,
                seen=seen,
                anchors=anchors,
                listed=user_id is None,
            )
        )

    def verify_users(
        self,
        users: Sequence[str],
        *,
        jobs: int = 1,
        progress: Callable[[Verified], None] | None = None,
        seen: Callable[[int], object] | None = None,
        anchors: Sequence[Anchor] = (),
        listed: bool = False,
    ) -> Plan[Verified]:
        """
        Verify users whose ids come from tables or anchors, even ids that the store would refuse.

        :param users: ids as `users` and the heads of anchors have them.
        :param listed: a table or an anchor names each user, so a user without any visible row is a
            problem of its own. The other parameters are those of `verify`.
        :return: the sum over the users.
        """
        by_user = partial(self._verify_one, anchors, seen or _ignore, listed)
        return self._for_each_user(users, by_user, Verified(), jobs=jobs, progress=progress)

    def rebuild(
        self,
        user_id: str | None = None,
        *,
        jobs: int = 1,
        check: bool = False,
        restart: bool = False,
        progress: Progress | None = None,
    ) -> Plan[Rebuilt]:
        """
        Rebuild the read models from the log while users keep writing.

        A rebuild of all users that was interrupted continues where it stopped, if projectors and
        tables are still the same; `resumed` and `since` say so.

        :param user_id: rebuild only this user; None rebuilds all.
        :param jobs: how many users are rebuilt at once.
        :param check: compare only; `changed` counts the rows that a rebuild would repair.
        :param restart: begin with every user, whatever an interrupted rebuild has done.
        :param progress: called after each user with that user's result.
        :raises Incomplete: the named users were left as they were, because their log cannot be
            read, is locked for too long, or yields rows that the tables refuse. All other users
            were rebuilt.
        :raises InvalidInput: `jobs` is no number over 0, or the user id is wrong.
        :raises CorruptLog: with `user_id`: an event cannot be read; nothing was changed.
        :raises AccessDenied: without `user_id`: the login may not enter the operator role.
        """
        check_number(jobs, "jobs", least=1)
        if user_id is not None:
            check_user_id(user_id)
            plan = partial(rebuild_user, user_id, self.projections, self.registry, check=check)
            return (yield from self._report(plan, progress or _ignore))
        if check:
            users = yield from self.users()
            shares = [(yield from self.check_share(users, jobs=jobs, progress=progress))]
        else:
            before = yield from self.prepare_rebuild(restart=restart)
            # The workers take users from one table until none is left, so no share is fixed before.
            worker = partial(self.rebuild_share, progress)
            done = yield Parallel([worker] * min(jobs, _MOST_JOBS), jobs)
            shares = [(before, {}), *done]
        return sum_of_shares(shares)

    def prepare_rebuild(self, *, restart: bool = False) -> Plan[Rebuilt]:
        """Note that all users are to be rebuilt, and return what was done of it before."""
        return retrying(lambda: prepare_rebuild(self.projections, restart=restart))

    def rebuild_share(self, progress: Progress | None = None) -> Plan[Share]:
        """
        Rebuild users that are left, as long as others who do the same leave some.

        :param progress: called after each user with that user's result.
        :return: what was done, and the errors of the users that were left as they were.
        """
        return rebuild_worker(
            self.projections,
            self.registry,
            progress or _ignore,
        )

    def check_share(
        self, users: Sequence[str], *, jobs: int = 1, progress: Progress | None = None
    ) -> Plan[Share]:
        """
        Compare the rows of users with their replay.

        :param jobs: how many users are compared at once.
        :param progress: called after each user with that user's result.
        :return: what a rebuild would repair, and the errors of the users that could not be read.
        """
        failures: dict[str, EventStoreError] = {}
        done = yield from self._for_each_user(
            users,
            lambda user_id: check_user(user_id, self.projections, self.registry, failures),
            Rebuilt(),
            jobs=jobs,
            progress=progress,
        )
        return done, failures

    def erase(
        self,
        user_id: str,
        *,
        ordered_by: str,
        conversation: UUID | str | None = None,
        reason: str | None = None,
        leave: Sequence[str] = (),
        seen: Callable[[int], object] | None = None,
    ) -> Plan[Erasure]:
        """
        Remove a user's content, or one conversation's, for good and keep the evidence.

        Payloads and metadata are removed from the log and rows from the read models. Positions,
        types, times and hashes stay, so `verify` stays clean, and the erasure itself is recorded
        in the log. The erased streams take no more events. Everything of a user with more than
        25,000 events, or 5,000 tasks and conversations, goes in several transactions, each
        recorded: an error leaves those before it, and another erasure goes on. Backups, replicas
        and server logs are out of reach, and so is what is not content: ids, idempotency keys, and
        ids that were derived from conversation keys.

        :param ordered_by: who ordered it, up to 500 characters; recorded.
        :param conversation: its id or key; tasks that came out of it are not part of it. None
            erases all content of the user.
        :param reason: up to 500 characters; recorded.
        :param leave: schema-qualified tables with users' rows that no projector of this store
            keeps and whose rows may stay. A table that is not named here stops the erasure.
        :param seen: called after each transaction but the last one with the number of events whose
            payloads it removed.
        :return: how many payloads were removed and at which position that is recorded.
        :raises NotFound: no such user, or no such conversation of this user.
        :raises AccessDenied: the login may not enter the eraser role.
        :raises ConfigurationError: a table holds rows of the user that nothing here can erase.
        :raises InvalidInput: an argument is wrong.
        :raises TimedOut: another erasure of this user, or a writer, took too long.
        :raises CorruptLog: the log is replayed for a service's own table, and an event that stays
            cannot be read; nothing was changed.
        """
        check_user_id(user_id)
        check_label(ordered_by, "ordered_by", MAX_TITLE)
        if reason is not None:
            check_label(reason, "reason", MAX_TITLE)
        check_list(leave, "leave", "tables")
        chosen = None if conversation is None else resolve_conversation(user_id, conversation)
        # The id is made here and not in the plan, so that each attempt of a retry records the same.
        order = ErasureOrder(user_id, chosen, uuid7(), ordered_by, reason, leave)
        plan = erase(order, self.projections, self.registry, seen or _ignore)
        if conversation is None or chosen is None:
            return plan
        return with_given_reference(plan, conversation, chosen)

    def export(
        self,
        user_id: str,
        write: Callable[[str], object],
        *,
        seen: Callable[[int], object] | None = None,
    ) -> Plan[Exported]:
        """
        Write everything that is held about a user as one JSON document, in one snapshot.

        :param write: called with successive pieces of the document, like `file.write`; memory use
            does not grow with the log.
        :param seen: called after each page of the log with the number of further events written.
        :return: how much was written; docs/cli.md describes the document.
        :raises NotFound: nothing is held about this user.
        """
        check_user_id(user_id)
        began = Event()

        def writing(piece: str) -> None:
            began.set()
            write(piece)

        return retrying(
            lambda: export_user(user_id, self.projections, writing, seen or _ignore),
            unless=began.is_set,  # a piece that was handed over cannot be taken back
        )

    def _verify_one(
        self, anchors: Sequence[Anchor], seen: Callable[[int], object], listed: bool, user_id: str
    ) -> Plan[Verified]:
        """Verify one user; a value that PostgreSQL itself cannot read is that user's problem."""
        # A value that PostgreSQL cannot read fails in the batch that selects it, and uncaught the
        # error would end the verification of all other users.
        heads = [one.heads[user_id] for one in anchors if user_id in one.heads]
        try:
            done = yield from verify_user(user_id, self.projections, self.registry, heads, seen)
        except DatabaseFault as error:
            if not error.of_data:
                raise
            return Verified(users=1, problems=(Problem("unreadable", user_id, str(error)),))
        # A row whose user id is empty, for instance, is in nobody's scope.
        if listed and not done.users:
            detail = "a table has rows of this user, but the application role is shown none"
            return Verified(users=1, problems=(Problem("hidden", user_id, detail),))
        return done

    def _for_each_user[R: (Rebuilt, Verified)](
        self,
        users: Iterable[str],
        plan: Callable[[str], Plan[R]],
        start: R,
        *,
        jobs: int,
        progress: Callable[[R], object] | None,
    ) -> Plan[R]:
        """Run a plan for each user and return the sum of the results."""
        report = progress or _ignore
        done = start
        for some in batched(users, _USERS_AT_A_TIME, strict=False):
            plans = [partial(self._report, partial(plan, one), report) for one in some]
            done = sum((yield Parallel(plans, jobs)), start=done)
        return done

    def _report[R](self, plan: Callable[[], Plan[R]], report: Callable[[R], object]) -> Plan[R]:
        # Reported after the last attempt: a user who is tried twice must not count twice.
        done = yield from retrying(plan)
        report(done)
        return done


def sum_of_shares(shares: Iterable[Share]) -> Rebuilt:
    """
    Return what was done in all shares of a rebuild.

    :param shares: what each worker returned, of all workers: the others go on if one user fails.
    :raises Incomplete: some users were left as they are.
    """
    done, failures = Rebuilt(), dict[str, EventStoreError]()
    for its_done, its_failures in shares:
        done += its_done
        failures |= its_failures
    if failures:
        raise Incomplete(failures) from next(iter(failures.values()))
    return done


def _ignore(_: Any) -> None:
    """Take a progress report for a caller who asked for none."""
