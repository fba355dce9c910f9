"""
The doctor: find what weakens isolation, evidence or durability in a database.

An error means that users would not be isolated, that queries might return other values than are
stored, or that the store could not work: it refuses to connect. A warning means that a promise of
the store is weaker on this database: it connects, and logs the warning once. All findings come from
the system catalog, which is read in one round trip; see `catalog`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eventstore.database.plan import Plan
from eventstore.database.roles import Role
from eventstore.database.settings import Settings
from eventstore.errors import UnsafeDatabase
from eventstore.log.tables import STORE_TABLES
from eventstore.schema.catalog import read_catalog
from eventstore.schema.expected import (
    CALLED_FUNCTIONS,
    FUNCTION_DECLARATIONS,
    FUNCTION_DIGESTS,
    POLICY_OF,
    SCOPE_BODIES,
    SCOPE_FUNCTION,
)
from eventstore.schema.facts import Catalog, RoleFacts, Server
from eventstore.schema.findings import Finding, Severity
from eventstore.schema.table_checks import TableCheck

__all__ = ["Finding", "diagnose", "refusal"]

# By major version, the first minor release without a known hole in row-level security. The newest
# holes are CVE-2025-8713 (statistics reveal hidden rows) and CVE-2024-10976 (a plan is used for
# another role).
_SAFE_MINORS = {15: 14, 16: 10, 17: 6}
_OLDEST_MAJOR = 15


def diagnose(read_models: Sequence[str], settings: Settings) -> Plan[list[Finding]]:
    """
    Return the findings about a database, errors first; one round trip.

    :param read_models: the tables of the projectors, as schema-qualified names.
    :return: a database that was not migrated has one finding, and so has one whose roles have other
        names than the settings say.
    """
    catalog = yield from read_catalog([*STORE_TABLES, *read_models], settings)
    if not catalog.server.migrated:
        return [
            Finding("error", "schema", "eventstore", "does not exist", "run `eventstore migrate`")
        ]
    # With other role names than those of the migration, every other check would fail as well.
    if wrong_names := list(_check_role_names(catalog.server, settings)):
        return wrong_names
    findings = [
        *_check_server(catalog.server),
        *_check_casts(catalog.server),
        *_check_login(catalog.server),
        *_check_presets(catalog.server),
        *_check_roles(catalog, settings),
        *(
            finding
            for table in catalog.tables
            for finding in TableCheck(table, read_models, settings.role_names).findings()
        ),
        *_check_views(catalog),
        *_check_functions(catalog),
        *_check_missing_functions(catalog),
    ]
    # By the alphabet "error" comes before "warning"; the order of the checks stays within each.
    return sorted(findings, key=lambda finding: finding.severity)


def refusal(findings: Sequence[Finding]) -> UnsafeDatabase | None:
    """
    Return the error to raise instead of connecting; None if no finding is an error.

    :param findings: errors and warnings; the returned error carries them all.
    :return: its message has the first error and the number of the others.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return None
    first, more = errors[0], len(errors) - 1
    others = f" (and {more} more: run `eventstore doctor`)" if more else ""
    return UnsafeDatabase(f"{first.location}: {first.detail}; {first.remedy}{others}", findings)


def _check_role_names(server: Server, settings: Settings) -> Iterator[Finding]:
    # Roles belong to the whole server, so a name that exists there proves nothing about this
    # database. The policies of its log name the roles that its migration was run for.
    for role, policy in POLICY_OF.items():
        name, migrated = settings.role_names[role], server.event_policies.get(policy)
        if migrated not in (None, name):
            detail = f"is not the role that this database was migrated with, which is {migrated}"
            remedy = f"set EVENTSTORE_{role.name}_ROLE={migrated}"
            yield Finding("error", "role", name, detail, remedy)


def _check_server(server: Server) -> Iterator[Finding]:
    def warning(location: str, detail: str, remedy: str) -> Finding:
        return Finding("warning", "server", location, detail, remedy)

    major, minor = divmod(server.version_number, 10_000)
    if major < _OLDEST_MAJOR:
        yield warning("version", f"PostgreSQL {server.version} is not supported", "use 15 or newer")
    elif minor < _SAFE_MINORS.get(major, 0):
        yield warning(
            "version",
            f"PostgreSQL {server.version} has known holes in row-level security",
            f"upgrade to {major}.{_SAFE_MINORS[major]} or newer",
        )
    if server.encoding != "UTF8":
        detail = f"is {server.encoding}: not every text can be stored, and hashes do not match"
        remedy = "create a database with encoding 'UTF8' and copy the data into it"
        yield Finding("error", "server", "encoding", detail, remedy)
    if not server.fsync and not server.neon:
        yield warning("fsync", "is off: a crash of the machine loses data", "set fsync = on")
    if not server.synchronous_commit:
        yield warning(
            "synchronous_commit",
            "is off: a crash of the server loses the last acknowledged appends",
            "set synchronous_commit = on for this database and login",
        )


def _check_casts(server: Server) -> Iterator[Finding]:
    # A cast to text, for instance, changes what every query sees that reads values as text.
    for cast in server.added_casts:
        detail = "is an added cast between built-in types: values may be read as something else"
        yield Finding("error", "reading", f"({cast})", detail, f"drop cast ({cast})")


def _check_login(server: Server) -> Iterator[Finding]:
    # Only a warning: a hosting console hands out such a login, and the store's own transactions are
    # isolated on it too.
    superuser = server.login_superuser  # who has all the other powers as well
    for applies, power in (
        (superuser, "is a superuser"),
        (not superuser and server.login_bypassrls, "has BYPASSRLS"),
        (not superuser and server.login_owns_log, "owns the log"),
        (
            not superuser and server.login_writes_all,
            "may write every table (pg_write_all_data)",
        ),
    ):
        if applies:
            yield Finding(
                "warning",
                "login",
                server.login,
                f"{power}: the store gives that up in each transaction, other SQL does not",
                "run the service with a login of its own, see Isolation in the documentation",
            )


def _check_presets(server: Server) -> Iterator[Finding]:
    # SQL that sets no scope then sees the rows of the preset user, instead of nobody's.
    for login in server.presets:
        yield Finding(
            "error",
            "login",
            login,
            "starts in the scope of a user, because eventstore.user_id is set in advance",
            "reset eventstore.user_id by alter role or alter database, "
            "or remove it from the server's configuration or the URL's options",
        )


def _check_roles(catalog: Catalog, settings: Settings) -> Iterator[Finding]:
    for role in Role:
        name = settings.role_names[role]
        # Without operator or eraser the store serves users; work over all logs, or erasing, fails.
        severity: Severity = "error" if role is Role.APPLICATION else "warning"
        facts = catalog.roles.get(name)
        if facts is None:
            setting = f"EVENTSTORE_{role.name}_ROLE"
            remedy = f"run `eventstore migrate`, or set {setting} to the name it had at that time"
            yield Finding(severity, "role", name, "does not exist", remedy)
            continue
        for detail in _excessive_powers(facts):
            remedy = "leave it the rights that Isolation in the documentation lists"
            yield Finding("error", "role", name, detail, remedy)
        others = [schema for schema in facts.creates_in if schema != "eventstore"]
        for schema in others if role is Role.APPLICATION else ():
            detail = f"may create objects in {schema}, which could be mistaken for yours"
            remedy = f"revoke create on schema {schema} from {name} and public"
            yield Finding("warning", "role", name, detail, remedy)
        if not facts.uses_schema:
            remedy = f"grant usage on schema eventstore to {name}"
            yield Finding(severity, "role", name, "may not use the schema eventstore", remedy)
        if role is Role.APPLICATION and not facts.enterable:
            yield Finding(
                "error",
                "role",
                name,
                f"cannot be entered by the login {catalog.server.login}, which the store needs",
                f"grant {name} to {catalog.server.login}",
            )


def _excessive_powers(role: RoleFacts) -> Iterator[str]:
    if role.superuser:
        yield "is a superuser, to whom row-level security does not apply"
    if role.bypassrls:
        yield "has BYPASSRLS, so row-level security does not apply to it"
    if role.createrole:
        yield "has CREATEROLE, so it can grant itself other roles"
    if role.replication:
        yield "has REPLICATION, so it can copy the rows of all users"
    if role.owns_objects:
        yield "owns tables, functions or a schema of the store or a projector, and can alter them"
    if "eventstore" in role.creates_in:
        yield "may create objects in the schema eventstore, which could be mistaken for the store's"
    if role.powerful_memberships and not role.superuser:
        memberships = ", ".join(role.powerful_memberships)
        yield f"is a member of {memberships}, and may do more than this role should"


def _check_views(catalog: Catalog) -> Iterator[Finding]:
    for name, materialised in catalog.views:
        kind = "materialised view" if materialised else "view"
        detail = f"is a {kind} that reads the tables of users with the rights of its owner"
        remedy = "drop it" if materialised else f"alter view {name} set (security_invoker = on)"
        severity: Severity = "error" if name.startswith("eventstore.") else "warning"
        yield Finding(severity, "view", name, detail, remedy)


_RESTORE = "restore it, see Isolation in the documentation"


def _check_missing_functions(catalog: Catalog) -> Iterator[Finding]:
    present = {function.plain_name for function in catalog.functions if function.in_schema}
    for name in sorted(FUNCTION_DIGESTS.keys() - present):
        yield Finding("error", "function", f"eventstore.{name}", "is missing", _RESTORE)


def _check_functions(catalog: Catalog) -> Iterator[Finding]:
    for function in catalog.functions:
        if not function.in_schema:
            detail = "seems to use the tables of users, and runs with its owner's rights"
            remedy = "alter function … security invoker, or drop it"
            yield Finding("warning", "function", function.name, detail, remedy)
            continue
        if function.security_definer:
            detail = "runs with its owner's rights (SECURITY DEFINER)"
            remedy = "drop it, because no function of the store does that"
            yield Finding("error", "function", function.name, detail, remedy)
        name = function.plain_name
        declaration = (function.volatility, function.strict, function.settings)
        # A plan with this function declared immutable is cached with one user's id, and then shows
        # another user the rows of the first. So its declaration counts as much as its body.
        if function.name == SCOPE_FUNCTION:
            if function.body not in SCOPE_BODIES or declaration != FUNCTION_DECLARATIONS[name]:
                detail = (
                    "is not what the migrations made it, and decides whose rows a query returns"
                )
                yield Finding("error", "function", function.name, detail, _RESTORE)
        elif name in FUNCTION_DECLARATIONS and declaration != FUNCTION_DECLARATIONS[name]:
            detail = "is not declared as in the migrations (volatility, strictness, settings)"
            yield Finding("error", "function", function.name, detail, _RESTORE)
        elif not function.fixed_search_path and name not in FUNCTION_DECLARATIONS:
            detail = "has no fixed search_path: other objects can stand in for those that it names"
            remedy = "alter function … set search_path"
            yield Finding("warning", "function", function.name, detail, remedy)
        if name in CALLED_FUNCTIONS and not function.callable:
            detail = "may not be called by the application role, so its transactions fail"
            remedy = "grant execute on it to that role"
            yield Finding("error", "function", function.name, detail, remedy)
        digest = FUNCTION_DIGESTS.get(name)
        if digest is not None and function.digest != digest:
            detail = "is not what the migrations made it, and writes or protects the log"
            yield Finding("error", "function", function.name, detail, _RESTORE)
