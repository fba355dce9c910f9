"""`eventstore erase`: remove a user's content for good, and keep the evidence of the erasure."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, Json, User, open_store
from eventstore.cli.output import (
    confirm,
    print_fields,
    print_json,
    report_progress,
    warn_unreached,
)
from eventstore.errors import InvalidInput

__all__ = ["erase"]


def erase(
    user: User,
    ordered_by: Annotated[
        str,
        typer.Option(
            "--ordered-by",
            metavar="WHO",
            help="Who ordered the erasure, up to 500 characters; recorded in the log.",
        ),
    ],
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation",
            metavar="ID_OR_KEY",
            help="Only the conversation with this id or key, without the tasks it led to. "
            "Default: all content of the user.",
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(
            "--reason",
            metavar="TEXT",
            help="The reason, up to 500 characters; recorded in the log.",
        ),
    ] = None,
    leave: Annotated[
        list[str] | None,
        typer.Option(
            "--leave",
            metavar="TABLE",
            help="A table of your own (schema.table) whose rows of the user may stay; "
            "may be repeated.",
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="Do not ask for confirmation; required if there is no terminal."
        ),
    ] = False,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Remove a user's content from the log and the tables for good.

    Positions, types, times, digests and hashes stay, so `verify` still passes
    and counts the erased events. Time, author and reason of the erasure are
    recorded in the log. Of a user with more than 25,000 events, or 5,000 tasks
    and conversations, some go at a time; after an error run it again, and it
    goes on. Backups, replicas and branches of the database are out of reach.
    Run `export` first if the user wants a copy.

    Exit status 1 if the user or the conversation does not exist, if the login
    lacks the eraser role, or if the question is answered with no; 2 if a table
    of your own holds rows of the user and neither --extensions nor --leave
    covers it.
    """
    content = f"everything of {user}" if conversation is None else f"{conversation} of {user}"
    if not (yes or sys.stdin.isatty()):
        raise InvalidInput("--yes", "is missing: there is no terminal to ask on")
    with open_store(database, extensions) as store:
        if not yes:
            question = f"Erase {content} in {store.database} for good? It cannot be undone."
            if not confirm(question):
                raise typer.Exit(1)
        with report_progress("events", None, quiet=json) as progress:
            erasure = store.erase(
                user,
                ordered_by=ordered_by,
                conversation=conversation,
                reason=reason,
                leave=leave or (),
                seen=progress.advance,
            )
    warn_unreached(erasure.unreached, "erased")
    if json:
        print_json(asdict(erasure))
    else:
        print_fields(asdict(erasure) | {"unreached": ", ".join(erasure.unreached)})
