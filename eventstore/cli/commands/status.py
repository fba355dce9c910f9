"""`eventstore status`: what the database holds."""

from __future__ import annotations

from dataclasses import asdict

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import print_facts, print_json

__all__ = ["status"]


def status(database: Database = None, *, json: Json = False) -> None:
    """Show the server, the schema's revision, and how much is stored."""
    with open_store(database) as store:
        facts = {"database": store.database, **asdict(store.status())}
    if json:
        print_json(facts)
    else:
        print_facts(facts)
