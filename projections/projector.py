"""
What a projector is, and which ones a store runs.

A projector is a pure function from an event to row changes. It gets the event as it is known before
it is recorded (`EventEnvelope`). One definition runs live, in replay and in a rebuild, so the three
cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.schema import sort_tables
from sqlmodel import SQLModel

from eventstore.errors import ConfigurationError
from eventstore.events.erasure import ContentErased, ErasedEvent
from eventstore.events.event import Event
from eventstore.log.envelope import EventEnvelope
from projections.apply.table_shape import TableShape
from projections.changes import Insert, RowChange, Update

__all__ = ["Projections", "Projector", "projector"]

type Project = Callable[[EventEnvelope], Iterable[RowChange]]
type EventTypes = tuple[type[Event], ...]


@dataclass(frozen=True, slots=True)
class Projector:
    """
    The definition of a read model: the one table it owns, and what each event does to it.

    :ivar project: a pure function; append, replay and rebuild must get equal row changes from it.
    :ivar events: the classes whose events the function is given, subclasses included.
    :ivar stream_kind: the kind of stream whose events it is given; None for any.
    :ivar trusted: True for the built-in ones: their row changes need not be checked.
    :ivar stream_column: the column that holds the id of the stream whose events alone make the row;
        None if a row may be made of several streams.
    """

    table: type[SQLModel]
    project: Project
    events: EventTypes = (Event,)
    trusted: bool = False
    stream_kind: str | None = None
    stream_column: str | None = None

    def wants(self, kind: type[Event]) -> bool:
        """Tell whether the function is given the events of a class."""
        return issubclass(kind, self.events) and self.stream_kind in {None, kind.stream_kind}


def projector(
    table: type[SQLModel],
    *,
    events: type[Event] | Sequence[type[Event]] = Event,
    stream_kind: str | None = None,
    trusted: bool = False,
    stream_column: str | None = None,
) -> Callable[[Project], Projector]:
    """
    Decorate the function that keeps `table`.

    ::

        @projector(TasksPerDay, events=TaskEvent)
        def project_tasks_per_day(event: EventEnvelope) -> Iterator[RowChange]:
            match event.data:
                case TaskCompleted():
                    yield …

    :param table: a SQLModel class with `table=True`, whose primary key begins with `user_id`.
    :param events: the class, or classes, whose events the function wants, subclasses included.
    :param stream_kind: only events of this kind of stream, `task` or another; None for any.
    :param trusted: do not check its row changes; a wrong one would show as an error of PostgreSQL.
    :param stream_column: the column with the id of the stream, if each row is made and changed by
        the events of one stream alone. Then an erasure deletes the rows of a stream by it, and a
        log too long for memory is rebuilt by its streams; without it each part of such a rebuild
        reads the whole log, and an erasure replays the log to find out what is left of the rows,
        as it does if the function is given `ContentErased`.
    :return: a decorator that makes a `Projector`, to be passed to `connect(projectors=[…])`.
    :raises ConfigurationError: one of the events is no event class.
    """
    wanted = (events,) if isinstance(events, type) else tuple(events)
    if strange := [one for one in wanted if not (isinstance(one, type) and issubclass(one, Event))]:
        raise ConfigurationError(
            f"events: {strange[0]!r} is no event class; give subclasses of Event"
        )
    return lambda project: Projector(table, project, wanted, trusted, stream_kind, stream_column)


class Projections:
    """
    The projectors a store runs; each table has one owner.

    :param projectors: each event is given to all of them.
    :raises ConfigurationError: one of them is no projector, or two have one table, or a projector
        cannot keep its table.

    :ivar shapes: parents before children: the order to insert in; delete in reverse.
    :ivar shapes_by_model: the same by their class.
    :ivar tables: their names, schema-qualified.
    """

    def __init__(self, *projectors: Projector) -> None:
        for one in projectors:
            if not isinstance(one, Projector):
                raise ConfigurationError(
                    f"{one!r} is no projector; decorate the function with @projector(ITS_TABLE)"
                )
        self.projectors = projectors
        self.shapes_by_model = {
            one.table: TableShape(one.table, trusted=one.trusted, stream_column=one.stream_column)
            for one in projectors
        }
        if len(self.shapes_by_model) < len(projectors):
            names = sorted(one.table.__name__ for one in projectors)
            raise ConfigurationError(f"two projectors for one table among {', '.join(names)}")
        # SQLAlchemy knows the foreign keys that the classes declare. Rows have to be inserted along
        # them, because a key that is not deferrable is checked with each statement.
        order = sort_tables([shape.table for shape in self.shapes_by_model.values()])
        self._by_table = {shape.table: shape for shape in self.shapes_by_model.values()}
        self.shapes = [self._by_table[table] for table in order]
        for number, shape in enumerate(self.shapes):
            shape.number = number
        self.tables = [shape.name for shape in self.shapes]
        self._in_order = sorted(projectors, key=lambda one: self.shapes_by_model[one.table].number)
        self._parts: dict[tuple[type[SQLModel], ...], Projections] = {}
        self._wanting: dict[type[Event], list[Projector]] = {}

    def of(self, *tables: type[SQLModel]) -> Projections:
        """
        Return only the projectors of `tables`; a history needs no tasks.

        :param tables: classes that these projectors keep; others are passed over.
        """
        # Queries ask for the same parts each time, and a shape compiles the type of every column.
        part = self._parts.get(tables)
        if part is None:
            chosen = (one for one in self.projectors if one.table in tables)
            part = self._parts[tables] = Projections(*chosen)
        return part

    def split_by_stream(self) -> tuple[dict[TableShape, str], Projections]:
        """
        Return the tables whose rows are each of one stream, and the projectors of the others.

        :return: of the tables the column with the id of the stream.
        """
        columns: dict[TableShape, str] = {}
        for one in self._in_order:
            shape = self.shapes_by_model[one.table]
            # What a projector makes of the record of an erasure stays when all else is erased. And
            # a row goes before the one that it refers to, so it is replayed with that.
            replayed = one.wants(ContentErased) or any(
                self._by_table.get(key.column.table, shape) not in {shape, *columns}
                for key in shape.table.foreign_keys
            )
            if one.stream_column is not None and not replayed:
                columns[shape] = one.stream_column
        others = [
            one.table for one in self.projectors if self.shapes_by_model[one.table] not in columns
        ]
        return columns, self.of(*others)

    def project(self, event: EventEnvelope) -> list[RowChange]:
        """
        Return what every projector wants done for an event, parents before children.

        Nothing is done for an erased event. What a projector itself raises reaches the caller.

        :raises ConfigurationError: a projector is wrong; the message says in what.
        :raises InvalidInput: a value that its column cannot hold.
        """
        kind = type(event.data)
        wanting = self._wanting.get(kind)
        if wanting is None:
            # An erased event is an `Event` too, so a projector of all events would be given it.
            erased = kind is ErasedEvent
            wanting = [one for one in self._in_order if one.wants(kind) and not erased]
            self._wanting[kind] = wanting
        changes: list[RowChange] = []
        for one in wanting:
            if one.trusted:
                changes += one.project(event)
            else:
                # A function that reached no `yield` because it has none returns None.
                changes += self._checked(one, event, one.project(event) or ())
        return changes

    def _checked(
        self, one: Projector, event: EventEnvelope, changes: Iterable[RowChange]
    ) -> Iterator[RowChange]:
        shape = self.shapes_by_model[one.table]
        for change in changes:
            # `of` leaves out projectors by their tables, and would lose changes of another table.
            if getattr(change, "table", None) is not one.table:
                raise ConfigurationError(
                    f"the projector of {shape.name} gives {change!r:.80}; it yields Insert, "
                    f"Update and Delete of {one.table.__name__}, and of no other table"
                )
            shape.check(change)
            if one.stream_column is not None:
                _require_stream(one.stream_column, change, event)
            yield change


def _require_stream(column: str, change: RowChange, event: EventEnvelope) -> None:
    """Refuse a row whose stream column is not of its event's stream: an erasure goes by it."""
    match change:
        case Insert(values=values) if values.get(column) != event.stream_id:
            problem = "inserts a row of another stream"
        case Update(changes=changes) if column in changes:
            problem = "moves a row to another stream"
        case _:
            return
    raise ConfigurationError(
        f"the projector of {change.table.__name__} {problem}; its stream_column {column} is always "
        "the stream_id of the row's events, or leave stream_column out"
    )
