"""
Write row changes by SQL, in the append's own transaction.

Changes of one row are folded first: an insert and its later updates are one row, and updates are
one statement. New rows of one table are one statement too (docs/decisions/0005).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple, assert_never

from eventstore.database.plan import Statement
from eventstore.errors import InvalidInput
from eventstore.log.envelope import EventEnvelope
from projections.apply.replay import apply_changes, is_met
from projections.apply.statements import (
    NOWHERE,
    Marked,
    Place,
    delete_row,
    insert_rows,
    markers_of,
    update_after,
    update_first,
    update_row,
)
from projections.apply.table_shape import Key, Row, TableShape
from projections.changes import (
    OCCURRED_AT,
    Delete,
    Increment,
    Insert,
    Marker,
    RowChange,
    Update,
    UpdateAfter,
    UpdateFirst,
)
from projections.projector import Projections

__all__ = ["live_statements"]

_given_time = attrgetter("given_occurred_at")
_number = attrgetter("shape.number")


def live_statements(
    projections: Projections,
    envelopes: Sequence[EventEnvelope],
    changes: Sequence[Sequence[RowChange]],
) -> list[Statement]:
    """
    Return the statements that write the row changes of events which are appended together.

    They belong behind `append_events` in one transaction, because they read the head that it moved.

    :param envelopes: at least one, in the order of the append, all of one user.
    :param changes: for each event what `Projections.project` gave.
    :return: deletions, children before parents, then insertions, parents first, then updates.
    :raises InvalidInput: one append inserts a row twice.
    :raises NotStorable: a value of a `json` column has no JSON form.
    """
    user_id, shapes = envelopes[0].user_id, projections.shapes_by_model
    if any(map(_given_time, envelopes)):
        changes = list(map(_dated, envelopes, changes))
    if len(envelopes) == 1 and len({one.table for one in changes[0]}) == len(changes[0]):
        # No two changes are of one table, so there is nothing to fold. They are parents first.
        place, ordered = Place(0, envelopes[0].stream_id, 0), changes[0]
        if Delete in map(type, ordered):
            ordered = sorted(ordered, key=lambda one: _order(shapes[one.table], one))
        return [_statement(shapes[one.table], user_id, one, place) for one in ordered]
    touched = _fold_all(projections, envelopes, changes)
    # The SQL text says which columns the database gives, so rows with equal markers share it.
    new: dict[tuple[TableShape, object], list[tuple[Row, Place]]] = {}
    for row in touched:
        if row.insert is not None:
            new.setdefault((row.shape, markers_of(row.insert)), []).append((row.insert, row.place))
    # Deletions come first: a row that is deleted and inserted anew would violate its own key.
    # Updates come last, because the row may be one of those that are inserted here.
    deleted = [row for row in touched if row.delete]
    return [
        *[delete_row(row.shape, user_id, row.key) for row in _children_first(deleted)],
        *[insert_rows(shape, user_id, rows) for (shape, _), rows in new.items()],
        *_updates(user_id, touched),
    ]


def _dated(event: EventEnvelope, changes: Sequence[RowChange]) -> Sequence[RowChange]:
    """Return the row changes of an event, with the time that it was told for its marker."""
    given = event.given_occurred_at
    return changes if given is None else [_dated_change(one, given) for one in changes]


def _dated_change(change: RowChange, given: datetime) -> RowChange:
    match change:
        case Insert(values=values):
            return replace(change, values=_with_time(values, given))
        case Update() | UpdateFirst() | UpdateAfter():
            return replace(change, changes=_with_time(change.changes, given))
        case Delete():
            return change
        case _:
            assert_never(change)


def _with_time(values: Mapping[str, Any], given: datetime) -> Row:
    return {name: given if one is OCCURRED_AT else one for name, one in values.items()}


def _updates(user_id: str, touched: Sequence[_Touched]) -> list[Statement]:
    # Of one table in the order of the events: an update without a key and one by key may be about
    # one row, and the first of them counts.
    ordered = sorted(
        [(row, one) for row in touched for one in row.updates],
        key=lambda pair: (pair[0].shape.number, -pair[1].later),
    )
    return [
        _statement(row.shape, user_id, row.unkeyed, one.place)
        if row.unkeyed is not None
        else update_row(row.shape, user_id, row.key, one.changes, one.only_where, one.place)
        for row, one in ordered
    ]


def _order(shape: TableShape, change: RowChange) -> tuple[int, int]:
    """Return a sort key: deletions first, of children before parents; all else parents first."""
    match change:
        case Delete():
            return 0, -shape.number
        case Insert():
            return 1, shape.number
        case _:
            return 2, shape.number


def _statement(shape: TableShape, user_id: str, change: RowChange, place: Place) -> Statement:
    match change:
        case Insert(values=values):
            return insert_rows(shape, user_id, [(values, place)])
        case Update(key=key, changes=changes, only_where=only_where):
            return update_row(shape, user_id, shape.key_of(key), changes, only_where, place)
        case UpdateFirst(found_by=found_by, changes=changes, only_where=only_where):
            return update_first(shape, user_id, found_by, changes, only_where, place)
        case UpdateAfter():
            return update_after(shape, user_id, change, place)
        case Delete(key=key):
            return delete_row(shape, user_id, shape.key_of(key))
        case _:
            assert_never(change)


class _Update(NamedTuple):
    """
    An update that the database must work out.

    :ivar place: of the event whose markers stand in the changes.
    :ivar later: how many events come after the first one that asked for it.
    """

    changes: Row
    only_where: Mapping[str, Any]
    place: Place
    later: int


@dataclass(slots=True)
class _Touched:
    """
    All that one append does to one row.

    :ivar place: of the event that inserts it.
    :ivar updates: those that the database must work out.
    :ivar unkeyed_before: how many updates without a key its table had got when this row was last
        touched; any of them may be about it, so what comes later is not folded into what came
        before.
    :ivar unkeyed: such an update, which stands here as a row that nobody knows yet.
    """

    shape: TableShape
    key: Key
    place: Place = NOWHERE
    insert: Row | None = None
    updates: list[_Update] = field(default_factory=list)
    delete: bool = False
    unkeyed_before: int = 0
    unkeyed: UpdateFirst | UpdateAfter | None = None


def _fold_all(
    projections: Projections,
    envelopes: Sequence[EventEnvelope],
    changes: Sequence[Sequence[RowChange]],
) -> list[_Touched]:
    """Return the rows that are touched, parents first, and of one table in the order asked for."""
    rows: dict[tuple[TableShape, Key], _Touched] = {}
    # Places are counted from the end: the locked head has the position of the last event.
    later = len(envelopes)
    unkeyed: dict[TableShape, int] = {}
    # By the number in the id, because the hash of a UUID is a function of Python.
    later_in_stream = Counter(event.stream_id.int for event in envelopes)
    for event, its_changes in zip(envelopes, changes, strict=True):
        later -= 1
        stream = event.stream_id.int
        later_in_stream[stream] -= 1
        place = Place(later, event.stream_id, later_in_stream[stream])
        for change in its_changes:
            shape = projections.shapes_by_model[change.table]
            if isinstance(change, UpdateFirst | UpdateAfter):
                unkeyed[shape] = unkeyed.get(shape, 0) + 1
                update = _Update(dict(change.changes), change.only_where, place, later)
                nobodys: Key = ("unkeyed", len(rows))  # no row has such a key
                rows[shape, nobodys] = _Touched(shape, nobodys, updates=[update], unkeyed=change)
                continue
            named = change.values if isinstance(change, Insert) else change.key
            key = shape.key_of(named)
            if Marker in map(type, key):
                # Two events with POSITION as the key touch two rows, before either is numbered.
                key = shape.key_of(_at(named, place))
            row = rows.get((shape, key))
            if row is None:
                row = rows[shape, key] = _Touched(shape, key, unkeyed_before=unkeyed.get(shape, 0))
            _fold(row, change, place, unkeyed.get(shape, 0))
    # The sort is stable, so rows of one table stay in the order asked for. A table with a foreign
    # key to itself depends on it (docs/decisions/0021).
    return sorted(rows.values(), key=_number)


def _children_first(rows: Sequence[_Touched]) -> list[_Touched]:
    # `reversed` would turn round the rows of one table too, whose order must stay.
    return sorted(rows, key=lambda row: -row.shape.number)


def _at(values: Mapping[str, Any], place: Place) -> Row:
    """Return values whose markers are of the event at a place, wherever the values will stand."""
    return {
        name: Marked(value, place) if type(value) is Marker else value
        for name, value in values.items()
    }


def _fold(row: _Touched, change: RowChange, place: Place, unkeyed: int) -> None:
    match change:
        case Insert(values=values):
            if row.insert is not None:
                # The fold has one place for one key, so the first row would be lost in silence.
                raise InvalidInput("events", f"{row.shape.name} {row.key} is created twice")
            # Updates from before the insert found no row, so they are dropped.
            row.insert, row.place, row.updates = {**row.shape.nulls, **values}, place, []
        case Update(changes=changes, only_where=only_where):
            update = _Update(dict(changes), only_where, place, place.later)
            if row.unkeyed_before < unkeyed:
                row.updates.append(update)
                row.unkeyed_before = unkeyed  # until the next one, others are folded into it
            elif row.insert is None or row.updates or not _is_known(row.insert, update):
                # Only the database knows the row as this update finds it.
                _fold_update(row.updates, update)
            elif is_met(row.insert, only_where):
                apply_changes(row.insert, _at(changes, place))
        case Delete():
            # The deletion is sent even if this append made the row: there may be an older one.
            row.delete = True
            row.insert, row.updates = None, []
        case UpdateFirst() | UpdateAfter():
            raise AssertionError  # it names no row
        case _:
            assert_never(change)


def _is_known(row: Row, update: _Update) -> bool:
    """Tell whether an update of a new row can be worked out before the database numbers it."""
    # A number that stands as a marker can be neither added to nor compared with in Python.
    used = (name for name, value in update.changes.items() if type(value) is Increment)
    return not any(type(row.get(name)) in {Marker, Marked} for name in (*used, *update.only_where))


def _fold_update(updates: list[_Update], update: _Update) -> None:
    """Add an update to those of a row: into the last one, if neither has a condition."""
    # What a conditional update does depends on the row at its turn, so nothing moves across it.
    if not updates or update.only_where or updates[-1].only_where:
        updates.append(update)
        return
    earlier = updates[-1].changes
    if earlier.keys() <= update.changes.keys() and Increment not in map(
        type, update.changes.values()
    ):
        # Nothing of the earlier one is left but its turn among the updates of other rows.
        updates[-1] = _Update(update.changes, {}, update.place, updates[-1].later)
        return
    for name, value in update.changes.items():
        if type(value) is Increment and type(earlier.get(name, value)) is not Increment:
            updates.append(update)  # it counts from what the earlier one sets
            return
    for name, value in update.changes.items():
        if type(value) is Increment and name in earlier:
            earlier[name] = Increment(earlier[name].by + value.by)
        else:
            # The merged statement has the place of its first event, so a marker brings its own.
            earlier[name] = Marked(value, update.place) if type(value) is Marker else value
