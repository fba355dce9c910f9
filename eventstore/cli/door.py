"""
Where output goes: a standard output that may be missing, full or closed; a file that is new.

What a command found out must not be lost in silence: a status of 0 says that all was written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import BinaryIO

import typer

from eventstore.errors import InvalidInput

__all__ = ["checked_output", "new_file", "until_closed"]

_WRONG_USE = 2
_CUT_OFF = 141
"""As a shell reports a program that SIGPIPE ended."""


def until_closed[**P](command: Callable[P, None]) -> Callable[P, None]:
    """End a command when its reader has seen enough: `eventstore tail | head`."""

    @wraps(command)
    def ending(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            _forget_output()
            raise typer.Exit(_CUT_OFF) from None

    return ending


@contextmanager
def checked_output() -> Iterator[None]:
    """Exit with a status and one line where the output of the block cannot be written."""
    if sys.stdout is None:
        if sys.stderr is not None:
            sys.stderr.write("error: standard output is closed; send it to /dev/null instead\n")
        raise SystemExit(_WRONG_USE)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        raise SystemExit(_CUT_OFF) from None
    except OSError as error:
        _forget_output()
        sys.stderr.write(f"error: {error.filename or 'standard output'}: {error.strerror}\n")
        raise SystemExit(1) from None


@contextmanager
def new_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """
    Write a file that was not there, to the disk; or, whatever goes wrong, leave none.

    :raises InvalidInput: it is there, or cannot be written.
    """
    try:
        made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(made, "wb") as file:
                yield file
                file.flush()
                os.fsync(made)
        except BaseException:
            path.unlink()
            raise
    except FileExistsError:
        raise InvalidInput(str(path), "is there already; name a new file") from None
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be written: {error.strerror}") from error


def _forget_output() -> None:
    """Let nothing more be written, nor at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
