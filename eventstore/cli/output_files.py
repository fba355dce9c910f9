"""
Where output goes: a standard output that may be missing, full or closed; a file that is new.

What a command found out must not be lost in silence: a status of 0 says that all was written.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

import typer

from eventstore.errors import InvalidInput

__all__ = ["atomic_new_file", "checked_output", "exit_on_broken_pipe"]

_WRONG_USE = 2
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_CUT_OFF = 141
"""As a shell reports a program that SIGPIPE ended."""


def exit_on_broken_pipe[**P](command: Callable[P, None]) -> Callable[P, None]:
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
def atomic_new_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """
    Write a file that was not there, whole and to the disk, or none.

    Until it is whole it has another name, which nobody else has, so that nothing half-written is
    taken for it, whatever ends this process.

    :raises InvalidInput: it is there, or cannot be begun.
    :raises OSError: it cannot be written to its end; `filename` is its name.
    """
    if path.is_dir():
        raise InvalidInput(str(path), "is a folder; name a new file")
    unfinished = path.with_name(f".eventstore-{token_hex(8)}.unfinished")
    if path.exists():  # told before the work, and looked at again after it
        raise _there_already(path)
    try:
        made = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(made, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _name(unfinished, path)
    except FileExistsError:
        raise _there_already(path) from None
    except OSError as error:
        if error.filename is None:  # of the file's own: it was opened by its number
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _name(unfinished: Path, path: Path) -> None:
    """Give a file its name, unless another one has it, and let that outlast a crash."""
    try:
        path.hardlink_to(unfinished)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        unfinished.rename(path)  # a file system without links
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _there_already(path: Path) -> InvalidInput:
    return InvalidInput(str(path), "is there already; name a new file")


def _forget_output() -> None:
    """Let nothing more be written, nor at the end of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
