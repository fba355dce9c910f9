"""`eventstore export`: write everything held about one user as one JSON document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, User, open_store
from eventstore.cli.output import report_progress, warn_unreached
from eventstore.cli.output_files import atomic_new_file

__all__ = ["export"]


def export(
    user: User,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write, which must not exist. Default, or -: standard output.",
        ),
    ] = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
) -> None:
    """
    Write every row and every event of one user as one JSON document.

    The document is one snapshot, has one row or event per line, and contains the
    salts and hashes with which anybody can recompute the hash chain. A file that
    is written can be read by its owner only.

    Exit status 1 if nothing is held about the user; 2 if the file exists already.
    """
    with open_store(database, extensions) as store:
        # Bytes, because the document is UTF-8 whatever the encoding of standard output is.
        if output is None or str(output) == "-":
            exported = store.export(user, lambda text: sys.stdout.buffer.write(text.encode()))
            sys.stdout.buffer.flush()
            warn_unreached(exported.unreached, "exported")
            return
        # Everything that the user has said is in it.
        with (
            atomic_new_file(output, mode=0o600) as file,
            report_progress("events", None) as progress,
        ):
            exported = store.export(
                user, lambda text: file.write(text.encode()), seen=progress.advance
            )
        warn_unreached(exported.unreached, "exported")
