"""
Check one user's log against itself, event by event, and against what was kept of it elsewhere.

Positions without gaps, every digest and the hash chain recomputed, time never running backwards,
erasures as they are recorded, the head where the last event left it, anchored heads still in their
place. Nothing is remembered of the events seen but the last one; `stream_check` is about streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from eventstore.database.plan import Rows
from eventstore.events.erasure import Erasures
from eventstore.log.anchor import Head
from eventstore.log.chain import ZERO_HASH, ChainedEvent, chain_hash, payload_digest, request_part
from projections.problem import Problem

__all__ = ["LogCheck"]

_NEVER_NULL = {
    "stream_id": 1, "version": 2, "event_id": 3, "type": 4, "schema_version": 5, "recorded_at": 10,
    "payload_digest": 14, "hash": 15,
}  # fmt: skip


class LogCheck:
    """
    Follows one log, knowing what the next event must be.

    :param erasures: that the log records, read before the events they are about.
    :param anchored: heads of this user that were kept outside, in any order.
    """

    def __init__(
        self,
        user_id: str,
        erasures: Erasures,
        anchored: Sequence[Head] = (),
    ) -> None:
        self.user_id = user_id
        self.count = 0
        self.erased = 0
        self.anchors = 0
        """Anchored heads that are still in their place."""
        self.position = 0
        self._erasures = erasures
        self._anchored = deque(sorted(anchored, key=lambda head: head.position))
        self.anchored = 0
        """Events up to the newest of them."""
        self._hash = ZERO_HASH
        self._recorded_at: datetime | None = None
        self._request = _Request(0, None)

    def see(self, row: tuple[Any, ...]) -> Iterator[Problem]:
        """Check one row of `verify`'s events against those before it."""
        position, stream_id, version, event_id, type_name, schema_version = row[:6]
        payload, metadata, correlation_id, causation_id, recorded_at = row[6:11]
        key, request, salt, digest, stored_hash = row[11:]
        self.count += 1
        if nulls := [name for name, at in _NEVER_NULL.items() if row[at] is None]:
            yield self._problem("hash", position, f"{', '.join(nulls)} null, which no event has")
            self.position = position
            return
        if position != self.position + 1:
            yield self._problem("gap", position, f"follows position {self.position}")
        if self._recorded_at is not None and recorded_at < self._recorded_at:
            yield self._problem("time", position, "recorded earlier than the event before it")
        yield from self._content(position, stream_id, type_name, payload, metadata, salt, digest)
        chained = ChainedEvent(
            self.user_id, position, stream_id, version, event_id, type_name, schema_version,
            digest, correlation_id, causation_id, key, recorded_at,
        )  # fmt: skip
        if chain_hash(self._hash, chained) != stored_hash:
            yield self._problem("hash", position, "the hash does not follow from the event")
        if key is not None:
            yield from self._end_of_request()
            self._request = _Request(position, request)
        elif request is not None:
            yield self._problem("request", position, "a fingerprint without a key")
        self._request.add(stream_id, type_name, schema_version, payload)
        yield from self._compare_anchored(position, stored_hash)
        # Going on from what is stored, so that one change is one problem and not a thousand.
        self.position, self._hash, self._recorded_at = position, stored_hash, recorded_at

    def ends(self, head: Rows, events: int) -> Iterator[Problem]:
        """
        Check that all was seen, and that the head is where the last event left it, or was anchored.

        :param head: the row of `user_log`; more than one, or none, if tampered with.
        :param events: that there are, counted apart from the pages.
        """
        yield from self._end_of_request()
        if events != self.count:
            detail = f"{events} events, and only {self.count} of them are found by their position"
            yield self._problem("gap", self.position, detail)
        known = head[0] if head else (0, ZERO_HASH, None)
        if known != (self.position, self._hash, self._recorded_at):
            detail = f"the head is at position {known[0]}, the log ends at {self.position}"
            if not self.count:
                detail = "there is a head, and no event"
            elif known[0] == self.position:
                detail = "the head's hash or time is not that of the last event"
            yield self._problem("head", known[0], detail)
        if len(head) > 1:
            yield self._problem("head", known[0], f"there are {len(head)} heads")
        for anchor in self._anchored:
            detail = (
                f"the anchor is newer than the log, which ends at {self.position}: its tail was "
                "cut off, or an older backup restored"
            )
            yield self._problem("anchor", anchor.position, detail)

    def _content(
        self,
        position: int,
        stream_id: UUID,
        type_name: str,
        payload: str | None,
        metadata: str | None,
        salt: bytes | None,
        digest: bytes,
    ) -> Iterator[Problem]:
        """Check what an event says, or that it says nothing where an erasure is on record."""
        covered = self._erasures.cover(type_name, stream_id, position)
        if payload is None and metadata is None and salt is None:
            self.erased += 1
            if not covered:
                detail = "its payload is gone, and no erasure of it is recorded"
                yield self._problem("erasure", position, detail)
            return
        if covered:
            detail = "an erasure of it is recorded, and it has a payload"
            yield self._problem("erasure", position, detail)
        if (
            payload is None
            or metadata is None
            or salt is None
            or payload_digest(salt, payload, metadata) != digest
        ):
            yield self._problem("payload", position, "payload or metadata differ from their digest")

    def _compare_anchored(self, position: int, stored_hash: bytes) -> Iterator[Problem]:
        while self._anchored and self._anchored[0].position <= position:
            anchor = self._anchored.popleft()
            if (anchor.position, anchor.hash) == (position, stored_hash):
                self.anchors += 1
                self.anchored = position
                continue
            detail = "history up to here was rewritten after it was anchored"
            if self.anchored:
                detail += f"; up to position {self.anchored} an anchor confirms it"
            yield self._problem("anchor", anchor.position, detail)

    def _end_of_request(self) -> Iterator[Problem]:
        if not self._request.fits():
            yield self._problem(
                "request", self._request.position, "the append differs from its fingerprint"
            )

    def _problem(self, kind: str, position: int, detail: str) -> Problem:
        return Problem(kind, self.user_id, detail, position=position)


class _Request:
    """The events of one append, against the fingerprint on the first of them."""

    def __init__(self, position: int, digest: bytes | None) -> None:
        self.position = position
        self._digest = digest
        self._seen = sha256()
        self._count = 0
        self._erased = False

    def add(
        self, stream_id: UUID, type_name: str, schema_version: int, payload: str | None
    ) -> None:
        """Take in the next event."""
        self._count += 1
        self._erased = self._erased or payload is None
        if payload is not None:
            self._seen.update(request_part(stream_id, type_name, schema_version, payload))

    def fits(self) -> bool:
        """Tell whether the fingerprint is that of the events; an erasure takes it away too."""
        if self._erased:
            return self._digest is None
        return self._count == 0 or self._seen.digest() == self._digest
