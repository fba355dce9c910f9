"""
What operators do: rebuild, verify, erase, export, heads to anchor, status, doctor.

Each user is worked on as that user; only their ids and heads are listed as the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import batched
from typing import Any
from uuid import UUID

from eventstore.database.doctor import examine
from eventstore.database.findings import Finding
from eventstore.database.plan import Batch, Parallel, Plan, Statement, retrying
from eventstore.database.scope import operator
from eventstore.database.settings import Settings
from eventstore.errors import CorruptLog, DatabaseFault
from eventstore.events.limits import MAX_TITLE, check_label, check_number, check_user_id
from eventstore.events.registry import EventRegistry
from eventstore.log.anchor import Anchor, Head
from eventstore.log.heads import heads_of, heads_page
from eventstore.log.identity import uuid7
from eventstore.store.chat_import import ChatConversation, Imported, import_conversation
from eventstore.store.context import UserContext
from projections import Projections
from projections.erasure import Erasure, ErasureOrder, erase
from projections.export import Exported, export_user
from projections.rebuild import Progress, Rebuilt, prepare_rebuild, rebuild_user, rebuild_worker
from projections.users import every_user
from projections.verify import Problem, Verified, verify_user

__all__ = ["OperationPlans", "Status"]

_USERS_AT_A_TIME = 1_000
"""Users whose work is handed out at once, so that a million of them need no million plans."""

_STATUS = """
select current_setting('server_version'),
       (select string_agg(version_num, ', ') from eventstore.alembic_version),
       (select count(*) from eventstore.user_log),
       (select coalesce(sum(position), 0)::bigint from eventstore.user_log),
       (select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
        from pg_catalog.pg_class as c
        join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
        where n.nspname = 'eventstore' and c.relkind = 'r')
"""


@dataclass(frozen=True, slots=True)
class Status:
    """
    What a database holds.

    :ivar revision: of the schema; `head` is the newest one this release knows.
    :ivar bytes: of all tables and indexes of the store.
    """

    server_version: str
    revision: str
    head: str
    users: int
    events: int
    bytes: int


@dataclass(frozen=True, slots=True)
class OperationPlans:
    """Work across users, as plans."""

    projections: Projections
    registry: EventRegistry
    settings: Settings

    @property
    def retry_seconds(self) -> float:
        """How long lost connections are tried again."""
        return self.settings.retry_seconds

    def rebuild(
        self,
        user_id: str | None = None,
        *,
        jobs: int = 1,
        check: bool = False,
        progress: Progress | None = None,
    ) -> Plan[Rebuilt]:
        """
        Rebuild the read models from the log, while users keep writing.

        :param user_id: only this user; None for all.
        :param jobs: users at once.
        :param check: compare only; `changed` counts the rows that would be mended.
        :param progress: called after each user.
        :raises CorruptLog: an event cannot be read; its user is named and was not changed, all
            others were rebuilt.

        Interrupted, the next call goes on where this one stopped.
        """
        report = progress or _silent
        if user_id is not None:
            plan = partial(
                rebuild_user, check_user_id(user_id), self.projections, self.registry, check=check
            )
            return (yield from self._reported(plan, report))
        if check:
            users = yield from every_user(self.projections)
            plans = [
                partial(
                    self._reported,
                    partial(rebuild_user, one, self.projections, self.registry, check=True),
                    report,
                )
                for one in users
            ]
            return sum((yield Parallel(plans, jobs)), start=Rebuilt())
        yield from prepare_rebuild(self.projections)
        worker = partial(rebuild_worker, self.projections, self.registry, report)
        results = yield Parallel([worker] * max(1, jobs), jobs)
        unreadable = {user: error for _, failed in results for user, error in failed.items()}
        for user, error in unreadable.items():
            raise CorruptLog(
                f"user {user!r}: {error}; {len(unreadable)} users were left as they are, "
                "all others are rebuilt"
            ) from error
        return sum((done for done, _ in results), start=Rebuilt())

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
        Check logs against themselves and read models against the replay; writes nothing.

        :param user_id: only this user; None for all that have a row in any table or an anchor.
        :param jobs: users at once.
        :param progress: called after each user.
        :param seen: called after each page of a log, with how many events more are done.
        :param anchors: heads that were kept outside the database, read with `read_anchor`: they
            show what a recomputed chain, a cut tail or an older backup hides.
        :return: what was looked at, and each problem with its place.
        """
        if user_id is not None:
            users = [check_user_id(user_id)]
        else:
            known = yield from every_user(self.projections)
            users = sorted({*known, *(name for anchor in anchors for name in anchor.heads)})
        report = progress or _silent
        done = Verified()
        for some in batched(users, _USERS_AT_A_TIME, strict=False):
            plans = [
                partial(
                    self._reported, partial(self._verified, one, heads, seen or _silent), report
                )
                for one in some
                for heads in [[each.heads[one] for each in anchors if one in each.heads]]
            ]
            done = sum((yield Parallel(plans, jobs)), start=done)
        return done

    def heads(
        self, users: Sequence[str] | None = None, *, after: str = "", limit: int = 10_000
    ) -> Plan[list[Head]]:
        """
        Return where logs end, to be kept outside the database with `write_anchor`.

        :param users: these, each read as that user; None for all, in the order of their ids.
        :param after: the last id of the page before.
        :param limit: users on a page.
        :raises NotFound: one of the users has no log.
        """
        if users is not None:
            names = [check_user_id(one) for one in users]
            return self._retrying(lambda: heads_of(names))
        check_number(limit, "limit", least=1)
        return self._retrying(lambda: heads_page(after, limit))

    def erase(
        self,
        user_id: str,
        *,
        ordered_by: str,
        conversation: UUID | str | None = None,
        reason: str | None = None,
        leave: Sequence[str] = (),
    ) -> Plan[Erasure]:
        """
        Remove what a user said and did for good, or one conversation of theirs; keep the evidence.

        Payloads and metadata go from the log, rows go from the read models. Positions, types,
        times and hashes stay, `verify` stays clean, and the erasure is recorded in the log. The
        streams take no more events. Not reached are copies (backups, replicas, logs of the server)
        and what is not content: ids, idempotency keys, and ids derived from conversation keys.

        :param ordered_by: who gave the order; recorded, up to 500 characters.
        :param conversation: its id or key; tasks it led to are not part of it. None for everything.
        :param reason: recorded too.
        :param leave: tables (schema-qualified) that hold users' own rows and that no projector of
            this store keeps: without them erasing is refused, because what they hold would stay.
        :return: how many payloads were removed, and where that is on record.
        :raises NotFound: no such user, or no such conversation of theirs.
        :raises AccessDenied: the login is not granted the role that erases.
        """
        context = self.context(user_id)
        check_label(ordered_by, "ordered_by", MAX_TITLE)
        if reason is not None:
            check_label(reason, "reason", MAX_TITLE)
        chosen = None if conversation is None else context.conversation(conversation)
        order = ErasureOrder(user_id, chosen, uuid7(), ordered_by, reason, leave)
        plan = self._retrying(lambda: erase(order, self.projections, self.registry))
        return plan if conversation is None else context.named(conversation, plan)

    def export(self, user_id: str, write: Callable[[str], object]) -> Plan[Exported]:
        """
        Write everything held about a user as one JSON document, in one snapshot.

        :param write: called with pieces of the document, as `file.write`; memory stays small.
        :return: how much was written; the document is described in docs/cli.md.
        :raises NotFound: nothing is held about this user.
        """
        return export_user(check_user_id(user_id), self.projections, write)

    def doctor(self) -> Plan[list[Finding]]:
        """
        Return what weakens isolation, evidence or durability here, errors first; one round trip.

        `connect` asks the same: it refuses a database with errors, and logs the warnings.
        """
        tables = self.projections.tables
        return self._retrying(lambda: examine(tables, self.settings))

    def status(self) -> Plan[Status]:
        """Return what the database holds; one round trip."""
        from eventstore.store.migrate import latest_revision  # noqa: PLC0415 - Alembic is slow to import and seldom needed

        (rows,) = yield Batch(operator, (Statement(_STATUS),))
        server_version, revision, users, events, size = rows[0]
        return Status(server_version, revision or "none", latest_revision(), users, events, size)

    def import_conversations(
        self, conversations: Sequence[tuple[str, ChatConversation]], *, jobs: int = 1
    ) -> Plan[Imported]:
        """
        Write conversations in the OpenAI chat format, each whole or not at all.

        :param conversations: each with the id of the user it belongs to.
        :param jobs: appends at once.
        :return: what was written; a conversation that is there already is skipped.
        :raises IdempotencyConflict: a key's conversation has other content; others may be written.
        """
        plans = [
            partial(import_conversation, self.context(user_id), conversation)
            for user_id, conversation in conversations
        ]
        return sum((yield Parallel(plans, jobs)), start=Imported())

    def context(self, user_id: str) -> UserContext:
        """Return what plans for one user need to know."""
        return UserContext(
            check_user_id(user_id), self.projections, self.registry, self.retry_seconds
        )

    def users(self) -> Plan[list[str]]:
        """Return the ids of all users that have a row in any table, sorted."""
        return every_user(self.projections)

    def _verified(
        self, user_id: str, heads: Sequence[Head], seen: Callable[[int], object]
    ) -> Plan[Verified]:
        """Verify one user; what PostgreSQL itself cannot read is a problem of that user's."""
        plan = verify_user(user_id, self.projections, self.registry, heads, seen)
        try:
            return (yield from plan)
        except DatabaseFault as error:
            problem = Problem("unreadable", user_id, str(error))
            return Verified(users=1, problems=(problem,))

    def _retrying[R](self, plan: Callable[[], Plan[R]]) -> Plan[R]:
        return retrying(plan, seconds=self.retry_seconds)

    def _reported[R](self, plan: Callable[[], Plan[R]], report: Callable[[R], None]) -> Plan[R]:
        done = yield from self._retrying(plan)
        report(done)
        return done


def _silent(_: Any) -> None:
    """Report nothing."""
