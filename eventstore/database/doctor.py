"""
Judge a database: does it keep users apart, and history as it was?

An error means that users would not be isolated or that nothing would work: the store refuses to
connect. A warning means that something weaker than promised is relied upon: it connects, and says
so once in the log. Everything is judged from the catalog, in one round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from eventstore.database.catalog import Catalog, RoleFacts, Server, TableFacts, read_catalog
from eventstore.database.plan import Plan
from eventstore.database.roles import Role
from eventstore.database.settings import Settings
from eventstore.errors import UnsafeDatabase

__all__ = ["Finding", "examine", "refusal"]

type Severity = Literal["error", "warning"]

LOG_TABLES = ("eventstore.user_log", "eventstore.stream", "eventstore.event")
_TRIGGERS = {
    "eventstore.event": ("append_only", "append_only_update", "erasure_only"),
    "eventstore.user_log": ("append_only", "forward_only"),
    "eventstore.stream": ("append_only", "forward_only"),
}
_OWN_ROWS = {
    "(user_id = eventstore.current_user_id())",
    "((user_id)::text = eventstore.current_user_id())",  # the column is a varchar
    None,  # no WITH CHECK: that of USING holds
}
_SCOPE_FUNCTION = "eventstore.current_user_id()"
_SCOPE_BODIES = {
    "RETURN NULLIF(current_setting('eventstore.user_id'::text, true), ''::text)",
    "select nullif(current_setting('eventstore.user_id', true), '')",  # before revision 0002
}

# The first minor release of each major that has no known hole in row-level security: CVE-2025-8713
# (statistics show what policies hide), CVE-2024-10976 (a plan outlives a change of role), earlier.
_SAFE_MINORS = {15: 14, 16: 10, 17: 6}
_OLDEST = 15


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is not as it should be.

    :ivar severity: `error`: the store does not connect; `warning`: it does.
    :ivar check: what was looked at: `server`, `login`, `role`, `table`, `rights`, `trigger`, `view`
        or `function`.
    :ivar place: the role, table, setting or function.
    """

    severity: Severity
    check: str
    place: str
    detail: str
    remedy: str


def examine(read_models: Sequence[str], settings: Settings) -> Plan[list[Finding]]:
    """
    Return what is wrong, errors first; one round trip.

    :param read_models: the tables of the projectors, schema-qualified.
    """
    catalog = yield from read_catalog([*LOG_TABLES, *read_models], settings)
    if not catalog.server.migrated:
        return [
            Finding(
                "error", "table", "eventstore.event", "does not exist", "run `eventstore migrate`"
            )
        ]
    found = [
        *_server(catalog.server),
        *_login(catalog.server),
        *_roles(catalog, settings),
        *(one for table in catalog.tables for one in _table(table, read_models)),
        *_views(catalog),
        *_functions(catalog),
    ]
    return sorted(found, key=lambda one: one.severity)


def refusal(found: Sequence[Finding]) -> UnsafeDatabase | None:
    """Return the error to raise instead of connecting, if there is cause."""
    errors = [one for one in found if one.severity == "error"]
    if not errors:
        return None
    first, more = errors[0], len(errors) - 1
    others = f" (and {more} more: run `eventstore doctor`)" if more else ""
    return UnsafeDatabase(f"{first.place}: {first.detail}; {first.remedy}{others}", found)


def _server(server: Server) -> Iterator[Finding]:
    def warning(place: str, detail: str, remedy: str) -> Finding:
        return Finding("warning", "server", place, detail, remedy)

    major, minor = divmod(server.number, 10_000)
    if major < _OLDEST:
        yield warning("version", f"PostgreSQL {server.version} is not supported", "use 15 or newer")
    elif minor < _SAFE_MINORS.get(major, 0):
        yield warning(
            "version",
            f"PostgreSQL {server.version} has known holes in row-level security",
            f"upgrade to {major}.{_SAFE_MINORS[major]} or newer",
        )
    if not server.fsync and not server.neon:
        yield warning("fsync", "is off: a crash of the machine loses data", "set fsync = on")
    if not server.synchronous_commit:
        yield warning(
            "synchronous_commit",
            "is off: a crash of the server loses what it acknowledged just before",
            "set synchronous_commit = on for this database and login",
        )


def _login(server: Server) -> Iterator[Finding]:
    for held, detail in (
        (server.superuser, "is a superuser"),
        (not server.superuser and server.bypasses, "has BYPASSRLS"),
        (not server.superuser and server.owner, "owns the log"),
        (not server.superuser and server.writes_all, "may write every table (pg_write_all_data)"),
    ):
        if held:
            yield Finding(
                "warning",
                "login",
                server.login,
                f"{detail}: the store leaves these rights in each transaction, other SQL does not",
                "run the service with a login of its own, see docs/isolation.md",
            )


def _roles(catalog: Catalog, settings: Settings) -> Iterator[Finding]:
    for role, needed_for in (
        (Role.APPLICATION, "any work"),
        (Role.OPERATOR, "status, and verify, rebuild and anchor of all users"),
        (Role.ERASER, "erase"),
    ):
        name = settings.role_names[role]
        severity: Severity = "error" if role is Role.APPLICATION else "warning"
        facts = catalog.roles.get(name)
        if facts is None:
            yield Finding(severity, "role", name, "does not exist", "run `eventstore migrate`")
            continue
        for detail in _too_powerful(facts):
            yield Finding("error", "role", name, detail, "take that away from it")
        if role is Role.APPLICATION and not facts.enterable:
            yield Finding(
                "error",
                "role",
                name,
                f"the login {catalog.server.login} may not enter it, which {needed_for} needs",
                f"grant {name} to {catalog.server.login}",
            )


def _too_powerful(role: RoleFacts) -> Iterator[str]:
    if role.superuser:
        yield "is a superuser: row-level security does not hold"
    if role.bypasses:
        yield "has BYPASSRLS: row-level security does not hold"
    if role.creates_roles:
        yield "has CREATEROLE: it can give itself other roles"
    if role.owns:
        yield "owns tables of the store: it can take their protection away"
    if role.powerful and not role.superuser:
        yield f"is a member of {', '.join(role.powerful)}, which may do more than it may"


def _table(table: TableFacts, read_models: Sequence[str]) -> Iterator[Finding]:
    if not table.exists:
        remedy = "create it in a migration of yours, see docs/isolation.md"
        yield Finding("error", "table", table.name, "does not exist", remedy)
        return
    for detail, remedy in (*_row_security(table, read_models), *_shape(table)):
        yield Finding("error", "table", table.name, detail, remedy)
    ours = table.name.startswith("eventstore.")
    yield from _rights(table, ours=ours)
    if ours:
        yield from _triggers(table)


def _row_security(table: TableFacts, read_models: Sequence[str]) -> Iterator[tuple[str, str]]:
    protect = "see projections.protection_sql"
    if not table.secured:
        yield "row-level security is not enabled", protect
    elif not table.forced:
        yield "row-level security is not forced, so its owner is exempt", protect
    if table.name in {*LOG_TABLES, *read_models} and not any(
        policy["command"] == "*" and _own_rows(policy) for policy in table.policies
    ):
        yield "the policy that shows and accepts a user's own rows is missing", protect
    for policy in table.policies:
        if not _own_rows(policy):
            detail = f"policy {policy['name']} lets more through than a user's own rows"
            yield detail, "drop it, or give it to another role than the application's"


def _shape(table: TableFacts) -> Iterator[tuple[str, str]]:
    for index in table.strange_indexes:
        yield f"index {index} does not begin with user_id", "make it begin with user_id"
    for key in table.strange_keys:
        detail = f"foreign key {key} does not begin with user_id on both sides"
        yield detail, "make it composite: (user_id, …) references … (user_id, …)"
    if not table.checked:
        yield "no CHECK keeps an empty user_id out", "see projections.protection_sql"
    for rule in table.rules:
        yield f"rule {rule} rewrites what is asked of it", "drop it"


def _own_rows(policy: dict[str, str | None]) -> bool:
    return policy["using"] is not None and {policy["using"], policy["check"]} <= _OWN_ROWS


def _rights(table: TableFacts, *, ours: bool) -> Iterator[Finding]:
    too_much = {"TRUNCATE", "TRIGGER", "REFERENCES"}
    if table.name in LOG_TABLES:
        too_much |= {"DELETE"}
    if table.name == "eventstore.event":
        too_much |= {"UPDATE"}
    if held := [right for right in table.rights if right in too_much]:
        yield Finding(
            "error",
            "rights",
            table.name,
            f"the application role may {', '.join(held)}",
            f"revoke {', '.join(held)} on {table.name} from it, and from public",
        )
    if not ours and "SELECT" not in table.rights:
        yield Finding(
            "error",
            "rights",
            table.name,
            "the application role may not use it",
            "see projections.protection_sql",
        )


def _triggers(table: TableFacts) -> Iterator[Finding]:
    expected = _TRIGGERS.get(table.name, ())
    for name in expected:
        enabled = table.triggers.get(name)
        if enabled != "A":
            state = "missing" if enabled is None else "disabled" if enabled == "D" else "not ALWAYS"
            yield Finding(
                "warning",
                "trigger",
                table.name,
                f"trigger {name} is {state}: the owner's casual statement can change history",
                "run `eventstore migrate`"
                if enabled is None
                else f"alter table {table.name} enable always trigger {name}",
            )
    for name in table.triggers.keys() - {*expected}:
        yield Finding(
            "warning",
            "trigger",
            table.name,
            f"trigger {name} is none of the store's: it may change what is stored",
            "drop it, unless you put it there",
        )


def _views(catalog: Catalog) -> Iterator[Finding]:
    for name, materialised in catalog.views:
        kind = "materialised view" if materialised else "view"
        detail = f"is a {kind} that reads users' tables with the rights of its owner"
        remedy = "drop it" if materialised else f"alter view {name} set (security_invoker = on)"
        severity: Severity = "error" if name.startswith("eventstore.") else "warning"
        yield Finding(severity, "view", name, detail, remedy)


def _functions(catalog: Catalog) -> Iterator[Finding]:
    for name, definer, fixed, body in catalog.functions:
        if definer:
            detail = "runs with its owner's rights (SECURITY DEFINER)"
            yield Finding("error", "function", name, detail, "drop it, none of the store's does")
        if name == _SCOPE_FUNCTION and body not in _SCOPE_BODIES:
            detail = "is not what the migrations made it: it says whose rows are shown"
            yield Finding("error", "function", name, detail, "restore it, see docs/isolation.md")
        elif name != _SCOPE_FUNCTION and not fixed:
            detail = "has no fixed search_path: other objects can stand in for what it names"
            yield Finding("warning", "function", name, detail, "alter function … set search_path")
