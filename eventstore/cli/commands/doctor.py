"""`eventstore doctor`: what weakens isolation, evidence or durability in this database."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, Json, diagnose
from eventstore.cli.output import console, pluralize, print_json, print_table

__all__ = ["doctor"]


def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit status 1 for warnings too.")
    ] = False,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Look at logins, roles, row-level security, triggers, rights and settings; change nothing.

    An error means that the store refuses to connect: users would not be kept apart. A warning means
    that something weaker than promised is relied upon. Exit status 1 if there is an error.
    """
    place, found = diagnose(database, extensions)
    ok = not any(strict or one.severity == "error" for one in found)
    if json:
        findings = [asdict(one) for one in found]
        print_json({"database": place, "ok": ok, "findings": findings})
    else:
        if found:
            print_table(
                ("", "check", "where", "what", "remedy"),
                ((one.severity, one.check, one.location, one.detail, one.remedy) for one in found),
            )
        errors = sum(one.severity == "error" for one in found)
        console.print(
            f"{place}: {pluralize(errors, 'error')}, {pluralize(len(found) - errors, 'warning')}"
            if found
            else f"{place}: all is well",
            markup=False,
        )
    if not ok:
        raise typer.Exit(1)
