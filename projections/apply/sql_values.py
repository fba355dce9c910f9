"""
The SQL of one value in a row change: a parameter, or what the database gives the event.

What it gives is read from the locked head of the user's log, `head`: the last event of the append
has the head's position, the one before it one less, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never
from uuid import UUID

from eventstore.events.json_codec import check_json, dumps
from projections.apply.table_shape import TableShape
from projections.changes import AppendItem, ExtendItem, Increment, Marker

__all__ = ["Bound", "Sql"]


@dataclass(frozen=True, slots=True)
class Bound:
    """A marker of one event of the append: so many events (of its stream) come after it."""

    marker: Marker
    later: int
    stream_id: UUID
    later_in_stream: int


class Sql:
    """The parameters of one statement under construction; `$1` is always the user."""

    def __init__(self, user_id: str) -> None:
        self.parameters: list[object] = [user_id]
        self.size = 0
        """Of the texts among them, in characters."""

    def bind(self, value: object) -> str:
        """Add a parameter and return its placeholder."""
        self.parameters.append(value)
        if isinstance(value, str | bytes):
            self.size += len(value)
        return f"${len(self.parameters)}"

    def value(self, shape: TableShape, column: str, value: Any) -> str:
        """Return the SQL of a new value for `column`."""
        match value:
            case Bound():
                return self.given(value)
            case None:
                return f"null::{shape.columns[column]}"
            case _ if column in shape.json:
                return f"{self.bind(dumps(check_json(value, column)))}::json"
            case list() if column in shape.json_lists:
                return f"array[{', '.join(map(self.item, value))}]::json[]"
            case _:
                return f"{self.bind(value)}::{shape.columns[column]}"

    def change(self, shape: TableShape, column: str, change: Any) -> str:
        """Return the SQL of an updated value for `column`."""
        match change:
            case Increment(by):
                return f"t.{column} + {self.bind(by)}"
            case AppendItem(item):
                return f"array_append(coalesce(t.{column}, '{{}}'), {self.item(item)})"
            case ExtendItem(index, fields):
                if not fields:
                    return f"t.{column}"
                text = f"t.{column}[{index + 1}]::text"
                comma = f"case when {text} = '{{}}' then '' else ',' end"
                return (
                    f"case when coalesce(cardinality(t.{column}), 0) > {index} then"
                    f" t.{column}[:{index}] || concat(left({text}, -1), {comma},"
                    f" {self.pieces(fields)},"
                    f" '}}')::json || t.{column}[{index + 2}:] else t.{column} end"
                )
            case _:
                return self.value(shape, column, change)

    def given(self, bound: Bound) -> str:
        """Return the SQL of what the database gave one event of this append."""
        match bound.marker:
            case Marker.POSITION:
                return f"(head.position - {bound.later})"
            case Marker.RECORDED_AT:
                return "head.recorded_at"
            case Marker.VERSION:
                stream = self.bind(bound.stream_id)
                return (
                    "(select s.version from eventstore.stream as s where s.user_id = $1"
                    f" and s.stream_id = {stream}::uuid) - {bound.later_in_stream}"
                )
            case _:
                assert_never(bound.marker)

    def item(self, item: Mapping[str, Any]) -> str:
        """Return the SQL of a JSON object that may hold markers."""
        if not any(isinstance(value, Bound) for value in item.values()):
            return f"{self.bind(dumps(item))}::json"
        return f"concat('{{', {self.pieces(item)}, '}}')::json"

    def pieces(self, item: Mapping[str, Any]) -> str:
        """Return the SQL of an object's members, as pieces of text to concatenate."""
        pieces: list[str] = []
        text = ""
        for number, (name, value) in enumerate(item.items()):
            text += ("," if number else "") + dumps(name) + ":"
            if isinstance(value, Bound):
                pieces += [f"{self.bind(text)}::text", self.json_given(value)]
                text = ""
            else:
                text += dumps(value)
        return ", ".join([*pieces, f"{self.bind(text)}::text"] if text else pieces)

    def json_given(self, bound: Bound) -> str:
        """Return the SQL of what the database gave, as a piece of JSON text."""
        if bound.marker is Marker.RECORDED_AT:
            return f"""'"', to_char(head.recorded_at at time zone 'UTC', {_ISO}), '"'"""
        return self.given(bound)


_ISO = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
