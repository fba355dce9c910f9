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

A row or an event is one line. It is what stands in the database and nothing else: events as they
are stored, unread, so that one that no class reads is exported too; an erased one has null for its
payload. With salts and hashes in it, an outsider can recompute the chain. `unreached` names tables
of the service's own that no projector of this store keeps: what they hold is not in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from eventstore.database.catalog import other_protected_tables
from eventstore.database.instants import instant_text, readable_instant
from eventstore.database.pages import page_of
from eventstore.database.plan import Batch, Plan, Statement
from eventstore.database.scope import Scope, user_scope
from eventstore.errors import NotFound, NotStorable
from eventstore.events.jsontext import check_json, dumps
from eventstore.log.read import select_log_page, select_stream_page
from projections.projector import Projections
from projections.shape import TableShape
from projections.stored import read_page, select_page

__all__ = ["Exported", "export_user"]

_EVENT = (
    "position", "stream_id", "version", "event_id", "type", "schema_version", "payload", "metadata",
    "correlation_id", "causation_id", "idempotency_key", "request_digest", "recorded_at", "salt",
    "payload_digest", "hash",
)  # fmt: skip
_AS = {
    "payload": "payload::text",
    "metadata": "metadata::text",
    "recorded_at": readable_instant("recorded_at"),
}
_EVENTS = ", ".join(_AS.get(name, name) for name in _EVENT)
_LOG = ("exported_at", "position", "hash", "recorded_at")
_HEAD = f"""
select now(), position, hash, {readable_instant("recorded_at")}
from eventstore.user_log
where user_id = $1
"""
_STREAM = ("stream_id", "kind", "version", "closed")


@dataclass(frozen=True, slots=True)
class Exported:
    """How much was written, and which tables of the service's own were not (see `Erasure`)."""

    user_id: str
    events: int
    rows: int
    unreached: tuple[str, ...]


def export_user(
    user_id: str, projections: Projections, write: Callable[[str], object]
) -> Plan[Exported]:
    """Write one user's document in one snapshot, a page at a time; nobody waits."""
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
    about = {"user_id": user_id, **dict(zip(_LOG, head[0], strict=True)), "unreached": unreached}
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
        statement = select_stream_page(", ".join(_STREAM), scope.user_id, after)
        (page,) = yield Batch(scope, (statement,), hold=True)
        rows, more = page_of(page)
        for values in rows:
            after = values[0]
            lines.add(_object(zip(_STREAM, values, strict=True)))
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
        statement = select_log_page(_EVENTS, scope.user_id, position)
        (page,) = yield Batch(scope, (statement,), hold=True)
        rows, more = page_of(page)
        for values in rows:
            position = values[0]
            lines.add(_object(zip(_EVENT, values, strict=True), {"payload", "metadata"}))
    return lines.end()


class _Lines:
    """A JSON array under construction, an element a line."""

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
    """Return a JSON object; `json` members are JSON text already, `json_lists` lists of such."""
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
    """Tell whether a `json[]` is a list of JSON texts, as ours are, or something put there."""
    return all(isinstance(item, str) and item for item in value)


def _plain(value: Any) -> Any:
    """Return a column's value as JSON has it: bytes in hex, instants in UTC, others as text."""
    match value:
        case bytes():
            return value.hex()
        case datetime() if value.tzinfo is not None:
            return instant_text(value)
    try:
        return check_json(value, "value")
    except NotStorable:
        return str(value)
