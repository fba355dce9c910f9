"""The command line on the test's database."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from eventstore.cli import main
from tests.support.command import Answer, Command


@pytest.fixture
def eventstore(
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Command:
    """The command on the test's database, in this process because starting Python is slow."""
    monkeypatch.setenv("EVENTSTORE_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def run(*arguments: object) -> Answer:
        # Tests write modules of these names, and each test needs its own.
        for name in ("mine", "write"):
            sys.modules.pop(name, None)
        monkeypatch.setattr(sys, "argv", ["eventstore", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Answer(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run
