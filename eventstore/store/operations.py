"""What operators do across users: rebuild, verify, status. Each user is worked on as that user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eventstore.database.plan import Batch, Parallel, Plan, Statement, retrying
from eventstore.database.scope import operator
from eventstore.events.limits import check_user_id
from eventstore.events.registry import EventRegistry
from eventstore.store.chat_import import ChatConversation, Imported, import_conversation
from eventstore.store.context import UserContext
from projections import Projections
from projections.rebuild import Progress, Rebuilt, prepare_rebuild, rebuild_user, rebuild_worker
from projections.users import every_user
from projections.verify import Verified, verify_user

__all__ = ["OperationPlans", "Status"]

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
    retry_seconds: float

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
        :raises UnknownEventType: a log holds an event no class reads; that user was not changed.

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
        return sum((yield Parallel([worker] * max(1, jobs), jobs)), start=Rebuilt())

    def verify(
        self,
        user_id: str | None = None,
        *,
        jobs: int = 1,
        progress: Callable[[Verified], None] | None = None,
    ) -> Plan[Verified]:
        """
        Check logs against themselves and read models against the replay; writes nothing.

        :param user_id: only this user; None for all that have a row in any table.
        :param jobs: users at once.
        :param progress: called after each user.
        :return: what was looked at, and each problem with its place.
        """
        if user_id is not None:
            users = [check_user_id(user_id)]
        else:
            users = yield from every_user(self.projections)
        report = progress or _silent
        plans = [
            partial(
                self._reported, partial(verify_user, one, self.projections, self.registry), report
            )
            for one in users
        ]
        return sum((yield Parallel(plans, jobs)), start=Verified(0, 0, ()))

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

    def _reported[R](self, plan: Callable[[], Plan[R]], report: Callable[[R], None]) -> Plan[R]:
        done = yield from retrying(plan, seconds=self.retry_seconds)
        report(done)
        return done


def _silent(_: Any) -> None:
    """Report nothing."""
