"""
What commands print: JSON for programs, tables for people, progress for the patient.

Progress is a bar on a terminal and plain lines elsewhere, always on standard error, so that
standard output holds the answer and nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from eventstore.events.json_codec import check_json, dumps

__all__ = [
    "Ticker",
    "confirm",
    "console",
    "pluralize",
    "print_facts",
    "print_json",
    "print_table",
    "printable",
    "tell_unreached",
    "ticker",
    "when",
]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command end in peace: rich itself would exit with status 1."""
        raise BrokenPipeError


_UNLIMITED = 10_000

console = _Console(
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout is not None and sys.stdout.isatty() else _UNLIMITED,  # in a mail too
)

_PLAIN_SECONDS = 5.0
"""Between two plain lines where there is no terminal."""


def print_json(value: object) -> None:
    """Print one JSON value on a line of its own; lossless, whatever the terminal's encoding."""
    sys.stdout.flush()
    sys.stdout.buffer.write(dumps(check_json(value, "output")).encode() + b"\n")
    sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table for people; control characters and markup in it are shown, not obeyed."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    console.print(table)


def print_facts(facts: dict[str, object]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts)) + 2
    for name, value in facts.items():
        console.print(f"{name:<{width}}{printable(value)}", markup=False)


def confirm(question: str) -> bool:
    """Ask on the terminal; the end of its input is a no, and Ctrl-C is Ctrl-C."""
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def pluralize(number: int, thing: str) -> str:
    """Return `1 user`, `2,000 users`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def tell_unreached(tables: Sequence[str], done: str) -> None:
    """Warn, on standard error, of tables that the store does not know the projectors of."""
    if tables:
        sys.stderr.write(
            f"warning: rows in {', '.join(tables)} were not {done}; "
            "give their projectors with --extensions, or see to them yourself\n"
        )


def when(instant: datetime | None) -> str:
    """Return an instant for people: UTC, to the second."""
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S}"


def printable(value: object) -> str:
    """Return a value on one line, control characters replaced: no terminal obeys what users say."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else f"{value:,}" if type(value) is int else str(value)
    return "".join(char if char.isprintable() else "\ufffd" for char in text.replace("\n", " "))


class Ticker:
    """Counts finished pieces of a long work and shows them."""

    def __init__(
        self, bar: Progress | None, task: TaskID | None, what: str, total: int | None
    ) -> None:
        self._bar = bar
        self._task = task
        self._what = what
        self._total = total
        self._done = 0
        self._spoken_at = time.monotonic()

    def advance(self, by: int = 1) -> None:
        """Count `by` more pieces as finished."""
        self._done += by
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, by)
        elif time.monotonic() - self._spoken_at > _PLAIN_SECONDS:
            self._spoken_at = time.monotonic()
            of = "" if self._total is None else f" of {self._total:,}"
            sys.stderr.write(f"{self._what}: {self._done:,}{of}\n")


@contextmanager
def ticker(what: str, total: int | None, *, quiet: bool = False) -> Iterator[Ticker]:
    """Show progress of `total` pieces of `what` while the block runs."""
    if quiet or not sys.stderr.isatty():
        yield Ticker(None, None, what, total)
        return
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield Ticker(bar, bar.add_task(what, total=total), what, total)
