"""
The testing kit's server for each test process, in the version and behind the pooler of the run.

EVENTSTORE_TEST_POSTGRES chooses the version: 18 and 16 come from a wheel, 15 from Debian.
EVENTSTORE_TEST_POOLER=pgbouncer puts PgBouncer between the application and the server (`pooler`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eventstore.testing import server as kit
from eventstore.testing.server import LocalServer as Server
from tests.support.pooler import POOLER_PORT, pooler_asked_for, run_pooler

__all__ = ["Server", "run_server"]

_DEBIAN = Path("/usr/lib/postgresql/15/bin")


@contextmanager
def run_server(*, durable: bool = False) -> Iterator[Server]:
    """Start a server as `eventstore.testing.run_server` does, and the pooler that is asked for."""
    version = os.environ.get("EVENTSTORE_TEST_POSTGRES", "18")
    debian = version == "15"
    programs = _DEBIAN if debian else kit.wheel_programs(int(version))
    account = "postgres" if debian else None
    with kit.run_server(durable=durable, programs=programs, account=account) as server:
        if not pooler_asked_for():
            yield server
            return
        server.port = POOLER_PORT
        with run_pooler(server.folder, server.account):
            yield server
