"""`eventstore tail`: the newest events of one user, and those that follow."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from eventstore.cli.options import Database, ExtensionsOption, Json, User, open_store
from eventstore.cli.output import console, print_json, printable, when
from eventstore.events.json_codec import dumps
from eventstore.log.envelope import RecordedEvent

__all__ = ["event_json", "tail"]

_WIDTH = 100


def tail(
    user: User,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many to begin with.")
    ] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Wait for more until interrupted.")
    ] = False,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only these stored types; repeatable.")
    ] = None,
    interval_seconds: Annotated[
        float,
        typer.Option(
            "--interval",
            min=0.05,
            help="Seconds between looks; polling also works "
            "through poolers, where notifications do not.",
        ),
    ] = 1.0,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """Print a user's newest events, one a line (with --json one object a line)."""
    with open_store(database, extensions) as store:
        view = store.user(user)
        newest = view.events(types=types, backward=True, limit=lines)[::-1]
        last = view.events(backward=True, limit=1)
        position = newest[-1].position if newest else (last[0].position if last else 0)
        _print(newest, json=json)
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
        "recorded_at": event.recorded_at,
    }


def _print(events: list[RecordedEvent], *, json: bool) -> None:
    for event in events:
        if json:
            print_json(event_json(event))
            continue
        data = printable("(erased)" if event.erased else dumps(event.data.to_payload()))
        shown = data if len(data) <= _WIDTH else data[: _WIDTH - 1] + "…"
        console.print(
            f"{event.position:>8}  {when(event.recorded_at)}  {event.type:<22} {shown}",
            markup=False,
        )
