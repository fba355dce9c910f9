"""
PgBouncer with a single server connection: what one client leaves on it the next one meets.

For tests that are about that by their nature: they run it themselves, whatever was asked for.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.pooler import _program, _wait_until_it_answers
from tests.support.server import Server

__all__ = ["narrow_pooler"]

_SETTINGS = """
[databases]
* = host={server} port=5432

[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
pool_mode = transaction
auth_type = trust
auth_file = {folder}/logins
admin_users = postgres
default_pool_size = 1
max_client_conn = 100
"""


@contextmanager
def narrow_pooler(server: Server, *logins: str) -> Iterator[Path]:
    """Run PgBouncer before the server, and give the folder of its socket (port 6432)."""
    folder = Path(tempfile.mkdtemp(prefix="eventstore-narrow-"))
    owner = server.folder.owner()
    if os.geteuid() == 0:
        os.chown(folder, server.folder.stat().st_uid, -1)
        folder.chmod(0o755)
    (folder / "logins").write_text("".join(f'"{login}" ""\n' for login in logins))
    settings = folder / "pgbouncer.ini"
    settings.write_text(_SETTINGS.format(server=server.folder, folder=folder))
    with (folder / "pooler-log").open("wb") as log:
        process = subprocess.Popen(
            [_program(), str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user=owner if os.geteuid() == 0 else None,
        )
    try:
        _wait_until_it_answers(process, folder)
        yield folder
    finally:
        process.terminate()
        process.wait(10)
