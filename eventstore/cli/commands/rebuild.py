"""`eventstore rebuild`: make the read models what the log says, while users keep writing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, Jobs, Json, OneUser, open_store
from eventstore.cli.output import print_facts, print_json, ticker
from eventstore.errors import NotFound

__all__ = ["rebuild"]


def rebuild(
    user: OneUser = None,
    jobs: Jobs = 1,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare only; exit status 1 if anything would change."),
    ] = False,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Replay each user's events and replace exactly the rows that differ.

    Users keep writing meanwhile; only the one being finished waits, for milliseconds. Interrupted,
    the next run goes on where this one stopped.
    """
    started = time.monotonic()
    with open_store(database, extensions, jobs=jobs) as store:
        total = 1 if user is not None else len(store.users())
        with ticker("users", total, quiet=json) as bar:
            done = store.rebuild(user, jobs=jobs, check=check, progress=lambda _: bar.advance())
    if user is not None and not done.users:
        raise NotFound("user", user)
    facts = asdict(done) | {"seconds": round(time.monotonic() - started, 3)}
    if json:
        print_json(facts)
    else:
        print_facts(facts)
    if check and done.changed:
        raise typer.Exit(1)
