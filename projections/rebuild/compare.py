"""
How what the read models hold differs from a replay.

Used by verify, which reports the differences, and by rebuild, which mends exactly those.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from eventstore.database.plan import Batch, Plan
from eventstore.database.scope import Scope
from eventstore.errors import InvalidInput
from eventstore.events.json_codec import check_json, dumps, loads, repeats_keys
from projections.apply.replay import Replay, Row
from projections.apply.table_shape import TableShape
from projections.projector import Projections
from projections.rebuild.stored_rows import StoredRow, read_page, select_by_keys, select_page

__all__ = ["Difference", "compare", "compare_again"]

type DifferenceKind = Literal["missing_row", "extra_row", "changed_row"]
type Keep = Callable[[tuple[Any, ...]], bool]


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One row that is not what the replay says.

    :ivar columns: those that differ, for a changed row; never their values.
    :ivar row: what the row must be; None if there must be none.
    :ivar key_text: the key that stands in the table, as text; None if no row does.
    """

    kind: DifferenceKind
    shape: TableShape
    key: tuple[Any, ...]
    columns: tuple[str, ...]
    row: Row | None
    key_text: list[str] | None = None


def compare(
    scope: Scope, projections: Projections, replay: Replay, keep: Keep | None = None
) -> Plan[list[Difference]]:
    """
    Compare a user's rows in all tables with the replay, and leave the transaction open.

    A page at a time, so that memory is the replay's; the first pages come in one round trip.

    :param keep: of which keys the replay is; see `Replay`.
    :raises InvalidInput: a row of the replay has a value that cannot be stored.
    """
    found: list[Difference] = []
    firsts = yield Batch(
        scope,
        tuple(select_page(shape, scope.user_id) for shape in projections.shapes),
        hold=True,
    )
    for shape, first in zip(projections.shapes, firsts, strict=True):
        comparison = _Comparison(shape, dict(replay.rows(shape.model)), keep)
        rows, after = read_page(shape, first)
        found.extend(comparison.compare(rows))
        while after:
            (page,) = yield Batch(scope, (select_page(shape, scope.user_id, after),), hold=True)
            rows, after = read_page(shape, page)
            found.extend(comparison.compare(rows))
        found.extend(comparison.end())
    return found


def compare_again(
    scope: Scope,
    projections: Projections,
    replay: Replay,
    suspects: Sequence[Difference],
    touched: Iterable[tuple[TableShape, tuple[Any, ...]]],
) -> Plan[list[Difference]]:
    """
    Compare some rows once more, under a lock that was not held before.

    :param suspects: what differed then.
    :param touched: what events since, and those left out, were about; nothing else can have become
        wrong.
    """
    by_text: dict[TableShape, list[list[str]]] = {}
    by_value: dict[TableShape, set[tuple[Any, ...]]] = {}
    for shape, key in touched:
        by_value.setdefault(shape, set()).add(key)
    for one in suspects:  # a key that Python cannot hold is known by its text alone
        if one.key_text is not None:
            by_text.setdefault(one.shape, []).append(one.key_text)
        if one.row is not None:
            by_value.setdefault(one.shape, set()).add(one.key)
    found: list[Difference] = []
    for shape in projections.shapes:
        if shape not in by_text and shape not in by_value:
            continue
        keys, rows = by_value.get(shape, set()), replay.rows(shape.model)
        statement = select_by_keys(shape, scope.user_id, by_text.get(shape, ()), [*keys])
        (page,) = yield Batch(scope, (statement,), hold=True)
        comparison = _Comparison(shape, {key: rows[key] for key in keys if key in rows}, None)
        found.extend(comparison.compare(read_page(shape, page)[0]))
        found.extend(comparison.end())
    return found


class _Comparison:
    """
    Rows of one table, as they are read, against those of a replay.

    :param wanted: by key; emptied on the way.
    :param keep: of which keys the replay is; see `Replay`.
    """

    def __init__(
        self,
        shape: TableShape,
        wanted: dict[tuple[Any, ...], Row],
        keep: Keep | None,
    ) -> None:
        self._shape = shape
        self._wanted = wanted
        self._keep = keep

    def compare(self, rows: Iterable[StoredRow]) -> Iterator[Difference]:
        """Compare some rows of the table; each is one too many, different, or right."""
        shape = self._shape
        for stored, key_text in rows:
            key = shape.key_of(stored)
            if self._keep is not None and not self._keep(key):
                continue
            row = self._wanted.pop(key, None)
            if row is None:
                yield Difference("extra_row", shape, key, (), None, key_text)
            elif columns := _differing(shape, row, stored):
                yield Difference("changed_row", shape, key, columns, row, key_text)

    def end(self) -> Iterator[Difference]:
        """Name the rows that the table did not have."""
        for key, row in self._wanted.items():
            yield Difference("missing_row", self._shape, key, (), row)


def _differing(shape: TableShape, row: Row, stored: Row) -> tuple[str, ...]:
    try:
        return tuple(
            name for name in shape.columns if not _same(shape, name, row[name], stored[name])
        )
    except InvalidInput as error:  # a projector that was changed, which live would have refused
        raise error.within(f"{shape.name}.") from error
    except Exception as error:  # tampered with, anything can be in a column
        fact = f"a row cannot be compared, which raises {type(error).__name__}"
        raise InvalidInput(shape.name, fact) from error


def _same(shape: TableShape, column: str, right: Any, stored: Any) -> bool:
    if right is None or stored is None:
        return right is stored
    if column in shape.jsonb:
        return _same_jsonb(right, stored, column)
    if column in shape.json:
        return _same_json(right, stored, column)
    if column in shape.json_lists:
        return len(right) == len(stored) and all(
            # An array of arrays has lists where texts must be.
            isinstance(text, str) and _same_json(one, text, column)
            for one, text in zip(right, stored, strict=True)
        )
    return _alike(right, stored)


def _alike(right: Any, stored: Any) -> bool:
    """Compare values as PostgreSQL does: 1 is 1.0, NaN is NaN, and neither of them is true."""
    match right, stored:
        case bool(), _:
            return right is stored
        case _, bool():
            return False
        case dict(), dict():
            return right.keys() == stored.keys() and all(
                _alike(value, stored[name]) for name, value in right.items()
            )
        case list(), list():
            return len(right) == len(stored) and all(map(_alike, right, stored))
    return bool(right == stored or (right != right and stored != stored))  # noqa: PLR0124 - NaN


def _same_jsonb(right: Any, stored: str, column: str) -> bool:
    """Compare as PostgreSQL does: in any order of keys, numbers by their value and whole length."""
    wanted = dumps(check_json(right, column))
    try:
        return _alike(_with_exact_numbers(wanted), _with_exact_numbers(stored))
    except (ValueError, RecursionError):
        return False


def _with_exact_numbers(text: str) -> Any:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


def _same_json(right: Any, stored: str | None, column: str) -> bool:
    """Compare as written, keys in their order: to Python, true, 1 and 1.0 are the same."""
    written = dumps(check_json(right, column))
    if stored == written:
        return True
    try:
        return stored is not None and dumps(loads(stored)) == written and not repeats_keys(stored)
    except (ValueError, RecursionError):  # nothing of ours: too deep, or a number too long to read
        return False
