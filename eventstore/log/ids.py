"""
Identifiers: made by the client, and made again the same on a retry.

New entities get a UUIDv7. Under an idempotency key every id is derived from the user, the key and
a running number instead, so that a retry from any process sends the identical append. The id of a
conversation with a key is derived from user and key, so that starting it twice is one conversation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from uuid import UUID, uuid5

# The time in a UUIDv7 is the client's: order comes from positions and not from ids.
from uuid_utils.compat import uuid7

from eventstore.database.plan import Plan
from eventstore.errors import InvalidInput, NotFound

__all__ = [
    "NewId",
    "conversation_id",
    "derived_ids",
    "erasure_stream",
    "parse_uuid",
    "resolve_conversation",
    "standard_uuid",
    "uuid7",
    "with_given_reference",
]

# These namespaces never change, or a key would lead to another id than in an earlier release.
_KEYED = UUID("6f0f2f5e-9d5c-5d0e-8d0a-0c7c0d3b7f01")
_CONVERSATION = UUID("6f0f2f5e-9d5c-5d0e-8d0a-0c7c0d3b7f02")
_ERASURES = UUID("6f0f2f5e-9d5c-5d0e-8d0a-0c7c0d3b7f03")

type NewId = Callable[[], UUID]
"""A source of ids: each call returns the next one."""


def standard_uuid(value: UUID) -> UUID:
    """
    Return the id as `uuid.UUID`.

    :param value: a UUID or a subclass; drivers have some that other libraries do not accept.
    """
    return value if type(value) is UUID else UUID(int=value.int)


_UUID_TEXT = re.compile(
    r"(?:urn:uuid:)?(\{)?[0-9a-f]{8}(-?)[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{12}(?(1)\})",
    re.ASCII | re.IGNORECASE,
)


def parse_uuid(text: str) -> UUID | None:
    """
    Return the UUID that a text spells, or None.

    Upper or lower case, in braces, as a URN, with or without hyphens: all are one UUID. `uuid.UUID`
    takes other texts too, such as hyphens anywhere, which nobody means.
    """
    return UUID(text.lower()) if _UUID_TEXT.fullmatch(text) else None


def derived_ids(user_id: str, key: str) -> NewId:
    """
    Return a source that yields the same ids for the same user and idempotency key.

    :param key: storable text; a lone surrogate raises `UnicodeEncodeError`.
    :return: each call returns the next id, a UUIDv5.
    """
    numbers = count()
    # The length keeps user "ab" with key "c" apart from user "a" with key "bc".
    return lambda: uuid5(_KEYED, f"{len(user_id)}:{user_id}{key}\n{next(numbers)}")


# Each command on a conversation asks for its id anew, and deriving one costs a SHA-1.
@lru_cache(maxsize=4096)
def conversation_id(user_id: str, reference: UUID | str) -> UUID:
    """
    Return the id of a conversation that is named by its id or its key.

    :param reference: the id, as a UUID or as text in whichever spelling (session ids often are
        UUIDs). Any other text is a key, from which the id is derived for this user; a lone
        surrogate raises `UnicodeEncodeError`.
    """
    if isinstance(reference, UUID):
        return standard_uuid(reference)
    if (parsed := parse_uuid(reference)) is not None:
        return parsed
    return uuid5(_CONVERSATION, f"{len(user_id)}:{user_id}{reference}")


def resolve_conversation(user_id: str, reference: object) -> UUID:
    """
    Return the id of the conversation that a caller named.

    :raises InvalidInput: the reference is neither a UUID nor text.
    :raises NotFound: the text holds a lone surrogate, which no key does.
    """
    if not isinstance(reference, UUID | str):
        raise InvalidInput("conversation", f"a {type(reference).__name__}; give its id or key")
    try:
        return conversation_id(user_id, reference)
    except UnicodeEncodeError:
        raise NotFound("conversation", reference) from None


def with_given_reference[T](plan: Plan[T], reference: UUID | str, resolved: UUID) -> Plan[T]:
    """
    Run a plan about one conversation; a NotFound names it as the caller did.

    :param reference: the id or key that the caller gave.
    :param resolved: the conversation's id, which is all that the plan knows.
    :raises NotFound: as the plan raises it, with `reference` in the place of `resolved`.
    """
    try:
        return (yield from plan)
    except NotFound as error:
        if error.key == resolved != reference:
            raise NotFound(error.kind, reference) from None
        raise


@lru_cache(maxsize=4096)
def erasure_stream(user_id: str) -> UUID:
    """Return the id of the stream in which a user's erasures are recorded, one per user."""
    return uuid5(_ERASURES, user_id)
