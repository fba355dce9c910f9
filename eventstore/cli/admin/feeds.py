"""`eventstore feeds`: show how far feeds are, and let users go on who wait behind an event."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import (
    format_timestamp,
    print_fields,
    print_json,
    print_table,
    shorten,
)
from eventstore.errors import InvalidInput, NotFound
from eventstore.store.store import EventStore

__all__ = ["feeds"]

_WIDTH = 100

_User = Annotated[
    str | None,
    typer.Option("--user", metavar="USER", help="Whose event --retry or --skip is about."),
]
_Retry = Annotated[
    str | None,
    typer.Option("--retry", metavar="FEED", help="Try failed events again at once."),
]
_Skip = Annotated[
    str | None,
    typer.Option(
        "--skip", metavar="FEED", help="Go on behind the failed event of --user at --position."
    ),
]
_Position = Annotated[
    int | None, typer.Option("--position", help="Of the event to skip, as it is listed.", min=1)
]
_Remove = Annotated[
    str | None,
    typer.Option("--remove", metavar="FEED", help="Forget how far a feed is: it begins anew."),
]


def feeds(
    user: _User = None,
    retry: _Retry = None,
    skip: _Skip = None,
    position: _Position = None,
    remove: _Remove = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Show how far each feed is, and the events at which its handler failed.

    A parked event is not tried again by itself, and its user's further events wait
    for it: --retry it once the cause is gone, or --skip it.

    Exit status 1 if there is no such feed or failed event.
    """
    if sum(one is not None for one in (retry, skip, remove)) > 1:
        raise InvalidInput("--retry", "not together with --skip or --remove")
    if skip is not None and (user is None or position is None):
        raise InvalidInput("--skip", "needs the --user whose event it is, and its --position")
    if position is not None and skip is None:
        raise InvalidInput("--position", "goes with --skip")
    if user is not None and retry is None and skip is None:
        raise InvalidInput("--user", "goes with --retry or --skip")
    with open_store(database) as store:
        if user is None and (named := retry or remove) is not None:
            _require_known(store, named)
        if retry is not None:
            done: dict[str, object] = {"retried": store.retry_failed(retry, user)}
        elif skip is not None and user is not None and position is not None:
            done = {"skipped": store.skip_failed(skip, user, position)}
        elif remove is not None:
            store.remove_feed(remove)
            done = {"removed": remove}
        else:
            _show(store, json=json)
            return
    if json:
        print_json(done)
    else:
        print_fields(done)


def _require_known(store: EventStore, feed: str) -> None:
    if feed not in [one.name for one in store.feeds()]:
        raise NotFound("feed", feed)


def _show(store: EventStore, *, json: bool) -> None:
    found, failed = store.feeds(), store.failed_deliveries()
    if json:
        by_feed = {
            one.name: [asdict(each) for each in failed if each.feed == one.name] for one in found
        }
        print_json([asdict(one) | {"failed": by_feed[one.name]} for one in found])
        return
    print_table(
        ("feed", "users behind", "events behind", "parked"),
        ((one.name, one.users_behind, one.events_behind, one.parked) for one in found),
        empty="no feeds",
    )
    if failed:
        print_table(
            ("feed", "user", "position", "type", "failures", "failed at", "", "error"),
            (
                (
                    one.feed,
                    one.user_id,
                    one.position,
                    one.type,
                    one.failures,
                    format_timestamp(one.failed_at),
                    "parked" if one.parked else "will be tried",
                    shorten(one.error, _WIDTH),
                )
                for one in failed
            ),
        )
