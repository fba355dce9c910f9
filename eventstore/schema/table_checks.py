"""The checks of one table: row-level security, columns, constraints, rights and triggers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eventstore.database.roles import Role, with_role_names
from eventstore.log.tables import FEED_CHECKPOINT, LOG_TABLES, STORE_TABLES
from eventstore.schema.expected import (
    APPLICATION_INSERTS,
    APPLICATION_UPDATES,
    COLUMNS,
    CONSTRAINTS,
    ERASER_RIGHTS,
    OPERATOR_READS,
    OPERATOR_UPDATES,
    OWN_ROWS,
    POLICIES,
    POLICY_COMMANDS,
    TRIGGERS,
)
from eventstore.schema.facts import TableFacts
from eventstore.schema.findings import Finding, Severity

__all__ = ["TableCheck"]

_PROTECT = "see projections.protection_sql"
_EVENT = "eventstore.event"
_PROGRESS = "eventstore.rebuild_progress"
_READ_AND_WRITE = {"SELECT", "INSERT", "UPDATE", "DELETE"}
_APPLICATION_RIGHTS = {
    "eventstore.user_log": {"SELECT", "INSERT", "UPDATE"},
    "eventstore.stream": {"SELECT", "INSERT", "UPDATE"},
    _EVENT: {"SELECT", "INSERT"},
    _PROGRESS: set[str](),
}
"""The rights of the application role, on some column or all; on other tables, read and write."""

_OPERATOR_RIGHTS = {
    _PROGRESS: _READ_AND_WRITE,
    FEED_CHECKPOINT: {"SELECT", "DELETE"},
    "eventstore.user_log": {"SELECT", "UPDATE"},
}
"""Those of the operator role, on some column or all; on other tables, read."""


@dataclass(frozen=True, slots=True)
class TableCheck:
    """
    The check of one table of the store or of a projector.

    :ivar read_models: the tables of the projectors, as schema-qualified names.
    :ivar names: the name of each role on this server.
    """

    table: TableFacts
    read_models: Sequence[str]
    names: dict[Role, str]

    def findings(self) -> Iterator[Finding]:
        """Yield the faults of the table."""
        table = self.table
        if table.inherits:
            detail = "inherits from another table, whose queries return its rows as well"
            remedy = "drop it, or alter it with NO INHERIT"
            yield Finding("error", "reading", table.name, detail, remedy)
        # Without rights on a partition or child, a role reaches its rows only through the parent,
        # where the protection of the parent holds. Without rights on a parent, it reaches nothing.
        if (table.is_partition or table.inherits or table.is_parent) and not any(
            self._rights_of(role) for role in Role
        ):
            for detail, remedy in self._check_unique_indexes():
                yield self._table("error", detail, remedy)
            return
        if not table.exists:
            remedy = "create it in a migration of yours, see Isolation in the documentation"
            yield self._table("error", "does not exist", remedy)
            return
        for detail, remedy in (
            *self._check_row_security(),
            *self._check_columns(),
            *self._check_shape(),
            *self._check_constraints(),
        ):
            yield self._table("error", detail, remedy)
        yield from self._check_policies()
        for detail, remedy in (*self._check_rights(), *self._check_column_rights()):
            yield Finding("error", "rights", table.name, detail, remedy)
        yield from self._check_updates()
        # An index that is not unique refuses nothing, so it reveals nothing: a full-text search has
        # one over all users.
        for index in table.cross_user_indexes:
            detail = f"index {index} does not begin with user_id: it is shared by all users"
            yield self._table("warning", detail, "make user_id its first column if you can")
        for detail, remedy in self._check_weaknesses():
            yield self._table("warning", detail, remedy)
        for detail, remedy in self._check_triggers():
            yield Finding("warning", "trigger", table.name, detail, remedy)

    def _table(self, severity: Severity, detail: str, remedy: str) -> Finding:
        return Finding(severity, "table", self.table.name, detail, remedy)

    def _check_row_security(self) -> Iterator[tuple[str, str]]:
        if not self.table.row_security:
            yield "row-level security is not enabled", _PROTECT
        elif not self.table.row_security_forced:
            yield "row-level security is not forced, so it does not hold for the owner", _PROTECT

    def _check_policies(self) -> Iterator[Finding]:
        table = self.table
        has_users_rows = table.name in {*STORE_TABLES, *self.read_models}
        for role, expressions, needed in (
            (Role.APPLICATION, OWN_ROWS, has_users_rows),
            (Role.OPERATOR, (self._with_names(POLICIES[Role.OPERATOR]),), has_users_rows),
            (Role.ERASER, (self._with_names(POLICIES[Role.ERASER]),), table.name == _EVENT),
        ):
            # A policy for PUBLIC holds for each of the store's roles.
            applying = [
                policy
                for policy in table.policies
                if policy["permissive"] and self.names[role] in policy["roles"]
            ]
            expected = [
                policy
                for policy in applying
                if _has_expression(policy, expressions)
                and policy["command"] in POLICY_COMMANDS[role]
            ]
            if needed and not expected:
                # The operator or the eraser reaches no row without its policy, which is safe.
                severity: Severity = "error" if role is Role.APPLICATION else "warning"
                remedy = "run `eventstore migrate`, or see projections.protection_sql"
                yield self._table(severity, f"{_POLICY_FOR[role]} is missing", remedy)
            for policy in applying:
                if policy not in expected:
                    name = policy["name"]
                    detail = f"policy {name} is not the one for the {role.name.lower()} role"
                    remedy = "drop it, or create it for roles that are not the store's"
                    yield self._table("error", detail, remedy)
        for policy in table.policies:
            if not policy["permissive"]:
                detail = f"policy {policy['name']} is restrictive: it may hide a user's own rows"
                if policy["roles"] and table.name.startswith("eventstore."):
                    yield Finding("error", "reading", table.name, detail, "drop it")
                else:
                    yield self._table("warning", detail, "drop it, unless you intend that")

    def _check_unique_indexes(self) -> Iterator[tuple[str, str]]:
        # A value that is refused as a duplicate reveals that another user has it.
        for index in self.table.cross_user_unique_indexes:
            detail = f"unique index {index} does not begin with user_id: it reveals other users"
            yield detail, "make user_id its first column"

    def _check_columns(self) -> Iterator[tuple[str, str]]:
        table = self.table
        column = table.user_id or {"type": "missing", "exact": False}
        if column["type"] not in {"text", "character varying"} or not column["exact"]:
            detail = f"user_id is {column['type']}, or its collation takes different ids for equal"
            yield detail, "make it text, with a deterministic collation"
        for name, sql_type in COLUMNS.get(table.name, {}).items():
            if (found := (table.column_types or {}).get(name, "missing")) != sql_type:
                yield f"{name} is {found}, not {sql_type} as the migrations made it", "restore it"

    def _check_shape(self) -> Iterator[tuple[str, str]]:
        table = self.table
        yield from self._check_unique_indexes()
        for key in table.cross_user_foreign_keys:
            detail = f"foreign key {key} does not begin with user_id on both sides"
            yield detail, "make it composite: (user_id, …) references … (user_id, …)"
        for rule in table.rules:
            yield f"rule {rule} rewrites statements on it", "drop it"

    def _check_constraints(self) -> Iterator[tuple[str, str]]:
        for name, definition in CONSTRAINTS.get(self.table.name, {}).items():
            if self.table.constraints.get(name) != definition:
                detail = f"{name} is missing, or not as the migrations made it"
                yield detail, f"restore it: {definition}"

    def _rights_of(self, role: Role) -> set[str]:
        return {*(self.table.rights or {}).get(self.names[role], ())}

    def _check_rights(self) -> Iterator[tuple[str, str]]:
        """Check the rights of each role on the table or on some column of it."""
        table = self.table
        for role, allowed in (
            (Role.APPLICATION, _APPLICATION_RIGHTS.get(table.name, _READ_AND_WRITE)),
            (Role.OPERATOR, _OPERATOR_RIGHTS.get(table.name, {"SELECT"})),
            (Role.ERASER, {"UPDATE"} if table.name == _EVENT else set[str]()),
        ):
            if excess := ", ".join(sorted(self._rights_of(role) - allowed)):
                name = self.names[role]
                yield f"{name} may {excess}", f"revoke {excess} on {table.name} from it and public"
        if table.name in {*STORE_TABLES, *self.read_models}:
            needed = _APPLICATION_RIGHTS.get(table.name, _READ_AND_WRITE)
            if lacks := ", ".join(sorted(needed - self._rights_of(Role.APPLICATION))):
                name = self.names[Role.APPLICATION]
                detail = f"{name} may not {lacks}, which the store needs"
                yield detail, f"grant {lacks} on {table.name} to {name}"

    def _check_column_rights(self) -> Iterator[tuple[str, str]]:
        # The operator's policy shows every row, so rights on columns alone limit what it reads.
        table = self.table
        eraser_allowed = ERASER_RIGHTS if table.name == _EVENT else set[str]()
        for role, actual, allowed in (
            (Role.OPERATOR, table.operator_reads, OPERATOR_READS.get(table.name, {"user_id"})),
            (Role.OPERATOR, table.operator_updates, OPERATOR_UPDATES.get(table.name, set[str]())),
            (Role.ERASER, table.eraser_rights, eraser_allowed),
        ):
            if excess := ", ".join(sorted({*actual} - allowed)):
                name = self.names[role]
                yield f"{name} has needless rights on columns: {excess}", f"revoke them from {name}"

    def _check_weaknesses(self) -> Iterator[tuple[str, str]]:
        """Check what weakens durability, evidence or rebuilds, although users are isolated."""
        table = self.table
        if not table.logged:
            remedy = f"alter table {table.name} set logged"
            yield "is not logged: a crash of the server empties it", remedy
        if not any(one.startswith("PRIMARY KEY") for one in table.constraints.values()):
            remedy = f"alter table {table.name} add primary key (user_id, …)"
            yield "has no primary key: a row may be stored twice", remedy
        for column in table.sequence_columns:
            detail = f"{column} takes numbers from a sequence of all users: they reveal other users"
            yield detail, "use UUIDs, or number each user's rows separately"
        for key in table.cascading_foreign_keys:
            detail = f"foreign key {key} deletes or updates rows by itself, and a replay does not"
            yield detail, "declare it NO ACTION, and let the projector do it"
        for key in table.immediate_foreign_keys:
            detail = f"foreign key {key} is not deferrable: a rebuild that replaces rows may fail"
            yield detail, f"alter table {table.name} alter constraint {key} deferrable"
        for check in table.check_constraints if table.name in LOG_TABLES else ():
            if check not in CONSTRAINTS[table.name]:
                detail = (
                    f"check {check} is not one of the store's: it may refuse appends or erasures"
                )
                yield detail, f"alter table {table.name} drop constraint {check}"
        if table.disabled_triggers:
            yield (
                "its foreign keys are not enforced, because their triggers are disabled",
                f"alter table {table.name} enable trigger all",
            )

    def _check_updates(self) -> Iterator[Finding]:
        """Check the columns that the application role may write; see `APPLICATION_UPDATES`."""
        table, name = self.table, self.names[Role.APPLICATION]
        # Whoever may update the whole table may also LOCK it, and that stops the appends of all.
        for right, expected, columns in (
            ("update", APPLICATION_UPDATES, table.application_updates),
            ("insert", APPLICATION_INSERTS, table.application_inserts),
        ):
            actual = {*columns}
            needed = expected.get(table.name, actual)
            if lacks := ", ".join(sorted(needed - actual)):
                detail = f"{name} may not {right} {lacks}, which every append does"
                remedy = f"grant {right} ({lacks}) on {table.name} to {name}"
                yield Finding("error", "rights", table.name, detail, remedy)
            if excess := ", ".join(sorted(actual - needed)):
                detail = f"{name} may {right} {excess}, which no append does"
                remedy = f"revoke {right} on {table.name} from it and public"
                yield Finding("warning", "rights", table.name, detail, remedy)

    def _check_triggers(self) -> Iterator[tuple[str, str]]:
        table = self.table
        expected = TRIGGERS.get(table.name, {})
        for name, default_definition in expected.items():
            actual = table.triggers.get(name)
            definition = self._with_names(default_definition)
            if actual is None or actual["definition"] != definition:
                state = "missing" if actual is None else "not as the migrations made it"
                remedy = f"restore it: {definition}; and enable it always"
            elif actual["enabled"] != "A":
                # Any other trigger is skipped while session_replication_role is `replica`.
                state = "disabled" if actual["enabled"] == "D" else "not ALWAYS"
                remedy = f"alter table {table.name} enable always trigger {name}"
            else:
                continue
            yield f"trigger {name} is {state}: the owner may change history by mistake", remedy
        for name in sorted(table.triggers.keys() - expected.keys()):
            detail = f"trigger {name} is not one of the store's: it may change what is written"
            yield detail, "drop it, unless you created it"

    def _with_names(self, sql: str) -> str:
        return with_role_names(sql, self.names)


_POLICY_FOR = {
    Role.APPLICATION: "the policy that shows and accepts a user's own rows",
    Role.OPERATOR: "the policy operator_lists, which lets the operator list users,",
    Role.ERASER: "the policy eraser_erases, which lets the eraser remove payloads,",
}


def _has_expression(policy: dict[str, Any], expressions: Sequence[str]) -> bool:
    """Return whether a policy has one of the expressions, for reading and for writing."""
    # Without a WITH CHECK, PostgreSQL applies the expression of USING to writes too.
    return policy["using"] in expressions and policy["check"] in {*expressions, None}
