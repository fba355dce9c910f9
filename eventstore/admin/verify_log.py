"""
Check one user's log against itself, event by event, and against the heads that anchors kept of it.

Checked are positions without gaps, every digest and the hash chain, time that never runs backwards,
erasures as they are recorded, the head, and anchored heads. Only the last event is remembered, so
memory does not grow with the log. Streams are checked by `verify_streams`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

from eventstore.admin.problems import Problem
from eventstore.database.plan import Rows
from eventstore.events.erasure import Erasures
from eventstore.log.anchors import Head
from eventstore.log.hash_chain import ZERO_HASH, chain_hash, payload_digest
from eventstore.log.stored_event import StoredEvent

__all__ = ["LogCheck"]

_NEVER_NULL = (
    "stream_id",
    "version",
    "event_id",
    "type",
    "schema_version",
    "recorded_at",
    "payload_digest",
    "hash",
)
_never_null = attrgetter(*_NEVER_NULL)


class LogCheck:
    """
    Follows one log and knows what the next event must be.

    :param erasures: all erasures that the log records, read before the events they cover.
    :param problems: where what is found is added.
    :param anchored: heads of this user that were kept outside the database, in any order.
    :ivar count: events checked; `erased` of them have no payload, as an erasure records.
    :ivar anchors: anchored heads that were found again.
    :ivar anchored: events up to the newest of those.
    """

    def __init__(
        self,
        user_id: str,
        erasures: Erasures,
        problems: list[Problem],
        anchored: Sequence[Head] = (),
    ) -> None:
        self.user_id = user_id
        self.count = 0
        self.erased = 0
        self.anchors = 0
        self.anchored = 0
        self.position = 0
        self._erasures = erasures
        self._problems = problems
        self._to_find = deque(sorted(anchored, key=lambda head: head.position))
        self._hash = ZERO_HASH
        self._recorded_at: datetime | None = None

    def check(self, event: StoredEvent) -> None:
        """
        Check one event against those before it.

        :param event: the next one by position, with `ALL_COLUMNS`.
        """
        position = event.position
        self.count += 1
        # NOT NULL can be dropped; a null would make the comparisons below fail instead of differ.
        if None in _never_null(event):
            nulls = [name for name in _NEVER_NULL if getattr(event, name) is None]
            detail = f"{', '.join(nulls)} is null, which the store never writes"
            self._report("hash", position, detail)
            self.position = position
            return
        if position != self.position + 1:
            self._report("gap", position, f"follows position {self.position}")
        if self._recorded_at is not None and event.recorded_at < self._recorded_at:
            self._report("time", position, "recorded earlier than the event before it")
        self._check_content(event)
        # The size says how many events an idempotency key covers, so neither is without the other.
        size = event.append_size
        if (size is None) != (event.idempotency_key is None) or (size is not None and size < 1):
            self._report("hash", position, "append_size does not belong to an idempotency key")
        if chain_hash(self._hash, self.user_id, event) != event.hash:
            self._report("hash", position, "the hash does not follow from the event")
        if self._to_find:
            self._check_anchors(position, event.hash)
        # The check continues from the stored values, so that one change is one problem, not many.
        self.position, self._hash, self._recorded_at = position, event.hash, event.recorded_at

    def end(self, head: Rows, events: int) -> None:
        """
        Check that all events were seen, and that the head is at the last one.

        :param head: the rows of `user_log`; without tampering there is one.
        :param events: how many events there are, counted apart from the pages.
        """
        # Pages follow the position, so an event whose position is null or the smallest is in none.
        if events != self.count:
            detail = f"{events} events, and only {self.count} of them are found by their position"
            self._report("gap", self.position, detail)
        known = head[0] if head else (0, ZERO_HASH, None)
        if known != (self.position, self._hash, self._recorded_at):
            detail = f"the head is at position {known[0]}, the log ends at {self.position}"
            if not self.count:
                detail = "there is a head but no event"
            elif known[0] == self.position:
                detail = "the head's hash or time is not that of the last event"
            self._report("head", known[0], detail)
        if len(head) > 1:
            self._report("head", known[0], f"there are {len(head)} heads")
        for anchor in self._to_find:
            detail = (
                f"the anchor is newer than the log, which ends at {self.position}: its tail was "
                "cut off, or an older backup restored"
            )
            self._report("anchor", anchor.position, detail)

    def _check_content(self, event: StoredEvent) -> None:
        """Check payload and metadata, or that they are gone where an erasure is recorded."""
        position = event.position
        covered = self._erasures.covers(event.type, event.stream_id, position)
        if event.payload is None and event.metadata is None and event.salt is None:
            self.erased += 1
            if not covered:
                detail = "its payload is gone, and no erasure of it is recorded"
                self._report("erasure", position, detail)
            return
        # A backup that was restored in part brings such a payload back.
        if covered:
            detail = "an erasure of it is recorded, but it has a payload"
            self._report("erasure", position, detail)
        if (
            event.payload is None
            or event.metadata is None
            or event.salt is None
            or payload_digest(event.salt, event.payload, event.metadata) != event.payload_digest
        ):
            self._report("payload", position, "payload or metadata differ from their digest")

    def _check_anchors(self, position: int, stored_hash: bytes) -> None:
        # Several anchors may have the same head, and an event at their position may be missing.
        while self._to_find and self._to_find[0].position <= position:
            anchor = self._to_find.popleft()
            if (anchor.position, anchor.hash) == (position, stored_hash):
                self.anchors += 1
                # The chain covers all that is before an event, so one head confirms all of it.
                self.anchored = position
                continue
            detail = "history up to here was rewritten after it was anchored"
            if self.anchored:
                detail += f"; up to position {self.anchored} an anchor confirms it"
            self._report("anchor", anchor.position, detail)

    def _report(self, kind: str, position: int, detail: str) -> None:
        self._problems.append(Problem(kind, self.user_id, detail, position=position))
