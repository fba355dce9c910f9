"""
The `eventstore` command: its sub-commands and its exit status.

The exit status is 0 if the command did its work, 1 if the answer is no (drift, tampering, a
conflict, something not found) or the store failed, 2 for wrong use, 3 if the database cannot be
reached, 130 if the command was interrupted, and 141 if the reader of the output closed it early.
"""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from eventstore.cli.output import console, print_error, print_warning
from eventstore.cli.output_files import exit_on_broken_pipe, exit_on_failed_output
from eventstore.database.settings import unknown_settings
from eventstore.errors import ConfigurationError, EventStoreError, InvalidInput, Unavailable
from eventstore.version import VERSION

__all__ = ["app", "main"]

_COMMANDS = {
    "demo": "demo.command:demo",
    "migrate": "admin.migrate:migrate",
    "health": "admin.health:health",
    "status": "admin.status:status",
    "doctor": "admin.doctor:doctor",
    "import": "admin.import_files:import_files",
    "history": "reading.show:history",
    "tasks": "reading.show:tasks",
    "conversations": "reading.find:conversations",
    "search": "reading.find:search",
    "rebuild": "admin.rebuild:rebuild",
    "verify": "admin.verify:verify",
    "anchor": "admin.anchor:anchor",
    "audit": "reading.audit:audit",
    "tail": "reading.tail:tail",
    "quota": "admin.quota:quota",
    "feeds": "admin.feeds:feeds",
    "export": "admin.export:export",
    "erase": "admin.erase:erase",
}
"""Each command's module in this package, and its function there."""


class _Commands(TyperGroup):
    """The commands; the module of one is imported when it is called, or listed with its help."""

    # The base class lists the commands that are registered, and none is: that would import it.
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - likewise
        if cmd_name not in _COMMANDS:
            return None
        module, _, function = _COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(f"{__package__}.{module}"), function)
        # An application with a single function becomes a plain command, not a group.
        one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        one.command(cmd_name)(exit_on_broken_pipe(command))
        return typer.main.get_command(one)


app = typer.Typer(
    name="eventstore",
    cls=_Commands,
    help=(
        "The event-sourced store of an AI todo chatbot: conversations, tasks and tool calls.\n\n"
        "The database is the one in --database or EVENTSTORE_DATABASE_URL. With neither, the "
        "command uses an embedded PostgreSQL in your data folder (the extra `embedded`).\n\n"
        "Exit status: 0 done; 1 the answer is no (drift, tampering, a conflict, something not "
        "found), a log cannot be read, access is denied, or a disk or quota is full; "
        "2 wrong use, a wrong setting or an unsafe database; 3 the database cannot be reached "
        "or is too slow; "
        "130 interrupted; 141 the reader of the output closed it early."
    ),
    no_args_is_help=True,
    # The tracebacks of rich show local variables, which may hold what users wrote.
    pretty_exceptions_enable=False,
)


def _show_version(requested: bool) -> None:
    if requested:
        console.print(VERSION)
        raise typer.Exit


@app.callback()
def _options(
    *,
    show_version: Annotated[  # noqa: ARG001 - its callback has done it
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    for warning in unknown_settings():
        print_warning(warning)


def main() -> None:
    """Run the command line and exit the process with its status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding lacks is printed as `?`, not raised.
            stream.reconfigure(errors="replace")
    try:
        with exit_on_failed_output():
            # Not standalone: typer would print wrong use in a box, and all else is one line.
            status = app(standalone_mode=False)
    except EventStoreError as error:
        print_error(error)
        raise SystemExit(exit_status(error)) from None
    except _WrongUse as error:
        if text := error.format_message():  # empty if the answer to it was the help
            context = getattr(error, "ctx", None)
            command = "eventstore" if context is None else context.command_path
            print_error(f"{text[0].lower()}{text[1:].rstrip('.')}; see `{command} --help`")
        raise SystemExit(error.exit_code) from None
    except (typer.Abort, KeyboardInterrupt):
        # The status that a shell reports for a program that SIGINT (2) ended: 128 + 2.
        raise SystemExit(130) from None
    raise SystemExit(status if isinstance(status, int) else 0)


_WrongUse: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""Newer releases of typer have their own copy of click, whose errors it exports only in part."""


def exit_status(error: EventStoreError) -> int:
    """
    Return the exit status of a command that ends with this error.

    :return: 3 if trying later may help, 2 for wrong use, 1 for everything else.
    """
    # An unsafe or unmigrated database is a ConfigurationError as well: somebody has to set it up.
    if isinstance(error, Unavailable):
        return 3
    return 2 if isinstance(error, InvalidInput | ConfigurationError) else 1
