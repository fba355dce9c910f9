"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from eventstore.database.settings import Settings, load_settings, parse_url
from eventstore.errors import ConfigurationError, InvalidInput, UnsafeDatabase
from eventstore.schema.findings import Finding
from eventstore.store.context import AsOf
from eventstore.store.store import EventStore, open_unchecked

__all__ = [
    "READ_SECONDS",
    "After",
    "AsOfOption",
    "Database",
    "ExtensionsOption",
    "Jobs",
    "Json",
    "OneUser",
    "User",
    "diagnose",
    "load_object",
    "open_probe",
    "open_store",
    "parse_as_of",
]

READ_SECONDS = 300.0
"""The time of a command that reads: who sits at a terminal can interrupt it."""

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="The database: postgresql://… or embedded:PATH. Default: EVENTSTORE_DATABASE_URL, or "
        "an embedded PostgreSQL in your data folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text.")]
User = Annotated[str, typer.Option("--user", metavar="USER", help="The id of the user.")]
OneUser = Annotated[
    str | None,
    typer.Option("--user", metavar="USER", help="Only the user with this id. Default: all users."),
]
Jobs = Annotated[
    int, typer.Option("--jobs", min=1, max=64, help="How many processes share the users.")
]
AsOfOption = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="POSITION_OR_TIME",
        help="Show the state after this position of the user's log, or at this timestamp with time "
        "zone (2026-11-22T17:00:00Z). Default: now.",
    ),
]
After = Annotated[
    str | None,
    typer.Option(
        "--after",
        metavar="CURSOR",
        help="The page behind another one: the cursor that was printed with that page.",
    ),
]
ExtensionsOption = Annotated[
    str | None,
    typer.Option(
        "--extensions",
        metavar="MODULE:NAME",
        envvar="EVENTSTORE_EXTENSIONS",
        help="A dict {'events': […], 'projectors': […]} of your own classes, as passed to "
        "EventStore.connect. Without it, your own events cannot be read and the tables of your own "
        "projectors are left out.",
    ),
]


@contextmanager
def open_store(
    database: str | None, extensions: str | None = None, *, jobs: int = 1, worker: bool = False
) -> Iterator[EventStore]:
    """
    Open the store for one command.

    :param extensions: `MODULE:NAME` of a dict of events and projectors, or None.
    :param jobs: how many threads will use it.
    :param worker: True in a worker process, which leaves messages to the main process.
    :raises ConfigurationError: a setting, the URL or `extensions` is wrong.
    :raises UnsafeDatabase: the database would not isolate users.
    :raises Unavailable: the database cannot be reached.
    """
    _log_nothing()
    # One connection is for the command itself.
    settings = load_settings(database, pool_max_size=jobs + 1, pool_min_size=1)
    with EventStore.connect(settings=settings, **_load_extensions(extensions)) as store:
        if not worker:
            _report_default(settings, store)
        yield store


def open_probe(database: str | None) -> EventStore:
    """
    Open a store without the doctor, which takes longer than the question of a probe.

    :raises Unavailable: these and the rest as in `open_store`.
    """
    _log_nothing()
    settings = load_settings(database, pool_max_size=1, pool_min_size=1)
    store = open_unchecked(settings)
    _report_default(settings, store)
    return store


def _report_default(settings: Settings, store: EventStore) -> None:
    if settings.database_url is None:
        sys.stderr.write(f"no database URL is set: using {store.database}\n")


def _log_nothing() -> None:
    # Without a handler, Python prints warnings of a logger to standard error. The command prints
    # the error itself there, and what weakens isolation is for `eventstore doctor` to say.
    for name in ("psycopg", "eventstore"):
        logging.getLogger(name).addHandler(logging.NullHandler())


def diagnose(database: str | None, extensions: str | None) -> tuple[str, Sequence[Finding]]:
    """
    Return the location of the database and the doctor's findings.

    A database that the store refuses to connect to has findings too: those of the refusal.

    :raises ConfigurationError: a setting, the URL or `extensions` is wrong.
    :raises Unavailable: the database cannot be reached.
    """
    try:
        with open_store(database, extensions) as store:
            return store.database, store.doctor()
    except UnsafeDatabase as error:
        # There is no store to ask, because `connect` closed it; the error carries the findings.
        return parse_url(load_settings(database).database_url).display, error.findings


def _load_extensions(reference: str | None) -> dict[str, Any]:
    """Return the events and projectors of `--extensions` as arguments of `EventStore.connect`."""
    extensions = load_object(reference) if reference else {}
    if not isinstance(extensions, dict) or extensions.keys() - {"events", "projectors"}:
        raise ConfigurationError(
            f"--extensions {reference}: is not a dict; give {{'events': […], 'projectors': […]}}"
        )
    return extensions


def load_object(reference: str) -> Any:
    """
    Import `MODULE:NAME`; MODULE may be in the current folder.

    :raises ConfigurationError: the module cannot be imported or lacks the name.
    """
    module_name, _, name = reference.partition(":")
    # Python puts the folder of the installed script on the path, and not the current one.
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    try:
        return getattr(import_module(module_name), name)
    except Exception as error:  # the module's own code may raise anything
        raise ConfigurationError(
            f"{reference}: cannot be imported, {type(error).__name__}: {error}; give MODULE:NAME"
        ) from error


def parse_as_of(text: str | None) -> AsOf:
    """
    Return the position or timestamp that `--as-of` names; None for now.

    :raises InvalidInput: the text is neither.
    """
    if text is None:
        return None
    # A position has at most 19 digits; longer numbers are refused as timestamps are.
    if re.fullmatch(r"\d{1,19}", text):
        return int(text)
    # A timestamp without time zone passes here, and `point_in_time` refuses it with its remedy.
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            "--as-of", f"{text!r}; give a position or a timestamp like 2026-11-22T17:00:00Z"
        ) from None
