"""
Run the SDK's own tests of sessions against ours: `just sdk-tests`.

They come from the SDK's source distribution, of the version that is installed, and are unpacked in
a temporary folder. What is left out, and why, stands in `left_out.toml`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.server import run_server

ROOT = Path(__file__).parents[4]
FILES = (
    "memory",
    "extensions/memory/test_sqlalchemy_session.py",
    "extensions/memory/test_encrypt_session.py",
    "extensions/memory/test_async_sqlite_session.py",
    "deferred_session_writes",
    "test_agent_runner.py",
    "test_hitl_session_scenario.py",
)


def main() -> int:
    with TemporaryDirectory(prefix="openai-agents-tests-") as folder, run_server() as server:
        source = Path(os.environ.get("EVENTSTORE_SDK_SOURCE", "") or _download(Path(folder)))
        url = server.create_database()
        environment = {
            **os.environ,
            "EVENTSTORE_SDK_TESTS_URL": url,
            # The unpacked package `tests` must be found, and ours only under its full path.
            "PYTHONPATH": f"{Path(__file__).parent}",
        }
        tests = [f"tests/{name}" for name in FILES]
        command = [sys.executable, "-m", "pytest", "-p", "plugin", "-q", "--tb=line", *tests]
        # Of a client of OpenAI's that sessions of the store have nothing to do with.
        command.append("--ignore=tests/memory/test_openai_conversations_session.py")
        command += ["-p", "no:cacheprovider", "-W", "ignore", "--timeout=60", *sys.argv[1:]]
        return subprocess.run(command, cwd=source, env=environment, check=False).returncode


def _download(folder: Path) -> Path:
    name = f"openai-agents=={version('openai-agents')}"
    command = [sys.executable, "-m", "pip", "download", "--no-binary", ":all:", "--no-deps"]
    subprocess.run([*command, "--quiet", "--dest", str(folder), name], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


if __name__ == "__main__":
    sys.exit(main())
