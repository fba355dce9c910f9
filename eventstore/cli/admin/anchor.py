"""`eventstore anchor`: write the heads of logs to a file outside the database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import ProgressReport, print_fields, print_json, report_progress
from eventstore.cli.output_files import atomic_new_file
from eventstore.errors import InvalidInput
from eventstore.log.anchors import Head, write_anchor
from eventstore.log.signature import check_private_key
from eventstore.store.store import EventStore

__all__ = ["anchor"]

_PAGE = 10_000  # heads of some 200 bytes each: two megabytes


def anchor(
    file: Annotated[
        Path,
        typer.Argument(help="The file to write, which must not exist; - for standard output."),
    ],
    users: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            metavar="USER",
            help="Only the user with this id; may be repeated. Default: all users.",
        ),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            exists=True,
            dir_okay=False,
            help="Sign the file with this Ed25519 private key (PEM without a passphrase, as "
            "`openssl genpkey -algorithm ed25519` writes it). Needs the extra `signing`.",
        ),
    ] = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Write the head of each user's log (position, hash, time) to a file of JSON Lines.

    Store the file where those who can change the database cannot. With
    `verify --anchor FILE` it reveals a recomputed hash chain, a log whose end
    was cut off and a restored older backup, which verify alone cannot find.
    The file holds user ids and no content.

    Exit status 1 if a user does not exist; 2 if the file exists already or the
    key cannot be used.
    """
    # Checked first, so that a wrong key does not cost a walk over all users.
    private_key = None if key is None else key.read_bytes()
    if private_key is not None:
        check_private_key(private_key)
    if json and str(file) == "-":
        raise InvalidInput("--json", "and FILE - both print to standard output; name a file")
    with open_store(database) as store:
        if str(file) == "-":
            # Bytes, because the seal covers every byte that is written.
            write_anchor(sys.stdout.buffer, _heads(store, users, None), private_key=private_key)
            sys.stdout.buffer.flush()
            return
        total = len(users) if users else store.status().users
        with (
            report_progress("users", total, quiet=json) as progress,
            atomic_new_file(file) as target,
        ):
            count = write_anchor(target, _heads(store, users, progress), private_key=private_key)
    fields = {"file": str(file), "heads": count, "signed": private_key is not None}
    if json:
        print_json(fields)
    else:
        print_fields(fields)


def _heads(
    store: EventStore, users: list[str] | None, progress: ProgressReport | None
) -> Iterator[Head]:
    """Yield the heads, read page by page, so that a million users need little memory."""
    page = store.heads(users) if users else store.heads(limit=_PAGE)
    while page:
        yield from page
        if progress is not None:
            progress.advance(len(page))
        page = [] if users else store.heads(after=page[-1].user_id, limit=_PAGE)
