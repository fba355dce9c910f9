"""
Plans for evidence: doctor, verify, heads to anchor, export, erase.

What they find, keep, hand over and remove is one user's at a time; only ids and heads are listed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from uuid import UUID

from eventstore.database.doctor import examine, refusal
from eventstore.database.findings import Finding
from eventstore.database.plan import Plan, retrying
from eventstore.errors import DatabaseFault, InvalidInput
from eventstore.events.limits import (
    MAX_TITLE,
    MAX_USER_ID,
    check_label,
    check_number,
    check_user_id,
)
from eventstore.log.anchor import Anchor, Head
from eventstore.log.heads import heads_of, heads_page
from eventstore.log.identity import uuid7
from eventstore.store.across_users import AcrossUsers, silent
from projections.erasure import Erasure, ErasureOrder, erase
from projections.export import Exported, export_user
from projections.problem import Problem
from projections.verify import Verified, verify_user

__all__ = ["EvidencePlans"]

_BLINDING = {"reading", "function"}
"""Findings with which verify might be shown other rows than everybody else is."""


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
        if (error := refusal([one for one in found if one.check in _BLINDING])) is not None:
            raise error
        if user_id is not None:
            return (
                yield from self.verify_users(
                    [check_user_id(user_id)], progress=progress, seen=seen, anchors=anchors
                )
            )
        known = yield from self.users()
        users = sorted({*known, *(name for anchor in anchors for name in anchor.heads)})
        return (
            yield from self.verify_users(
                users, jobs=jobs, progress=progress, seen=seen, anchors=anchors, listed=True
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
        Verify users as tables and anchors name them, be that an id that the store would take.

        :param listed: they are from tables and anchors: one without anything is itself a problem.
        """
        by_user = partial(self._verified, anchors, seen or silent, listed)
        return self._over(users, by_user, Verified(), jobs=jobs, report=progress or silent)

    def heads(
        self, users: Sequence[str] | None = None, *, after: str = "", limit: int = 10_000
    ) -> Plan[list[Head]]:
        """
        Return where logs end, to be kept outside the database with `write_anchor`.

        :param users: these, each read as that user; None for all, in the order of their ids.
        :param after: of all: the last id of the page before.
        :param limit: of all: users on a page.
        :raises NotFound: one of the users has no log.
        """
        if isinstance(users, str):
            raise InvalidInput("users", f"{users!r}; give a list of ids")
        if users is not None:
            names = [*dict.fromkeys(check_user_id(one) for one in users)]
            return self._retrying(lambda: heads_of(names))
        check_number(limit, "limit", least=1)
        check_label(after, "after", MAX_USER_ID, empty=True)
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
        if isinstance(leave, str):
            raise InvalidInput("leave", f"{leave!r}; give a list of tables")
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
        check_user_id(user_id)
        began = Event()

        def writing(piece: str) -> None:
            began.set()
            write(piece)

        return retrying(
            lambda: export_user(user_id, self.projections, writing),
            seconds=self.retry_seconds,
            unless=began.is_set,  # what was written cannot be taken back
        )

    def _verified(
        self, anchors: Sequence[Anchor], seen: Callable[[int], object], listed: bool, user_id: str
    ) -> Plan[Verified]:
        """Verify one user; what PostgreSQL itself cannot read is a problem of that user's."""
        heads = [one.heads[user_id] for one in anchors if user_id in one.heads]
        try:
            done = yield from verify_user(user_id, self.projections, self.registry, heads, seen)
        except DatabaseFault as error:
            if not error.of_data:
                raise
            problem = Problem("unreadable", user_id, str(error))
            return Verified(users=1, problems=(problem,))
        if listed and not done.users:
            detail = "a table has rows of this user, and none is shown to the application role"
            return Verified(users=1, problems=(Problem("hidden", user_id, detail),))
        return done
