"""The command line, run in the test's own process on the test's database."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from eventstore.cli import main

__all__ = ["Answer", "Command", "eventstore"]

type Command = Callable[..., Answer]


@dataclass(frozen=True)
class Answer:
    """What a run of the command printed, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def eventstore(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """The command on the test's database, in this process: a hundred starts of Python are slow."""
    monkeypatch.setenv("EVENTSTORE_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(*arguments: object) -> Answer:
        for name in ("mine", "write"):
            sys.modules.pop(name, None)
        monkeypatch.setattr(sys, "argv", ["eventstore", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
