"""`eventstore verify`: check the log for changes, and the read models against the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from eventstore.admin.verify import Problem, Verified
from eventstore.cli.options import Database, ExtensionsOption, Jobs, Json, OneUser, open_store
from eventstore.cli.output import (
    console,
    format_timestamp,
    pluralize,
    print_error,
    print_json,
    print_table,
    print_warning,
    report_progress,
)
from eventstore.cli.parallel import run_parallel, shares_of, start_workers
from eventstore.errors import InvalidInput, NotFound, UnsafeDatabase
from eventstore.log.anchors import Anchor, read_anchor
from eventstore.store.store import EventStore

__all__ = ["problem_json", "verify"]


def verify(
    user: OneUser = None,
    jobs: Jobs = 1,
    anchor_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--anchor",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Compare the log with a file that `eventstore anchor` wrote earlier; may be "
            "repeated.",
        ),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key",
            exists=True,
            dir_okay=False,
            help="Require that the anchors are signed with the private key of this Ed25519 public "
            "key (PEM). Needs --anchor and the extra `signing`.",
        ),
    ] = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Recompute each user's hash chain, and compare every row with the replay.

    With --anchor, verify also finds a recomputed hash chain, a log whose end was
    cut off and a restored older backup. It writes nothing and may run while users
    write.

    Exit status 1 if there is a problem (each is listed with its position or row),
    if the user does not exist, or if verify might not be shown every row; 2 if an
    anchor is damaged or is not signed with the key.
    """
    if public_key is not None and not anchor_files:
        raise InvalidInput("--public-key", "needs --anchor FILE, because it checks the anchors")
    key = None if public_key is None else public_key.read_bytes()
    anchors = [read_anchor(path, public_key=key) for path in anchor_files or ()]
    if any(anchor.unchecked for anchor in anchors):
        print_warning("a signature was not checked; give --public-key FILE")
    with (
        _exit_if_rows_may_be_hidden(),
        start_workers(1 if user is not None else jobs) as workers,
        open_store(database, extensions) as store,
    ):
        # Users in an anchor are verified too, because every row of a user may have been deleted.
        anchored = {name for anchor in anchors for name in anchor.heads}
        users = [user] if user is not None else sorted({*store.users(), *anchored})
        # Counted in events and not in users: a single log may be the longest part of the work.
        total = store.status().events if user is None else None
        with report_progress("events", total, quiet=json) as progress:
            if workers is None:
                verified = store.verify(user, anchors=anchors, seen=progress.advance)
            else:
                shares = [
                    (share, [_restrict(anchor, share) for anchor in anchors])
                    for share in shares_of(users, jobs)
                ]
                results = run_parallel(
                    workers,
                    _verify_share,
                    shares,
                    database=database,
                    extensions=extensions,
                    advance=progress.advance,
                )
                verified = sum(results, start=Verified())
    if user is not None and not verified.users:
        raise NotFound("user", user)
    if json:
        print_json(_verified_json(verified, anchors))
    else:
        _print(verified, anchors)
    if not verified.ok:
        raise typer.Exit(1)


def _restrict(anchor: Anchor, users: Sequence[str]) -> Anchor:
    """Return the anchor with the heads of these users only, because it is sent to a worker."""
    heads = {user: anchor.heads[user] for user in users if user in anchor.heads}
    return Anchor(anchor.taken_at, heads, anchor.signed)


def _verify_share(
    store: EventStore,
    share: tuple[list[str], list[Anchor]],
    seen: Callable[[int], object],
) -> Verified:
    users, anchors = share
    # Not `EventStore.verify`, which refuses ids that only tampering puts into a table or an anchor.
    plan = store._plans.verify_users(users, anchors=anchors, seen=seen, listed=True)  # noqa: SLF001 - see the line above
    return store._driver.run(plan)  # noqa: SLF001 - likewise


@contextmanager
def _exit_if_rows_may_be_hidden() -> Iterator[None]:
    """
    Exit with status 1 if the doctor finds that verify might not be shown every row.

    Hidden rows are a sign of tampering. So they are an answer of verify and not wrong use, which is
    what any other command makes of an unsafe database.
    """
    try:
        yield
    except UnsafeDatabase as error:
        if any(one.check == "reading" and one.severity == "error" for one in error.findings):
            print_error(error)
            raise typer.Exit(1) from None
        raise


def _verified_json(verified: Verified, anchors: Sequence[Anchor]) -> dict[str, Any]:
    return {
        "users": verified.users,
        "events": verified.events,
        "erased": verified.erased,
        "anchors": verified.anchors,
        "anchored": verified.anchored,
        "anchored_at": max((anchor.taken_at for anchor in anchors), default=None),
        "ok": verified.ok,
        "problems": [problem_json(problem) for problem in verified.problems],
    }


def _print(verified: Verified, anchors: Sequence[Anchor]) -> None:
    if verified.problems:
        print_table(
            ("problem", "user", "location", "detail"),
            ((one.kind, one.user_id, _location(one), one.detail) for one in verified.problems),
        )
    console.print(
        f"{pluralize(verified.users, 'user')}, {pluralize(verified.events, 'event')}"
        + (f", {verified.erased:,} of them erased" if verified.erased else "")
        + (f", {pluralize(verified.anchors, 'anchored head')} found again" if anchors else "")
        + ": "
        + ("all is well" if verified.ok else pluralize(len(verified.problems), "problem"))
    )
    if anchors:
        newest = format_timestamp(max(anchor.taken_at for anchor in anchors))
        unconfirmed = pluralize(verified.events - verified.anchored, "event")
        console.print(
            f"the newest anchor was taken {newest} UTC; {unconfirmed} confirmed by no anchor"
        )


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem as `verify --json` prints it: with a position, or with table and key."""
    location: dict[str, Any] = {"position": problem.position}
    if problem.table is not None and problem.key is not None:
        key = problem.key
        location = {"table": problem.table, "key": key[0] if len(key) == 1 else list(key)}
    return {"kind": problem.kind, "user_id": problem.user_id, **location, "detail": problem.detail}


def _location(problem: Problem) -> str:
    if problem.table is not None and problem.key is not None:
        return f"{problem.table} {', '.join(problem.key)}"
    return f"position {problem.position}"
