"""The embedded server stops with the last process that uses it, also after one that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import os, signal, sys
from pathlib import Path
from eventstore.database.embedded import start_embedded

start_embedded(Path(sys.argv[1]))
if sys.argv[2:]:
    os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_was_killed_does_not_keep_the_server_running(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    command = [sys.executable, "-c", PROGRAM, str(folder)]

    killed = subprocess.run([*command, "killed"], check=False)
    assert killed.returncode == -signal.SIGTERM
    assert (folder / "postmaster.pid").exists()

    subprocess.run(command, check=True)

    assert not (folder / "postmaster.pid").exists()
