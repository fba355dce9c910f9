"""
Judge a database: does it keep users apart, and history as it was?

An error means that users would not be isolated or that nothing would work: the store refuses to
connect. A warning means that something weaker than promised is relied upon: it connects, and says
so once in the log. Everything is judged from the catalog, in one round trip.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eventstore.database.plan import Plan
from eventstore.database.roles import Role
from eventstore.database.settings import Settings
from eventstore.errors import UnsafeDatabase
from eventstore.log.tables import LOG_TABLES
from eventstore.schema.catalog import read_catalog
from eventstore.schema.expected import (
    CALLED,
    FORMS,
    FUNCTIONS,
    POLICY_OF,
    SCOPE_BODIES,
    SCOPE_FUNCTION,
)
from eventstore.schema.facts import Catalog, RoleFacts, Server
from eventstore.schema.findings import Finding, Severity
from eventstore.schema.table_checks import TableCheck

__all__ = ["Finding", "diagnose", "refusal"]

# The first minor release of each major that has no known hole in row-level security: CVE-2025-8713
# (statistics show what policies hide), CVE-2024-10976 (a plan outlives a change of role), earlier.
_SAFE_MINORS = {15: 14, 16: 10, 17: 6}
_OLDEST = 15


def diagnose(read_models: Sequence[str], settings: Settings) -> Plan[list[Finding]]:
    """
    Return what is wrong, errors first; one round trip.

    :param read_models: the tables of the projectors, schema-qualified.
    """
    catalog = yield from read_catalog([*LOG_TABLES, *read_models], settings)
    if not catalog.server.migrated:
        return [
            Finding("error", "schema", "eventstore", "does not exist", "run `eventstore migrate`")
        ]
    if misnamed := list(_misnamed(catalog.server, settings)):
        return misnamed  # all else would be judged by roles that mean nothing here
    found = [
        *_server(catalog.server),
        *_casts(catalog.server),
        *_login(catalog.server),
        *_presets(catalog.server),
        *_roles(catalog, settings),
        *(
            one
            for table in catalog.tables
            for one in TableCheck(table, read_models, settings.role_names).findings()
        ),
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
    return UnsafeDatabase(f"{first.location}: {first.detail}; {first.remedy}{others}", found)


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
    if server.encoding != "UTF8":
        detail = f"is {server.encoding}: not every text can be kept, and hashes do not fit"
        remedy = "create a database with encoding 'UTF8' and copy the data into it"
        yield Finding("error", "server", "encoding", detail, remedy)
    if not server.fsync and not server.neon:
        yield warning("fsync", "is off: a crash of the machine loses data", "set fsync = on")
    if not server.synchronous_commit:
        yield warning(
            "synchronous_commit",
            "is off: a crash of the server loses what it acknowledged just before",
            "set synchronous_commit = on for this database and login",
        )


def _casts(server: Server) -> Iterator[Finding]:
    """A cast between PostgreSQL's own types decides what is read wherever one is read as text."""
    for cast in server.casts:
        detail = "is a cast that somebody made: what is stored may be read as something else"
        yield Finding("error", "reading", f"({cast})", detail, f"drop cast ({cast})")


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


def _misnamed(server: Server, settings: Settings) -> Iterator[Finding]:
    for role, policy in POLICY_OF.items():
        name, found = settings.role_names[role], server.policies.get(policy)
        if found not in (None, name):
            detail = f"is not the role that this database was migrated for: that is {found}"
            yield Finding("error", "role", name, detail, f"set EVENTSTORE_{role.name}_ROLE={found}")


def _presets(server: Server) -> Iterator[Finding]:
    for login in server.presets:
        yield Finding(
            "error",
            "login",
            login,
            "begins in the scope of a user (eventstore.user_id is set for it)",
            "alter role … reset eventstore.user_id, or alter database … reset eventstore.user_id",
        )


def _roles(catalog: Catalog, settings: Settings) -> Iterator[Finding]:
    for role in Role:
        name = settings.role_names[role]
        severity: Severity = "error" if role is Role.APPLICATION else "warning"
        facts = catalog.roles.get(name)
        if facts is None:
            setting = f"EVENTSTORE_{role.name}_ROLE"
            remedy = f"run `eventstore migrate`, or set {setting} as it was when that ran"
            yield Finding(severity, "role", name, "does not exist", remedy)
            continue
        for detail in _too_powerful(facts):
            yield Finding("error", "role", name, detail, "take that away from it")
        others = [one for one in facts.creates if one != "eventstore"]
        for schema in others if role is Role.APPLICATION else ():
            detail = f"may create in {schema}: what it makes there could be taken for yours"
            remedy = f"revoke create on schema {schema} from {name} and public"
            yield Finding("warning", "role", name, detail, remedy)
        if not facts.uses:
            remedy = f"grant usage on schema eventstore to {name}"
            yield Finding(severity, "role", name, "may not use the schema eventstore", remedy)
        if role is Role.APPLICATION and not facts.enterable:
            yield Finding(
                "error",
                "role",
                name,
                f"the login {catalog.server.login} may not enter it, which all work needs",
                f"grant {name} to {catalog.server.login}",
            )


def _too_powerful(role: RoleFacts) -> Iterator[str]:
    if role.superuser:
        yield "is a superuser: row-level security does not hold"
    if role.bypasses:
        yield "has BYPASSRLS: row-level security does not hold"
    if role.creates_roles:
        yield "has CREATEROLE: it can give itself other roles"
    if role.replicates:
        yield "has REPLICATION: it can copy every user's rows"
    if role.owns:
        yield "owns tables, functions or a schema of theirs: it can take their protection away"
    if "eventstore" in role.creates:
        yield "may create in the schema eventstore: its objects could be taken for the store's"
    if role.powerful and not role.superuser:
        yield f"is a member of {', '.join(role.powerful)}, which may do more than it may"


def _views(catalog: Catalog) -> Iterator[Finding]:
    for name, materialised in catalog.views:
        kind = "materialised view" if materialised else "view"
        detail = f"is a {kind} that reads users' tables with the rights of its owner"
        remedy = "drop it" if materialised else f"alter view {name} set (security_invoker = on)"
        severity: Severity = "error" if name.startswith("eventstore.") else "warning"
        yield Finding(severity, "view", name, detail, remedy)


def _functions(catalog: Catalog) -> Iterator[Finding]:
    for one in catalog.functions:
        restore = "restore it, see docs/isolation.md"
        if not one.ours:
            detail = "is about users' tables, it seems, and runs with its owner's rights"
            remedy = "alter function … security invoker, or drop it"
            yield Finding("warning", "function", one.name, detail, remedy)
            continue
        if one.definer:
            detail = "runs with its owner's rights (SECURITY DEFINER)"
            yield Finding("error", "function", one.name, detail, "drop it, none of ours does")
        name = one.name.removeprefix("eventstore.").partition("(")[0]
        form = (one.volatility, one.strict, one.settings)
        if one.name == SCOPE_FUNCTION:
            if one.body not in SCOPE_BODIES or form != FORMS[name]:
                detail = "is not what the migrations made it: it says whose rows are shown"
                yield Finding("error", "function", one.name, detail, restore)
        elif name in FORMS and form != FORMS[name]:
            detail = "is not declared as the migrations did: volatility, strictness or settings"
            yield Finding("error", "function", one.name, detail, restore)
        elif not one.fixed:
            detail = "has no fixed search_path: other objects can stand in for what it names"
            remedy = "alter function … set search_path"
            yield Finding("warning", "function", one.name, detail, remedy)
        if name in CALLED and not one.callable:
            detail = "may not be called by the application role, which all work needs"
            remedy = "grant execute on it to that role"
            yield Finding("error", "function", one.name, detail, remedy)
        known = FUNCTIONS.get(name)
        if known is not None and one.digest != known:
            detail = "is not what the migrations made it: it keeps the log as it is"
            yield Finding("error", "function", one.name, detail, restore)
