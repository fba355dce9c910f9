"""
Moves: where a task goes in its user's own order, worked out from the neighbours it will have.

A rank is between those of two neighbours, so they are read first; nothing guards them, because what
happens to them in between only decides where the task then stands among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from eventstore.database.plan import Statement
from eventstore.errors import NotFound
from eventstore.events.event import Event, make_event
from eventstore.events.ranks import KEY_SQL, rank_between
from eventstore.events.tasks import TaskMoved

__all__ = ["Beside", "Order", "Place", "select_place"]

# Deleted tasks are neighbours too, because they may be restored. Index: task_pkey, of which all
# rows of the user are read, as for a list.
_PLACE = f"""
with task as (
    select id, deleted_position, {KEY_SQL} as key
    from eventstore.task
    where user_id = $1
)
select anchor.key,
       (select max(key) from task where key < anchor.key and not id = any($3)),
       (select min(key) from task where key > anchor.key and not id = any($3))
from task as anchor
where id = $2 and deleted_position is null
"""


@dataclass(frozen=True, slots=True)
class Beside:
    """
    Where a task is to go.

    :ivar anchor: the task next to which it goes.
    :ivar after: directly after it; else directly before.
    """

    anchor: UUID
    after: bool

    @property
    def fields(self) -> dict[str, UUID]:
        """The fields of the event that say it."""
        return {"after" if self.after else "before": self.anchor}


class Place(NamedTuple):
    """The key of a task and of its two neighbours; None where it is the first or the last one."""

    key: str
    low: str | None
    high: str | None


def select_place(user_id: str, anchor: UUID, moving: Sequence[UUID]) -> Statement:
    """
    Return the statement that selects the `Place` of a task, if it exists.

    :param moving: tasks that are no neighbours, because they are moved too.
    """
    return Statement(_PLACE, (user_id, anchor, list(moving)))


class Order:
    """
    The part of the user's order that the moves of one unit of work depend on.

    :param places: those that were read, by anchor.
    :param recorded: of a retry: the events of its first attempt, by id. Their ranks count, because
        the neighbours have moved on since.
    """

    def __init__(
        self, places: Mapping[UUID, Place], recorded: Mapping[UUID, Event] | None = None
    ) -> None:
        self._places = places
        self._recorded = recorded
        self._moved: dict[UUID, Place] = {}

    def move(self, task_id: UUID, beside: Beside, event_id: UUID) -> Event:
        """
        Return the event that moves a task, also where it stands there already.

        :param event_id: the id that the event will have.
        :raises NotFound: the anchor is absent, deleted or another user's; or it is created in this
            unit of work and has not been moved there, so it has no place yet.
        :raises InvalidInput: too many tasks were moved to this place.
        """
        if self._recorded is not None:
            match self._recorded.get(event_id):
                case TaskMoved(rank=rank):
                    return make_event(TaskMoved, rank=rank, **beside.fields)
                case _:
                    raise NotFound("task", beside.anchor)  # the first attempt was no move
        self._moved.pop(task_id, None)
        low, high = self._gap(beside)
        rank = rank_between(low, high, task_id)
        self._moved[task_id] = Place(rank, low, high)
        return make_event(TaskMoved, rank=rank, **beside.fields)

    def _gap(self, beside: Beside) -> tuple[str | None, str | None]:
        """
        Return the keys between which a task goes.

        Tasks that are moved later in this unit of work are not looked at: they get their own places
        among those that were moved before.
        """
        anchor = self._moved.get(beside.anchor) or self._places.get(beside.anchor)
        if anchor is None:
            raise NotFound("task", beside.anchor)
        low, high = (anchor.key, anchor.high) if beside.after else (anchor.low, anchor.key)
        between = [
            place.key
            for place in self._moved.values()
            if (low is None or low < place.key) and (high is None or place.key < high)
        ]
        if not between:
            return low, high
        return (low, min(between)) if beside.after else (max(between), high)
