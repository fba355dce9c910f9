"""`eventstore health`: whether the database can serve, for probes and scripts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict

import typer

from eventstore.cli.options import Database, Json, open_probe
from eventstore.cli.output import console, print_json

__all__ = ["health"]


def health(database: Database = None, *, json: Json = False) -> None:
    """
    Ask whether the database can serve, with the login of the service.

    One question, whatever is stored: server, login, role, schema, and whether
    it takes writes. It does not run the doctor.

    Exit status 1 if a migration is pending or the server takes no writes; 2 if the
    login is refused or the database was not migrated; 3 if it cannot be reached.
    """
    with closing(open_probe(database)) as store:
        found, location = store.health(), store.database
    if json:
        print_json({"database": location, "ok": found.ok, **asdict(found)})
    else:
        facts = [
            f"the schema is at revision {found.revision}"
            + (f", and this release needs {found.head}" if found.migration_pending else ""),
            *(["the server takes no writes"] if found.read_only else []),
            f"answered in {found.seconds * 1000:.0f} ms",
        ]
        verdict = "ok" if found.ok else "NOT OK"
        console.print(f"{location}: {verdict}; {'; '.join(facts)}", markup=False)
    if not found.ok:
        raise typer.Exit(1)
