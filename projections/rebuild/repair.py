"""Make exactly the differing rows of read models what they must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import batched
from typing import NamedTuple

import psycopg

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope
from eventstore.errors import AlreadyExists, DatabaseFault, EventStoreError, InvalidInput
from projections.apply.live import insert_rows
from projections.apply.table_shape import TableShape
from projections.rebuild.compare import Difference
from projections.rebuild.stored_rows import keys_predicate

__all__ = ["repair"]

_KEYS_PER_DELETE = 500
_SIZE_TOGETHER = 8 * 1024 * 1024
"""Of the statements of one round trip, in characters."""


class _Step(NamedTuple):
    """
    A statement, how large it is, and how many rows of which table it must return.

    A row that must go and does not is an error: it may hold what was erased.
    """

    statement: Statement
    size: int = 0
    rows: int = 0
    table: str = ""


def repair(scope: Scope, found: Sequence[Difference]) -> Plan[None]:
    """
    Delete what is wrong and insert what is right, and leave the transaction open.

    Wrong rows go before right ones come, with foreign keys checked at the end: rows swapped by
    hand would otherwise be in each other's way. Few differences are one round trip.

    :raises DatabaseFault: a row that must go did not, or a constraint is in the way.
    """
    for steps in _together(_steps(scope.user_id, found)):
        try:
            answers = yield Batch(scope, tuple(step.statement for step in steps), hold=True)
        except (AlreadyExists, InvalidInput) as error:
            raise _in_the_way(error) from error
        for step, rows in zip(steps, answers, strict=True):
            if len(rows) != step.rows:
                raise DatabaseFault(
                    f"of {step.rows} wrong rows of {step.table} {len(rows)} could be deleted; "
                    "nothing was changed, run `eventstore doctor`"
                )


def _in_the_way(error: EventStoreError) -> DatabaseFault:
    """Say which constraint it is: one that cannot wait until all rows are right, or never holds."""
    cause = error.__cause__
    diag = cause.diag if isinstance(cause, psycopg.Error) else None
    what = f"{diag.table_name}.{diag.constraint_name}" if diag else "a constraint"
    return DatabaseFault(
        f"{what} refuses the rows that the log gives; if it is checked before all of them are "
        "there, make it deferrable, or else run verify"
    )


def _steps(user_id: str, found: Sequence[Difference]) -> Iterator[_Step]:
    by_table: dict[TableShape, list[Difference]] = {}
    for one in found:
        by_table.setdefault(one.shape, []).append(one)
    yield _Step(Statement("set constraints all deferred", prepared=False))
    for shape, group in reversed(by_table.items()):  # children before their parents
        key_texts = [one.key_text for one in group if one.key_text is not None]
        for some in batched(key_texts, _KEYS_PER_DELETE, strict=False):
            yield _Step(_delete(shape, user_id, some), rows=len(some), table=shape.name)
    for shape, group in by_table.items():
        rows = (one.row for one in group if one.row is not None)
        for statement, size in insert_rows(shape, user_id, rows):
            yield _Step(statement, size)
    yield _Step(Statement("set constraints all immediate", prepared=False))  # now, not at COMMIT


def _together(steps: Iterable[_Step]) -> Iterator[list[_Step]]:
    """Yield as many steps as fit into one round trip."""
    some: list[_Step] = []
    size = 0
    for step in steps:
        some.append(step)
        size += step.size
        if size > _SIZE_TOGETHER:
            yield some
            some, size = [], 0
    if some:
        yield some


def _delete(shape: TableShape, user_id: str, key_texts: Sequence[list[str]]) -> Statement:
    parameters: list[object] = [user_id]
    where = keys_predicate(shape, parameters, key_texts)
    return Statement(
        f"delete from {shape.name} where {where} returning 1", parameters, prepared=False
    )
