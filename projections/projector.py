"""
What a projector is, and which ones a store runs.

A projector is a pure function from an event to row changes. It gets the event as it is known before
it is recorded (`EventEnvelope`). One definition runs live, in replay and in a rebuild, so the three
cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy.schema import sort_tables
from sqlmodel import SQLModel

from eventstore.errors import ConfigurationError
from eventstore.log.envelope import EventEnvelope
from projections.apply.table_shape import TableShape
from projections.changes import RowChange

__all__ = ["Projections", "Projector", "projector"]

type Project = Callable[[EventEnvelope], Iterable[RowChange]]


@dataclass(frozen=True, slots=True)
class Projector:
    """The definition of a read model: the one table it owns, and what each event does to it."""

    table: type[SQLModel]
    project: Project


def projector(table: type[SQLModel]) -> Callable[[Project], Projector]:
    """
    Decorate the function that keeps `table`.

    ::

        @projector(TasksPerDay)
        def project_tasks_per_day(event: EventEnvelope) -> Iterator[RowChange]:
            match event.data:
                case TaskCompleted():
                    yield …
    """
    return lambda project: Projector(table, project)


class Projections:
    """The projectors a store runs; each table has one owner."""

    def __init__(self, *projectors: Projector) -> None:
        for one in projectors:
            if not isinstance(one, Projector):
                raise ConfigurationError(
                    f"{one!r} is no projector; decorate the function with @projector(ITS_TABLE)"
                )
        self.projectors = projectors
        self._shapes = {one.table: TableShape(one.table) for one in projectors}
        if len(self._shapes) < len(projectors):
            names = sorted(one.table.__name__ for one in projectors)
            raise ConfigurationError(f"two projectors for one table among {', '.join(names)}")
        order = sort_tables([shape.table for shape in self._shapes.values()])
        by_table = {shape.table: shape for shape in self._shapes.values()}
        self.shapes = [by_table[table] for table in order]
        """Parents before children: the order to insert in; delete in reverse."""
        self.order = {shape: number for number, shape in enumerate(self.shapes)}
        self.tables = [shape.name for shape in self.shapes]
        """Their names, schema-qualified."""
        self._parts: dict[tuple[type[SQLModel], ...], Projections] = {}

    def shape(self, table: type[SQLModel]) -> TableShape:
        """Return the shape of a registered table."""
        return self._shapes[table]

    def of(self, *tables: type[SQLModel]) -> Projections:
        """Return only the projectors of `tables`; a history needs no tasks."""
        part = self._parts.get(tables)
        if part is None:
            chosen = (one for one in self.projectors if one.table in tables)
            part = self._parts[tables] = Projections(*chosen)
        return part

    def project(self, event: EventEnvelope) -> Iterator[RowChange]:
        """Yield what every projector wants done for an event, in the order of registration."""
        for one in self.projectors:
            shape = self._shapes[one.table]
            for change in one.project(event) or ():
                if getattr(change, "table", None) is not one.table:
                    raise ConfigurationError(
                        f"the projector of {shape.name} gives {change!r:.80}; it yields Insert, "
                        f"Update and Delete of {one.table.__name__}, and of no other table"
                    )
                yield shape.normalized(change)
