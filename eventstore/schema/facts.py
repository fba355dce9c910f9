"""
Facts about a server, as its system catalog states them, without any judgement.

`catalog` reads the facts; `doctor` and `table_checks` judge them. The fields have the names of the
columns that the queries select.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Catalog", "FunctionFacts", "RoleFacts", "Server", "TableFacts"]


@dataclass(frozen=True, slots=True)
class Server:
    """
    The server and its database, and the login that the URL names.

    :ivar version_number: `server_version_num`: 180004 is version 18.4.
    :ivar neon: True on Neon, which needs no fsync because its pages are safe on other machines
        before COMMIT returns.
    :ivar login_owns_log: the login is the owner of the table of events, or a member of the owner.
    :ivar login_writes_all: the login is a member of `pg_write_all_data`.
    :ivar migrated: the table of events exists.
    :ivar added_casts: casts between PostgreSQL's own types that PostgreSQL does not have itself.
    :ivar event_policies: the policies on events that are for one role: that role by policy.
    :ivar presets: the logins that start in the scope of a user, by ALTER ROLE or ALTER DATABASE
        (`every login`); also `this connection` if it has started in one by any means, such as the
        configuration of the server or the options of the URL.
    """

    version_number: int
    version: str
    fsync: bool
    synchronous_commit: bool
    encoding: str
    neon: bool
    login: str
    login_superuser: bool
    login_bypassrls: bool
    login_owns_log: bool
    login_writes_all: bool
    migrated: bool
    added_casts: list[str]
    event_policies: dict[str, str]
    presets: list[str]


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """
    One of the store's three roles.

    :ivar enterable: the login may switch to the role.
    :ivar powerful_memberships: the roles it is a member of that may do more than it may.
    :ivar owns_objects: it owns a table or function of the store, a projector's table, or the schema
        of one of these.
    :ivar creates_in: the schemas, among the store's and those of the search path, in which it may
        create objects.
    :ivar uses_schema: it has USAGE on the schema `eventstore`.
    """

    name: str
    superuser: bool
    bypassrls: bool
    createrole: bool
    replication: bool
    enterable: bool
    powerful_memberships: list[str]
    owns_objects: bool
    creates_in: list[str]
    uses_schema: bool


@dataclass(frozen=True, slots=True)
class TableFacts:
    """
    One table.

    :ivar is_partition: it is a partition of another table.
    :ivar inherits: it is a child of another table by inheritance, so queries of the other table
        return its rows too.
    :ivar is_parent: a table of the store or of a projector is its partition or child.
    :ivar logged: it survives a crash of the server.
    :ivar user_id: the `type` of that column, and whether its collation is `exact`, which means that
        only equal texts are equal; None if there is no such column.
    :ivar column_types: the type of every column.
    :ivar sequence_columns: the columns whose values come from a sequence, which all users share.
    :ivar immediate_foreign_keys: the foreign keys that are not deferrable.
    :ivar cascading_foreign_keys: the foreign keys that delete or update rows by themselves.
    :ivar check_constraints: the CHECK constraints, validated or not.
    :ivar disabled_triggers: the number of disabled triggers that PostgreSQL made for foreign keys.
    :ivar row_security: row-level security is enabled; `row_security_forced`: for the owner too.
    :ivar policies: of each policy its `name`, `permissive`, `command`, `using`, `check`, and the
        store's roles that it holds for (`roles`).
    :ivar cross_user_unique_indexes: the unique indexes that do not begin with `user_id`;
        `cross_user_indexes` are the other indexes and `cross_user_foreign_keys` the foreign keys
        that do not.
    :ivar rights: the rights of each of the store's roles, granted to it or to PUBLIC.
    :ivar triggers: of each trigger its `definition` and when it is `enabled`: `A` is always, `D` is
        disabled.
    :ivar constraints: the definitions of the valid constraints, of the unique and other indexes
        without a constraint, and of NOT NULL columns.
    :ivar application_updates: the columns that the application role may update;
        `application_inserts` those that it may give a new row.
    :ivar operator_reads: the columns that the operator role may read; `operator_updates` those that
        it may update.
    :ivar eraser_rights: the rights of the eraser role on columns, such as `salt update`.
    """

    name: str
    exists: bool
    is_partition: bool
    inherits: bool
    is_parent: bool
    logged: bool
    user_id: dict[str, Any] | None
    column_types: dict[str, str] | None
    sequence_columns: list[str]
    immediate_foreign_keys: list[str]
    cascading_foreign_keys: list[str]
    check_constraints: list[str]
    disabled_triggers: int
    row_security: bool
    row_security_forced: bool
    policies: list[dict[str, Any]]
    cross_user_unique_indexes: list[str]
    cross_user_indexes: list[str]
    cross_user_foreign_keys: list[str]
    rights: dict[str, list[str]] | None
    rules: list[str]
    triggers: dict[str, dict[str, str]]
    constraints: dict[str, str]
    application_updates: list[str]
    application_inserts: list[str]
    operator_reads: list[str]
    operator_updates: list[str]
    eraser_rights: list[str]


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """
    A function of the schema `eventstore`, or one elsewhere that seems to be about its tables.

    One elsewhere is listed only if it runs with its owner's rights.

    :ivar name: the name with the types of the parameters.
    :ivar security_definer: it runs with its owner's rights.
    :ivar fixed_search_path: its own settings fix the search path, or its body was parsed when it
        was created.
    :ivar settings: its own settings, such as `search_path=pg_catalog, pg_temp`.
    :ivar volatility: as in the catalog: `i` is immutable, `s` is stable, `v` is volatile.
    :ivar digest: the MD5 digest of its source.
    :ivar in_schema: it is in the schema `eventstore`.
    :ivar callable: the application role may call it.
    """

    name: str
    security_definer: bool
    fixed_search_path: bool
    body: str
    settings: list[str]
    volatility: str
    strict: bool
    digest: str
    in_schema: bool
    callable: bool

    @property
    def plain_name(self) -> str:
        """The name without schema and parameters, as the migrations of the store spell it."""
        # `catalog` reads with a search path of its own, in which PostgreSQL prints the schema.
        return self.name.removeprefix("eventstore.").partition("(")[0]


@dataclass(frozen=True, slots=True)
class Catalog:
    """
    All facts that the doctor judges.

    :ivar roles: the store's roles that exist, by name.
    :ivar views: the views that read the store's or a projector's tables with their owner's rights;
        True for a materialised view.
    """

    server: Server
    roles: dict[str, RoleFacts]
    tables: list[TableFacts]
    views: list[tuple[str, bool]]
    functions: list[FunctionFacts]
