"""What all work across users needs: projections, events, settings, and patience."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eventstore.database.plan import Plan, retrying
from eventstore.database.settings import Settings
from eventstore.events.limits import check_user_id
from eventstore.events.registry import EventRegistry
from eventstore.store.context import UserContext
from projections import Projections
from projections.users import every_user

__all__ = ["AcrossUsers", "silent"]


@dataclass(frozen=True, slots=True)
class AcrossUsers:
    """Plans that are not one user's; each user is worked on as that user all the same."""

    projections: Projections
    registry: EventRegistry
    settings: Settings

    @property
    def retry_seconds(self) -> float:
        """How long lost connections are tried again."""
        return self.settings.retry_seconds

    def context(self, user_id: str) -> UserContext:
        """Return what plans for one user need to know."""
        return UserContext(
            check_user_id(user_id), self.projections, self.registry, self.retry_seconds
        )

    def users(self) -> Plan[list[str]]:
        """Return the ids of all users that have a row in any table, sorted."""
        return every_user(self.projections)

    def _retrying[R](self, plan: Callable[[], Plan[R]]) -> Plan[R]:
        return retrying(plan, seconds=self.retry_seconds)

    def _reported[R](self, plan: Callable[[], Plan[R]], report: Callable[[R], None]) -> Plan[R]:
        done = yield from self._retrying(plan)
        report(done)
        return done


def silent(_: Any) -> None:
    """Report nothing."""
