"""`eventstore migrate`: bring the schema to the newest revision, or to another."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from eventstore.cli.options import Database, Json
from eventstore.cli.output import console, print_json
from eventstore.database.settings import load_settings
from eventstore.errors import InvalidInput

__all__ = ["migrate"]


def migrate(
    revision: Annotated[
        str | None, typer.Argument(help="The revision to migrate to; default head.")
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

    Every process that deploys may run it: one migrates, the others wait and
    find it done. Give the direct URL, not a pooler's. A downgrade never destroys
    recorded events.

    Exit status 1 if the login lacks a right; 2 if there is no such revision, the
    URL is a pooler's, or a downgrade would destroy recorded events; 3 if a table
    stays locked by a long transaction. A revision that fails changes nothing.
    """
    # Alembic takes long to import and few commands need it.
    from eventstore.schema.migrate import downgrade, upgrade  # noqa: PLC0415 - see the line above

    if revision == "" or (down and revision is None):
        raise InvalidInput("REVISION", "is missing; name one, or `base` for nothing")
    settings = load_settings(database)
    if down and revision is not None:
        done = downgrade(settings, revision, waiting=_report_waiting)
    else:
        done = upgrade(settings, revision or "head", waiting=_report_waiting)
    if json:
        print_json({"before": done.before, "after": done.after})
    elif done.before == done.after:
        console.print(f"the schema is at revision {done.after}; nothing to do")
    else:
        console.print(
            f"the schema went from {done.before or 'nothing'} to {done.after or 'nothing'}"
        )


def _report_waiting() -> None:
    sys.stderr.write("another process is migrating this database; waiting for it to finish\n")
