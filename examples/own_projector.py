"""
A read model of your own: which tools are called, how often they fail, and when they last ran.

    python examples/own_projector.py

The table is an ordinary SQLModel table whose primary key begins with `user_id`. One projector
keeps it live, in the transaction of each append, and fills it from the log when it is added late.

Uses EVENTSTORE_DATABASE_URL (after `eventstore migrate`; the login must be allowed to create a
table), or a server in a temporary folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

from sqlalchemy import DateTime, Engine, inspect
from sqlmodel import Field, SQLModel, select

from eventstore import (
    EventEnvelope,
    EventStore,
    ToolCallFailed,
    ToolCallRequested,
    ToolCallSucceeded,
    User,
)
from eventstore.database.embedded import stop_embedded
from eventstore.database.sessions.engines import own_engine
from eventstore.database.settings import load_settings
from projections import RECORDED_AT, Insert, RowChange, Update, projector
from projections.protection import protection_sql


class ToolRun(SQLModel, table=True):
    """One call of one tool: a row to count and to filter."""

    __tablename__ = "example_tool_run"

    user_id: str = Field(primary_key=True)
    message_id: UUID = Field(primary_key=True)
    call_index: int = Field(primary_key=True)
    tool: str
    status: str
    # With time zone: what the database gives an event is an instant.
    requested_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


@projector(ToolRun)
def project_tool_run(fact: EventEnvelope) -> Iterator[RowChange]:
    """Keep one row per call; pure, so that live, replay and rebuild give the same rows."""
    match fact.data:
        case ToolCallRequested(message_id=message, index=index, name=name):
            yield Insert(
                ToolRun,
                {
                    "message_id": message,
                    "call_index": index,
                    "tool": name,
                    "status": "pending",
                    "requested_at": RECORDED_AT,  # known when the row is written, not before
                    "finished_at": None,
                },
            )
        case ToolCallSucceeded() | ToolCallFailed() as outcome:
            yield Update(
                ToolRun,
                {"message_id": outcome.message_id, "call_index": outcome.index},
                {
                    "status": "succeeded" if isinstance(outcome, ToolCallSucceeded) else "failed",
                    "finished_at": RECORDED_AT,
                },
            )


extensions = {"projectors": [project_tool_run]}
"""For the command line: `eventstore rebuild --extensions own_projector:extensions`."""


def create_table(owner: Engine) -> None:
    """Create and protect the table; in a service, this is a migration of its own."""
    if inspect(owner).has_table(str(ToolRun.__tablename__)):
        return
    with owner.begin() as connection:
        SQLModel.metadata.create_all(connection, [SQLModel.metadata.tables["example_tool_run"]])
        for statement in protection_sql(ToolRun):
            connection.exec_driver_sql(statement)


def some_calls(user: User, *, failing: bool) -> None:
    chat = user.conversations.start(title="Calendar")
    call = user.tool_calls.request(chat.id, name="read_calendar", arguments={"day": "Sunday"})
    if failing:
        user.tool_calls.fail(call, error="no answer in 10 seconds")
    else:
        user.tool_calls.succeed(call, output=["10:00 market"])


def show(user: User, told: str) -> None:
    with user.session() as session:  # only this user's rows exist in it
        runs = session.exec(select(ToolRun).order_by(ToolRun.requested_at)).all()  # type: ignore[arg-type]  # SQLModel types a column as its value
    print(f"{told}: {[(run.tool, run.status) for run in runs]}")


def main(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        some_calls(store.user("alice"), failing=True)
    print("one call was recorded before the read model existed")

    owner = own_engine(load_settings(database_url))
    create_table(owner)
    with EventStore.connect(database_url, projectors=[project_tool_run]) as store:
        alice = store.user("alice")
        store.rebuild("alice")
        show(alice, "after the first rebuild")

        some_calls(alice, failing=False)
        show(alice, "live, in the transaction of the append")

        with alice.session(read_only=False) as session:
            for run in session.exec(select(ToolRun)).all():
                session.delete(run)
            session.commit()
        found = store.verify("alice").problems
        print("all rows deleted by hand; verify:", [one.kind for one in found])
        print("rebuilt, rows changed:", store.rebuild("alice").changed)
        show(alice, "as before")
        print("verified:", store.verify("alice").ok)
    owner.dispose()


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL to use; a server in a temporary folder is stopped and removed at the end."""
    if given := os.environ.get("EVENTSTORE_DATABASE_URL"):
        yield given
        return
    with TemporaryDirectory(prefix="eventstore-example-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "postgresql"
        yield f"embedded:{path}"
        stop_embedded(path)


if __name__ == "__main__":
    with database() as url:
        main(url)
