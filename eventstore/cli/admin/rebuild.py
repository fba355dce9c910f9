"""`eventstore rebuild`: bring the read models in line with the log while users keep writing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from eventstore.admin.plans import sum_of_shares
from eventstore.cli.options import Database, ExtensionsOption, Jobs, Json, OneUser, open_store
from eventstore.cli.output import format_timestamp, print_fields, print_json, report_progress
from eventstore.cli.parallel import run_parallel, shares_of, start_workers
from eventstore.errors import NotFound
from eventstore.store.store import EventStore
from projections.rebuild.rebuild import Rebuilt, Share

__all__ = ["rebuild"]


def rebuild(
    user: OneUser = None,
    jobs: Jobs = 1,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only compare; end with exit status 1 if a row would be changed."
        ),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin with every user; do not resume a rebuild."),
    ] = False,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Replay each user's events and replace exactly the rows that differ.

    Users keep writing meanwhile; a user's appends wait for milliseconds while
    the rows of that user are replaced. If the command is interrupted, the next
    run continues where it stopped, unless projectors or tables have changed.

    Exit status 1 if the user does not exist, or if a user's log cannot be read
    or stays locked for too long: the rows of that user are unchanged, and all
    other users are rebuilt.
    """
    started = time.monotonic()
    with (
        start_workers(1 if user is not None else jobs) as workers,
        open_store(database, extensions) as store,
    ):
        users = [user] if user is not None else store.users()
        with report_progress("users", len(users), quiet=json) as progress:
            if workers is None:
                rebuilt = store.rebuild(
                    user, check=check, restart=restart, progress=lambda _: progress.advance()
                )
            else:
                before = Rebuilt()
                if not check:  # the workers take part in one rebuild
                    prepare = store._plans.prepare_rebuild(restart=restart)  # noqa: SLF001 - see above
                    before = store._driver.run(prepare)  # noqa: SLF001 - likewise
                done = run_parallel(
                    workers,
                    _check_share if check else _rebuild_share,
                    # Rebuilding workers take users from `rebuild_progress` and ignore their share.
                    shares_of(users, jobs) if check else [users] * jobs,
                    database=database,
                    extensions=extensions,
                    advance=progress.advance,
                )
                rebuilt = sum_of_shares([(before, {}), *done])
    if user is not None and not rebuilt.users:
        raise NotFound("user", user)
    fields = asdict(rebuilt) | {"seconds": round(time.monotonic() - started, 3)}
    if not json:
        del fields["since"]
        if rebuilt.since is not None:
            fields["resumed"] = f"{rebuilt.resumed} (since {format_timestamp(rebuilt.since)})"
    if json:
        print_json(fields)
    else:
        print_fields(fields)
    if check and rebuilt.changed:
        raise typer.Exit(1)


def _rebuild_share(store: EventStore, _: list[str], advance: Callable[[int], object]) -> Share:
    plan = store._plans.rebuild_share(lambda _: advance(1))  # noqa: SLF001 - a part of a rebuild is for workers only
    return store._driver.run(plan)  # noqa: SLF001 - likewise


def _check_share(store: EventStore, users: list[str], advance: Callable[[int], object]) -> Share:
    plan = store._plans.check_share(users, progress=lambda _: advance(1))  # noqa: SLF001 - likewise
    return store._driver.run(plan)  # noqa: SLF001 - likewise
