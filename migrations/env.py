"""
How Alembic runs the migrations: one transaction each, one process at a time, no long waits.

However many processes deploy at once, one migrates and the others find it done. The advisory lock
that decides this is polled, because a blocking wait would hold a snapshot that index builds wait
for. A statement that does not get its table lock within the limit fails and leaves the old schema,
instead of making every writer queue behind it.
"""

from __future__ import annotations

import time

import sqlalchemy
from alembic import context
from sqlalchemy import Connection

import projections  # noqa: F401 - puts the read models into the metadata
from eventstore.database.sessions.engines import own_engine
from eventstore.database.settings import load_settings
from eventstore.errors import ConfigurationError, Unavailable
from eventstore.log.tables import SCHEMA, metadata
from eventstore.schema.expected import POLICY_OF
from eventstore.schema.migrate import Migration, revision_of

LOCK = 0x6576656E7473746F  # "eventsto"
LOCK_SECONDS = 300
TABLE_LOCK_TIMEOUT = "3s"
ROLES = """
select p.polname, r.rolname
from pg_catalog.pg_policy as p
join pg_catalog.pg_roles as r on array[r.oid] = p.polroles
where p.polrelid = to_regclass('eventstore.event')
"""


def configure(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=is_ours,
        transaction_per_migration=True,
        compare_type=True,
    )


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    return name == SCHEMA if kind == "schema" else name != "alembic_version"


def migrate(connection: Connection, migration: Migration) -> None:
    require_utf8(connection)
    require_direct(connection)
    take_lock(connection, migration)
    try:
        # Alembic keeps the revision in the schema, so that must exist before the first revision.
        if not sqlalchemy.inspect(connection).has_schema(SCHEMA):
            connection.execute(sqlalchemy.schema.CreateSchema(SCHEMA))
        migration.before = revision_of(connection)
        connection.execute(sqlalchemy.text(f"set lock_timeout = '{TABLE_LOCK_TIMEOUT}'"))
        # Objects that somebody put into `public` must not run with the rights of this login.
        connection.execute(sqlalchemy.text("set search_path = pg_catalog, pg_temp"))
        require_same_roles(connection, migration)
        connection.commit()
        configure(connection)
        with context.begin_transaction():
            context.run_migrations()
        migration.after = revision_of(connection)
    finally:
        connection.rollback()
        connection.execute(sqlalchemy.text(f"select pg_advisory_unlock({LOCK})"))
        connection.execute(sqlalchemy.text("reset lock_timeout"))
        connection.execute(sqlalchemy.text("reset search_path"))
        connection.commit()


def require_utf8(connection: Connection) -> None:
    """Refuse a database that cannot hold every text, and whose bytes would hash differently."""
    driver = connection.connection.driver_connection
    encoding = "UTF8" if driver is None else driver.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the database has the encoding {encoding}; "
            "create one with UTF8: create database … encoding 'UTF8' template template0"
        )


def require_direct(connection: Connection) -> None:
    """Refuse a pooler: behind one a session lock locks nothing, and two deploys would migrate."""
    driver = connection.connection.driver_connection
    pid = connection.scalar(sqlalchemy.text("select pg_backend_pid()"))
    connection.commit()
    if driver is not None and pid != driver.info.backend_pid:
        raise ConfigurationError(
            "the URL leads to a pooler, which cannot keep the lock that lets one process migrate; "
            "migrate with the direct URL (on Neon, the host without -pooler)"
        )


def require_same_roles(connection: Connection, migration: Migration) -> None:
    """Refuse role names that differ from the policies': the rights would be split between two."""
    found = dict(connection.execute(sqlalchemy.text(ROLES)).all())
    for role, policy in POLICY_OF.items():
        name = migration.settings.role_names[role]
        if (known := found.get(policy, name)) != name:
            raise ConfigurationError(
                f"the database was migrated for the role {known}, and not for {name}; "
                f"set EVENTSTORE_{role.name}_ROLE={known}"
            )


def take_lock(connection: Connection, migration: Migration) -> None:
    """Wait for the lock that lets one process migrate at a time."""
    deadline = time.monotonic() + LOCK_SECONDS
    waits = False
    while not connection.scalar(sqlalchemy.text(f"select pg_try_advisory_lock({LOCK})")):
        connection.commit()
        if not waits and migration.waiting is not None:
            migration.waiting()
        waits = True
        if time.monotonic() > deadline:
            raise Unavailable(f"another migration holds the lock for over {LOCK_SECONDS} seconds")
        time.sleep(0.2)
    connection.commit()


def run() -> None:
    if context.is_offline_mode():
        raise ConfigurationError("migrations ask the database on their way, so --sql does not work")
    attributes = context.config.attributes
    # Alembic's own command line gives neither a connection nor a migration.
    migration = attributes.setdefault("migration", Migration(load_settings()))
    given = attributes.get("connection")
    if given is not None:
        migrate(given, migration)
        return
    with own_engine(migration.settings).connect() as connection:
        migrate(connection, migration)


run()
