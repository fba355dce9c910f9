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
    Delete,
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
    user_id text, box uuid, name text, n bigint, note text, body json, tags text[],
    position bigint, version bigint, recorded_at timestamptz, primary key (user_id, box, name)
);
create table service.done (user_id text, id uuid, at timestamptz, primary key (user_id, id));
"""


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
    tags: list[str] | None = Field(sa_column=Column(ARRAY(Text)))
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
    """A change of a box; `done` names the kind of change."""

    done: str
    name: str = "box"
    value: Any = None
    n: int = 0


@projector(Box)
def project_box(event: EventEnvelope) -> Iterator[RowChange]:
    if not isinstance(event.data, Boxed):
        return
    value, key = event.data.value, {"box": event.stream_id, "name": event.data.name}
    match event.data.done:
        case "made":
            empty = {"n": 0, "note": None, "body": value, "tags": None}
            yield Insert(Box, key | empty | STAMP)
        case "noted":
            yield Update(Box, key, {"note": value} | STAMP)
        case "filled":
            yield Update(Box, key, {"body": value})
        case "counted":
            yield Update(Box, key, {"n": Increment(value)})
        case "tagged":
            yield Update(Box, key, {"tags": value})
        case "noted if":  # the box counts so many
            yield Update(Box, key, {"note": value} | STAMP, only_where={"n": event.data.n})
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
