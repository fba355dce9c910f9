"""
Databases that tests use in turn, because a new database and store cost more than most tests do.

A test gets a migrated database without rows, as if nobody had used it before. After the test its
rows are deleted, and a later test gets the database and the store that is open on it. It is dropped
instead if anything in its catalog changed (a table, a trigger, a policy, a privilege), if the rows
cannot be deleted because somebody still holds a lock, or if so many were that the dead ones would
slow the next test down.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

import psycopg

from eventstore import EventStore
from tests.support.drivers import open_store
from tests.support.server import Server

__all__ = ["Database", "Databases"]

_MOST_DEAD_ROWS = 2000
_LOCK_TIMEOUT = "2s"
_LOG = ("event", "stream", "user_log")

# A changed row of the catalog has another xmin. Triggers are compared by what they are, because
# `clean` disables and enables them.
_CATALOG = """
select array[
    (select datacl::text || datdba from pg_database where datname = current_database()),
    (select array_agg(version_num)::text from eventstore.alembic_version),
    (select array_agg(trigger order by oid)::text from pg_trigger as trigger),
    (select array_agg(setconfig)::text from pg_db_role_setting
     where setdatabase in (0, (select oid from pg_database where datname = current_database()))),
    {}
]
"""
_CATALOGS = (
    "class",
    "attribute",
    "attrdef",
    "constraint",
    "index",
    "proc",
    "type",
    "policy",
    "rewrite",
    "namespace",
    "default_acl",
    "event_trigger",
    "extension",
    "statistic",
)
# How many rows, and the newest transaction of which there is one; 3 is the oldest transaction.
_VERSIONS = "(select count(*) || '/' || age('3'::xid) - min(age(xmin)) from pg_{})"
_READ_CATALOG = _CATALOG.format(",\n    ".join(map(_VERSIONS.format, _CATALOGS)))


class Database:
    """
    A migrated database, and the store that is open on it.

    :ivar url: the application's URL, with the login of a superuser.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.url = server.create_database()
        self._open = ExitStack()
        self._admin = self._open.enter_context(
            psycopg.connect(server.direct(self.url), autocommit=True)
        )
        self._admin.execute(f"set lock_timeout = '{_LOCK_TIMEOUT}'")
        # As a replica the session fires no triggers of foreign keys.
        self._admin.execute("set session_replication_role = replica")
        self._catalog = self._read_catalog()
        tables = self._admin.execute(
            "select schemaname || '.' || tablename from pg_tables"
            " where schemaname = 'eventstore' and tablename <> 'alembic_version'"
        )
        append_only = "alter table eventstore.{} {} trigger append_only"
        self._delete_rows = "; ".join((
            "begin",
            *(append_only.format(table, "disable") for table in _LOG),
            *(f"delete from {table}" for (table,) in tables.fetchall()),
            *(append_only.format(table, "enable always") for table in _LOG),
            "commit",
        ))  # fmt: skip
        self._dead_rows = 0
        self._store: EventStore | None = None

    def store(self, driver: str) -> EventStore:
        """Return the store that is open on this database; the first call opens it."""
        if self._store is None:
            self._store = self._open.enter_context(open_store(driver, self.url))
        return self._store

    def clean(self) -> bool:
        """Delete all rows; say whether the database is then as good as a new one."""
        try:
            if self._read_catalog() != self._catalog:
                return False
            answers = self._admin.execute(self._delete_rows).results()
            self._dead_rows += sum(max(one.rowcount, 0) for one in answers)
        except psycopg.Error:
            return False
        return self._dead_rows < _MOST_DEAD_ROWS

    def drop(self) -> None:
        """Close the store and drop the database."""
        self._open.close()
        self._server.drop_database(self.url)

    def _read_catalog(self) -> object:
        return self._admin.execute(_READ_CATALOG).fetchone()


class Databases:
    """The databases of one server that no test uses at the moment."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._free: dict[str | None, list[Database]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for database in [one for free in self._free.values() for one in free]:
            database.drop()

    def borrow(self, driver: str | None) -> Database:
        """
        Return a database that only the caller uses.

        :param driver: the driver of the store that is open on it; None if the test opens its own.
        """
        free = self._free.setdefault(driver, [])
        return free.pop() if free else Database(self._server)

    def give_back(self, database: Database, driver: str | None) -> None:
        """Keep the database for a later test, or drop it."""
        if database.clean():
            self._free[driver].append(database)
        else:
            database.drop()
