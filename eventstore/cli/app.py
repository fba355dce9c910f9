"""
The `eventstore` command: its sub-commands, and what its exit status means.

0 done; 1 the answer is no (drift, tampering, conflict, not found); 2 wrong use; 3 the database
cannot be reached.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps

import typer

from eventstore.cli import (
    anchor,
    audit,
    chat,
    demo,
    doctor,
    erase,
    export,
    migrate,
    rebuild,
    show,
    status,
    tail,
    verify,
)
from eventstore.errors import ConfigurationError, EventStoreError, InvalidInput, Unavailable

__all__ = ["app", "main"]

app = typer.Typer(
    name="eventstore",
    help=(
        "The event-sourced store of an AI todo chatbot: conversations, tasks and tool calls.\n\n"
        "The database is EVENTSTORE_DATABASE_URL or --database; with neither, a server of its own "
        "in your data folder.\n\n"
        "Exit status: 0 done, 1 the answer is no (drift, tampering, conflict, not found), "
        "2 wrong use, 3 the database cannot be reached."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _until_closed[**P](command: Callable[P, None]) -> Callable[P, None]:
    """End a command in peace when its reader has seen enough: `eventstore tail | head`."""

    @wraps(command)
    def ending(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None

    return ending


_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo.demo,
    "migrate": migrate.migrate,
    "status": status.status,
    "doctor": doctor.doctor,
    "import": chat.import_files,
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
    app.command(_name)(_until_closed(_command))


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        app()
    except EventStoreError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(exit_status(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def exit_status(error: EventStoreError) -> int:
    """Return the exit status that tells scripts what kind of error it was."""
    if isinstance(error, Unavailable):
        return 3
    return 2 if isinstance(error, InvalidInput | ConfigurationError) else 1
