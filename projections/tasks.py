"""The projector of the `task` table: the list as it stands now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eventstore.events.tasks import (
    TaskCompleted,
    TaskCreated,
    TaskDeleted,
    TaskReopened,
    TaskUpdated,
)
from eventstore.log.envelope import Fact
from projections.changes import POSITION, RECORDED_AT, Delete, Insert, RowChange, Update
from projections.projector import projector
from projections.tables import Task

__all__ = ["project_task"]


@projector(Task)
def project_task(fact: Fact) -> Iterator[RowChange]:
    """Keep one row per task; a deleted task's row goes."""
    key = {"id": fact.stream_id}
    match fact.data:
        case TaskCreated(title=title, description=description):
            yield Insert(
                Task,
                key
                | {
                    "title": title,
                    "description": description,
                    "completed": False,
                    "created_at": RECORDED_AT,
                    "updated_at": RECORDED_AT,
                    "completed_at": None,
                    "position": POSITION,
                },
            )
        case TaskUpdated() as update:
            changes: dict[str, Any] = {
                name: getattr(update, name) for name in sorted(update.model_fields_set)
            }
            yield Update(Task, key, changes | {"updated_at": RECORDED_AT})
        case TaskCompleted():
            yield Update(
                Task,
                key,
                {"completed": True, "completed_at": RECORDED_AT, "updated_at": RECORDED_AT},
            )
        case TaskReopened():
            yield Update(
                Task, key, {"completed": False, "completed_at": None, "updated_at": RECORDED_AT}
            )
        case TaskDeleted():
            yield Delete(Task, key)
