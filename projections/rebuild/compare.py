"""
How the rows of read models differ from a replay.

PostgreSQL compares: the rows of the replay are sent as JSON, cast to the types of the columns in
the way in which they are written, and joined with the rows that are stored. JSON is compared as
text. Used by verify, which reports the differences, and by rebuild, which repairs exactly those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eventstore.database.plan import GIVE_WAY, ROWS_AT_A_TIME, Batch, Plan, Rows, Statement
from eventstore.database.scope import Scope
from projections.apply.column_types import key_value_text
from projections.apply.replay import Replay
from projections.apply.table_shape import Key, Row, TableShape, sql_once
from projections.projector import Projections
from projections.rebuild.parts import WHOLE, Part, sql_key_text

__all__ = [
    "Difference",
    "KeyText",
    "compare",
    "compare_keys",
    "key_array",
    "key_text",
    "same_key",
    "select_count",
]

type KeyText = tuple[str, ...]
"""The key of a row as text, without `user_id`."""

# Rows and characters of one statement. They bound the JSON that Python and the server hold at once,
# because a message may have megabytes.
_ROWS_TOGETHER = 2_000
_SIZE_TOGETHER = 2 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Difference:
    """
    One row that is not what the replay says.

    :ivar columns: those that differ, for a changed row; never their values.
    :ivar row: what the row must be; None if there must be none.
    """

    kind: Literal["missing_row", "extra_row", "changed_row"]
    shape: TableShape
    key: KeyText
    columns: tuple[str, ...]
    row: Row | None


def compare(
    scope: Scope, projections: Projections, replay: Replay, part: Part = WHOLE
) -> Plan[list[Difference]]:
    """
    Compare a user's rows in all tables with a replay, and leave the transaction open.

    The rows of a small user are compared in one round trip.

    :param replay: up to the moment that the transaction sees.
    :param part: the rows that the replay has.
    :return: missing and changed rows of all tables, then the rows that are too many.
    :raises InvalidInput: a row of the replay has a value that cannot be stored.
    """
    found: list[Difference] = []
    stored: dict[TableShape, int] = {}
    missing = dict.fromkeys(projections.shapes, 0)
    moved: set[TableShape] = set()
    for questions in _together(_questions(scope.user_id, projections, replay, part)):
        statements = tuple(one.statement for one in questions)
        answers = yield Batch(scope, statements, hold=True)
        for question, answer in zip(questions, answers, strict=True):
            shape = question.shape
            if question.rows is None:
                ((stored[shape],),) = answer
                continue
            differences = _differences(shape, question.rows, answer)
            changed = sum(one.kind == "changed_row" for one in differences)
            missing[shape] += len(differences) - changed
            # A row that differs may be counted with another part.
            if changed and part.parts > 1:
                moved.add(shape)
            found += differences
    # Sending all keys to find rows that are too many is needed only where the numbers disagree: of
    # the replay's rows all but the missing ones are stored, once each.
    for shape in projections.shapes:
        rows = replay.rows(shape.model)
        if shape in moved or stored[shape] != len(rows) - missing[shape]:
            found += yield from _extra(scope, shape, rows, part)
    return found


def compare_keys(
    scope: Scope,
    projections: Projections,
    replay: Replay,
    suspects: Iterable[Difference],
    touched: Iterable[tuple[TableShape, Key]],
    part: Part = WHOLE,
) -> Plan[list[Difference]]:
    """
    Compare some rows once more, and leave the transaction open; one round trip.

    :param suspects: rows that differed before.
    :param touched: rows that events since, and those left out, were about.
    :param part: the rows that the replay has; a stored row of another part is left to that.
    :return: the rows that differ now.
    :raises InvalidInput: a row of the replay has a value that cannot be stored.
    """
    # Keys are merged by their text, because an extra row is known by nothing else: its key may be
    # one that Python cannot hold, such as the date `infinity`.
    keys: dict[TableShape, dict[KeyText, Key | None]] = {}
    for one in suspects:
        known = None if one.row is None else one.shape.key_of(one.row)
        keys.setdefault(one.shape, {})[one.key] = known
    for shape, key in touched:
        keys.setdefault(shape, {})[key_text(key)] = key
    shapes = [shape for shape in projections.shapes if shape in keys]
    wanted: dict[TableShape, list[Row]] = {}
    statements: list[Statement] = []
    for shape in shapes:
        rows = replay.rows(shape.model)
        wanted[shape] = [rows[key] for key in keys[shape].values() if key in rows]
        unwanted = [text for text, key in keys[shape].items() if key not in rows]
        statements += (
            _select_differing(shape, scope.user_id, wanted[shape]),
            _select_stored(shape, scope.user_id, unwanted, part),
        )
    answers = yield Batch(scope, tuple(statements), hold=True)
    found: list[Difference] = []
    for shape, differing, stored in zip(shapes, answers[::2], answers[1::2], strict=True):
        found += _differences(shape, wanted[shape], differing)
        found += (Difference("extra_row", shape, tuple(key), (), None) for (key,) in stored)
    return found


def key_text(key: Key) -> KeyText:
    """
    Return a key as `sql_key_text` does: no type of a key has two forms of one value.

    :param key: without `user_id`.
    """
    return tuple(map(key_value_text, key))


class _Question(NamedTuple):
    """
    A statement that compares.

    :ivar rows: those of the replay that are compared; None if the stored rows are counted.
    """

    shape: TableShape
    statement: Statement
    rows: Sequence[Row] | None = None
    size: int = 0


def _questions(
    user_id: str, projections: Projections, replay: Replay, part: Part
) -> Iterator[_Question]:
    for shape in projections.shapes:
        for rows, text in _batches(shape, replay.rows(shape.model).values()):
            statement = Statement(_differing_sql(shape), (user_id, text))
            yield _Question(shape, statement, rows, len(text))
        yield _Question(shape, select_count(shape, user_id, part))


def _batches(shape: TableShape, rows: Iterable[Row]) -> Iterator[tuple[list[Row], str]]:
    """Yield rows for one statement each, and their JSON: not too many, and not too large."""
    some: list[Row] = []
    texts: list[str] = []
    size = 0
    for row in rows:
        text = shape.json_row(row)
        if some and (len(some) == _ROWS_TOGETHER or size + len(text) > _SIZE_TOGETHER):
            yield some, f"[{','.join(texts)}]"
            some, texts, size = [], [], 0
        some.append(row)
        texts.append(text)
        size += len(text)
    if some:
        yield some, f"[{','.join(texts)}]"


def _together(questions: Iterable[_Question]) -> Iterator[list[_Question]]:
    """Yield as many questions as fit into one round trip."""
    some: list[_Question] = []
    size = 0
    for one in questions:
        if size + one.size > _SIZE_TOGETHER and some:
            yield some
            some, size = [], 0
        some.append(one)
        size += one.size
    if some:
        yield some


def _differences(shape: TableShape, rows: Sequence[Row], answer: Rows) -> list[Difference]:
    if not answer:
        return []
    by_key = {key_text(shape.key_of(row)): row for row in rows}
    return [
        Difference(
            "missing_row" if missing else "changed_row",
            shape,
            tuple(key),
            () if missing else tuple(columns),
            by_key[tuple(key)],
        )
        for key, missing, columns in answer
    ]


def _extra(
    scope: Scope, shape: TableShape, rows: Mapping[Key, Row], part: Part
) -> Plan[list[Difference]]:
    """Return the differences of rows that the replay lacks, or that are stored twice."""
    texts: list[str] = []
    for number, key in enumerate(rows, 1):
        texts.append(_json_key(shape, key))
        if number % ROWS_AT_A_TIME == 0:
            yield GIVE_WAY
    keys = f"[{','.join(texts)}]"
    statement = Statement(_extra_sql(shape, part), (scope.user_id, keys), prepared=False)
    (answer,) = yield Batch(scope, (statement,), hold=True)
    twice = {tuple(key) for key, is_twice in answer if is_twice}
    wanted = {}
    if twice:
        wanted = {text: row for key, row in rows.items() if (text := key_text(key)) in twice}
    return [
        Difference("extra_row", shape, text, (), wanted.get(text))
        for text in (tuple(key) for key, _ in answer)
    ]


def _select_differing(shape: TableShape, user_id: str, rows: Sequence[Row]) -> Statement:
    return Statement(_differing_sql(shape), (user_id, _json_list(shape, rows)))


def _select_stored(
    shape: TableShape, user_id: str, keys: Iterable[KeyText], part: Part
) -> Statement:
    """Return the statement for those of some keys that are stored, in this part."""
    texts = ",".join(_json_key(shape, key) for key in keys)
    return Statement(_stored_sql(shape, part), (user_id, f"[{texts}]"), prepared=False)


def _json_list(shape: TableShape, rows: Iterable[Row]) -> str:
    return f"[{','.join(map(shape.json_row, rows))}]"


def _json_key(shape: TableShape, key: Key | KeyText) -> str:
    return shape.json_row(dict(zip(shape.key, key, strict=True)))


@sql_once
def _differing_sql(shape: TableShape) -> str:
    # Only names of columns come back: a tampered row may have values that Python cannot hold.
    differs = {
        name: f"{_comparable(shape, name, 'r')} is distinct from {_comparable(shape, name, 't')}"
        for name in shape.columns
        if name not in shape.key
    }
    named = "".join(f", case when {sql} then '{name}' end" for name, sql in differs.items())
    record = ", ".join(map(shape.record_column, shape.columns))
    return (
        f"select {key_array(shape, 'r')}, t.user_id is null,"
        f" array_remove(array[null::text{named}], null)\n"
        f"from pg_catalog.json_to_recordset($2) as r ({record})\n"
        f"left join {shape.name} as t on t.user_id = $1 and {same_key(shape)}\n"
        f"where {' or '.join(('t.user_id is null', *differs.values()))}"
    )


def select_count(shape: TableShape, user_id: str, part: Part = WHOLE) -> Statement:
    """Return the statement for the number of a user's rows that are stored, in this part."""
    return Statement(_count_sql(shape, part), (user_id,), prepared=part.parts == 1)


@sql_once
def _count_sql(shape: TableShape, part: Part) -> str:
    return f"select count(*) from {shape.name} as t where t.user_id = $1{part.condition(shape)}"


@sql_once
def _extra_sql(shape: TableShape, part: Part) -> str:
    stored = f"from {shape.name} as t where t.user_id = $1{part.condition(shape)}"
    key = key_array(shape, "t")
    return (
        f"select {key}, false {stored}\n"
        f"and not exists (select from {shape.keys_record()} where {same_key(shape)})\n"
        f"union all\n"
        f"select {key}, true {stored} group by {key} having count(*) > 1"
    )


@sql_once
def _stored_sql(shape: TableShape, part: Part) -> str:
    return (
        f"select {key_array(shape, 't')} from {shape.keys_record()}\n"
        f"join {shape.name} as t on t.user_id = $1 and {same_key(shape)}{part.condition(shape)}"
    )


def key_array(shape: TableShape, alias: str) -> str:
    """Return the SQL of a row's key, a `KeyText` as PostgreSQL gives it."""
    return f"array[{', '.join(sql_key_text(alias, name) for name in shape.key)}]::text[]"


def same_key(shape: TableShape) -> str:
    """Return the SQL condition that the row `t` has the key of the record `r`."""
    return " and ".join(f"t.{name} = r.{name}" for name in shape.key) or "true"


def _comparable(shape: TableShape, name: str, alias: str) -> str:
    """Return the SQL of a column as it is compared: text by its characters, JSON by its text."""
    # The type json has no equality. A collation that ignores accents or case would take different
    # texts for equal.
    kind = shape.columns[name].sql
    if kind == "json":
        return f"{alias}.{name}::text"
    if kind == "jsonb":
        return f"{alias}.{name}::jsonb"
    if kind.startswith(("text", "varchar")):
        return f'{alias}.{name} collate "C"'
    return f"{alias}.{name}"
