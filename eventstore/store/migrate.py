"""Bring a database to a revision of the schema: Alembic, with our scripts wherever they stand."""

from __future__ import annotations

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.exc import DBAPIError

import eventstore
from eventstore.database.errors import classify
from eventstore.database.settings import Settings
from eventstore.database.sqlalchemy import own_engine
from eventstore.errors import ConfigurationError, EventStoreError
from eventstore.log.tables import SCHEMA

__all__ = ["current_revision", "downgrade", "latest_revision", "upgrade"]


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

    :raises EventStoreError: it failed or refused; nothing of that revision was undone.
    """
    _run(settings, command.downgrade, revision)


def current_revision(settings: Settings) -> str | None:
    """Return the revision the database is at, or None before the first migration."""
    try:
        with own_engine(settings).connect() as connection:
            context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
            return context.get_current_revision()
    except DBAPIError as error:
        raise _known(error) from error


def latest_revision() -> str:
    """Return the newest revision this release knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or "base"


def _config() -> Config:
    package = Path(eventstore.__file__).parent
    installed, checkout = package / "migrations", package.parent / "migrations"
    config = Config()
    config.set_main_option("script_location", str(installed if installed.is_dir() else checkout))
    config.set_main_option("path_separator", "os")
    return config


def _run(settings: Settings, what: object, revision: str) -> None:
    config = _config()
    try:
        with _ONE_AT_A_TIME, own_engine(settings).connect() as connection:
            config.attributes["connection"] = connection
            what(config, revision)  # type: ignore[operator]  # one of Alembic's commands
    except DBAPIError as error:
        raise _known(error) from error
    except CommandError as error:
        raise ConfigurationError(f"migration: {error}") from error


def _known(error: DBAPIError) -> EventStoreError:
    return classify(error.orig)  # type: ignore[arg-type]  # psycopg is the only driver
