"""`eventstore status`: print what the database holds."""

from __future__ import annotations

from dataclasses import asdict

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import print_fields, print_json

__all__ = ["status"]


def status(database: Database = None, *, json: Json = False) -> None:
    """
    Show the server's version, the schema's revision and how much is stored.

    A login without the operator role, such as a service's, is not told how many
    users and events there are.

    Exit status 2 if the database has not been migrated.
    """
    with open_store(database) as store:
        fields = {"database": store.database, **asdict(store.status())}
    if json:
        print_json(fields)
    else:
        print_fields({name: _shown(value) for name, value in fields.items()})


def _shown(value: object) -> object:
    return "(not shown to this login)" if value is None else value
