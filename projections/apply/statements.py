"""
The SQL of row changes.

The text of a statement depends on the shape of its rows only, so each shape is prepared once on a
connection. PostgreSQL casts the values that are sent to the types of the columns.

Every statement takes the user from its first parameter. Those that write take `user_id`, and what
the database gives an event, from the locked head of the user's log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple
from uuid import UUID

from eventstore.database.plan import Statement
from projections.apply.table_shape import Key, Row, TableShape, sql_once
from projections.changes import Increment, Marker, UpdateAfter

__all__ = [
    "NOWHERE",
    "Marked",
    "Place",
    "delete_row",
    "insert_rows",
    "markers_of",
    "update_after",
    "update_first",
    "update_row",
]


class Place(NamedTuple):
    """
    The place of an event in its append.

    :ivar later: how many events of the append come after it; `later_in_stream` of its stream.
    """

    later: int
    stream_id: UUID
    later_in_stream: int


NOWHERE = Place(0, UUID(int=0), 0)
"""The place of rows without markers."""


class Marked(NamedTuple):
    """A marker of another event than the row it stands in."""

    marker: Marker
    place: Place


type Markers = tuple[tuple[str, Marker], ...]
"""The columns of a row whose values the database gives."""


def markers_of(row: Mapping[str, Any]) -> Markers:
    """Return the columns of a row whose values the database gives."""
    markers = []
    for name, value in row.items():
        if type(value) is Marker:
            markers.append((name, value))
        elif type(value) is Marked:
            markers.append((name, value.marker))
    return tuple(markers)


def insert_rows(
    shape: TableShape, user_id: str, rows: Sequence[tuple[Mapping[str, Any], Place]]
) -> Statement:
    """
    Return the statement that inserts rows of one table.

    :param rows: at least one, each with the place of its event; columns that are not named become
        null, and all rows have the same markers.
    :raises NotStorable: a value has no JSON form.
    """
    row, place = rows[0]
    if len(rows) == 1:
        # A single row goes as parameters, because reading JSON costs the server more.
        markers, values = _sent(shape.encoded({**shape.nulls, **row}), place)
        return Statement(_insert_sql(shape, markers), (user_id, *values))
    # One JSON array has one SQL text for any number of rows. A parameter for each value would need
    # a text for each number of rows, and every text is prepared on every connection.
    texts = [shape.json_row(_sent_by_name(row, place)) for row, place in rows]
    return Statement(_insert_all_sql(shape, markers_of(row)), (user_id, f"[{','.join(texts)}]"))


def update_row(
    shape: TableShape,
    user_id: str,
    key: Key,
    changes: Mapping[str, Any],
    only_where: Mapping[str, Any],
    place: Place,
) -> Statement:
    """
    Return the statement that updates one row, if there is one as `only_where` says.

    :param changes: the new values by column; an `Increment` is added to what the row has.
    :param only_where: the values, null among them, that the row must have.
    :param place: of the event whose markers stand in `changes`.
    :raises NotStorable: a value of a `json` column has no JSON form.
    """
    increments = {name: one.by for name, one in changes.items() if type(one) is Increment}
    markers, values = _sent(shape.encoded({**changes, **increments}), place)
    sql = _update_sql(shape, tuple(changes), markers, tuple(increments), tuple(only_where))
    return Statement(sql, (user_id, *key, *only_where.values(), *values))


def update_first(
    shape: TableShape,
    user_id: str,
    found_by: Mapping[str, Any],
    changes: Mapping[str, Any],
    only_where: Mapping[str, Any],
    place: Place,
) -> Statement:
    """
    Return the statement of an `UpdateFirst`.

    :param place: of the event that asks for it; rows of later events are passed over.
    """
    markers, values = _sent(shape.encoded(dict(changes)), place)
    sql = _update_first_sql(shape, tuple(changes), markers, tuple(found_by), tuple(only_where))
    return Statement(sql, (user_id, place.later, *found_by.values(), *only_where.values(), *values))


def update_after(shape: TableShape, user_id: str, change: UpdateAfter, place: Place) -> Statement:
    """
    Return the statement of an `UpdateAfter`.

    :param place: of the event that asks for it; rows of later events are passed over.
    """
    markers, values = _sent(shape.encoded(dict(change.changes)), place)
    sql = _update_after_sql(
        shape,
        tuple(change.changes),
        markers,
        tuple(change.group),
        tuple(change.only_where),
        tuple(change.unless),
    )
    compared = (*change.group.values(), *change.only_where.values(), *change.unless.values())
    return Statement(sql, (user_id, place.later, change.after, *compared, *values))


def delete_row(shape: TableShape, user_id: str, key: Key) -> Statement:
    """Return the statement that deletes one row, if it exists."""
    return Statement(_delete_sql(shape), (user_id, *key))


def _sent(row: Row, place: Place) -> tuple[Markers, list[Any]]:
    """
    Return which values of a row the database gives, and what is sent of the row.

    Of a marker that is how many events come after the marked one.
    """
    # The order is that in which `_values` numbers its parameters. Nothing is sent for a time:
    # the events of an append share that of the head.
    sent: list[Any] = []
    markers: list[tuple[str, Marker]] = []
    for name, value in row.items():
        marker, of = value if type(value) is Marked else (value, place)
        if type(marker) is not Marker:
            sent.append(value)
            continue
        markers.append((name, marker))
        if marker is Marker.POSITION:
            sent.append(of.later)
        elif marker is Marker.VERSION:
            sent += (of.later_in_stream, of.stream_id)
    return tuple(markers), sent


_STREAM = "_stream_of_version"


def _sent_by_name(row: Mapping[str, Any], place: Place) -> Row:
    """Return the same by name; the time of an event is not sent."""
    sent: Row = {}
    for name, value in row.items():
        marker, of = value if type(value) is Marked else (value, place)
        if type(marker) is not Marker:
            sent[name] = value
        elif marker is Marker.POSITION:
            sent[name] = of.later
        elif marker is Marker.VERSION:
            sent[name], sent[f"{name}{_STREAM}"] = of.later_in_stream, of.stream_id
    return sent


@sql_once
def _insert_sql(shape: TableShape, markers: Markers) -> str:
    # Every column is written, so that a default of the table never shows (docs/decisions/0021). The
    # head is read in the transaction that holds its lock, so no other append moves it meanwhile.
    values = _values(shape, shape.columns, markers, _parameters(2))
    return (
        f"insert into {shape.name} ({', '.join(('user_id', *shape.columns))})\n"
        f"select head.user_id, {', '.join(values)}\n"
        "from eventstore.user_log as head\n"
        "where head.user_id = $1"
    )


@sql_once
def _insert_all_sql(shape: TableShape, markers: Markers) -> str:
    # The columns of the record are listed as they are asked for: a VERSION needs two values.
    record: list[str] = []

    def sent(name: str, sql_type: str) -> str:
        record.append(shape.record_column(name, sql_type))
        return shape.record_value(name, sql_type)

    values = _values(shape, shape.columns, markers, sent)
    return (
        f"insert into {shape.name} ({', '.join(('user_id', *shape.columns))})\n"
        f"select head.user_id, {', '.join(values)}\n"
        "from eventstore.user_log as head,"
        f" pg_catalog.json_to_recordset($2) as r ({', '.join(record)})\n"
        "where head.user_id = $1"
    )


@sql_once
def _update_sql(
    shape: TableShape,
    names: tuple[str, ...],
    markers: Markers,
    increments: tuple[str, ...],
    only_where: tuple[str, ...],
) -> str:
    sent = _parameters(2)
    conditions = [
        "t.user_id = head.user_id",
        *_compared(shape, "t", shape.key, sent),
        *_compared(shape, "t", only_where, sent, _OR_BOTH_NULL),
    ]
    values = zip(names, _values(shape, names, markers, sent), strict=True)
    sets = (f"{n} = t.{n} + {v}" if n in increments else f"{n} = {v}" for n, v in values)
    return (
        f"update {shape.name} as t\nset {', '.join(sets)}\n"
        "from eventstore.user_log as head\n"
        f"where head.user_id = $1 and {' and '.join(conditions)}"
    )


@sql_once
def _update_first_sql(
    shape: TableShape,
    names: tuple[str, ...],
    markers: Markers,
    found_by: tuple[str, ...],
    only_where: tuple[str, ...],
) -> str:
    sent = _parameters(3)
    conditions = [
        *_compared(shape, "f", found_by, sent),
        *_compared(shape, "f", only_where, sent, _OR_BOTH_NULL),
    ]
    values = zip(names, _values(shape, names, markers, sent), strict=True)
    key = ", ".join(shape.key)
    # The subselect depends on nothing outside, so PostgreSQL runs it first and finds the row by its
    # key. If it took the position from `head` outside, the plan could be to join with all rows of
    # the user.
    return (
        f"update {shape.name} as t\nset {', '.join(f'{n} = {v}' for n, v in values)}\n"
        "from eventstore.user_log as head\n"
        "where head.user_id = $1 and t.user_id = $1\n"
        f"  and ({', '.join(f't.{name}' for name in shape.key)}) = (\n"
        f"    select {key} from {shape.name} as f\n"
        "    where f.user_id = $1 and f.position <="
        " (select position from eventstore.user_log where user_id = $1) - $2::bigint"
        f" and {' and '.join(conditions)}\n"
        "    order by f.position limit 1)"
    )


@sql_once
def _update_after_sql(
    shape: TableShape,
    names: tuple[str, ...],
    markers: Markers,
    group: tuple[str, ...],
    only_where: tuple[str, ...],
    unless: tuple[str, ...],
) -> str:
    sent = _parameters(4)
    conditions = [
        *_compared(shape, "t", group, sent),
        *_compared(shape, "t", only_where, sent, _OR_BOTH_NULL),
    ]
    same = _compared(shape, "t", unless, sent, _OR_BOTH_NULL)
    if same:
        conditions.append(f"not ({' and '.join(same)})")
    values = zip(names, _values(shape, names, markers, sent), strict=True)
    return (
        f"update {shape.name} as t\nset {', '.join(f'{n} = {v}' for n, v in values)}\n"
        "from eventstore.user_log as head\n"
        "where head.user_id = $1 and t.user_id = $1\n"
        "  and t.position > $3::bigint and t.position <= head.position - $2::bigint\n"
        f"  and {' and '.join(conditions)}"
    )


@sql_once
def _delete_sql(shape: TableShape) -> str:
    sent = _parameters(2)
    conditions = ["t.user_id = $1", *_compared(shape, "t", shape.key, sent)]
    return f"delete from {shape.name} as t\nwhere {' and '.join(conditions)}"


type _Source = Callable[[str, str], str]
"""Returns the SQL of a value that is sent, from its name and type."""


def _parameters(first: int) -> _Source:
    """Return the source of values that are sent as parameters, one after another."""
    # The cast is the one with which a replayed row is compared, so both are rounded alike.
    numbers = count(first)
    return lambda _, sql_type: f"${next(numbers)}::{sql_type}"


# In SQL `= null` is never true, but a replay finds that None equals None.
_OR_BOTH_NULL = "is not distinct from"


def _compared(
    shape: TableShape, alias: str, names: Iterable[str], sent: _Source, operator: str = "="
) -> list[str]:
    """Return the SQL conditions that columns have the values that are sent."""
    return [f"{alias}.{name} {operator} {sent(name, shape.columns[name].sql)}" for name in names]


def _values(shape: TableShape, names: Iterable[str], markers: Markers, sent: _Source) -> list[str]:
    """Return the SQL of the new values of columns, for what `_sent` sends of them."""
    given = dict(markers)
    values = []
    for name in names:
        match given.get(name):
            case None:
                values.append(sent(name, shape.columns[name].sql))
            case Marker.POSITION:
                values.append(f"head.position - {sent(name, 'bigint')}")
            case Marker.RECORDED_AT | Marker.OCCURRED_AT:
                # Where a caller told when it happened, the live writer has put that in its place.
                values.append("head.recorded_at")
            case Marker.VERSION:
                # The append has moved the stream too, to the version of its last event there.
                later = sent(name, "bigint")
                stream = sent(f"{name}{_STREAM}", "uuid")
                values.append(
                    "(select s.version from eventstore.stream as s"
                    f" where s.user_id = head.user_id and s.stream_id = {stream}) - {later}"
                )
    return values
