"""What every plan of a store needs to know: which events and projectors, whose log, how patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.database.plan import Plan, retrying
from eventstore.errors import InvalidInput, NotFound
from eventstore.events.limits import check_number
from eventstore.events.registry import EventRegistry
from eventstore.log.envelope import NOW, Cut
from eventstore.log.identity import conversation_id, plain_uuid
from projections import Projections

__all__ = ["AsOf", "UserContext", "cut_at", "given_id"]

type AsOf = int | datetime | None
"""A position, an instant with time zone, or None for now."""


@dataclass(frozen=True, slots=True)
class UserContext:
    """One user of one store."""

    user_id: str
    projections: Projections
    registry: EventRegistry
    retry_seconds: float
    correlation_id: UUID | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def retrying[T](self, attempt: Callable[[], Plan[T]]) -> Plan[T]:
        """Run a plan again while the connection is lost, up to the store's limit."""
        return retrying(attempt, seconds=self.retry_seconds)

    def named[T](self, reference: UUID | str, plan: Plan[T]) -> Plan[T]:
        """Run a plan about one conversation; not found, it is named as it was given."""
        try:
            return (yield from plan)
        except NotFound as error:
            if error.key == self.conversation(reference) != reference:
                raise NotFound(error.kind, reference) from None
            raise

    def conversation(self, reference: UUID | str) -> UUID:
        """Return the id of a conversation named by its id or its key."""
        if not isinstance(reference, UUID | str):
            raise InvalidInput("conversation", f"a {type(reference).__name__}; give its id or key")
        try:
            return conversation_id(self.user_id, reference)
        except UnicodeEncodeError:  # a lone surrogate is in no key
            raise NotFound("conversation", reference) from None


def given_id(value: UUID | str, kind: str) -> UUID:
    """
    Return an id that may come as text, as tool arguments do.

    :raises NotFound: text that is no id cannot be the id of anything.
    """
    match value:
        case UUID():
            return plain_uuid(value)
        case str():
            try:
                return UUID(value)
            except ValueError:
                raise NotFound(kind, value) from None
        case _:
            raise InvalidInput(kind, f"a {type(value).__name__}; give its id")


def cut_at(as_of: AsOf) -> Cut:
    """Return the moment that `as_of` names."""
    match as_of:
        case None:
            return NOW
        case bool():
            raise InvalidInput("as_of", "a bool; give a position or an instant")
        case int():
            return Cut(position=check_number(as_of, "as_of"))
        case datetime():
            if as_of.tzinfo is None:
                raise InvalidInput("as_of", "an instant without time zone; attach one")
            return Cut(instant=as_of)
        case _:
            raise InvalidInput("as_of", f"a {type(as_of).__name__}; give a position or an instant")
