"""
An event-sourced conversation and task store for AI todo chatbots, on PostgreSQL.

::

    from eventstore import EventStore

    store = EventStore.connect()
    alice = store.user("alice")
    chat = alice.conversations.start(title="Groceries")
    alice.messages.post(chat.id, sender="user", content="Buy milk, please")
    alice.history(chat.id)

A name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eventstore import errors

# Type checkers do not run `__getattr__`, so they find the names here.
if TYPE_CHECKING:
    from eventstore.database.driver.observer import CallReport, DeliveryReport
    from eventstore.database.sessions.engines import migration_engine
    from eventstore.database.settings import Settings
    from eventstore.errors import (
        AccessDenied,
        AlreadyExists,
        BatchTooLarge,
        ConfigurationError,
        Conflict,
        ConnectionLost,
        ConversationBusy,
        CorruptLog,
        DatabaseFault,
        Erased,
        EventStoreError,
        IdempotencyConflict,
        Incomplete,
        InvalidInput,
        LoginRefused,
        NotFound,
        NotLast,
        NotStorable,
        OutcomeUnknown,
        PoolExhausted,
        QuotaReached,
        SchemaMissing,
        SerializationFailed,
        StorageFull,
        StreamClosed,
        TimedOut,
        TurnTakenOver,
        Unavailable,
        UnknownEventType,
        UnreadableEvent,
        UnsafeDatabase,
        WrongVersion,
    )
    from eventstore.events.conversations import (
        ConversationArchived,
        ConversationDeleted,
        ConversationRenamed,
        ConversationReopened,
        ConversationRestarted,
        ConversationRestored,
        ConversationRewound,
        ConversationStarted,
    )
    from eventstore.events.erasure import ContentErased, ErasedEvent
    from eventstore.events.event import Event
    from eventstore.events.items import RequestedCall
    from eventstore.events.messages import MessageEdited, MessagePosted, MessageRetracted
    from eventstore.events.registry import EventRegistry
    from eventstore.events.tasks import (
        TaskCompleted,
        TaskCreated,
        TaskDeleted,
        TaskMoved,
        TaskReopened,
        TaskRestored,
        TaskUpdated,
    )
    from eventstore.events.tool_calls import (
        ToolCallAbandoned,
        ToolCallClaimed,
        ToolCallFailed,
        ToolCallPlaced,
        ToolCallRequested,
        ToolCallSucceeded,
    )
    from eventstore.events.turns import (
        TurnContinued,
        TurnEnded,
        TurnRenewed,
        TurnStarted,
        TurnUsed,
    )
    from eventstore.log.anchors import Anchor, Head, read_anchor, write_anchor
    from eventstore.log.envelope import EventEnvelope, Expected, NewEvent, RecordedEvent
    from eventstore.log.paging import Page
    from eventstore.store.store import AsyncEventStore, EventStore
    from eventstore.store.subscription import AsyncSubscription, Subscription
    from eventstore.store.turns.block import ActiveTurn, AsyncActiveTurn
    from eventstore.store.user import AsyncUser, User

# Python runs this file before any module of the package. If it imported the facade, then
# `import eventstore.errors` would load psycopg and SQLAlchemy, and rooms would import each other.
_HOMES = {
    "eventstore.database.driver.observer": ("CallReport", "DeliveryReport"),
    "eventstore.database.sessions.engines": ("migration_engine",),
    "eventstore.database.settings": ("Settings",),
    # The lowest room imports no other one, so its own list can be used.
    "eventstore.errors": tuple(errors.__all__),
    "eventstore.events.items": ("RequestedCall",),
    "eventstore.events.conversations": (
        "ConversationArchived",
        "ConversationDeleted",
        "ConversationRenamed",
        "ConversationReopened",
        "ConversationRestarted",
        "ConversationRestored",
        "ConversationRewound",
        "ConversationStarted",
    ),
    "eventstore.events.erasure": ("ContentErased", "ErasedEvent"),
    "eventstore.events.event": ("Event",),
    "eventstore.events.messages": ("MessageEdited", "MessagePosted", "MessageRetracted"),
    "eventstore.events.registry": ("EventRegistry",),
    "eventstore.events.tasks": (
        "TaskCompleted",
        "TaskCreated",
        "TaskDeleted",
        "TaskMoved",
        "TaskReopened",
        "TaskRestored",
        "TaskUpdated",
    ),
    "eventstore.events.tool_calls": (
        "ToolCallAbandoned",
        "ToolCallClaimed",
        "ToolCallFailed",
        "ToolCallPlaced",
        "ToolCallRequested",
        "ToolCallSucceeded",
    ),
    "eventstore.events.turns": (
        "TurnContinued",
        "TurnEnded",
        "TurnRenewed",
        "TurnStarted",
        "TurnUsed",
    ),
    "eventstore.log.anchors": ("Anchor", "Head", "read_anchor", "write_anchor"),
    "eventstore.log.envelope": ("EventEnvelope", "Expected", "NewEvent", "RecordedEvent"),
    "eventstore.log.paging": ("Page",),
    "eventstore.store.turns.block": ("ActiveTurn", "AsyncActiveTurn"),
    "eventstore.store.subscription": ("AsyncSubscription", "Subscription"),
    "eventstore.store.store": ("AsyncEventStore", "EventStore"),
    "eventstore.store.user": ("AsyncUser", "User"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

# Type checkers read only a list that is written out; a test compares it with `_HOMES`.
__all__ = [
    "AccessDenied",
    "ActiveTurn",
    "AlreadyExists",
    "Anchor",
    "AsyncActiveTurn",
    "AsyncEventStore",
    "AsyncSubscription",
    "AsyncUser",
    "BatchTooLarge",
    "CallReport",
    "ConfigurationError",
    "Conflict",
    "ConnectionLost",
    "ContentErased",
    "ConversationArchived",
    "ConversationBusy",
    "ConversationDeleted",
    "ConversationRenamed",
    "ConversationReopened",
    "ConversationRestarted",
    "ConversationRestored",
    "ConversationRewound",
    "ConversationStarted",
    "CorruptLog",
    "DatabaseFault",
    "DeliveryReport",
    "Erased",
    "ErasedEvent",
    "Event",
    "EventEnvelope",
    "EventRegistry",
    "EventStore",
    "EventStoreError",
    "Expected",
    "Head",
    "IdempotencyConflict",
    "Incomplete",
    "InvalidInput",
    "LoginRefused",
    "MessageEdited",
    "MessagePosted",
    "MessageRetracted",
    "NewEvent",
    "NotFound",
    "NotLast",
    "NotStorable",
    "OutcomeUnknown",
    "Page",
    "PoolExhausted",
    "QuotaReached",
    "RecordedEvent",
    "RequestedCall",
    "SchemaMissing",
    "SerializationFailed",
    "Settings",
    "StorageFull",
    "StreamClosed",
    "Subscription",
    "TaskCompleted",
    "TaskCreated",
    "TaskDeleted",
    "TaskMoved",
    "TaskReopened",
    "TaskRestored",
    "TaskUpdated",
    "TimedOut",
    "ToolCallAbandoned",
    "ToolCallClaimed",
    "ToolCallFailed",
    "ToolCallPlaced",
    "ToolCallRequested",
    "ToolCallSucceeded",
    "TurnContinued",
    "TurnEnded",
    "TurnRenewed",
    "TurnStarted",
    "TurnTakenOver",
    "TurnUsed",
    "Unavailable",
    "UnknownEventType",
    "UnreadableEvent",
    "UnsafeDatabase",
    "User",
    "WrongVersion",
    "migration_engine",
    "read_anchor",
    "write_anchor",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        # `hasattr` and `from eventstore import …` take no other error for an absent name.
        raise AttributeError(f"module 'eventstore' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
