"""
What commands print: JSON for programs, tables for people, and the progress of long work.

Progress is a bar on a terminal and plain lines elsewhere. It goes to standard error, so that
standard output holds the answer and nothing else.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.cells import cell_len
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
from rich.table import Column, Table
from rich.text import Text

from eventstore.errors import EventStoreError, InvalidInput
from eventstore.events.json_codec import MAX_WRAPPED, check_json, dumps
from eventstore.log.paging import Page

__all__ = [
    "ProgressReport",
    "confirm",
    "console",
    "format_timestamp",
    "pluralize",
    "print_error",
    "print_fields",
    "print_json",
    "print_table",
    "print_warning",
    "printable",
    "report_more",
    "report_progress",
    "shorten",
    "warn_unreached",
]


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise for `exit_on_broken_pipe`, where rich itself would exit with status 1."""
        raise BrokenPipeError


_UNLIMITED_WIDTH = 10_000

# Where standard output is no terminal, lines are not cut: they go to a file, a pipe or a mail.
console = _Console(
    highlight=False,
    soft_wrap=True,
    width=None if sys.stdout is not None and sys.stdout.isatty() else _UNLIMITED_WIDTH,
)

_PLAIN_SECONDS = 5.0
"""Between two lines of progress where there is no terminal."""


def print_json(value: object) -> None:
    """
    Print one JSON value on a line of its own, in UTF-8 whatever the terminal's encoding is.

    :raises NotStorable: the value has no JSON form.
    """
    # Text that is still in the buffer of the text layer must come before these bytes.
    sys.stdout.flush()
    sys.stdout.buffer.write(
        dumps(check_json(value, "output", nesting=MAX_WRAPPED)).encode() + b"\n"
    )
    sys.stdout.buffer.flush()


def print_error(error: EventStoreError | str) -> None:
    """
    Print on standard error why the command ends without success, on one line.

    With `--json` it is one object, `{"error": {"type", "message"}}`, with the `path` of a value
    that was refused; an error that is no `EventStoreError` has the type `Error`.
    """
    if "--json" not in sys.argv[1:]:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return
    kind = "Error" if isinstance(error, str) else type(error).__name__
    report = {"type": kind, "message": str(error)}
    if isinstance(error, InvalidInput):
        report["path"] = error.path
    sys.stderr.write(dumps({"error": report}) + "\n")


def print_warning(text: str) -> None:
    """Print on standard error what does not stop the command, on one line."""
    sys.stderr.write(f"warning: {printable(text)}\n")


def report_more(page: Page[Any]) -> None:
    """
    Print on standard error that more follow, with the cursor that `--after` takes.

    Standard output holds the page as it is. With `--json` it is one object, `{"next": …}`, with
    null on the last page.
    """
    if "--json" in sys.argv[1:]:
        sys.stderr.write(dumps({"next": page.next}) + "\n")
    elif page.next is not None:
        sys.stderr.write(f"more follow: --after {page.next}\n")


def shorten(text: str, width: int) -> str:
    """
    Return the beginning of a text on one line, at most `width` cells wide, with `…` if it goes on.

    It ends after a word, unless the last one is long, and never inside a character that is made of
    several code points.
    """
    line = printable(text[: 8 * width])  # a cell may be a base with many marks
    if cell_len(line) <= width and len(text) <= 8 * width:
        return line
    end, cells = 0, 0
    while end < len(line) and (cells := cells + cell_len(line[end])) < width:
        end += 1
    space = max(line.rfind(space, 0, end + 1) for space in (" ", "\u3000"))
    if space > 0 and space >= end - _LONG_WORD:
        return line[:space].rstrip() + "…"
    while end > 0 and _CONTINUES.match(line, end):
        end -= 1
    return line[:end].rstrip() + "…"


_LONG_WORD = 30
"""Characters of a word that is cut rather than left out."""

# A joiner and what follows it, a mark, a variation selector, the skin of an emoji.
_CONTINUES = re.compile(
    "(?<=\u200d).|[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u064b-\u065f\u0900-\u0903\u093a-\u094f"
    "\u0e31-\u0e3a\u0e47-\u0e4e\u200c\u200d\u20d0-\u20ff\ufe00-\ufe0f\U0001f3fb-\U0001f3ff"
    "\U000e0020-\U000e01ef]",
    re.DOTALL,
)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str | None = None
) -> None:
    """
    Print a table for people; control characters are replaced and markup has no effect.

    :param empty: printed instead of a table without rows; None prints the header alone.
    """
    rows = list(rows)
    if not rows and empty is not None:
        console.print(empty)
        return
    # What does not fit on a line goes on below: an id that is cut cannot be copied.
    table = Table(*(Column(name, overflow="fold") for name in columns), box=None, pad_edge=False)
    # In a `str` rich reads square brackets as markup, and users write what they like.
    for row in rows:
        table.add_row(*(Text(printable(value)) for value in row))
    console.print(table)


def print_fields(fields: dict[str, object]) -> None:
    """Print names and values, one pair per line."""
    width = max(map(len, fields)) + 2
    for name, value in fields.items():
        answer = "yes" if value else "no"
        shown = answer if isinstance(value, bool) else printable(value)
        console.print(f"{name:<{width}}{shown}", markup=False)


def confirm(question: str) -> bool:
    """Ask a question on the terminal; anything but `y` or `yes` is a no."""
    # Not `typer.confirm`, which turns Ctrl-C and the end of the input into an exception of its own.
    sys.stderr.write(f"{question} [y/N]: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def pluralize(number: int, noun: str) -> str:
    """Return a number with its noun: `1 user`, `2,000 users`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def warn_unreached(tables: Sequence[str], action: str) -> None:
    """
    Warn on standard error that tables with rows of the user belong to no known projector.

    :param action: what was not done with the rows: `erased`, `exported`.
    """
    if tables:
        print_warning(
            f"rows in {', '.join(tables)} were not {action}; "
            "give their projectors with --extensions, or handle these tables yourself"
        )


def format_timestamp(timestamp: datetime | None) -> str:
    """Return a timestamp for people, to the second; empty text for None."""
    return "" if timestamp is None else f"{timestamp:%Y-%m-%d %H:%M:%S}"


def printable(value: object) -> str:
    """
    Return a value as text on one line.

    Text of every script is left as it is, with its joiners, marks and spaces. What could control
    the terminal, or show another text than the one that is stored, is replaced.
    """
    if value is None:
        return ""
    # The exact type, because True is an int too and would be printed as 1.
    text = value if isinstance(value, str) else f"{value:,}" if type(value) is int else str(value)
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(lambda found: found[1] or "\ufffd", _BREAK.sub(" ", text))


_BREAK = re.compile("\r\n|[\n\t\u2028\u2029]")

# Control characters and lone surrogates; embeddings, overrides and isolates of the bidirectional
# algorithm, which show a text in another order up to the end of the line (the marks U+200E, U+200F
# and U+061C do not); the deprecated and invisible format characters that no script is written with.
# Tag characters could hide a text of their own, so they are left only as the rest of a flag.
_UNSAFE = re.compile(
    "(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{1,6}\U000e007f)"
    "|[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb"
    "\U000e0000-\U000e00ff]"
)


class ProgressReport:
    """Counts finished units of long work and reports the count on standard error."""

    def __init__(
        self, bar: Progress | None, task: TaskID | None, units: str, total: int | None
    ) -> None:
        self._bar = bar
        self._task = task
        self._units = units
        self._total = total
        self._done = 0
        self._printed_at = time.monotonic()

    def advance(self, by: int = 1) -> None:
        """Count `by` more units as finished."""
        self._done += by
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task, by)
        elif time.monotonic() - self._printed_at > _PLAIN_SECONDS:
            self._printed_at = time.monotonic()
            of_total = "" if self._total is None else f" of {self._total:,}"
            sys.stderr.write(f"{self._units}: {self._done:,}{of_total}\n")


@contextmanager
def report_progress(
    units: str, total: int | None, *, quiet: bool = False
) -> Iterator[ProgressReport]:
    """
    Report the progress of the block.

    :param units: the plural noun that is counted, such as `users`.
    :param total: how many units there are; None if the number is not known.
    :param quiet: True to show no bar; plain lines are printed all the same.
    """
    # A bar redraws its line with control characters, which a log file would keep.
    if quiet or not sys.stderr.isatty():
        yield ProgressReport(None, None, units, total)
        return
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield ProgressReport(bar, bar.add_task(units, total=total), units, total)
