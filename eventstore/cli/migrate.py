"""`eventstore migrate`: bring the schema to the newest revision, or to another."""

from __future__ import annotations

from typing import Annotated

import typer

from eventstore.cli.options import Database, Json
from eventstore.cli.output import console, print_json
from eventstore.database.settings import load_settings
from eventstore.errors import InvalidInput

__all__ = ["migrate"]


def migrate(
    revision: Annotated[
        str | None, typer.Argument(help="The revision to go to; default head.")
    ] = None,
    *,
    down: Annotated[
        bool, typer.Option("--down", help="Downgrade to REVISION (or `base`) instead.")
    ] = False,
    database: Database = None,
    json: Json = False,
) -> None:
    """
    Create or upgrade the schema, with the rights of the URL's login.

    Safe to run from every process that deploys: one migrates, the others wait and find it done.
    Give the direct URL, not a pooler's. A downgrade never destroys recorded events.
    """
    from eventstore.store.migrate import (  # noqa: PLC0415 - Alembic is slow to import and seldom needed
        current_revision,
        downgrade,
        upgrade,
    )

    if revision == "" or (down and revision is None):
        raise InvalidInput("REVISION", "is missing; name one, or `base` for nothing")
    settings = load_settings(database)
    before = current_revision(settings)
    if down and revision is not None:
        downgrade(settings, revision)
    else:
        upgrade(settings, revision or "head")
    after = current_revision(settings)
    if json:
        print_json({"before": before, "after": after})
    elif before == after:
        console.print(f"the schema is at revision {after}; nothing to do")
    else:
        console.print(f"the schema went from {before or 'nothing'} to {after or 'nothing'}")
