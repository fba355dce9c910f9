"""
A read model of your own: the tools that were called, their outcomes and their times.

    python examples/own_projector.py

The table is an ordinary SQLModel table whose primary key begins with `user_id`. One projector
updates it in the transaction of each append; a rebuild fills it from the log if the table is new.

Uses the database in EVENTSTORE_DATABASE_URL (after `eventstore migrate`; the login must be allowed
to create a table), or else a PostgreSQL in a temporary folder.
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
    migration_engine,
)
from eventstore.database.embedded import stop_embedded
from projections import OCCURRED_AT, Insert, RowChange, Update, projector, protection_sql


class ToolRun(SQLModel, table=True):
    """A row per tool call."""

    __tablename__ = "example_tool_run"

    user_id: str = Field(primary_key=True)
    id: UUID = Field(primary_key=True)  # of the event that requested the call
    tool: str
    status: str
    # With time zone, like the time at which an event was recorded.
    requested_at: datetime = Field(sa_type=DateTime(timezone=True))
    finished_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))


@projector(ToolRun)
def project_tool_run(event: EventEnvelope) -> Iterator[RowChange]:
    """
    Yield the row changes of an event.

    The function is pure, so that appends, replay and rebuild give the same rows.
    """
    match event.data:
        case ToolCallRequested(name=name):
            yield Insert(
                ToolRun,
                {
                    "id": event.event_id,
                    "tool": name,
                    "status": "pending",
                    "requested_at": OCCURRED_AT,  # a marker: when it happened
                    "finished_at": None,
                },
            )
        case ToolCallSucceeded() | ToolCallFailed() as outcome:
            yield Update(
                ToolRun,
                {"id": outcome.request_event_id},
                {
                    "status": "succeeded" if isinstance(outcome, ToolCallSucceeded) else "failed",
                    "finished_at": OCCURRED_AT,
                },
                only_where={"status": "pending"},  # the first outcome counts
            )


extensions = {"projectors": [project_tool_run]}
"""The same projector for commands: `eventstore rebuild --extensions own_projector:extensions`."""


def create_table(owner: Engine) -> None:
    """Create the table under row-level security; a service does this in a migration."""
    if inspect(owner).has_table(str(ToolRun.__tablename__)):
        return
    with owner.begin() as connection:
        SQLModel.metadata.create_all(connection, [SQLModel.metadata.tables["example_tool_run"]])
        for statement in protection_sql(ToolRun):
            connection.exec_driver_sql(statement)


def record_call(user: User, *, failing: bool) -> None:
    chat = user.conversations.start(title="Calendar")
    call = user.tool_calls.request(chat.id, name="read_calendar", arguments={"day": "Sunday"})
    if failing:
        user.tool_calls.fail(call, error="no answer in 10 seconds")
    else:
        user.tool_calls.succeed(call, output=["10:00 market"])


def print_runs(user: User, title: str) -> None:
    with user.session() as session:  # this user's rows are the only ones in a session
        runs = session.exec(select(ToolRun).order_by(ToolRun.requested_at)).all()  # type: ignore[arg-type]  # SQLModel types a column as its value
    print(f"{title}: {[(run.tool, run.status) for run in runs]}")


def main(database_url: str) -> None:
    with EventStore.connect(database_url) as store:
        record_call(store.user("alice"), failing=True)
    print("one call was recorded before the read model existed")

    owner = migration_engine(database_url)
    create_table(owner)
    with EventStore.connect(database_url, projectors=[project_tool_run]) as store:
        alice = store.user("alice")
        store.rebuild("alice")
        print_runs(alice, "after the first rebuild")

        record_call(alice, failing=False)
        print_runs(alice, "after an append")

        with alice.session(read_only=False) as session:
            for run in session.exec(select(ToolRun)).all():
                session.delete(run)
            session.commit()
        problems = store.verify("alice").problems
        print("all rows deleted by hand; verify finds:", [problem.kind for problem in problems])
        print("rows changed by a rebuild:", store.rebuild("alice").changed)
        print_runs(alice, "after the rebuild")
        print("verified:", store.verify("alice").ok)
    owner.dispose()


@contextmanager
def database() -> Iterator[str]:
    """Yield the URL of the configured database, or of a temporary server that is removed again."""
    if configured := os.environ.get("EVENTSTORE_DATABASE_URL"):
        yield configured
        return
    with TemporaryDirectory(prefix="eventstore-example-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "postgresql"
        yield f"embedded:{path}"
        stop_embedded(path)


if __name__ == "__main__":
    with database() as url:
        main(url)
