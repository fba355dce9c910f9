"""
The `eventstore` command: its sub-commands, and what its exit status means.

0 done; 1 the answer is no (drift, tampering, conflict, not found); 2 wrong use; 3 the database
cannot be reached; 130 interrupted; 141 nobody read the output to its end.
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
from eventstore.cli.output_files import checked_output, exit_on_broken_pipe
from eventstore.errors import ConfigurationError, EventStoreError, InvalidInput, Unavailable

__all__ = ["app", "main"]

app = typer.Typer(
    name="eventstore",
    help=(
        "The event-sourced store of an AI todo chatbot: conversations, tasks and tool calls.\n\n"
        "The database is EVENTSTORE_DATABASE_URL or --database; with neither, a server of its own "
        "in your data folder.\n\n"
        "Exit status: 0 done, 1 the answer is no (drift, tampering, conflict, not found), "
        "2 wrong use, 3 the database cannot be reached, 130 interrupted, 141 the reader "
        "of the output closed it."
    ),
    no_args_is_help=True,
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


def _show_version(wanted: bool) -> None:
    if wanted:
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
    """Run the command line and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what its encoding lacks is shown as `?`
            stream.reconfigure(errors="replace")
    try:
        with checked_output():
            app()
    except EventStoreError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        raise SystemExit(exit_status(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def exit_status(error: EventStoreError) -> int:
    """Return the exit status that tells scripts what kind of error it was."""
    if isinstance(error, Unavailable):
        return 3
    return 2 if isinstance(error, InvalidInput | ConfigurationError) else 1
