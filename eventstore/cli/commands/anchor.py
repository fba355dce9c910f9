"""`eventstore anchor`: copy the heads of logs out of the database, signed if you like."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from eventstore.cli.options import Database, Json, open_store
from eventstore.cli.output import Ticker, print_facts, print_json, ticker
from eventstore.cli.output_files import atomic_new_file
from eventstore.errors import InvalidInput
from eventstore.log.anchors import Head, write_anchor
from eventstore.log.signature import check_private_key
from eventstore.store.store import EventStore

__all__ = ["anchor"]

_PAGE = 10_000


def anchor(
    file: Annotated[Path, typer.Argument(help="Where to; a new file, or - for standard output.")],
    users: Annotated[
        list[str] | None,
        typer.Option("--user", metavar="USER", help="Only this user; repeatable. Default all."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(
            "--key",
            exists=True,
            dir_okay=False,
            help="Sign with this Ed25519 private key (PEM, as `openssl genpkey -algorithm ed25519` "
            "writes it).",
        ),
    ] = None,
    database: Database = None,
    *,
    json: Json = False,
) -> None:
    """
    Write where each log ends (user, position, hash, time) to a file of JSON Lines.

    Keep it where those who can change the database cannot: `verify --anchor FILE` then finds what a
    recomputed chain, a cut tail or an older backup hides. It holds user ids and no content.
    """
    private_key = None if key is None else key.read_bytes()
    if private_key is not None:
        check_private_key(private_key)
    if json and str(file) == "-":
        raise InvalidInput("--json", "and FILE - both print to standard output; name a file")
    with open_store(database) as store:
        if str(file) == "-":
            write_anchor(sys.stdout.buffer, _heads(store, users, None), private_key=private_key)
            sys.stdout.buffer.flush()
            return
        total = len(users) if users else store.status().users
        with ticker("users", total, quiet=json) as bar, atomic_new_file(file) as target:
            count = write_anchor(target, _heads(store, users, bar), private_key=private_key)
    facts = {"file": str(file), "heads": count, "signed": private_key is not None}
    if json:
        print_json(facts)
    else:
        print_facts(facts)


def _heads(store: EventStore, users: list[str] | None, bar: Ticker | None) -> Iterator[Head]:
    """Yield the heads, a page at a time: a million of them need not be in memory."""
    page = store.heads(users) if users else store.heads(limit=_PAGE)
    while page:
        yield from page
        if bar is not None:
            bar.advance(len(page))
        page = [] if users else store.heads(after=page[-1].user_id, limit=_PAGE)
