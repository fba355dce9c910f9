"""What all work across users needs: projections, events, settings, and patience."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import batched
from typing import Any

from eventstore.database.plan import Parallel, Plan, retrying
from eventstore.database.settings import Settings
from eventstore.events.limits import check_user_id
from eventstore.events.registry import EventRegistry
from eventstore.store.context import UserContext
from projections import Projections
from projections.rebuild import Rebuilt
from projections.users import every_user
from projections.verify import Verified

__all__ = ["AcrossUsers", "silent"]

_USERS_AT_A_TIME = 1_000
"""Users whose work is handed out at once, so that a million of them need no million plans."""


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
        return self._retrying(lambda: every_user(self.projections))

    def _over[R: (Rebuilt, Verified)](
        self,
        users: Iterable[str],
        plan: Callable[[str], Plan[R]],
        start: R,
        *,
        jobs: int,
        report: Callable[[R], None],
    ) -> Plan[R]:
        """Run a plan for each of many users, and return the sum of what they give."""
        done = start
        for some in batched(users, _USERS_AT_A_TIME, strict=False):
            plans = [partial(self._reported, partial(plan, one), report) for one in some]
            done = sum((yield Parallel(plans, jobs)), start=done)
        return done

    def _retrying[R](self, plan: Callable[[], Plan[R]]) -> Plan[R]:
        return retrying(plan, seconds=self.retry_seconds)

    def _reported[R](self, plan: Callable[[], Plan[R]], report: Callable[[R], None]) -> Plan[R]:
        done = yield from self._retrying(plan)
        report(done)
        return done


def silent(_: Any) -> None:
    """Report nothing."""
