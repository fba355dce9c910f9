"""
Bring a database to a revision of the schema, by Alembic and the scripts in `migrations/`.

One process migrates at a time, however many deploy; the others wait and find it done. A statement
waits for a table lock for three seconds at most; then the whole migration is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alembic import command, context, op
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from eventstore.database.errors import classify, unreachable
from eventstore.database.roles import with_role_names
from eventstore.database.sessions.engines import own_engine
from eventstore.database.settings import Settings
from eventstore.errors import (
    ConfigurationError,
    EventStoreError,
    SerializationFailed,
    TimedOut,
)
from eventstore.log.tables import SCHEMA

__all__ = [
    "Migration",
    "downgrade",
    "latest_revision",
    "revision_of",
    "run_script",
    "upgrade",
]

_TRIES = 5
_PAUSE_SECONDS = 1.0
_ALEMBIC = threading.Lock()
"""Alembic keeps its context in globals, so one thread uses it at a time."""


@dataclass(slots=True)
class Migration:
    """
    One run of Alembic: what `migrations/env.py` is told, and what it reports.

    :ivar waiting: called once if another process holds the lock that lets one process migrate.
    :ivar before: the revision that was found once the lock was held; None for no schema.
    :ivar after: the revision at the end.
    """

    settings: Settings
    waiting: Callable[[], object] | None = None
    before: str | None = None
    after: str | None = None


def upgrade(
    settings: Settings, revision: str = "head", *, waiting: Callable[[], object] | None = None
) -> Migration:
    """
    Migrate up to `revision`, with the rights of the URL's login.

    :param waiting: called once if this process has to wait for another one that migrates.
    :return: the revisions before and after; equal if there was nothing to do.
    :raises ConfigurationError: the URL leads to a pooler, the database is not UTF8 or was migrated
        for other role names, or there is no such revision.
    :raises TimedOut: a long transaction holds a table; as with every error, the schema is as it was
        before the failing revision.
    :raises Unavailable: the server cannot be reached, or another migration takes too long.
    """
    return _run(Migration(settings, waiting), command.upgrade, revision)


def downgrade(
    settings: Settings, revision: str, *, waiting: Callable[[], object] | None = None
) -> Migration:
    """
    Migrate down to `revision`, or to `base` for nothing; never destroys recorded events.

    :param waiting: called once if this process has to wait for another one that migrates.
    :return: the revisions before and after.
    :raises ConfigurationError: the log has events, which a downgrade would destroy, or for one of
        the reasons of `upgrade`; the failing revision was not undone.
    """
    return _run(Migration(settings, waiting), command.downgrade, revision)


def revision_of(connection: Connection) -> str | None:
    """
    Return the revision of the database that `connection` is connected to.

    :return: None if it was never migrated.
    """
    options = {"version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def latest_revision() -> str:
    """Return the newest revision that this release has."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "base"


def run_script(name: str) -> None:
    """
    Run `migrations/sql/NAME.sql` in a revision, with the names that the roles have here.

    :param name: the file's name without its ending, such as `0001_security`.
    """
    script = (_scripts() / "sql" / f"{name}.sql").read_text(encoding="utf-8")
    migration: Migration = context.config.attributes["migration"]
    sql = with_role_names(script, migration.settings.role_names)
    op.execute(text(sql.replace(":", r"\:")))  # a colon would begin a bind parameter


def _run(migration: Migration, alembic_command: object, revision: str) -> Migration:
    """Run a command of Alembic, again where a transaction of somebody else held a table."""
    # Writers queue up behind a statement that waits for a table lock. So it waits for a short time,
    # and in the pause between two tries the writers go on.
    for tries_left in reversed(range(_TRIES)):
        try:
            _run_once(migration, alembic_command, revision)
        except (SerializationFailed, TimedOut):
            if not tries_left:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            break
    return migration


def _run_once(migration: Migration, alembic_command: object, revision: str) -> None:
    config = _config()
    try:
        with _ALEMBIC, _connect(migration.settings) as connection:
            config.attributes.update(connection=connection, migration=migration)
            alembic_command(config, revision)  # type: ignore[operator]  # upgrade or downgrade
    except DBAPIError as error:
        raise _classified(error) from error
    except CommandError as error:
        revisions = reversed([*ScriptDirectory.from_config(config).walk_revisions()])
        known = ", ".join(one.revision for one in revisions)
        raise ConfigurationError(f"migration: {error}; there are {known}, head and base") from error


def _scripts() -> Path:
    """Return the folder of the scripts: beside the package in a checkout, in it once installed."""
    package = Path(__file__).parents[1]
    installed, checkout = package / "migrations", package.parent / "migrations"
    return installed if installed.is_dir() else checkout


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_scripts()))
    config.set_main_option("path_separator", "os")
    return config


def _connect(settings: Settings) -> Connection:
    try:
        return own_engine(settings).connect()
    except DBAPIError as error:
        raise unreachable(error.orig) from error  # type: ignore[arg-type]  # psycopg is the only driver


def _classified(error: DBAPIError) -> EventStoreError:
    if isinstance(error.orig, LockNotAvailable):
        return TimedOut(
            "a long transaction uses the tables, and a migration does not make writers wait for "
            "it: find it in pg_stat_activity, end it, and migrate again"
        )
    return classify(error.orig)  # type: ignore[arg-type]  # psycopg is the only driver
