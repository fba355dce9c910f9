"""
The checklists of docs/extending.md, followed: in a copy of the repository, and by an adapter.

An edit is a file, a text that is in it once, and what to insert before that text. A file that is
not there yet is written whole.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eventstore
import projections
from eventstore import EventStore, User
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
PACKAGES = ("eventstore", "projections", "migrations")
CHECKLISTS = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MOST_FILES = 7

type Edit = tuple[str, str | None, str]

EVENTS = "eventstore/events/tasks.py"
MODEL = "projections/models/task.py"
STORE = "eventstore/store/commands/tasks.py"
MIGRATION = "migrations/versions/0002_task_remind_at.py"
PACKAGE = "eventstore/__init__.py"
COMMAND = "eventstore/cli/reading/show.py"

EVENT_WITH_COLUMN: list[Edit] = [
    (EVENTS, "from pydantic import model_validator", "from pydantic import AwareDatetime\n"),
    (EVENTS, '    "TaskState",\n', '    "TaskReminderSet",\n'),
    (EVENTS, "class TaskDeleted(", '''\
class TaskReminderSet(TaskEvent, type="TaskReminderSet"):
    """The reminder changed; None removed it."""

    remind_at: AwareDatetime | None


'''),
    (EVENTS, "    deleted_position: int | None\n", "    remind_at: AwareDatetime | None\n"),
    (EVENTS, "def complete(", '''\
def remind(task: TaskState, remind_at: object) -> Event | None:
    """Decide to change the reminder; the same time again changes nothing."""
    return None if task.remind_at == remind_at else make_event(TaskReminderSet, remind_at=remind_at)


'''),
    (MODEL, "    TaskUpdated,\n", "    TaskReminderSet,\n"),
    (MODEL, "    position: int = bigint()", """\
    remind_at: datetime | None = timestamp(nullable=True)
"""),
    (MODEL, "    position: int\n", "    remind_at: datetime | None\n"),
    (MODEL, "        case TaskDeleted():", """\
        case TaskReminderSet(remind_at=remind_at):
            return {"remind_at": remind_at}
"""),
    (STORE, "    def complete(", '''\
    def remind(
        self, task: UUID | str, remind_at: datetime | None, *, caused_by: Cause = None
    ) -> Handle[TaskView]:
        """
        Change the reminder; two round trips.

        :param remind_at: a timestamp with time zone; None removes it.
        :raises NotFound: absent, deleted or another user's.
        """
        return self._decide(task, lambda state: tasks.remind(state, remind_at), caused_by)

'''),
    (STORE, "    complete = sync", "    remind = sync_command(TaskCommands.remind)\n"),
    (STORE, "    complete = async", "    remind = async_command(TaskCommands.remind)\n"),
    (MIGRATION, None, '''\
"""
Tasks have a reminder.

Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nothing is rewritten."""
    op.execute("alter table eventstore.task add column remind_at timestamptz")


def downgrade() -> None:
    """Drop the column; the events keep the reminders."""
    op.execute("alter table eventstore.task drop column remind_at")
'''),
    (PACKAGE, "        TaskUpdated,\n", "        TaskReminderSet,\n"),
    (PACKAGE, '        "TaskUpdated",\n', '        "TaskReminderSet",\n'),
    (PACKAGE, '\n    "TaskUpdated",', '\n    "TaskReminderSet",'),
    (COMMAND, '                "completed (UTC)",', '                "remind (UTC)",\n'),
    (COMMAND, "                    format_timestamp(task.completed_at)", """\
                    format_timestamp(task.remind_at),
"""),
]  # fmt: skip

USE_EVENT_WITH_COLUMN = """
import asyncio, sys
from datetime import UTC, datetime

from eventstore import AsyncEventStore, EventStore, TaskReminderSet
from eventstore.cli.app import app
from eventstore.database.settings import load_settings
from eventstore.schema.migrate import upgrade
from typer.testing import CliRunner

url = sys.argv[1]
done = upgrade(load_settings(url))
assert (done.before, done.after) == (None, "0002")
remind_at = datetime(2027, 3, 4, 5, 6, 7, 890123, UTC)

with EventStore.connect(url) as store:
    alice = store.user("alice")
    task = alice.tasks.create("Buy milk")
    assert task.remind_at is None
    assert alice.keyed("k").tasks.remind(task.id, remind_at).remind_at == remind_at
    assert alice.keyed("k").tasks.remind(task.id, remind_at).remind_at == remind_at
    with alice.transaction() as tx:
        other = tx.tasks.create("Buy bread")
        tx.tasks.remind(other.id, remind_at)
        tx.tasks.complete(other.id)
    assert [one.remind_at for one in alice.tasks.list()] == [remind_at, remind_at]
    assert alice.tasks.get(task.id, as_of=task.position).remind_at is None
    assert [type(one.data) for one in alice.events()][1] is TaskReminderSet
    assert store.verify().ok and store.rebuild(check=True).changed == 0

async def use_async() -> None:
    async with AsyncEventStore.connect(url) as store:
        changed = await store.user("alice").tasks.remind(task.id, None)
        assert changed.remind_at is None

asyncio.run(use_async())
shown = CliRunner().invoke(app, ["tasks", "--user", "alice", "--database", url])
assert "2027-03-04 05:06:07" in shown.output, shown.output
"""

NEW_COMMAND: list[Edit] = [
    (EVENTS, "def restore(", '''\
def toggle(task: TaskState) -> Event | None:
    """Decide to complete an open task, or to reopen a completed one."""
    return reopen(task) if task.completed else complete(task)


'''),
    (STORE, "    def delete(", '''\
    def toggle(self, task: UUID | str, *, caused_by: Cause = None) -> Handle[TaskView]:
        """
        Complete an open task, or reopen a completed one; two round trips.

        :raises NotFound: absent, deleted or another user's.
        """
        return self._decide(task, tasks.toggle, caused_by)

'''),
    (STORE, "    delete = sync", "    toggle = sync_command(TaskCommands.toggle)\n"),
    (STORE, "    delete = async", "    toggle = async_command(TaskCommands.toggle)\n"),
]  # fmt: skip

USE_NEW_COMMAND = """
import asyncio, sys

from eventstore import AsyncEventStore, EventStore
from eventstore.database.settings import load_settings
from eventstore.schema.migrate import upgrade

url = sys.argv[1]
upgrade(load_settings(url))

with EventStore.connect(url) as store:
    alice = store.user("alice")
    task = alice.tasks.create("Buy milk")
    assert alice.tasks.toggle(task.id).completed
    with alice.transaction() as tx:
        tx.tasks.toggle(task.id)
        tx.tasks.toggle(task.id)
    assert alice.tasks.get(task.id).completed

async def use_async() -> None:
    async with AsyncEventStore.connect(url) as store:
        assert not (await store.user("alice").tasks.toggle(task.id)).completed

asyncio.run(use_async())
"""


def listed_files(heading: str) -> list[str]:
    """Return the files that a checklist names, in its order."""
    section = re.split(r"^## ", CHECKLISTS.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]
    return re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)


def edited_copy(folder: Path, edits: Sequence[Edit]) -> Path:
    """Return a copy of the library with the edits of a checklist."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("*.pyc"))
    for name, anchor, text in edits:
        path = folder / name
        if anchor is None:
            path.write_text(text, encoding="utf-8")
            continue
        source = path.read_text(encoding="utf-8")
        assert source.count(anchor) == 1, f"{name} has {anchor!r} {source.count(anchor)} times"
        path.write_text(source.replace(anchor, text + anchor), encoding="utf-8")
    return folder


def run_in(folder: Path, script: str, url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, url],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def empty_database(server: Server) -> str:
    """Return the direct URL of a database that nothing was migrated in."""
    return server.direct(server.create_database("template0"))


def test_an_event_with_a_column_touches_only_the_files_of_its_checklist(
    server: Server, tmp_path: Path
) -> None:
    files = listed_files("A new event with a column")
    url = empty_database(server)

    run_in(edited_copy(tmp_path, EVENT_WITH_COLUMN), USE_EVENT_WITH_COLUMN, url)

    assert files == list(dict.fromkeys(name for name, *_ in EVENT_WITH_COLUMN))
    assert len(files) <= MOST_FILES
    server.drop_database(url)


def test_a_new_command_touches_only_the_files_of_its_checklist(
    server: Server, tmp_path: Path
) -> None:
    url = empty_database(server)

    run_in(edited_copy(tmp_path, NEW_COMMAND), USE_NEW_COMMAND, url)

    assert listed_files("A new command") == list(dict.fromkeys(name for name, *_ in NEW_COMMAND))
    server.drop_database(url)


class Transcript:
    """An adapter as docs/extending.md describes one: a framework's session on a conversation."""

    def __init__(self, user: User, session_id: str) -> None:
        self.user = user
        self.session_id = session_id

    def add(self, items: Sequence[dict[str, Any]], request_id: str) -> None:
        self.user.conversations.start(key=self.session_id)
        with self.user.keyed(request_id).transaction() as tx:
            for item in items:
                tx.messages.post(self.session_id, body=item)

    def items(self) -> list[dict[str, Any]]:
        return [message.body for message in self.user.history(self.session_id)]


def test_an_adapter_needs_the_public_api_alone(store: EventStore) -> None:
    items = [{"role": "user", "content": "Buy milk"}, {"role": "assistant", "content": "Done."}]
    session = Transcript(store.user("alice"), "session-7")

    for _ in range(2):  # the framework sends it twice
        session.add(items, "request-1")

    assert session.items() == items
    assert {"EventStore", "User"} <= {*eventstore.__all__, *projections.__all__}
