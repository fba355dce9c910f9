"""
Plans: what to ask of PostgreSQL, without how.

A plan is a generator. Each `yield` hands over one `Batch` of statements, which a driver sends as
one pipeline, and gets back the rows of each: one `yield` is one round trip. The same plan runs on
a sync and on an async driver, so every operation of the store is written once.

A batch is one transaction, unless `hold` keeps it open for the next batch. A plan never sees a
connection; errors arrive in it as `eventstore.errors`, so it may catch them and decide again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from time import monotonic
from typing import Any, ClassVar, NamedTuple
from uuid import UUID

from eventstore.database.scope import Scope
from eventstore.errors import (
    AccessDenied,
    ConnectionLost,
    DatabaseFault,
    EventStoreError,
    LoginRefused,
    OutcomeUnknown,
    SerializationFailed,
    StorageFull,
    Unavailable,
)
from eventstore.value_objects import value_object

__all__ = [
    "GIVE_WAY",
    "ROWS_AT_A_TIME",
    "AboutToolCall",
    "Batch",
    "GiveWay",
    "Parallel",
    "Pause",
    "Plan",
    "Retry",
    "Rollback",
    "Rows",
    "Statement",
    "retrying",
]

type Rows = list[tuple[Any, ...]]
type Plan[T] = Generator[
    Batch | Rollback | Pause | Retry | GiveWay | Parallel | AboutToolCall, list[Any], T
]
"""Sent a batch's rows, one `Rows` for each statement, or the result of each parallel plan."""


class Statement(NamedTuple):
    """
    One SQL statement with `$1` placeholders, and its parameters.

    `prepared` where the text comes again and again; not where it was made for this one occasion.
    """

    sql: str
    params: Sequence[object] = ()
    prepared: bool = True


@value_object(frozen=True, slots=True)
class Batch:
    """
    Statements for one round trip, all in one transaction and one scope.

    :ivar scope: None for questions about the login itself: no role is entered, no user set.
    :ivar hold: keep the transaction open for the next batch; the last batch without it commits.
    :ivar snapshot: begin REPEATABLE READ, READ ONLY: all held batches see one moment.
    :ivar planned_once: all statements have one index to go along, whatever their values. In tables
        of some size PostgreSQL would plan some of them each time, which costs more than they do.
    """

    scope: Scope | None
    statements: tuple[Statement, ...]
    hold: bool = False
    snapshot: bool = False
    planned_once: bool = False


@value_object(frozen=True, slots=True)
class Rollback:
    """
    Ask the driver to undo what held batches did; answered with no rows.

    For a plan that goes on after an error of its own: after one of a batch it is done already.
    """

    hold: ClassVar = False


@value_object(frozen=True, slots=True)
class Pause:
    """
    Ask the driver to wait before the next batch, as a caller wanted; answered with no rows.

    The deadline of the call begins anew behind it.
    """

    hold: ClassVar = False
    seconds: float


@value_object(frozen=True, slots=True)
class Retry:
    """
    Ask the driver to wait before another attempt; answered with False if it would come too late.

    :ivar since: when the first attempt failed, by the monotonic clock.
    """

    hold: ClassVar = False
    seconds: float
    since: float


@value_object(frozen=True, slots=True)
class GiveWay:
    """
    Ask the driver to let other tasks run before the plan works on; answered with no rows.

    A plan that works through many rows asks for it after `ROWS_AT_A_TIME` of them, or everybody
    else in an event loop would wait for the last one. What is held stays held.
    """

    hold: ClassVar = True


GIVE_WAY = GiveWay()
ROWS_AT_A_TIME = 200
"""Rows of a log that are read and replayed in less than 10 milliseconds."""


@value_object(frozen=True, slots=True)
class Parallel:
    """Ask the driver to run other plans, so many at once; answered with their results in order."""

    hold: ClassVar = False

    plans: Sequence[Callable[[], Plan[Any]]]
    jobs: int


@value_object(frozen=True, slots=True)
class AboutToolCall:
    """
    Have the observer told which tool call this call of the store is about; answered with no rows.

    What is held stays held.

    :ivar call_id: the model's name for it.
    :ivar conversation_id: in which it was requested.
    :ivar name: of the tool, where the caller's value has it.
    :ivar ended: its outcome is recorded by this.
    """

    hold: ClassVar = True

    call_id: str
    conversation_id: UUID
    name: str | None = None
    ended: bool = False


_FIRST_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 1.0

_AGAIN: tuple[type[Exception], ...] = (ConnectionLost, SerializationFailed)

_SETTLES_NOTHING = (Unavailable, StorageFull, DatabaseFault, LoginRefused, AccessDenied)
"""The server did not look for what an earlier attempt wrote."""


def retrying[T](
    attempt: Callable[[], Plan[T]],
    *,
    unless: Callable[[], bool] | None = None,
    also: type[Exception] | None = None,
    unknown: Callable[[], OutcomeUnknown | None] = lambda: None,
) -> Plan[T]:
    """
    Run a plan again from its start when PostgreSQL or the network asks for it.

    The driver says until when: it knows the deadline of the call.

    Safe for appends because a retry finds a first try that did reach COMMIT: by its idempotency
    key, or by the ids of its events.

    :param unless: True once an attempt has done what cannot be done again.
    :param also: another error after which the plan is run again.
    :param unknown: makes the error of an attempt that may have been committed, None if none was
        sent. Later attempts go on then, whatever they fail with, as long as it settles nothing.
    :raises OutcomeUnknown: none of them did.
    :raises ConnectionLost: the last attempt's, as is `SerializationFailed`.
    """
    # A library's retry loop would sleep here, and so stop the event loop of an async driver.
    pause = _FIRST_PAUSE_SECONDS
    again = _AGAIN if also is None else (*_AGAIN, also)
    lost: OutcomeUnknown | None = None
    since: float | None = None
    while True:
        try:
            return (yield from attempt())
        except EventStoreError as error:
            if isinstance(error, ConnectionLost) and error.may_be_committed:
                lost = lost or unknown()
            unsettled = lost if isinstance(error, _SETTLES_NOTHING) else None
            if unsettled is None and not isinstance(error, again):
                raise
            since = since or monotonic()
            # Clients that one restart cut off, or one append overtook, must not come back at once.
            wait = pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter, not a secret
            if (unless is not None and unless()) or not (yield Retry(wait, since)):
                if unsettled is not None:
                    raise unsettled from error
                raise
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
