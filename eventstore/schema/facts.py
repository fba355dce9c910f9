"""
What the catalog of a server says about logins, roles, tables and functions: facts, not judgement.

`catalog` reads them, `doctor` and `table_checks` judge them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Catalog", "FunctionFacts", "RoleFacts", "Server", "TableFacts"]


@dataclass(frozen=True, slots=True)
class Server:
    """
    The server, and the login that the URL names.

    :ivar number: as `server_version_num`: 180004 is 18.4.
    :ivar neon: it does without fsync: its pages are safe elsewhere when COMMIT answers.
    :ivar policies: on the log, and the role that each is for.
    :ivar casts: between PostgreSQL's own types that are not PostgreSQL's own.
    :ivar presets: logins that begin in some user's scope, by ALTER ROLE or ALTER DATABASE … SET.
    """

    number: int
    version: str
    fsync: bool
    synchronous_commit: bool
    encoding: str
    neon: bool
    login: str
    superuser: bool
    bypasses: bool
    owner: bool
    writes_all: bool
    migrated: bool
    casts: list[str]
    policies: dict[str, str]
    presets: list[str]


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """
    One of the store's roles.

    :ivar enterable: the login may switch to it.
    :ivar owns: a table or function of the store, a projector's table, or the schema of one.
    :ivar creates: in these schemas: the store's, and those of the search path; `uses` the store's.
    :ivar powerful: roles it is a member of that see or change more than it may.
    """

    name: str
    superuser: bool
    bypasses: bool
    creates_roles: bool
    replicates: bool
    enterable: bool
    powerful: list[str]
    owns: bool
    creates: list[str]
    uses: bool


@dataclass(frozen=True, slots=True)
class TableFacts:
    """
    One table.

    :ivar policies: `name`, `permissive`, `command`, `using`, `check`, and which of the store's
        roles they hold for (`to`).
    :ivar strange_uniques: unique indexes that do not begin with `user_id`; `strange_indexes` are
        the other ones, `strange_keys` foreign keys.
    :ivar partition: of another table of these; `inherits`: it hands its rows to one of them;
        `parent`: one of a projector's tables is a part of it.
    :ivar logged: it survives a crash of the server.
    :ivar user_id: that column's `type`, and whether its collation is `exact`; `columns` has the
        types of all.
    :ivar numbered: columns with numbers from a sequence, which all users share.
    :ivar immediate_keys: foreign keys that are not deferrable; `acting_keys` delete or update.
    :ivar checks: CHECK constraints, validated or not.
    :ivar disabled: triggers of foreign keys that are.
    :ivar rights: what each of the store's roles may do, by grant to it or to PUBLIC.
    :ivar triggers: by name, `definition` and how they are `enabled`: `A` always, `D` disabled.
    :ivar constraints: valid ones, indexes that are none, and columns that are NOT NULL, with their
        definitions.
    :ivar movable: columns that the application may update.
    :ivar listed: columns that the operator may read; `erasable` those of the eraser, with rights.
    """

    name: str
    exists: bool
    partition: bool
    inherits: bool
    parent: bool
    logged: bool
    user_id: dict[str, Any] | None
    columns: dict[str, str] | None
    numbered: list[str]
    immediate_keys: list[str]
    acting_keys: list[str]
    checks: list[str]
    disabled: int
    secured: bool
    forced: bool
    policies: list[dict[str, Any]]
    strange_uniques: list[str]
    strange_indexes: list[str]
    strange_keys: list[str]
    checked: bool
    rights: dict[str, list[str]] | None
    rules: list[str]
    triggers: dict[str, dict[str, str]]
    constraints: dict[str, str]
    movable: list[str]
    listed: list[str]
    erasable: list[str]


@dataclass(frozen=True, slots=True)
class FunctionFacts:
    """
    One function of the schema, or one elsewhere that names it and runs with its owner's rights.

    :ivar name: with its parameters' types.
    :ivar definer: it runs with its owner's rights.
    :ivar fixed: its search path is.
    :ivar settings: of its own; `volatility` as in the catalog: `s` is stable, `v` volatile.
    :ivar digest: MD5 of its source.
    :ivar ours: it is in the schema; `callable`: by the application role.
    """

    name: str
    definer: bool
    fixed: bool
    body: str
    settings: list[str]
    volatility: str
    strict: bool
    digest: str
    ours: bool
    callable: bool


@dataclass(frozen=True, slots=True)
class Catalog:
    """
    All that a judgement needs.

    :ivar views: that read our tables with their owner's rights; True for materialised ones.
    """

    server: Server
    roles: dict[str, RoleFacts]
    tables: list[TableFacts]
    views: list[tuple[str, bool]]
    functions: list[FunctionFacts]
