"""
Every error the store raises, in one tree.

::

    EventStoreError
    ├── InvalidInput               what the caller sent cannot be stored; nothing was written
    │   ├── BatchTooLarge          more events, or more bytes, than one append may hold
    │   └── NotStorable            a value JSON or PostgreSQL cannot hold (NaN, a NUL in a title, …)
    ├── NotFound                   absent, deleted or another user's: all three get this answer
    ├── Conflict                   another append came first; nothing was written
    │   ├── WrongVersion           a stream is not at the version the append expected
    │   ├── StreamClosed           the task or conversation was deleted or erased
    │   ├── NotLast                another message came, or the one named was taken away
    │   ├── AlreadyExists          a row with this id exists: an id was used twice
    │   ├── ConversationBusy       another turn has the conversation to itself
    │   ├── TurnTakenOver          another process has continued this turn, or it has ended
    │   ├── IdempotencyConflict    the key was used for other content
    │   └── Erased                 the key was used for content that has been erased since
    ├── CorruptLog                 stored events cannot be read
    │   ├── UnknownEventType       no class is registered under the stored name
    │   └── UnreadableEvent        the stored payload does not fit its class
    ├── ConfigurationError         a setting, URL, extra or projector is wrong
    │   ├── LoginRefused           the URL's login, password or database is wrong
    │   ├── SchemaMissing          the database has not been migrated
    │   └── UnsafeDatabase         users would not be isolated, so the store does not connect
    ├── AccessDenied               PostgreSQL refused: rights or row-level security
    ├── QuotaReached               the user's log may hold no more events; reading still works
    ├── StorageFull                the disk or the plan's quota is full; reading still works
    ├── DatabaseFault              PostgreSQL failed in a way that a retry does not help
    ├── Incomplete                 work across users was done for all but some of them
    └── Unavailable                cannot be reached, too slow, or shutting down
        ├── ConnectionLost         the connection broke; nothing was written
        ├── OutcomeUnknown         it broke at a commit, and whether it was written is not known yet
        ├── PoolExhausted          no connection became free in time
        ├── TimedOut               a statement or a lock took longer than its limit
        └── SerializationFailed    PostgreSQL asks for the transaction to be run again

A message states the fact, the numbers and the remedy, and never quotes a payload. The facts are
attributes of the error too.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any
from uuid import UUID

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "BatchTooLarge",
    "ConfigurationError",
    "Conflict",
    "ConnectionLost",
    "ConversationBusy",
    "CorruptLog",
    "DatabaseFault",
    "Erased",
    "EventStoreError",
    "IdempotencyConflict",
    "Incomplete",
    "InvalidInput",
    "LoginRefused",
    "NotFound",
    "NotLast",
    "NotStorable",
    "OutcomeUnknown",
    "PoolExhausted",
    "QuotaReached",
    "SchemaMissing",
    "SerializationFailed",
    "StorageFull",
    "StreamClosed",
    "TimedOut",
    "TurnTakenOver",
    "Unavailable",
    "UnknownEventType",
    "UnreadableEvent",
    "UnsafeDatabase",
    "WrongVersion",
]


class EventStoreError(Exception):
    """The root of the tree: every error that the store raises on purpose is one."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the attributes too."""
        # `verify` and `rebuild` send errors between processes. Pickle would call the class with the
        # message alone, and most classes of the tree take other arguments.
        return (type(self).__new__, (type(self), *self.args), self.__dict__)


class InvalidInput(EventStoreError, ValueError):
    """
    What the caller sent cannot be stored; nothing was written.

    :ivar path: where the value is: `title`, `output.items[3].price`.
    :ivar fact: what is wrong with it, and the remedy.
    """

    # pydantic adds a field's path to a ValueError alone; other errors of validators pass through.
    def __init__(self, path: str, fact: str) -> None:
        # A key of the caller's may have a lone surrogate, and neither a log, a response nor
        # pydantic takes that in a message.
        path = path.encode("utf-8", "backslashreplace").decode()
        super().__init__(f"{path}: {fact}")
        self.path = path
        self.fact = fact

    def within(self, outer: str) -> InvalidInput:
        """
        Return the same error with `outer` before its path.

        :param outer: the place of the value that the path begins in, with its dot or colon.
        """
        # A copy, because the constructors of subclasses take other arguments.
        error = copy(self)
        InvalidInput.__init__(error, f"{outer}{self.path}", self.fact)
        return error


class BatchTooLarge(InvalidInput):
    """
    An append holds too many events or bytes; the limits bound how long the user's row is locked.

    :ivar count: how many it holds, of bytes up to the event that is too much.
    :ivar unit: of what: `events`, or `bytes` of JSON.
    """

    def __init__(self, count: int, limit: int, unit: str = "events") -> None:
        super().__init__(
            "events", f"{count} {unit} in one append, the limit is {limit}; split it into several"
        )
        self.unit = unit
        self.count = count
        self.limit = limit


class NotStorable(InvalidInput):
    """A value that JSON or a PostgreSQL text column cannot hold exactly."""


class NotFound(EventStoreError, LookupError):
    """The user has nothing of that kind with that id; another user's id gets the same answer."""

    def __init__(self, kind: str, key: object) -> None:
        # A caller's text may be of any length and hold lone surrogates, which no output can encode.
        super().__init__(f"{kind} {str(key).encode(errors='replace').decode():.80} not found")
        self.kind = kind
        self.key = key


class Conflict(EventStoreError):
    """Another append came first; nothing was written."""


_EXPECTED = {"new": "a new stream", "exists": "one that exists", "any": "any"}


class WrongVersion(Conflict):
    """
    A stream is not at the version that the append expected.

    :ivar expected: a version, or one of `new`, `exists`, `any`.
    :ivar actual: the stream's version; 0 if it does not exist.
    """

    def __init__(self, stream_id: UUID, expected: int | str, actual: int) -> None:
        super().__init__(
            f"stream {stream_id} is at version {actual}, but the append expected "
            f"{_EXPECTED.get(str(expected), f'version {expected}')}; load it and decide again"
        )
        self.stream_id = stream_id
        self.expected = expected
        self.actual = actual


class StreamClosed(Conflict):
    """
    The task or conversation was deleted or erased: its stream takes no more events.

    :ivar reference: the id or key by which the caller named it.
    """

    def __init__(
        self, stream_id: UUID, version: int | None = None, reference: object = None
    ) -> None:
        # The version is unknown where an earlier event of the same append closes the stream.
        closed_at = "by an event of this append" if version is None else f"at version {version}"
        named = stream_id if reference is None else f"{reference!r:.80} ({stream_id})"
        super().__init__(
            f"stream {named} was closed {closed_at} and takes no more events; "
            "restore it if it was deleted, or create a new task or conversation instead"
        )
        self.stream_id = stream_id
        self.version = version
        self.reference = stream_id if reference is None else reference


class NotLast(Conflict):
    """
    The message that a conversation was expected to end with is not its last one.

    :ivar message_id: the expected one.
    :ivar last: the conversation's last message; None if it has none.
    """

    def __init__(self, message_id: UUID, last: UUID | None) -> None:
        now = "has no message" if last is None else f"ends with message {last}"
        super().__init__(
            f"the conversation {now}, but message {message_id} was expected to be the last; "
            "read the history and decide again"
        )
        self.message_id = message_id
        self.last = last


class AlreadyExists(Conflict):
    """
    A row with this id exists: a tool call that has ended, or an id that was used twice.

    :ivar table: the read model with the row.
    """

    def __init__(self, table: str) -> None:
        super().__init__(
            f"table {table} has a row with this id: an id was used twice; nothing was written"
        )
        self.table = table


class ConversationBusy(Conflict):
    """
    Another turn has the conversation to itself, or another process works on this one.

    :ivar conversation_id: the conversation.
    :ivar turn_id: the turn that has it.
    """

    def __init__(self, conversation_id: UUID, turn_id: UUID) -> None:
        super().__init__(
            f"conversation {conversation_id} is taken by the turn {turn_id}; try again later, or "
            "give wait_seconds"
        )
        self.conversation_id = conversation_id
        self.turn_id = turn_id


class TurnTakenOver(Conflict):
    """
    The turn's lease was over and another process has continued it, or it has ended.

    :ivar turn_id: the turn.
    """

    def __init__(self, turn_id: UUID) -> None:
        super().__init__(
            f"turn {turn_id} was taken over after its lease, or has ended; nothing was written"
        )
        self.turn_id = turn_id


OUTCOME_KEY = "outcome:"
"""How the key begins under which a tool call's outcome is recorded, before its request's id."""


class IdempotencyConflict(Conflict):
    """
    The idempotency key was used for an append with other content.

    :ivar key: None of a retry without a key.
    """

    def __init__(self, key: str | None, position: int) -> None:
        # The store made this key, so a caller would not recognise it.
        if key is not None and key.startswith(OUTCOME_KEY):
            text = (
                f"the tool call {key.removeprefix(OUTCOME_KEY)} ended at position {position}; "
                "the first outcome counts"
            )
        else:
            named = "an event's id" if key is None else f"idempotency key {key!r}"
            text = (
                f"{named} was used at position {position} for other content; "
                "use a new key for a new intention, or send the first content again"
            )
        super().__init__(text)
        self.key = key
        self.position = position


class Erased(Conflict):
    """
    What a retry wrote the first time has been erased since.

    :ivar key: the idempotency key; None of a retry without one.
    """

    # A retry is refused, because its content can no longer be compared with the first.

    def __init__(self, key: str | None, position: int) -> None:
        named = "" if key is None else f" under idempotency key {key!r}"
        super().__init__(
            f"what was recorded{named} at position {position} was erased; "
            "nothing was written, use a new key for a new intention"
        )
        self.key = key
        self.position = position


class CorruptLog(EventStoreError):
    """Stored events cannot be read."""


class UnknownEventType(CorruptLog):
    """A stored event has a type or schema version that no registered class reads."""

    def __init__(self, type_name: str, schema_version: int, position: int | None) -> None:
        # An event that is checked before it is appended has no position yet.
        where = "" if position is None else f" at position {position}"
        super().__init__(
            f"event type {type_name} (schema version {schema_version}){where} is not registered; "
            "register its class (events=[…], or --extensions), or upgrade to the release that "
            "wrote it"
        )
        self.type = type_name
        self.schema_version = schema_version
        self.position = position


class UnreadableEvent(CorruptLog):
    """A stored payload does not fit the class registered for its type."""

    def __init__(self, type_name: str, position: int | None, reason: str) -> None:
        where = "" if position is None else f" at position {position}"
        super().__init__(f"event {type_name}{where} cannot be read: {reason}; run verify")
        self.type = type_name
        self.position = position


class ConfigurationError(EventStoreError):
    """A setting, URL, extra or projector is wrong; the message names the remedy."""


class LoginRefused(ConfigurationError):
    """The server runs, and refuses the URL's login, password or database."""


class SchemaMissing(ConfigurationError):
    """The database lacks the store's tables, or has them at an older revision."""


class UnsafeDatabase(ConfigurationError):
    """
    The database would not isolate users, so the store does not connect to it.

    :ivar findings: what the doctor found, errors first; each has `severity`, `check`, `location`,
        `detail` and `remedy`.
    """

    # The class of a finding is the doctor's, whose room this module may not import.
    def __init__(self, message: str, findings: Sequence[Any]) -> None:
        super().__init__(message)
        self.findings = findings


class AccessDenied(EventStoreError):
    """PostgreSQL refused by rights or row-level security."""


class QuotaReached(EventStoreError):
    """
    The user's log may not hold so many events. Nothing was written; reading still works.

    :ivar events: how many the log holds.
    :ivar adding: how many the append would have added.
    :ivar limit: how many it may hold; see `EventStore.set_quota`.
    """

    def __init__(self, events: int, adding: int, limit: int) -> None:
        super().__init__(
            f"the user's log holds {events} events, and {adding} more would exceed their quota of "
            f"{limit}; nothing was written and reading still works; an administrator can raise it "
            "with `eventstore quota`"
        )
        self.events = events
        self.adding = adding
        self.limit = limit


class StorageFull(EventStoreError):
    """The disk or the plan's quota is full. Nothing was written; reading still works."""


class DatabaseFault(EventStoreError):
    """PostgreSQL failed in a way that a retry does not help; the cause is chained."""

    sqlstate: str | None = None

    @property
    def of_data(self) -> bool:
        """True if a stored value or a damaged page is the cause."""
        # An error of psycopg's own has no SQLSTATE, as that of a value that Python cannot hold. The
        # others are data exceptions, limits of PostgreSQL, and corrupted pages and indexes.
        return self.sqlstate is None or self.sqlstate.startswith(("22", "54000", "XX001", "XX002"))


class Incomplete(EventStoreError):
    """
    Work across users was done for all but some users, whose data is unchanged.

    :ivar failures: the errors by user id.
    """

    def __init__(self, failures: dict[str, EventStoreError]) -> None:
        # One error is quoted, because there may be as many as there are users.
        user_id, error = next(iter(failures.items()))
        others = f" (and {len(failures) - 1} more users)" if len(failures) > 1 else ""
        super().__init__(f"user {user_id!r} was left as is{others}, all others are done: {error}")
        self.failures = failures


class Unavailable(EventStoreError):
    """
    The database cannot be reached, is too slow or is shutting down; trying later may help.

    :ivar tried_seconds: how long the call had tried; None of work on whole logs.
    """

    tried_seconds: float | None = None

    def tell_time(self, seconds: float, before: EventStoreError | None) -> None:
        """Say in the message how long the call has tried, and what an attempt before met."""
        met = "" if before is None or str(before) == str(self) else f"; before that: {before}"
        self.tried_seconds = seconds
        self.args = (f"{self}; tried for {seconds:.1f} seconds{met}",)


class ConnectionLost(Unavailable):
    """The connection broke during a request; the store has retried before it raises this."""

    may_be_committed = True
    """Whether the request may have been carried out; a command raises `OutcomeUnknown` then."""


class OutcomeUnknown(Unavailable):
    """
    The connection broke at a commit, and no retry could find out whether it was written.

    To send the command again without its key may double it.

    :ivar idempotency_key: the append's key, under which the same can be sent again: the caller's,
        or the one that the store makes of an outcome or of the ids of events.
    :ivar event_ids: what the events have as their ids if they were written. `find_append` takes
        this error, or what a service kept of it, and returns what was written.
    """

    def __init__(self, idempotency_key: str | None, event_ids: Sequence[UUID]) -> None:
        again = "or it may be written twice"
        if idempotency_key is not None:
            again = f"except under its key {idempotency_key!r}"
        super().__init__(
            "the connection broke at the commit, and no retry could show whether it was written; "
            f"give this error to find_append later, and do not send the command again {again}"
        )
        self.idempotency_key = idempotency_key
        self.event_ids = tuple(event_ids)


class PoolExhausted(Unavailable):
    """No connection of the pool became free in time."""


class TimedOut(Unavailable):
    """A statement or a lock took longer than its limit and was cancelled; nothing was written."""


class SerializationFailed(Unavailable):
    """PostgreSQL asks for the whole transaction to be run again (40001, 40P01)."""
