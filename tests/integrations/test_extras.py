"""The package without extras imports no library of an adapter."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import eventstore
import eventstore.cli.app
import projections
for name in eventstore.__all__:
    getattr(eventstore, name)
heavy = {"agents", "fastapi", "mcp", "pydantic_ai", "pytest", "starlette", "uvicorn"}
print(sorted(heavy & {*sys.modules}))
"""


def test_no_library_of_an_adapter_is_imported_without_its_adapter() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120
    )

    assert done.stdout == "[]\n"
