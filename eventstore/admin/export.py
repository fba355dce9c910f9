"""
Export everything held about one user, as one JSON document that people and programs can read.

::

    {"user_id": "alice", "exported_at": "…", "position": 42, "hash": "…", …, "unreached": [],
    "tables": {
    "eventstore.task": [
    {"id": "…", "title": "Buy milk", …},
    …
    ]},
    "events": [
    {"position": 1, "type": "TaskCreated", "payload": {…}, "salt": "…", "hash": "…", …},
    …
    ]}

Each row and each event is one line. The document holds what is in the database and nothing else.
Events are exported as they are stored, without being read, so an event that no class reads is
exported too; an erased event has null for its payload. With the salts and hashes in it, an outsider
can recompute the chain. `unreached` names tables of the service's own that no projector of this
store keeps, and whose rows are therefore missing here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.admin.verify_streams import STREAM_COLUMNS
from eventstore.database.pages import page_of
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope, user_scope
from eventstore.database.timestamps import readable_timestamp, timestamp_text
from eventstore.errors import NotFound, NotStorable
from eventstore.events.json_codec import check_json, dumps
from eventstore.log.read import select_log_page, select_stream_page
from eventstore.log.stored_event import ALL_COLUMNS
from eventstore.schema.catalog import other_protected_tables
from projections.apply.table_shape import TableShape
from projections.projector import Projections
from projections.rebuild.stored_rows import read_page, select_page

__all__ = ["Exported", "export_user"]

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
    user_id: str, projections: Projections, write: Callable[[str], object]
) -> Plan[Exported]:
    """
    Write one user's document in one snapshot, a page at a time; nobody waits.

    :param write: called with successive pieces of the document.
    :raises NotFound: nothing is held about this user.
    """
    scope = user_scope(user_id, patient=True)
    head, others = yield Batch(
        scope,
        (
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
    write(f'{_object(about.items())[:-1]},\n"tables": {{\n"eventstore.stream": ')
    rows = yield from _streams(scope, write)
    for shape in projections.shapes:
        write(f",\n{dumps(shape.name)}: ")
        rows += yield from _table(scope, shape, write)
    write('},\n"events": ')
    events = yield from _events(scope, write)
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
        for values in rows:
            after = values[0]
            lines.add(_object(zip(STREAM_COLUMNS, values, strict=True)))
    return lines.end()


def _table(scope: Scope, shape: TableShape, write: Callable[[str], object]) -> Plan[int]:
    lines = _Lines(write)
    after: list[str] = []
    more = True
    while more:
        (page,) = yield Batch(scope, (select_page(shape, scope.user_id, after),), hold=True)
        rows, after = read_page(shape, page)
        more = bool(after)
        for one in rows:
            lines.add(_object(one.row.items(), shape.json, shape.json_lists))
    return lines.end()


def _events(scope: Scope, write: Callable[[str], object]) -> Plan[int]:
    lines = _Lines(write)
    position = 0
    more = True
    while more:
        statement = select_log_page(ALL_COLUMNS, scope.user_id, position)
        (page,) = yield Batch(scope, (statement,), hold=True)
        rows, more = page_of(page)
        for values in rows:
            position = values[0]
            lines.add(_object(zip(ALL_COLUMNS, values, strict=True), {"payload", "metadata"}))
    return lines.end()


class _Lines:
    """A JSON array that is written with one element a line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._count = 0
        write("[")

    def add(self, text: str) -> None:
        self._write(f"{',' if self._count else ''}\n{text}")
        self._count += 1

    def end(self) -> int:
        self._write("\n]")
        return self._count


def _object(
    members: Iterable[tuple[str, Any]],
    json: AbstractSet[str] = frozenset(),
    json_lists: AbstractSet[str] = frozenset(),
) -> str:
    """Return a JSON object; `json` members are JSON text already, `json_lists` lists of it."""
    pieces = []
    for name, value in members:
        text = value
        if name in json_lists and value is not None:
            text = f"[{', '.join(map(str, value))}]" if _is_list(value) else dumps(str(value))
        elif name not in json or value is None:
            text = dumps(_plain(value))
        pieces.append(f"{dumps(name)}: {text}")
    return f"{{{', '.join(pieces)}}}"


def _is_list(value: list[Any]) -> bool:
    """Tell whether a `json[]` is a list of JSON texts; tampering may have put anything there."""
    return all(isinstance(item, str) and item for item in value)


def _plain(value: Any) -> Any:
    """Return a column's value as JSON has it: bytes in hex, timestamps in UTC, others as text."""
    match value:
        case bytes():
            return value.hex()
        case datetime() if value.tzinfo is not None:
            return timestamp_text(value)
    try:
        return check_json(value, "value")
    except NotStorable:
        return str(value)
