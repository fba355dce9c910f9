"""
The `eventstore` command: its sub-commands and its exit status.

The exit status is 0 if the command did its work, 1 if the answer is no (drift, tampering, a
conflict, something not found) or the store failed, 2 for wrong use, 3 if the database cannot be
reached, 130 if the command was interrupted, and 141 if the reader of the output closed it early.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from eventstore.cli.commands import (
    anchor,
    audit,
    doctor,
    erase,
    export,
    import_files,
    migrate,
    rebuild,
    show,
    status,
    tail,
    verify,
)
from eventstore.cli.demo import command as demo
from eventstore.cli.output import console, printable
from eventstore.cli.output_files import exit_on_broken_pipe, exit_on_failed_output
from eventstore.errors import ConfigurationError, EventStoreError, InvalidInput, Unavailable

__all__ = ["app", "main"]

app = typer.Typer(
    name="eventstore",
    help=(
        "The event-sourced store of an AI todo chatbot: conversations, tasks and tool calls.\n\n"
        "The database is the one in --database or EVENTSTORE_DATABASE_URL. With neither, the "
        "command uses an embedded PostgreSQL in your data folder (the extra `embedded`).\n\n"
        "Exit status: 0 done; 1 the answer is no (drift, tampering, a conflict, something not "
        "found), a log cannot be read, access is denied or the disk is full; 2 wrong use, a wrong "
        "setting or an unsafe database; 3 the database cannot be reached or is too slow; "
        "130 interrupted; 141 the reader of the output closed it early."
    ),
    no_args_is_help=True,
    # The tracebacks of rich show local variables, which may hold what users wrote.
    pretty_exceptions_enable=False,
    add_completion=False,
)


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "migrate": migrate.migrate,
    "status": status.status,
    "doctor": doctor.doctor,
    "import": import_files.import_files,
    "history": show.history,
    "tasks": show.tasks,
    "rebuild": rebuild.rebuild,
    "verify": verify.verify,
    "anchor": anchor.anchor,
    "audit": audit.audit,
    "tail": tail.tail,
    "export": export.export,
    "erase": erase.erase,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(exit_on_broken_pipe(_command))


def _show_version(requested: bool) -> None:
    if requested:
        console.print(version("todo-eventstore"))
        raise typer.Exit


@app.callback()
def _options(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line and exit the process with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is printed as `?`, not raised.
            stream.reconfigure(errors="replace")
    try:
        with exit_on_failed_output():
            app()
    except EventStoreError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        raise SystemExit(exit_status(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def exit_status(error: EventStoreError) -> int:
    """Return the exit status of a command that ends with this error."""
    if isinstance(error, Unavailable):
        return 3
    return 2 if isinstance(error, InvalidInput | ConfigurationError) else 1
