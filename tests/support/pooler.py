"""
PgBouncer of the tests' own, in transaction mode: between the application and its PostgreSQL.

EVENTSTORE_TEST_POOLER=pgbouncer asks for it; then every URL that the application gets leads to it,
and what needs a session of its own (migrations, a superuser's SQL) stays on the direct URL.
A login may be any that the server has. What the server drops or crashes, PgBouncer connects anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

__all__ = ["POOLER_PORT", "pooler_asked_for", "pooler_installed", "running_pooler"]

POOLER_PORT = 6432
_STOP_SECONDS = 10
_ANOTHER_LOOK_SECONDS = 0.02
_TRIES = 500

# Every login but the first is looked up on the server, so that a test may create its own.
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
; after a crash: 15 seconds, the default, are longer than the application tries again
server_login_retry = 0.1
"""


def pooler_asked_for() -> bool:
    """
    Say whether the application is to run on PgBouncer.

    :raises ValueError: on another one, which the tests do not know.
    """
    name = os.environ.get("EVENTSTORE_TEST_POOLER", "")
    if name not in {"", "pgbouncer"}:
        raise ValueError(f"EVENTSTORE_TEST_POOLER is {name!r}; give pgbouncer, or nothing")
    return bool(name)


@contextmanager
def running_pooler(
    server: Path, owner: str | None, *, folder: Path | None = None, server_connections: int = 20
) -> Iterator[None]:
    """
    Run PgBouncer before the server whose Unix socket is in the folder `server`.

    :param owner: the user to run it as; None for the one that runs the tests.
    :param folder: where its own socket is to be, if not beside the server's.
    :param server_connections: how many all clients of a database share at most.
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
        _wait_until_it_answers(process, folder)
        yield
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def pooler_installed() -> bool:
    """Tell whether there is a PgBouncer to run."""
    return _found() is not None


def _found() -> str | None:
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _program() -> str:
    found = _found()
    if found is None:
        raise FileNotFoundError(
            "a test asks for PgBouncer, which is not installed; run `apt-get install pgbouncer`"
        )
    return found


def _wait_until_it_answers(process: subprocess.Popen[bytes], folder: Path) -> None:
    url = f"postgresql://postgres@/postgres?host={folder}&port={POOLER_PORT}"
    for _ in range(_TRIES):
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            try:
                process.wait(_ANOTHER_LOOK_SECONDS)  # what has ended will not answer
            except subprocess.TimeoutExpired:
                continue
            break
        else:
            return
    raise RuntimeError(f"PgBouncer does not answer:\n{(folder / 'pooler-log').read_text()}")
