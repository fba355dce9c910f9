"""`eventstore verify`: the log against itself and anchors, the read models against the log."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from eventstore.admin.verify import Problem, Verified
from eventstore.cli.commands.verify_parallel import verify_parallel
from eventstore.cli.options import Database, ExtensionsOption, Json, OneUser, open_store
from eventstore.cli.output import (
    console,
    pluralize,
    print_json,
    print_table,
    printable,
    ticker,
    when,
)
from eventstore.errors import InvalidInput, NotFound, UnsafeDatabase
from eventstore.log.anchors import Anchor, read_anchor

__all__ = ["problem_json", "verify"]


def verify(
    user: OneUser = None,
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, max=64, help="Processes that share the users.")
    ] = 1,
    anchors: Annotated[
        list[Path] | None,
        typer.Option(
            "--anchor",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Compare with what `eventstore anchor` wrote before; repeatable.",
        ),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option(
            "--public-key",
            exists=True,
            dir_okay=False,
            help="The anchors must be signed by the owner of this Ed25519 key (PEM).",
        ),
    ] = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Recompute positions, versions and the hash chain, and compare every row with the replay.

    With --anchor, also find what a recomputed chain, a cut tail or an older backup would hide.
    Writes nothing and may run while users write. Exit status 1 if anything is wrong; each problem
    is named with its place.
    """
    if public_key is not None and not anchors:
        raise InvalidInput("--public-key", "needs --anchor FILE: it is anchors that are signed")
    key = None if public_key is None else public_key.read_bytes()
    kept = [read_anchor(path, public_key=key) for path in anchors or ()]
    if any(anchor.unchecked for anchor in kept):
        sys.stderr.write("warning: a signature was not checked; give --public-key FILE\n")
    with _answering(), open_store(database, extensions) as store:
        anchored = {name for anchor in kept for name in anchor.heads}
        users = [user] if user is not None else sorted({*store.users(), *anchored})
        total = store.status().events if user is None else None
        with ticker("events", total, quiet=json) as bar:
            if jobs == 1 or len(users) == 1:
                found = store.verify(user, anchors=kept, seen=bar.advance)
            else:
                found = verify_parallel(
                    users,
                    kept,
                    jobs,
                    database=database,
                    extensions=extensions,
                    advance=bar.advance,
                )
    if user is not None and not found.users:
        raise NotFound("user", user)
    if json:
        print_json(_verified_json(found, kept))
    else:
        _print(found, kept)
    if not found.ok:
        raise typer.Exit(1)


@contextmanager
def _answering() -> Iterator[None]:
    """Say no, with status 1, where verify would not be shown what others are: that is tampering."""
    try:
        yield
    except UnsafeDatabase as error:
        if any(one.check == "reading" and one.severity == "error" for one in error.findings):
            sys.stderr.write(f"error: {printable(str(error))}\n")
            raise typer.Exit(1) from None
        raise


def _verified_json(found: Verified, kept: Sequence[Anchor]) -> dict[str, Any]:
    return {
        "users": found.users,
        "events": found.events,
        "erased": found.erased,
        "anchors": found.anchors,
        "anchored": found.anchored,
        "anchored_at": max((one.taken_at for one in kept), default=None),
        "ok": found.ok,
        "problems": [problem_json(one) for one in found.problems],
    }


def _print(found: Verified, kept: Sequence[Anchor]) -> None:
    if found.problems:
        print_table(
            ("problem", "user", "where", "detail"),
            ((one.kind, one.user_id, _where(one), one.detail) for one in found.problems),
        )
    console.print(
        f"{pluralize(found.users, 'user')}, {pluralize(found.events, 'event')}"
        + (f", {found.erased:,} of them erased" if found.erased else "")
        + (f", {pluralize(found.anchors, 'anchored head')} found again" if kept else "")
        + ": "
        + ("all is well" if found.ok else pluralize(len(found.problems), "problem"))
    )
    if kept:
        console.print(
            f"the newest anchor was taken {when(max(one.taken_at for one in kept))} UTC; "
            f"{pluralize(found.events - found.anchored, 'event')} confirmed by none"
        )


def problem_json(problem: Problem) -> dict[str, Any]:
    """Return a problem as `verify --json` prints it: with a position, or with table and key."""
    place: dict[str, Any] = {"position": problem.position}
    if problem.table is not None and problem.key is not None:
        key = problem.key
        place = {"table": problem.table, "key": key[0] if len(key) == 1 else list(key)}
    return {"kind": problem.kind, "user_id": problem.user_id, **place, "detail": problem.detail}


def _where(problem: Problem) -> str:
    if problem.table is not None and problem.key is not None:
        return f"{problem.table} {', '.join(problem.key)}"
    return f"position {problem.position}"
