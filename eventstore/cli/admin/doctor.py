"""`eventstore doctor`: check a database for weak isolation, evidence and durability."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, Json, diagnose
from eventstore.cli.output import console, pluralize, print_json, print_table

__all__ = ["doctor"]


def doctor(
    strict: Annotated[
        bool, typer.Option("--strict", help="End with exit status 1 for warnings too.")
    ] = False,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Check logins, roles, row-level security, triggers and settings; change nothing.

    Give it the URL that the service uses, because the rights of that login are
    checked too. An error means that users would not be isolated, and the store
    refuses to connect. A warning means that a promise of the store is weaker in
    this database. Each finding comes with its remedy.

    Exit status 1 if there is an error, with --strict also if there is a warning.
    """
    location, findings = diagnose(database, extensions)
    ok = not any(strict or finding.severity == "error" for finding in findings)
    if json:
        print_json({"database": location, "ok": ok, "findings": [asdict(one) for one in findings]})
    else:
        if findings:
            print_table(
                ("", "check", "location", "finding", "remedy"),
                (
                    (one.severity, one.check, one.location, one.detail, one.remedy)
                    for one in findings
                ),
            )
        errors = sum(finding.severity == "error" for finding in findings)
        warnings = len(findings) - errors
        console.print(
            f"{location}: {pluralize(errors, 'error')}, {pluralize(warnings, 'warning')}"
            if findings
            else f"{location}: all is well",
            markup=False,
        )
    if not ok:
        raise typer.Exit(1)
