"""
Plans for evidence: doctor, verify, heads to anchor, export, erase.

What they find, keep, hand over and remove is one user's at a time; only ids and heads are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import batched
from uuid import UUID

from eventstore.database.doctor import examine, refusal
from eventstore.database.findings import Finding
from eventstore.database.plan import Parallel, Plan
from eventstore.errors import DatabaseFault
from eventstore.events.limits import MAX_TITLE, check_label, check_number, check_user_id
from eventstore.log.anchor import Anchor, Head
from eventstore.log.heads import heads_of, heads_page
from eventstore.log.identity import uuid7
from eventstore.store.across_users import AcrossUsers, silent
from projections.erasure import Erasure, ErasureOrder, erase
from projections.export import Exported, export_user
from projections.users import every_user
from projections.verify import Problem, Verified, verify_user

__all__ = ["EvidencePlans"]

_USERS_AT_A_TIME = 1_000
"""Users whose work is handed out at once, so that a million of them need no million plans."""


@dataclass(frozen=True, slots=True)
class EvidencePlans(AcrossUsers):
    """What can be trusted, shown, handed over, and removed for good."""

    def doctor(self) -> Plan[list[Finding]]:
        """
        Return what weakens isolation, evidence or durability here, errors first; one round trip.

        `connect` asks the same: it refuses a database with errors, and logs the warnings.
        """
        tables = self.projections.tables
        return self._retrying(lambda: examine(tables, self.settings))

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
        :raises UnsafeDatabase: what verify reads here need not be what others read; see `doctor`.
        """
        found = yield from self.doctor()
        if (error := refusal([one for one in found if one.check == "reading"])) is not None:
            raise error
        if user_id is not None:
            users = [check_user_id(user_id)]
        else:
            known = yield from every_user(self.projections)
            users = sorted({*known, *(name for anchor in anchors for name in anchor.heads)})
        return (
            yield from self.verify_users(
                users, jobs=jobs, progress=progress, seen=seen, anchors=anchors
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
    ) -> Plan[Verified]:
        """Verify users as tables and anchors name them, be that an id that the store would take."""
        report = progress or silent
        done = Verified()
        for some in batched(users, _USERS_AT_A_TIME, strict=False):
            plans = [
                partial(self._reported, partial(self._verified, one, heads, seen or silent), report)
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
