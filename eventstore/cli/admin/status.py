"""`eventstore status`: print what the database holds and what goes on in it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from eventstore.admin.status import Status
from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import format_timestamp, pluralize, print_fields, print_json

__all__ = ["status"]

_NOT_SHOWN = "(not shown to this login)"


def status(database: Database = None, *, json: Json = False) -> None:
    """
    Show what is stored, what waits and what runs, as far as the login may see.

    The schema's revision and whether a migration is pending, sizes, the oldest
    transaction; users, events, tool calls and turns that wait, how far a rebuild has
    come, and how far each feed is behind. What a login may not see, such as a
    service's what is about all users, is marked, or null with --json.

    Exit status 2 if the database has not been migrated.
    """
    with open_store(database) as store:
        location, found = store.database, store.status()
    if json:
        print_json({"database": location, **asdict(found)})
    else:
        print_fields({"database": location, **_lines(found)})


def _lines(found: Status) -> dict[str, object]:
    """Return what is printed for people, by field."""
    lines = asdict(found)
    del lines["feeds"]
    revision, oldest = found.revision, found.oldest_transaction_seconds
    if found.migration_pending:
        lines["revision"] = f"{revision}; run `eventstore migrate`"
    lines["oldest_transaction_seconds"] = "(none)" if oldest is None else round(oldest, 1)
    if found.users is None or found.feeds is None:
        lines["feeds"] = None
        return {name: _NOT_SHOWN if value is None else value for name, value in lines.items()}
    for name, value in lines.items():
        if value is None:
            lines[name] = "(none)"
        elif isinstance(value, datetime):
            lines[name] = format_timestamp(value)
    if not found.feeds:
        lines["feeds"] = "(none)"
    for one in found.feeds:
        lines[f"feed {one.name}"] = (
            f"{pluralize(one.users_behind, 'user')} behind by "
            f"{pluralize(one.events_behind, 'event')}, {one.parked:,} parked"
        )
    return lines
