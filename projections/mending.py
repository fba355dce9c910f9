"""Make exactly the differing rows of read models what they must be."""

from __future__ import annotations

from collections.abc import Sequence

from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope
from eventstore.errors import DatabaseFault
from projections.comparison import Difference
from projections.live import insert_rows
from projections.projector import TableShape

__all__ = ["mend"]

_KEYS_PER_DELETE = 500


def mend(scope: Scope, found: Sequence[Difference]) -> Plan[None]:
    """
    Delete what is wrong and insert what is right, and leave the transaction open.

    Wrong rows go before right ones come, with foreign keys checked at the end: rows swapped by
    hand would otherwise be in each other's way.

    :raises DatabaseFault: a row that must go did not.
    """
    by_table: dict[TableShape, list[Difference]] = {}
    for one in found:
        by_table.setdefault(one.shape, []).append(one)
    deleting: list[tuple[Statement, int]] = []
    inserting: list[Statement] = []
    for shape, group in reversed(by_table.items()):  # children before their parents
        places = [one.place for one in group if one.place is not None]
        for start in range(0, len(places), _KEYS_PER_DELETE):
            some = places[start : start + _KEYS_PER_DELETE]
            deleting.append((_delete(shape, scope.user_id, some), len(some)))
    for shape, group in by_table.items():
        rows = [one.row for one in group if one.row is not None]
        inserting += insert_rows(shape, scope.user_id, rows)
    deferred = Statement("set constraints all deferred", prepared=False)
    deletes = [statement for statement, _ in deleting]
    _, *answers = yield Batch(scope, (deferred, *deletes, *inserting), hold=True)
    for rows_gone, (_, wanted) in zip(answers, deleting, strict=False):
        if len(rows_gone) != wanted:
            raise DatabaseFault(
                f"of {wanted} wrong rows of a table {len(rows_gone)} could be deleted; "
                "nothing was changed, run `eventstore doctor`"
            )


def _delete(shape: TableShape, user_id: str, places: Sequence[list[str]]) -> Statement:
    parameters: list[object] = [user_id]
    lines = []
    for place in places:
        values = ["$1"]
        for name, text in zip(shape.key, place, strict=True):
            parameters.append(text)
            values.append(f"${len(parameters)}::text::{shape.columns[name]}")
        lines.append(f"({', '.join(values)})")
    key = ", ".join(f"t.{name}" for name in ("user_id", *shape.key))
    return Statement(
        f"delete from {shape.name} as t where t.user_id = $1"
        f" and ({key}) in (values {', '.join(lines)}) returning 1",
        parameters,
        prepared=False,
    )
