"""`eventstore erase`: remove a user's content for good, and keep the evidence that it was there."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, Json, User, open_store
from eventstore.cli.output import confirm, print_facts, print_json, tell_unreached
from eventstore.errors import InvalidInput

__all__ = ["erase"]


def erase(
    user: User,
    ordered_by: Annotated[
        str,
        typer.Option("--ordered-by", metavar="WHO", help="Who gave the order; put on record."),
    ],
    conversation: Annotated[
        str | None,
        typer.Option(
            "--conversation", metavar="ID_OR_KEY", help="Only this one; default everything."
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Put on record too.")
    ] = None,
    leave: Annotated[
        list[str] | None,
        typer.Option(
            "--leave",
            metavar="TABLE",
            help="A table of your own whose rows of the user may stay; repeatable.",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; needed where there is no terminal.")
    ] = False,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Remove what a user said and did from the log and the tables, for good.

    Positions, types, times, digests and hashes stay, so `verify` stays clean and says what is
    erased; that it happened, when and by whose order, is recorded in the log. Backups, replicas and
    branches are copies that this does not reach. Export first, if the user wants a copy.
    """
    what = f"everything of {user}" if conversation is None else f"{conversation} of {user}"
    if not (yes or sys.stdin.isatty()):
        raise InvalidInput("--yes", "is missing: there is no terminal to ask on")
    with open_store(database, extensions) as store:
        if not yes:
            question = f"Erase {what} in {store.database} for good? It cannot be undone."
            if not confirm(question):
                raise typer.Exit(1)
        done = store.erase(
            user,
            ordered_by=ordered_by,
            conversation=conversation,
            reason=reason,
            leave=leave or (),
        )
    tell_unreached(done.unreached, "erased")
    if json:
        print_json(asdict(done))
    else:
        print_facts(asdict(done) | {"unreached": ", ".join(done.unreached)})
