"""
How Alembic runs our migrations: one transaction each, one process at a time, never waiting long.

However many processes deploy at once, one migrates and the others find it done: an advisory lock
is polled for (a blocking wait would hold a snapshot that index builds wait for). Statements that
cannot get their lock within the limit fail and leave the old schema, instead of queueing every
writer behind them.
"""

from __future__ import annotations

import time

import sqlalchemy
from alembic import context
from sqlalchemy import Connection

import projections.tables  # noqa: F401 - puts the read models into the metadata
from eventstore.database.expected import POLICY_OF
from eventstore.database.settings import load_settings
from eventstore.database.sqlalchemy import own_engine
from eventstore.errors import ConfigurationError, Unavailable
from eventstore.log.tables import SCHEMA, metadata
from eventstore.store.migrate import DDL_LOCK_TIMEOUT, DROP_LEFTOVER, LEFTOVER, LOCK

LOCK_SECONDS = 300
ROLES = """
select p.polname, r.rolname
from pg_catalog.pg_policy as p
join pg_catalog.pg_roles as r on array[r.oid] = p.polroles
where p.polrelid = to_regclass('eventstore.event')
"""


def configure(**how: object) -> None:
    context.configure(
        target_metadata=metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=only_ours,
        transaction_per_migration=True,
        compare_type=True,
        **how,  # type: ignore[arg-type]  # Alembic's own keywords
    )


def only_ours(name: str | None, kind: str, _parents: object) -> bool:
    return name == SCHEMA if kind == "schema" else name != "alembic_version"


def migrate(connection: Connection) -> None:
    require_utf8(connection)
    require_direct(connection)
    wait_for_turn(connection)
    try:
        # Before the first revision there is no schema to keep the version in.
        if not sqlalchemy.inspect(connection).has_schema(SCHEMA):
            connection.execute(sqlalchemy.schema.CreateSchema(SCHEMA))
        connection.execute(sqlalchemy.text(f"set lock_timeout = '{DDL_LOCK_TIMEOUT}'"))
        # What somebody left in `public` is not called with the rights of who migrates.
        connection.execute(sqlalchemy.text("set search_path = pg_catalog, pg_temp"))
        require_roles_as_they_were(connection)
        if connection.execute(sqlalchemy.text(LEFTOVER)).first() is not None:
            connection.execute(sqlalchemy.text(DROP_LEFTOVER))
        connection.commit()
        configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(sqlalchemy.text(f"select pg_advisory_unlock({LOCK})"))
        connection.execute(sqlalchemy.text("reset lock_timeout"))
        connection.execute(sqlalchemy.text("reset search_path"))
        connection.commit()


def require_utf8(connection: Connection) -> None:
    """Refuse a database that cannot hold every text, or counts its bytes otherwise than a hash."""
    driver = connection.connection.driver_connection
    encoding = "UTF8" if driver is None else driver.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise ConfigurationError(
            f"the database has the encoding {encoding}; "
            "create one with UTF8: create database … encoding 'UTF8' template template0"
        )


def require_direct(connection: Connection) -> None:
    """Refuse a pooler: behind one a session's lock is nobody's, and two deploys migrate at once."""
    driver = connection.connection.driver_connection
    pid = connection.scalar(sqlalchemy.text("select pg_backend_pid()"))
    connection.commit()
    if driver is not None and pid != driver.info.backend_pid:
        raise ConfigurationError(
            "the URL leads to a pooler, which cannot keep the lock that lets one process migrate; "
            "migrate with the direct URL (on Neon, the host without -pooler)"
        )


def require_roles_as_they_were(connection: Connection) -> None:
    """Refuse other names than those in the policies: half of the rights would be another role's."""
    settings = context.config.attributes["settings"]
    found = dict(connection.execute(sqlalchemy.text(ROLES)).all())
    for role, policy in POLICY_OF.items():
        name = settings.role_names[role]
        if (known := found.get(policy, name)) != name:
            raise ConfigurationError(
                f"the database was migrated for the role {known}, and not for {name}; "
                f"set EVENTSTORE_{role.name}_ROLE={known}"
            )


def wait_for_turn(connection: Connection) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while not connection.scalar(sqlalchemy.text(f"select pg_try_advisory_lock({LOCK})")):
        connection.commit()
        if time.monotonic() > deadline:
            raise Unavailable(f"another migration holds the lock for over {LOCK_SECONDS} seconds")
        time.sleep(0.2)
    connection.commit()


def run() -> None:
    settings = context.config.attributes.setdefault("settings", load_settings())
    if context.is_offline_mode():
        raise ConfigurationError("migrations look at the database on their way: --sql cannot be")
    given = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    with own_engine(settings).connect() as connection:
        migrate(connection)


run()
