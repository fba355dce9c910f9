"""
Identifiers: made by the client, and made again the same on a retry.

New things get a UUIDv7. Under an idempotency key, ids are derived from user, key and number
instead, so that a retry from any process sends the identical append. A conversation's id is
derived from its key, so that starting it twice is one conversation.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from uuid import UUID, uuid5

import uuid_utils.compat

__all__ = ["conversation_id", "derived_ids", "erasure_stream", "plain_uuid", "uuid7"]

_KEYED = UUID("6f0f2f5e-9d5c-5d0e-8d0a-0c7c0d3b7f01")
_CONVERSATION = UUID("6f0f2f5e-9d5c-5d0e-8d0a-0c7c0d3b7f02")

_ERASURES = UUID("6f0f2f5e-9d5c-5d0e-8d0a-0c7c0d3b7f03")

type NewId = Callable[[], UUID]


def uuid7() -> UUID:
    """Return a new UUIDv7. Its time is the client's: order comes from positions, never from ids."""
    return uuid_utils.compat.uuid7()


def plain_uuid(value: UUID) -> UUID:
    """Return an id of the standard class: libraries have their own, which not everybody knows."""
    return value if type(value) is UUID else UUID(int=value.int)


def derived_ids(user_id: str, key: str) -> NewId:
    """Return a source of ids that gives the same series for the same user and idempotency key."""
    numbers = count()
    return lambda: uuid5(_KEYED, f"{len(user_id)}:{user_id}{key}\n{next(numbers)}")


def conversation_id(user_id: str, reference: UUID | str) -> UUID:
    """
    Return the id of a conversation named by its id or its key.

    A key that is itself a UUID in its usual form (as session ids often are) is the id; of any
    other key the id is derived, per user, so two users' equal keys are two conversations.
    """
    if isinstance(reference, UUID):
        return plain_uuid(reference)
    try:
        parsed = UUID(reference)
    except ValueError:
        parsed = None
    if parsed is not None and str(parsed) == reference:
        return parsed
    return uuid5(_CONVERSATION, f"{len(user_id)}:{user_id}{reference}")


def erasure_stream(user_id: str) -> UUID:
    """Return the stream in which a user's erasures are recorded: one a user, found by its name."""
    return uuid5(_ERASURES, user_id)
