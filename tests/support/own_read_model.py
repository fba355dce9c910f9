"""A service's own read models and projectors, for tests: a box of items, and what was done when."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import JSON, BigInteger, Column, DateTime, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from eventstore import Event, EventEnvelope, EventStore, NewEvent, TaskCompleted, TaskReopened
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
    "Own",
    "boxed",
    "project_box",
    "project_done",
    "protect",
    "service_url",
    "store",
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


def stamped(fields: dict[str, Any]) -> dict[str, Any]:
    """Return an item's fields with markers where the event says so: `$position` and the like."""
    markers = {f"${name}": marker for name, marker in STAMP.items()}
    return {
        name: markers.get(value, value) if isinstance(value, str) else value
        for name, value in fields.items()
    }


class Own(SQLModel, registry=registry()):
    """A service's own metadata."""


class Box(Own, table=True):
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


class Done(Own, table=True):
    __tablename__ = "done"
    __table_args__ = {"schema": "service"}

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True)
    at: datetime = Field(sa_column=Column(DateTime(timezone=True)))


class Boxed(Event, type="Boxed", stream_kind="box"):
    """Something was done to a box: `value` is what, `index` which of its items."""

    done: str
    name: str = "box"
    value: Any = None
    index: int = 0


@projector(Box)
def project_box(fact: EventEnvelope) -> Iterator[RowChange]:
    if not isinstance(fact.data, Boxed):
        return
    value, key = fact.data.value, {"box": fact.stream_id, "name": fact.data.name}
    match fact.data.done:
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
            yield Update(Box, key, {"items": AppendItem(stamped(value))})
        case "marked":
            yield Update(Box, key, {"items": ExtendItem(fact.data.index, stamped(value))})
        case "gone":
            yield Delete(Box, key)


@projector(Done)
def project_done(fact: EventEnvelope) -> Iterator[RowChange]:
    match fact.data:
        case TaskCompleted():
            yield Insert(Done, {"id": fact.stream_id, "at": RECORDED_AT})
        case TaskReopened():
            yield Delete(Done, {"id": fact.stream_id})


def protect(owner: psycopg.Connection, *tables: type[SQLModel]) -> None:
    """Put a service's own tables under row-level security, as its migration does."""
    for table in tables:
        for statement in protection_sql(table):
            owner.execute(statement)


def boxed(box: UUID, done: str, **fields: Any) -> NewEvent:
    return NewEvent(stream_id=box, data=Boxed(done=done, **fields))


@pytest.fixture
def service_url(database_url: str, direct_url: str) -> str:
    """A database with the service's own tables, protected."""
    with psycopg.connect(direct_url, autocommit=True) as owner:
        owner.execute(DDL)
        protect(owner, Box, Done)
    return database_url


@pytest.fixture
def store(service_url: str) -> Iterator[EventStore]:
    with EventStore.connect(
        service_url, projectors=[project_box, project_done], events=[Boxed]
    ) as opened:
        yield opened
