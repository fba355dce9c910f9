"""
The `eventstore` command: its sub-commands, and what its exit status means.

0 done; 1 the answer is no (drift, tampering, conflict, not found); 2 wrong use; 3 the database
cannot be reached.
"""

from __future__ import annotations

import os
import sys

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
app.command("demo")(demo.demo)
app.command("migrate")(migrate.migrate)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("import")(chat.import_files)
app.command("history")(show.history)
app.command("tasks")(show.tasks)
app.command("rebuild")(rebuild.rebuild)
app.command("verify")(verify.verify)
app.command("anchor")(anchor.anchor)
app.command("audit")(audit.audit)
app.command("tail")(tail.tail)
app.command("export")(export.export)
app.command("erase")(erase.erase)


def main() -> None:
    """Run the command line and exit with its status."""
    try:
        app()
    except EventStoreError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(exit_status(error)) from None
    except BrokenPipeError:  # `eventstore tail | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def exit_status(error: EventStoreError) -> int:
    """Return the exit status that tells scripts what kind of error it was."""
    if isinstance(error, Unavailable):
        return 3
    return 2 if isinstance(error, InvalidInput | ConfigurationError) else 1
