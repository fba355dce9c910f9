"""Fixtures of the tests of the adapter to MCP."""

from __future__ import annotations

import pytest

from tests.integrations.mcp.service import Runs


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def runs() -> Runs:
    return Runs()
