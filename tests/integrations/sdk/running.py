"""
Run tests of an SDK, from the source distribution of the version that is installed.

They are unpacked in a temporary folder, and run in a process whose package `tests` is theirs. So
what stands in for theirs is a plugin of pytest, found by its folder: `plugin.py` of the SDK, and
`report.py` beside this file. A database is made for them, migrated and empty.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.server import run_server


def run_sdk_tests(distribution: str, plugin: Path, arguments: Sequence[str]) -> int:
    """
    Run tests of a distribution with the plugin in this folder, and return pytest's exit code.

    EVENTSTORE_SDK_SOURCE names a folder in which the distribution is unpacked already.
    """
    with TemporaryDirectory(prefix=f"{distribution}-tests-") as folder, run_server() as server:
        given = os.environ.get("EVENTSTORE_SDK_SOURCE", "")
        source = Path(given) if given else _download(distribution, Path(folder))
        environment = {
            **os.environ,
            "EVENTSTORE_SDK_TESTS_URL": server.create_database(),
            # Their package `tests` must be found, and so ours cannot be: its files stand alone.
            "PYTHONPATH": os.pathsep.join([str(plugin), str(Path(__file__).parent)]),
        }
        command = [sys.executable, "-m", "pytest", "-p", "plugin", "-q", "--tb=line"]
        command += ["-p", "no:cacheprovider", "-W", "ignore", "--timeout=60", *arguments]
        return subprocess.run(command, cwd=source, env=environment, check=False).returncode


def _download(distribution: str, folder: Path) -> Path:
    name = f"{distribution}=={version(distribution)}"
    command = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps"]
    subprocess.run([*command, "--quiet", "--dest", str(folder), name], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")
