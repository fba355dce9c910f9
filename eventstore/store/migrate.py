"""Bring a database to a revision of the schema: Alembic, with our scripts wherever they stand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from alembic import command, context, op
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util.exc import CommandError
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import eventstore
from eventstore.database.errors import classify, unreachable
from eventstore.database.roles import named
from eventstore.database.settings import Settings
from eventstore.database.sqlalchemy import own_engine
from eventstore.errors import (
    ConfigurationError,
    DatabaseFault,
    EventStoreError,
    SerializationFailed,
    TimedOut,
)
from eventstore.log.tables import SCHEMA

__all__ = [
    "DDL_LOCK_TIMEOUT",
    "DROP_LEFTOVER",
    "LEFTOVER",
    "LOCK",
    "current_revision",
    "downgrade",
    "latest_revision",
    "run_script",
    "upgrade",
]


DDL_LOCK_TIMEOUT = "3s"
LOCK = 0x6576656E7473746F  # "eventsto"
"""PostgreSQL's advisory lock by which one process migrates at a time."""
LEFTOVER = """
select 1 from pg_catalog.pg_constraint
where conname = 'event_not_erased' and conrelid = to_regclass('eventstore.event')
"""
DROP_LEFTOVER = "alter table eventstore.event drop constraint event_not_erased"
"""What a downgrade of revision 0002 that was killed leaves behind."""
_TRIES = 5
_PAUSE_SECONDS = 1.0
_ONE_AT_A_TIME = threading.Lock()  # Alembic keeps its context in globals


def upgrade(settings: Settings, revision: str = "head") -> None:
    """
    Migrate up to `revision`, with the rights of the URL's login; one process at a time.

    :raises EventStoreError: it failed; the schema is as it was before the failing revision.
    """
    _run(settings, command.upgrade, revision)


def downgrade(settings: Settings, revision: str) -> None:
    """
    Migrate down to `revision` (or `base`). Refuses to destroy recorded events.

    Interrupted, it is undone; killed, the next migration of any kind undoes it.

    :raises EventStoreError: it failed or refused; nothing of that revision was undone.
    """
    if revision == "base":
        _require_no_events(settings)  # before the first of several steps, and not at the last
    try:
        _run(settings, command.downgrade, revision)
    except BaseException:  # Ctrl-C too
        _undo_preparation(settings)
        raise


def current_revision(settings: Settings) -> str | None:
    """Return the revision the database is at, or None before the first migration."""
    try:
        with _connected(settings) as connection:
            context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
            return context.get_current_revision()
    except DBAPIError as error:
        raise _known(error) from error


def latest_revision() -> str:
    """Return the newest revision this release knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "base"


def _revisions() -> Iterable[Script]:
    return reversed([*ScriptDirectory.from_config(_config()).walk_revisions()])


def run_script(name: str) -> None:
    """Run `migrations/sql/NAME.sql` in a revision, with the roles as they are called here."""
    script = (_scripts() / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    settings: Settings = context.config.attributes["settings"]
    op.execute(text(named(script, settings.role_names).replace(":", r"\:")))  # no bind parameters


def _scripts() -> Path:
    package = Path(eventstore.__file__).parent
    installed, checkout = package / "migrations", package.parent / "migrations"
    return installed if installed.is_dir() else checkout


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()))
    config.set_main_option("path_separator", "os")
    return config


def _run(settings: Settings, what: object, revision: str) -> None:
    _patiently(lambda: _run_once(settings, what, revision))


def _patiently(work: Callable[[], None]) -> None:
    """
    Do `work`, again if a transaction of somebody else kept a table from it.

    Each try waits seconds and no longer, because the writers queue up behind it.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            work()
        except (SerializationFailed, TimedOut):
            if not tries_left:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _run_once(settings: Settings, what: object, revision: str) -> None:
    config = _config()
    try:
        with _ONE_AT_A_TIME, _connected(settings) as connection:
            config.attributes.update(connection=connection, settings=settings)
            what(config, revision)  # type: ignore[operator]  # one of Alembic's commands
    except DBAPIError as error:
        raise _known(error) from error
    except CommandError as error:
        known = ", ".join(one.revision for one in _revisions())
        raise ConfigurationError(f"migration: {error}; there are {known}, head and base") from error


def _connected(settings: Settings) -> Connection:
    try:
        return own_engine(settings).connect()
    except DBAPIError as error:
        raise unreachable(error.orig) from error  # type: ignore[arg-type]  # psycopg is the only driver


def _require_no_events(settings: Settings) -> None:
    """An owner is blind to the rows (forced row-level security): pages never lie."""
    try:
        with _connected(settings) as connection:
            size = connection.scalar(
                text("select pg_relation_size(to_regclass('eventstore.event'))")
            )
    except DBAPIError as error:
        raise _known(error) from error
    if size:
        raise ConfigurationError(
            "the log holds events that downgrading would destroy; export them, then drop it by hand"
        )


def _undo_preparation(settings: Settings) -> None:
    """
    Take away what revision 0002 commits before its downgrade, if it is there.

    With that constraint nothing can be erased. Where it cannot be asked for, or another process
    migrates, nothing is said: the failure that led here is to be told, and the next migration of
    any kind takes it away.
    """
    seen = False

    def attempt() -> None:
        nonlocal seen
        try:
            with _connected(settings) as connection, connection.begin():
                if connection.execute(text(LEFTOVER)).first() is None:
                    return
                if not connection.scalar(text(f"select pg_try_advisory_xact_lock({LOCK})")):
                    raise TimedOut("another migration is under way: what is there is its own")
                seen = True
                connection.execute(text(f"set local lock_timeout = '{DDL_LOCK_TIMEOUT}'"))
                connection.execute(text(DROP_LEFTOVER))
        except DBAPIError as error:
            raise _known(error) from error

    try:
        _patiently(attempt)
    except EventStoreError as error:
        if seen:
            raise DatabaseFault(
                f"the downgrade left a constraint with which erasing fails: {error}; "
                f"migrate again, or run `{DROP_LEFTOVER}`"
            ) from error


def _known(error: DBAPIError) -> EventStoreError:
    if isinstance(error.orig, LockNotAvailable):
        return TimedOut(
            "a long transaction uses the tables, and writers do not wait for it: look into "
            "pg_stat_activity, end it, and migrate again"
        )
    return classify(error.orig)  # type: ignore[arg-type]  # psycopg is the only driver
