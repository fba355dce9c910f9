"""
Two read models of a service that uses the library, for tests, with their projectors.

`Box` has a column of every type that a row change treats differently, and is filled by the
service's own event class. `Done` holds the completion time of each completed task.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import JSON, BigInteger, Column, DateTime, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore import Event, EventEnvelope, NewEvent, TaskCompleted, TaskReopened
from projections import (
    POSITION,
    RECORDED_AT,
    VERSION,
    AppendItem,
    Delete,
    ExtendItem,
    Increment,
    Insert,
    RowChange,
    Update,
    projector,
)
from projections.protection import protection_sql

__all__ = [
    "DDL",
    "STAMP",
    "Box",
    "Boxed",
    "Done",
    "ServiceModel",
    "box_event",
    "project_box",
    "project_done",
    "protect",
]

STAMP = {"position": POSITION, "version": VERSION, "recorded_at": RECORDED_AT}
DDL = """
create schema service;
create table service.box (
    user_id text, box uuid, name text, n bigint, note text, body json, items json[],
    position bigint, version bigint, recorded_at timestamptz, primary key (user_id, box, name)
);
create table service.done (user_id text, id uuid, at timestamptz, primary key (user_id, id));
"""


def with_markers(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an item's fields with each text like `$position` replaced by its marker."""
    markers = {f"${name}": marker for name, marker in STAMP.items()}
    return {
        name: markers.get(value, value) if isinstance(value, str) else value
        for name, value in fields.items()
    }


class ServiceModel(SQLModel, registry=registry()):
    """The base of the service's tables; their metadata is apart from the library's."""


class Box(ServiceModel, table=True):
    __tablename__ = "box"
    __table_args__ = {"schema": "service"}

    user_id: str = Field(primary_key=True)
    box: UUID = Field(sa_column=Column(Uuid, primary_key=True))
    name: str = Field(sa_column=Column(Text, primary_key=True))
    n: int = Field(sa_column=Column(BigInteger))
    note: str | None = Field(sa_column=Column(Text))
    body: Any = Field(sa_column=Column(JSON))
    items: list[dict[str, Any]] | None = Field(sa_column=Column(ARRAY(JSON)))
    position: int = Field(sa_column=Column(BigInteger))
    version: int = Field(sa_column=Column(BigInteger))
    recorded_at: datetime = Field(sa_column=Column(DateTime(timezone=True)))


class Done(ServiceModel, table=True):
    __tablename__ = "done"
    __table_args__ = {"schema": "service"}

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    at: datetime = Field(sa_column=Column(DateTime(timezone=True)))


class Boxed(Event, type="Boxed", stream_kind="box"):
    """A change of a box; `done` names the kind of change, `index` the item that changes."""

    done: str
    name: str = "box"
    value: Any = None
    index: int = 0


@projector(Box)
def project_box(event: EventEnvelope) -> Iterator[RowChange]:
    if not isinstance(event.data, Boxed):
        return
    value, key = event.data.value, {"box": event.stream_id, "name": event.data.name}
    match event.data.done:
        case "made":
            empty = {"n": 0, "note": None, "body": value, "items": None}
            yield Insert(Box, key | empty | STAMP)
        case "noted":
            yield Update(Box, key, {"note": value} | STAMP)
        case "filled":
            yield Update(Box, key, {"body": value})
        case "counted":
            yield Update(Box, key, {"n": Increment(value)})
        case "put":
            yield Update(Box, key, {"items": AppendItem(with_markers(value))})
        case "marked":
            yield Update(Box, key, {"items": ExtendItem(event.data.index, with_markers(value))})
        case "gone":
            yield Delete(Box, key)


@projector(Done)
def project_done(event: EventEnvelope) -> Iterator[RowChange]:
    match event.data:
        case TaskCompleted():
            yield Insert(Done, {"id": event.stream_id, "at": RECORDED_AT})
        case TaskReopened():
            yield Delete(Done, {"id": event.stream_id})


def protect(owner: psycopg.Connection, *tables: type[SQLModel]) -> None:
    """Put tables under row-level security, as the service's migration would."""
    for table in tables:
        for statement in protection_sql(table):
            owner.execute(statement)


def box_event(box: UUID, done: str, **fields: Any) -> NewEvent:
    """Return a `Boxed` event for the stream of a box."""
    return NewEvent(stream_id=box, data=Boxed(done=done, **fields))
