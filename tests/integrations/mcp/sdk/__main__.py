"""
Run the MCP SDK's own tests of its server, with `RecordCalls` in each: `just mcp-sdk-tests`.

What is left out, and why, stands in `left_out.toml`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.integrations.sdk.running import run_sdk_tests

FILES = (
    "tests/server",
    "tests/interaction",
    "tests/client",
    "tests/issues",
    "tests/shared",
    "tests/transports",
    "tests/docs_src",
)

if __name__ == "__main__":
    # The SDK's options of pytest load plugins for its documents.
    given = ["-o", "addopts=-p anyio", "-o", "log_cli=false", *FILES, *sys.argv[1:]]
    sys.exit(run_sdk_tests("mcp", Path(__file__).parent, given))
