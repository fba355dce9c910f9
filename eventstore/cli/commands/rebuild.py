"""`eventstore rebuild`: bring the read models in line with the log while users keep writing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, Jobs, Json, OneUser, open_store
from eventstore.cli.output import print_fields, print_json, report_progress
from eventstore.errors import NotFound

__all__ = ["rebuild"]


def rebuild(
    user: OneUser = None,
    jobs: Jobs = 1,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only compare; end with exit status 1 if a row would be changed."
        ),
    ] = False,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Replay each user's events and replace exactly the rows that differ.

    Users keep writing meanwhile; a user's appends wait for milliseconds while
    the rows of that user are replaced. If the command is interrupted, the next
    run continues where it stopped.

    Exit status 1 if the user does not exist, or if a user's log cannot be read
    or stays locked for too long: the rows of that user are unchanged, and all
    other users are rebuilt.
    """
    started = time.monotonic()
    with open_store(database, extensions, jobs=jobs) as store:
        total = 1 if user is not None else len(store.users())
        with report_progress("users", total, quiet=json) as progress:
            rebuilt = store.rebuild(
                user, jobs=jobs, check=check, progress=lambda _: progress.advance()
            )
    if user is not None and not rebuilt.users:
        raise NotFound("user", user)
    fields = asdict(rebuilt) | {"seconds": round(time.monotonic() - started, 3)}
    if json:
        print_json(fields)
    else:
        print_fields(fields)
    if check and rebuilt.changed:
        raise typer.Exit(1)
