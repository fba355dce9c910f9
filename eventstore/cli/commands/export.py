"""`eventstore export`: everything held about one user, as one JSON document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, User, open_store
from eventstore.cli.output import tell_unreached
from eventstore.cli.output_files import atomic_new_file

__all__ = ["export"]


def export(
    user: User,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="A new file; default, or -, standard output."
        ),
    ] = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
) -> None:
    """
    Write every row and every event of one user, in one snapshot, a row a line.

    People can read it and programs can parse it; with the salts and hashes in it, anybody can
    recompute the chain. The file is for its owner's eyes: nobody else on this machine may read it.
    """
    with open_store(database, extensions) as store:
        if output is None or str(output) == "-":
            done = store.export(user, lambda text: sys.stdout.buffer.write(text.encode()))
            sys.stdout.buffer.flush()
            tell_unreached(done.unreached, "exported")
            return
        with atomic_new_file(output, mode=0o600) as file:
            done = store.export(user, lambda text: file.write(text.encode()))
        tell_unreached(done.unreached, "exported")
