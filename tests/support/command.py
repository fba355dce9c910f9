"""The result of a run of the command line, and the type of a function that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Answer", "Command"]

type Command = Callable[..., Answer]


@dataclass(frozen=True)
class Answer:
    """The exit status and the output of one run."""

    returncode: int
    stdout: str
    stderr: str
