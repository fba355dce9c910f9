"""`eventstore tail`: print the newest events of one user, and wait for further ones."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from eventstore.cli.options import After, Database, ExtensionsOption, Json, User, open_store
from eventstore.cli.output import console, format_timestamp, print_json, report_more, shorten
from eventstore.errors import InvalidInput
from eventstore.events.json_codec import dumps
from eventstore.log.envelope import RecordedEvent

__all__ = ["event_json", "tail"]

_WIDTH = 100


def tail(
    user: User,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many events to print first.")
    ] = 10,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Keep printing new events until interrupted."),
    ] = False,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type", help="Only events of this type, by its stored name; may be repeated."
        ),
    ] = None,
    interval_seconds: Annotated[
        float,
        typer.Option(
            "--interval",
            min=0.05,
            help="Seconds between two queries of --follow. The command polls, because "
            "notifications do not pass through poolers.",
        ),
    ] = 1.0,
    after: After = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Print a user's newest events, oldest first, one event per line.

    The time is when it happened. With --after, those that came before the ones of
    another page. With --json, each line is one object, which tells when it was
    recorded as well. For a user who does not exist nothing is printed. Exit status 1
    if an event cannot be read, for example because its class is not in --extensions.
    """
    if follow and after is not None:
        raise InvalidInput("--after", "not together with --follow, which goes on at the end")
    with open_store(database, extensions) as store:
        view = store.user(user)
        # If no event is printed first, --follow begins at the end of the log. It is read first, so
        # that what is recorded between the two reads is followed.
        last = view.events(backward=True, limit=1)
        # Read from the end, because from the start it would be the whole log, however long.
        page = view.events(types=types, backward=True, limit=lines, after=after)
        newest = page[::-1]
        position = newest[-1].position if newest else (last[0].position if last else 0)
        _print(newest, json=json)
        if not follow:
            report_more(page)
        while follow:
            time.sleep(interval_seconds)
            more = view.events(types=types, after=position)
            _print(more, json=json)
            position = more[-1].position if more else position


def event_json(event: RecordedEvent) -> dict[str, Any]:
    """Return an event as `tail --json` prints it."""
    return {
        "user_id": event.user_id,
        "position": event.position,
        "stream_id": event.stream_id,
        "version": event.version,
        "event_id": event.event_id,
        "type": event.type,
        "data": None if event.erased else event.data.to_payload(),
        "metadata": event.metadata,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "occurred_at": event.occurred_at,
        "recorded_at": event.recorded_at,
    }


def _print(events: list[RecordedEvent], *, json: bool) -> None:
    for event in events:
        if json:
            print_json(event_json(event))
            continue
        data = "(erased)" if event.erased else dumps(event.data.to_payload())
        line = (
            f"{event.position:>8}  {format_timestamp(event.occurred_at)}  "
            f"{event.type:<22} {shorten(data, _WIDTH)}"
        )
        # On a terminal an event is one line of its width; elsewhere the width is unlimited.
        console.print(line, markup=False, no_wrap=True, overflow="ellipsis", soft_wrap=False)
