"""
A PgBouncer with one server connection, so that every client gets what the last one left on it.

Some tests need this pooler in every run, whatever EVENTSTORE_TEST_POOLER says. Where PgBouncer is
not installed they are skipped, unless EVENTSTORE_TEST_SKIP is `never`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.pooler import pooler_installed, run_pooler
from tests.support.server import Server

__all__ = ["run_narrow_pooler"]


@contextmanager
def run_narrow_pooler(server: Server) -> Iterator[Path]:
    """Run PgBouncer before the server, and yield the folder of its socket (port 6432)."""
    if not pooler_installed() and os.environ.get("EVENTSTORE_TEST_SKIP") != "never":
        pytest.skip("PgBouncer is not installed: `apt-get install pgbouncer`")
    folder = Path(tempfile.mkdtemp(prefix="eventstore-narrow-"))
    owner = None
    if os.geteuid() == 0:  # PgBouncer refuses to run as root, as the server does
        owner = server.folder.owner()
        shutil.chown(folder, owner)
        folder.chmod(0o755)
    try:
        with run_pooler(server.folder, owner, folder=folder, server_connections=1):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
