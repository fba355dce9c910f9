"""
PgBouncer in transaction mode, between the application and the PostgreSQL server of the tests.

EVENTSTORE_TEST_POOLER=pgbouncer asks for it. The application's URLs then lead to PgBouncer, and
the direct URLs still lead to the server, for migrations and a superuser's SQL.
PgBouncer accepts every login of the server, and connects again after the server has crashed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

__all__ = ["POOLER_PORT", "pooler_asked_for", "pooler_installed", "run_pooler"]

POOLER_PORT = 6432
_STOP_SECONDS = 10
_POLL_SECONDS = 0.02
_TRIES = 500

# PgBouncer looks up all other logins on the server, so that a test may create one.
_LOGINS = '"postgres" ""\n'
_SETTINGS = """
[databases]
* = host={server} port=5432

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {folder}
pool_mode = transaction
auth_type = trust
auth_file = {folder}/logins
auth_user = postgres
auth_query = select usename, passwd from pg_shadow where usename = $1
admin_users = postgres
max_client_conn = 1000
default_pool_size = {size}
; the default of 15 seconds is longer than the application retries after a crash
server_login_retry = 0.1
"""


def pooler_asked_for() -> bool:
    """
    Say whether the application's URLs should lead through PgBouncer.

    :raises ValueError: EVENTSTORE_TEST_POOLER names a pooler that the tests do not support.
    """
    name = os.environ.get("EVENTSTORE_TEST_POOLER", "")
    if name not in {"", "pgbouncer"}:
        raise ValueError(f"EVENTSTORE_TEST_POOLER is {name!r}; set it to pgbouncer or unset it")
    return bool(name)


@contextmanager
def run_pooler(
    server: Path, owner: str | None, *, folder: Path | None = None, server_connections: int = 20
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run PgBouncer before the server whose Unix socket is in the folder `server`.

    :param owner: the account that runs PgBouncer; None for the one that runs the tests.
    :param folder: the folder for the socket of PgBouncer; None for the folder of the server.
    :param server_connections: the most server connections that the clients of a database share.
    :raises FileNotFoundError: PgBouncer is not installed.
    :raises RuntimeError: PgBouncer ended, or did not answer within ten seconds.
    """
    folder = folder or server
    (folder / "logins").write_text(_LOGINS)
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        _SETTINGS.format(server=server, folder=folder, port=POOLER_PORT, size=server_connections)
    )
    with (folder / "pooler-log").open("wb") as log:
        process = subprocess.Popen([_program(), settings], stdout=log, stderr=log, user=owner)
    try:
        _wait_until_ready(process, folder)
        yield process
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def pooler_installed() -> bool:
    """Say whether PgBouncer is installed."""
    return _find_program() is not None


def _find_program() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _program() -> str:
    found = _find_program()
    if found is None:
        raise FileNotFoundError(
            "a test asks for PgBouncer, which is not installed; run `apt-get install pgbouncer`"
        )
    return found


def _wait_until_ready(process: subprocess.Popen[bytes], folder: Path) -> None:
    url = f"postgresql://postgres@/postgres?host={folder}&port={POOLER_PORT}"
    for _ in range(_TRIES):
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            try:
                process.wait(_POLL_SECONDS)  # a process that has ended will never answer
            except subprocess.TimeoutExpired:
                continue
            break
        else:
            return
    raise RuntimeError(f"PgBouncer does not answer:\n{(folder / 'pooler-log').read_text()}")
