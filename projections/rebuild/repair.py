"""Make exactly the differing rows of read models what they must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import batched
from typing import NamedTuple
from uuid import UUID

import orjson
import psycopg

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope
from eventstore.errors import AlreadyExists, DatabaseFault, EventStoreError, InvalidInput
from projections.apply.statements import NOWHERE, insert_rows
from projections.apply.table_shape import TableShape, sql_once
from projections.rebuild.compare import Difference, KeyText, key_array, same_key

__all__ = ["delete_streams", "empty", "repair"]

_ROWS_TOGETHER = 2_000

_DEFER = Statement("set constraints all deferred", prepared=False)
_DELETE = """
with gone as (delete from {table} where {where} returning 1)
select count(*) from gone
"""
_LEFT = "select 1 from {table} where {where} limit 1"
_NOT_DELETED = "could not be deleted; nothing was changed, run `eventstore doctor`"


class _Step(NamedTuple):
    """
    A statement, and the keys that it must delete from a table.

    A row that must go and does not is an error: it may hold what was erased.
    """

    statement: Statement
    keys: frozenset[KeyText] = frozenset()
    table: str = ""


def repair(scope: Scope, found: Sequence[Difference], *, check: bool = True) -> Plan[None]:
    """
    Delete what is wrong and insert what is right, and leave the transaction open.

    One round trip for some thousand rows.

    :param found: of `compare` or `compare_keys`, in the same transaction.
    :param check: check the constraints that were deferred; False if more rows change behind this.
    :raises DatabaseFault: a row that must go did not, or a constraint is in the way.
    """
    # Wrong rows go before right ones come: rows whose unique values were swapped by hand would
    # otherwise be in each other's way.
    for steps in batched(_steps(scope.user_id, found, check=check), 4, strict=False):
        try:
            answers = yield Batch(scope, tuple(step.statement for step in steps), hold=True)
        except (AlreadyExists, InvalidInput) as error:
            raise _in_the_way(error) from error
        for step, rows in zip(steps, answers, strict=True):
            # A trigger of the service's own can keep a row from being deleted, without an error.
            if left := step.keys - {tuple(key) for (key,) in rows}:
                raise DatabaseFault(
                    f"{len(left)} of {len(step.keys)} wrong rows of {step.table} {_NOT_DELETED}"
                )


def empty(scope: Scope, shapes: Iterable[TableShape]) -> Plan[int]:
    """
    Delete all rows of a user from tables that shall have none, and leave the transaction open.

    One round trip for any number of rows: their keys are not sent.

    :return: how many there were. Constraints are still deferred: `repair` checks them.
    :raises DatabaseFault: some are still there, or a constraint is in the way.
    """
    return (yield from _delete_where(scope, dict.fromkeys(shapes, "user_id = $1"), ()))


def delete_streams(
    scope: Scope, columns: Mapping[TableShape, str], streams: Sequence[UUID]
) -> Plan[int]:
    """
    Delete the rows of some streams, and leave the transaction open; one round trip.

    :param columns: of each table the column with the id of the stream.
    :return: how many there were. Constraints are still deferred: `repair` checks them.
    :raises DatabaseFault: some are still there, or a constraint is in the way.
    """
    conditions = {shape: f"user_id = $1 and {name} = any($2)" for shape, name in columns.items()}
    return (yield from _delete_where(scope, conditions, (list(streams),)))


def _delete_where(
    scope: Scope, conditions: Mapping[TableShape, str], values: tuple[object, ...]
) -> Plan[int]:
    # Children go before their parents.
    ordered = sorted(conditions, key=lambda one: one.number, reverse=True)
    statements = (
        Statement(
            sql.format(table=shape.name, where=conditions[shape]),
            (scope.user_id, *values),
            prepared=False,
        )
        for sql in (_DELETE, _LEFT)
        for shape in ordered
    )
    try:
        _, *answers = yield Batch(scope, (_DEFER, *statements), hold=True)
    except (AlreadyExists, InvalidInput) as error:
        raise _in_the_way(error) from error
    for shape, left in zip(ordered, answers[len(ordered) :], strict=True):
        if left:
            raise DatabaseFault(f"rows of {shape.name} {_NOT_DELETED}")
    return sum(rows[0][0] for rows in answers[: len(ordered)])


def _in_the_way(error: EventStoreError) -> DatabaseFault:
    """Name the constraint: one that cannot wait until all rows are right, or never holds."""
    cause = error.__cause__
    diag = cause.diag if isinstance(cause, psycopg.Error) else None
    what = f"{diag.table_name}.{diag.constraint_name}" if diag else "a constraint"
    return DatabaseFault(
        f"{what} refuses the rows that the log gives; if it is checked before all of them are "
        "there, make it deferrable, or else run verify"
    )


def _steps(user_id: str, found: Sequence[Difference], *, check: bool) -> Iterator[_Step]:
    by_table: dict[TableShape, list[Difference]] = {}
    for one in sorted(found, key=lambda one: one.shape.number):  # parents before their children
        by_table.setdefault(one.shape, []).append(one)
    # Between the deletions and the insertions a foreign key that can wait is violated.
    yield _Step(_DEFER)
    for shape, group in reversed(by_table.items()):
        keys = [one.key for one in group if one.kind != "missing_row"]
        for some in batched(keys, _ROWS_TOGETHER, strict=False):
            yield _Step(_delete(shape, user_id, some), frozenset(some), shape.name)
    for shape, group in by_table.items():
        # Of a row that is stored twice one may differ, and it is in two differences then.
        rows = {one.key: (one.row, NOWHERE) for one in group if one.row is not None}
        for right in batched(rows.values(), _ROWS_TOGETHER, strict=False):
            yield _Step(insert_rows(shape, user_id, right))
    # Without this the check would be at COMMIT, where nobody names the constraint in the way.
    if check:
        yield _Step(Statement("set constraints all immediate", prepared=False))


def _delete(shape: TableShape, user_id: str, keys: Sequence[KeyText]) -> Statement:
    # Keys go as text, which PostgreSQL casts: a tampered row may have one that Python cannot hold.
    rows = [dict(zip(shape.key, key, strict=True)) for key in keys]
    return Statement(_delete_sql(shape), (user_id, orjson.dumps(rows).decode()), prepared=False)


@sql_once
def _delete_sql(shape: TableShape) -> str:
    return (
        f"delete from {shape.name} as t using {shape.keys_record()}\n"
        f"where t.user_id = $1 and {same_key(shape)}\n"
        f"returning {key_array(shape, 't')}"
    )
