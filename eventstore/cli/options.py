"""Options that several commands share, and what they mean."""

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

from eventstore.database.settings import load_settings, parse_url
from eventstore.errors import ConfigurationError, InvalidInput, UnsafeDatabase
from eventstore.schema.findings import Finding
from eventstore.store.context import AsOf
from eventstore.store.store import EventStore

__all__ = [
    "AsOfOption",
    "Database",
    "ExtensionsOption",
    "Jobs",
    "Json",
    "OneUser",
    "User",
    "diagnose",
    "load_object",
    "open_store",
    "parse_as_of",
]

Database = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="postgresql://… or embedded:PATH. Default: EVENTSTORE_DATABASE_URL, or a server of "
        "its own in your data folder.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
User = Annotated[str, typer.Option("--user", metavar="USER", help="Whose data.")]
OneUser = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="Only this user; default all.")
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, max=64, help="Users at once.")]
AsOfOption = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="POSITION_OR_TIME",
        help="As it was at a position of the user's log, or at an instant with time zone "
        "(2026-11-22T17:00:00Z).",
    ),
]
ExtensionsOption = Annotated[
    str | None,
    typer.Option(
        "--extensions",
        metavar="MODULE:NAME",
        envvar="EVENTSTORE_EXTENSIONS",
        help="A dict of your own {'events': […], 'projectors': […]}, as passed to "
        "EventStore.connect: without it your own events cannot be read, and tables of your own "
        "projectors are left out.",
    ),
]


@contextmanager
def open_store(
    database: str | None, extensions: str | None = None, *, jobs: int = 1, helper: bool = False
) -> Iterator[EventStore]:
    """
    Open the store for one command, with a connection for every job.

    :param helper: it is for a process that helps another, which has said all there is to say.
    """
    for name in ("psycopg", "eventstore") if helper else ("psycopg",):  # our errors say it
        logging.getLogger(name).addHandler(logging.NullHandler())
    settings = load_settings(database, pool_max_size=max(jobs + 1, 2))
    with EventStore.connect(settings=settings, **_given(extensions)) as store:
        if settings.database_url is None and not helper:
            sys.stderr.write(f"no database URL is set: using {store.database}\n")
        yield store


def diagnose(database: str | None, extensions: str | None) -> tuple[str, Sequence[Finding]]:
    """Return where the database is and what is wrong there, also if connecting is refused."""
    try:
        with open_store(database, extensions) as store:
            return store.database, store.doctor()
    except UnsafeDatabase as error:
        return parse_url(load_settings(database).database_url).display, error.findings


def _given(extensions: str | None) -> dict[str, Any]:
    """Return the events and projectors of `--extensions`, as `EventStore.connect` takes them."""
    given = load_object(extensions) if extensions else {}
    if not isinstance(given, dict) or given.keys() - {"events", "projectors"}:
        raise ConfigurationError(
            f"--extensions {extensions}: is not a dict of events and projectors; see docs/cli.md"
        )
    return given


def load_object(place: str) -> Any:
    """
    Import `MODULE:NAME`, the current folder included.

    :raises ConfigurationError: the module cannot be imported or lacks the name.
    """
    module_name, _, name = place.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(import_module(module_name), name)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigurationError(
            f"{place}: {type(error).__name__}: {error}; give MODULE:NAME"
        ) from error


def parse_as_of(text: str | None) -> AsOf:
    """Return the moment that `--as-of` names."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,19}", text):  # more digits than a position has
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            "--as-of", f"{text!r}; give a position or an instant like 2026-11-22T17:00:00Z"
        ) from None
