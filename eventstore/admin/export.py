"""
Export everything held about one user, as one JSON document that people and programs can read.

::

    {"user_id":"alice","exported_at":"…","position":42,"hash":"…",…,"unreached":[],
    "tables": {
    "eventstore.task": [
    {"id":"…","title":"Buy milk",…},
    …
    ]},
    "events": [
    {"position":1,"type":"TaskCreated","payload":{…},"salt":"…","hash":"…",…},
    …
    ]}

Each row and each event is one line. The document holds what is in the database and nothing else.
Events are exported as they are stored, without being read, so an event that no class reads is
exported too; an erased event has null for its payload. With the salts and hashes in it, an outsider
can recompute the chain. `unreached` names tables of the service's own that no projector of this
store keeps, and whose rows are therefore missing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from eventstore.admin.verify_streams import STREAM_COLUMNS
from eventstore.database.garbage import postpone_full_collections
from eventstore.database.pages import page_of, page_query
from eventstore.database.plan import GIVE_WAY, ROWS_AT_A_TIME, Batch, Plan, Statement
from eventstore.database.scope import Scope, user_scope
from eventstore.database.timestamps import readable_timestamp, timestamp_text
from eventstore.errors import NotFound
from eventstore.events.json_codec import dumps
from eventstore.log.read import BEFORE_ALL, select_log_page, select_stream_page
from eventstore.log.stored_event import ALL_COLUMNS
from eventstore.schema.catalog import other_protected_tables
from projections.apply.table_shape import TableShape
from projections.projector import Projections

__all__ = ["Exported", "export_user"]

# row_to_json writes timestamps in the time zone of the session, whatever a client left there.
_IN_UTC = Statement("set local timezone to 'UTC'", prepared=False)
_HEAD_MEMBERS = ("exported_at", "position", "hash", "recorded_at")
_HEAD = f"""
select now(), position, hash, {readable_timestamp("recorded_at")}
from eventstore.user_log
where user_id = $1
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """How much was written, and which tables were not exported (see `Erasure.unreached`)."""

    user_id: str
    events: int
    rows: int
    unreached: tuple[str, ...]


def export_user(
    user_id: str,
    projections: Projections,
    write: Callable[[str], object],
    seen: Callable[[int], object],
) -> Plan[Exported]:
    """
    Write one user's document in one snapshot, a page at a time; nobody waits.

    :param projections: the projectors whose tables are exported, beside the log.
    :param write: called with successive pieces of the document, for the first time once the user is
        found.
    :param seen: called after each page of the log with the number of further events written.
    :return: how much was written.
    :raises NotFound: nothing is held about this user.
    """
    scope = user_scope(user_id)
    _, head, others = yield Batch(
        scope,
        (
            _IN_UTC,
            Statement(_HEAD, (user_id,)),
            other_protected_tables(projections.tables),
        ),
        hold=True,
        snapshot=True,
    )
    if not head:
        raise NotFound("user", user_id)
    unreached = [name for (name,) in others]
    about = {
        "user_id": user_id,
        **dict(zip(_HEAD_MEMBERS, head[0], strict=True)),
        "unreached": unreached,
    }
    # Pieces leave as they are made, so the object is left open, and `tables` and `events` follow.
    write(f'{_object(about.items())[:-1]},\n"tables": {{\n"eventstore.stream": ')
    with postpone_full_collections():
        rows = yield from _streams(scope, write)
        for shape in projections.shapes:
            write(f",\n{dumps(shape.name)}: ")
            rows += yield from _table(scope, shape, write)
        write('},\n"events": ')
        events = yield from _events(scope, write, seen)
        write("}\n")
        yield Batch(scope, ())
    return Exported(user_id, events, rows, tuple(unreached))


def _streams(scope: Scope, write: Callable[[str], object]) -> Plan[int]:
    lines = _Lines(write)
    after: UUID | None = None
    more = True
    while more:
        statement = select_stream_page(STREAM_COLUMNS, scope.user_id, after)
        (page,) = yield Batch(scope, (statement,), hold=True)
        rows, more = page_of(page)
        yield from lines.add(_object(zip(STREAM_COLUMNS, values, strict=True)) for values in rows)
        after = rows[-1][0] if rows else None
        more = more and after is not None  # nulls, of tampering, are ordered last
    return lines.end()


def _table(scope: Scope, shape: TableShape, write: Callable[[str], object]) -> Plan[int]:
    lines = _Lines(write)
    after: list[str] = []
    more = True
    while more:
        (page,) = yield Batch(scope, (_select_rows(shape, scope.user_id, after),), hold=True)
        rows, more = page_of(page)
        yield from lines.add(line for line, _ in rows)
        after = rows[-1][1] if rows else after
        more = more and bool(shape.key)  # without one, a user has one row
    return lines.end()


def _select_rows(shape: TableShape, user_id: str, after: Sequence[str]) -> Statement:
    """
    Return the statement for the next page of a user's rows: each as JSON, and its key as text.

    :param after: the key of the last row of the page before.
    """
    key = ", ".join(("user_id", *shape.key))
    where = "user_id = $1"
    # A comparison of rows is read along the primary key, and a page costs the same wherever it is.
    if after:
        values = (
            f"${number}::{shape.columns[name].sql}"
            for number, name in enumerate(shape.key, start=2)
        )
        where += f" and ({key}) > ({', '.join(('$1', *values))})"
    # PostgreSQL makes the JSON, because Python cannot hold each of its numbers and dates.
    line = f"(select row_to_json(line)::text from (select {', '.join(shape.columns)}) as line)"
    key_text = f"array[{', '.join(f'{name}::text' for name in shape.key)}]::text[]"
    large = [name for name, kind in shape.columns.items() if kind.is_large]
    sql = page_query(f"{line}, {key_text}", shape.name, where, key, large)
    return Statement(sql, (user_id, *after))


def _events(
    scope: Scope, write: Callable[[str], object], seen: Callable[[int], object]
) -> Plan[int]:
    lines = _Lines(write)
    position = BEFORE_ALL
    more = True
    while more:
        statement = select_log_page(ALL_COLUMNS, scope.user_id, position)
        (page,) = yield Batch(scope, (statement,), hold=True)
        rows, more = page_of(page)
        # Payload and metadata stay as their text, which their digest covers.
        yield from lines.add(
            _object(zip(ALL_COLUMNS, values, strict=True), {"payload", "metadata"})
            for values in rows
        )
        seen(len(rows))
        position = rows[-1][0] if rows else position
    return lines.end()


class _Lines:
    """A JSON array that is written with one element a line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._count = 0
        write("[")

    def add(self, texts: Iterable[str]) -> Plan[None]:
        """Write some elements; others run in between."""
        for text in texts:
            self._write(f"{',' if self._count else ''}\n{text}")
            self._count += 1
            if self._count % ROWS_AT_A_TIME == 0:
                yield GIVE_WAY

    def end(self) -> int:
        self._write("\n]")
        return self._count


def _object(members: Iterable[tuple[str, Any]], json: AbstractSet[str] = frozenset()) -> str:
    """Return a JSON object; the values of `json` members are JSON text already."""
    values = {
        name: orjson.Fragment(value) if name in json and value is not None else value
        for name, value in members
    }
    return orjson.dumps(values, _plain, orjson.OPT_PASSTHROUGH_DATETIME).decode()


def _plain(value: object) -> str:
    """Return what orjson cannot write: bytes in hex, timestamps in UTC, others as text."""
    match value:
        case bytes():
            return value.hex()
        case datetime() if value.tzinfo is not None:
            return timestamp_text(value)
        case _:  # tampering may put everything in a column
            return str(value)
