"""`eventstore status`: print what the database holds."""

from __future__ import annotations

from dataclasses import asdict

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import print_fields, print_json

__all__ = ["status"]


def status(database: Database = None, *, json: Json = False) -> None:
    """
    Show the server's version, the schema's revision and how much is stored.

    Exit status 1 if the login lacks the operator role; 2 if the database has not
    been migrated.
    """
    with open_store(database) as store:
        fields = {"database": store.database, **asdict(store.status())}
    if json:
        print_json(fields)
    else:
        print_fields(fields)
