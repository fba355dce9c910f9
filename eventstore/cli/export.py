"""`eventstore export`: everything held about one user, as one JSON document."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from eventstore.cli.options import Database, ExtensionsOption, User, opened
from eventstore.cli.output import tell_unreached
from eventstore.errors import InvalidInput

__all__ = ["export"]


def export(
    user: User,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="A new file; default standard output."),
    ] = None,
    extensions: ExtensionsOption = None,
    database: Database = None,
) -> None:
    """
    Write every row and every event of one user, in one snapshot, a row a line.

    People can read it and programs can parse it; with the salts and hashes in it, anybody can
    recompute the chain. The file is for its owner's eyes: nobody else on this machine may read it.
    """
    with opened(database, extensions) as store:
        if output is None:
            done = store.export(user, lambda text: sys.stdout.buffer.write(text.encode()))
            sys.stdout.buffer.flush()
            tell_unreached(done.unreached, "exported")
            return
        try:
            made = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise InvalidInput(str(output), f"cannot be made: {error.strerror}") from error
        with os.fdopen(made, "w", encoding="utf-8") as file:
            try:
                done = store.export(user, file.write)
            except BaseException:
                output.unlink()
                raise
        tell_unreached(done.unreached, "exported")
