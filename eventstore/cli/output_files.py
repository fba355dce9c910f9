"""
Safe output: a standard output that may be missing, full or closed, and new files.

Exit status 0 means that the whole output was written, so any failure to write ends the command with
another status.
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

from eventstore.cli.output import print_error
from eventstore.errors import InvalidInput

__all__ = ["atomic_new_file", "exit_on_broken_pipe", "exit_on_failed_output"]

_WRONG_USE = 2
_LINKS_UNSUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_BROKEN_PIPE = 141
"""The exit status that a shell reports for a program that SIGPIPE ended."""


def exit_on_broken_pipe[**P](command: Callable[P, None]) -> Callable[P, None]:
    """
    Make a command exit with status 141 if the reader of its output ends early.

    An example is `eventstore tail | head`.
    """

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except BrokenPipeError:
            # Caught inside of the command, because typer would end it with status 1.
            _discard_output()
            raise typer.Exit(_BROKEN_PIPE) from None

    return run


@contextmanager
def exit_on_failed_output() -> Iterator[None]:
    """
    Exit with an error message if the output of the block cannot be written.

    The exit status is 2 if standard output is closed from the start, 141 if its reader closes it
    early, and 1 for any other failure, such as a full disk.
    """
    # Python sets a stream to None if its descriptor is closed when the process starts.
    if sys.stdout is None:
        if sys.stderr is not None:
            print_error("standard output is closed; send it to /dev/null instead")
        raise SystemExit(_WRONG_USE)
    try:
        try:
            yield
        finally:
            # Python flushes at exit too, but then it is too late for a message of ours.
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        raise SystemExit(_BROKEN_PIPE) from None
    except OSError as error:
        _discard_output()
        print_error(f"{error.filename or 'standard output'}: {error.strerror}")
        raise SystemExit(1) from None


@contextmanager
def atomic_new_file(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """
    Write a new file completely and durably, or not at all.

    :param mode: the permissions of the file, before the umask.
    :raises InvalidInput: the file exists already, is a folder, or cannot be created.
    :raises OSError: the file cannot be written completely; `filename` is its path.
    """
    try:
        if path.is_dir():
            raise InvalidInput(str(path), "is a folder; name a new file")
        # Nobody takes half a file for a whole one, even if this process is killed. The name is
        # random, because in containers many processes have the same id, and short, because `path`
        # may be long.
        unfinished = path.with_name(f".eventstore-{token_hex(8)}.unfinished")
        # Checked before the work to save it, and again afterwards, when the file gets its name.
        if path.exists():
            raise _already_exists(path)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise InvalidInput(str(path), f"cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            # The content goes to the disk before the name, which a crash must not leave alone.
            file.flush()
            os.fsync(file.fileno())
        _publish(unfinished, path)
    except FileExistsError:
        raise _already_exists(path) from None
    except OSError as error:
        # Python does not know the path of a file that was opened by its descriptor.
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _publish(unfinished: Path, path: Path) -> None:
    """
    Give a complete file its name, durably.

    :raises FileExistsError: another file got the name in the meantime.
    """
    # A link refuses to replace an existing file, which a rename would do.
    try:
        path.hardlink_to(unfinished)
    except OSError as error:
        if error.errno not in _LINKS_UNSUPPORTED:
            raise
        # Some file systems, such as FAT, have no links. A file that got the name since the check
        # is replaced there.
        unfinished.rename(path)
    # The name of a file survives a crash only once its folder is on the disk.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _already_exists(path: Path) -> InvalidInput:
    return InvalidInput(str(path), "exists already; name a new file")


def _discard_output() -> None:
    """Send all further output to /dev/null, also what Python flushes when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
