"""
Run the SDK's own tests of sessions against ours: `just sdk-tests`.

They come from the SDK's source distribution, of the version that is installed, and are unpacked in
a temporary folder. What is left out, and why, stands in `left_out.toml`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integrations.sdk.running import run_sdk_tests

FILES = (
    "memory",
    "extensions/memory/test_sqlalchemy_session.py",
    "extensions/memory/test_encrypt_session.py",
    "extensions/memory/test_async_sqlite_session.py",
    "deferred_session_writes",
    "test_agent_runner.py",
    "test_hitl_session_scenario.py",
)


if __name__ == "__main__":
    given = [f"tests/{name}" for name in FILES]
    # Of a client of OpenAI's that sessions of the store have nothing to do with.
    given.append("--ignore=tests/memory/test_openai_conversations_session.py")
    folder = Path(__file__).parent
    sys.exit(run_sdk_tests("openai-agents", folder, [*given, *sys.argv[1:]]))
