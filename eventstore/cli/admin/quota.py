"""`eventstore quota`: show or set how many events a user's log may hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, Json, User, open_store
from eventstore.cli.output import print_fields, print_json
from eventstore.errors import InvalidInput

__all__ = ["quota"]


def quota(
    user: User,
    events: Annotated[
        int | None,
        typer.Option("--events", min=0, help="How many events the log may hold from now on."),
    ] = None,
    none: Annotated[
        bool, typer.Option("--none", help="Let the user append without a limit.")
    ] = False,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Show or set how many events a user's log may hold.

    What would exceed it is refused and nothing of it is written; reading and
    erasing go on. A limit below what the log holds stops all further appends.

    Exit status 1 if the user has no log, or if the login lacks the operator role.
    """
    if none and events is not None:
        raise InvalidInput("--none", "not together with --events")
    with open_store(database) as store:
        changed = none or events is not None
        found = store.set_quota(user, events) if changed else store.quota(user)
    if json:
        print_json(asdict(found))
    else:
        print_fields(asdict(found) | ({"limit": "(none)"} if found.limit is None else {}))
