"""
PgBouncer with a single server connection: what one client leaves on it the next one meets.

For tests that are about that by their nature: they run it themselves, whatever was asked for. Where
it is not installed they are skipped, unless nothing may be (EVENTSTORE_TEST_SKIP=never).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pooler import pooler_installed, running_pooler
from tests.support.server import Server

__all__ = ["narrow_pooler"]


@contextmanager
def narrow_pooler(server: Server) -> Iterator[Path]:
    """Run PgBouncer before the server, and give the folder of its socket (port 6432)."""
    if not pooler_installed() and os.environ.get("EVENTSTORE_TEST_SKIP") != "never":
        pytest.skip("PgBouncer is not installed: `apt-get install pgbouncer`")
    folder = Path(tempfile.mkdtemp(prefix="eventstore-narrow-"))
    owner = None
    if os.geteuid() == 0:  # it refuses to run as root, as the server does
        owner = server.folder.owner()
        shutil.chown(folder, owner)
        folder.chmod(0o755)
    try:
        with running_pooler(server.folder, owner, folder=folder, server_connections=1):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
