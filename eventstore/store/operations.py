"""
What operators do, as plans: rebuild, import, status, and all of `evidence`.

Each user is worked on as that user; only their ids and heads are listed as the operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from eventstore.database.plan import Batch, Parallel, Plan, Statement
from eventstore.database.scope import operator
from eventstore.errors import EventStoreError, Incomplete
from eventstore.events.limits import check_user_id
from eventstore.store.across_users import silent
from eventstore.store.chat_import import ChatConversation, Imported, import_conversation
from eventstore.store.evidence import EvidencePlans
from projections.rebuild import (
    Progress,
    Rebuilt,
    check_user,
    prepare_rebuild,
    rebuild_user,
    rebuild_worker,
)

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
class OperationPlans(EvidencePlans):
    """All that a store does across users."""

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
        :raises Incomplete: some users could not be rebuilt or compared, because their log cannot be
            read, is held for too long, or gives rows that the tables do not take; they are named
            and were not changed, all others were rebuilt.
        :raises CorruptLog: of `user_id` alone, an event cannot be read; nothing was changed.

        Interrupted, the next call goes on where this one stopped.
        """
        report = progress or silent
        if user_id is not None:
            plan = partial(
                rebuild_user, check_user_id(user_id), self.projections, self.registry, check=check
            )
            return (yield from self._reported(plan, report))
        if check:
            return (yield from self._checked(jobs, report))
        yield from self._retrying(lambda: prepare_rebuild(self.projections))
        worker = partial(
            rebuild_worker,
            self.projections,
            self.registry,
            report,
            retry_seconds=self.retry_seconds,
        )
        results = yield Parallel([worker] * max(1, jobs), jobs)
        _require_complete({user: error for _, failed in results for user, error in failed.items()})
        return sum((done for done, _ in results), start=Rebuilt())

    def _checked(self, jobs: int, report: Progress) -> Plan[Rebuilt]:
        failures: dict[str, EventStoreError] = {}
        users = yield from self.users()
        done = yield from self._over(
            users,
            lambda user_id: check_user(user_id, self.projections, self.registry, failures),
            Rebuilt(),
            jobs=jobs,
            report=report,
        )
        _require_complete(failures)
        return done

    def status(self) -> Plan[Status]:
        """Return what the database holds; one round trip."""
        from eventstore.store.migrate import latest_revision  # noqa: PLC0415 - Alembic is slow to import and seldom needed

        facts = yield from self._retrying(_read_status)
        server_version, revision, users, events, size = facts
        return Status(server_version, revision or "none", latest_revision(), users, events, size)

    def import_conversations(
        self, conversations: Sequence[tuple[str, ChatConversation]], *, jobs: int = 1
    ) -> Plan[Imported]:
        """
        Write conversations in the OpenAI chat format, each whole or not at all.

        :param conversations: each with the id of the user it belongs to.
        :param jobs: appends at once.
        :return: what was written; a conversation that is there already is skipped.
        :raises Conflict: a key's conversation has other content, or was erased; others may be
            written.
        """
        plans = [
            partial(import_conversation, self.context(user_id), conversation)
            for user_id, conversation in conversations
        ]
        return sum((yield Parallel(plans, jobs)), start=Imported())


def _require_complete(failures: dict[str, EventStoreError]) -> None:
    if failures:
        raise Incomplete(failures) from next(iter(failures.values()))


def _read_status() -> Plan[tuple[Any, ...]]:
    (rows,) = yield Batch(operator, (Statement(_STATUS),))
    facts: tuple[Any, ...] = rows[0]
    return facts
