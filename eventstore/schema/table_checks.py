"""Judge one table of the store or of a projector: row-level security, shape, rights, triggers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from eventstore.database.roles import Role, with_role_names
from eventstore.log.tables import LOG_TABLES
from eventstore.schema.expected import (
    COLUMNS,
    COMMANDS,
    CONSTRAINTS,
    LISTED_COLUMNS,
    MOVED_COLUMNS,
    OWN_ROWS,
    POLICIES,
    RIGHTS_OF_ERASER,
    TRIGGERS,
)
from eventstore.schema.facts import TableFacts
from eventstore.schema.findings import Finding, Severity

__all__ = ["TableCheck"]

_PROTECT = "see projections.protection_sql"
_PROGRESS = "eventstore.rebuild_progress"
_READ_AND_WRITE = {"SELECT", "INSERT", "UPDATE", "DELETE"}
_ALLOWED = {
    "eventstore.user_log": {"SELECT", "INSERT", "UPDATE"},
    "eventstore.stream": {"SELECT", "INSERT", "UPDATE"},
    "eventstore.event": {"SELECT", "INSERT"},
    _PROGRESS: set[str](),
}


@dataclass(frozen=True, slots=True)
class TableCheck:
    """
    One table under examination.

    :ivar read_models: the tables of the projectors.
    :ivar names: what the roles are called here.
    """

    table: TableFacts
    read_models: Sequence[str]
    names: dict[Role, str]

    def findings(self) -> Iterator[Finding]:
        """Yield what is wrong with it."""
        table = self.table
        if table.inherits:
            detail = "inherits from a table of these: what is in it is read as if it were there"
            remedy = "drop it, or alter it with NO INHERIT"
            yield Finding("error", "reading", table.name, detail, remedy)
        if (table.partition or table.inherits or table.parent) and not any(
            self._held(role) for role in Role
        ):  # reached through its parent alone, whose protection holds then, or not at all
            for detail, remedy in self._uniques():
                yield self._table("error", detail, remedy)
            return
        if not table.exists:
            remedy = "create it in a migration of yours, see docs/isolation.md"
            yield self._table("error", "does not exist", remedy)
            return
        for detail, remedy in (
            *self._row_security(),
            *self._columns(),
            *self._shape(),
            *self._constraints(),
        ):
            yield self._table("error", detail, remedy)
        yield from self._policies()
        for detail, remedy in (*self._rights(), *self._rights_on_columns()):
            yield Finding("error", "rights", table.name, detail, remedy)
        yield from self._moved()
        for index in table.strange_indexes:
            detail = f"index {index} does not begin with user_id: it is shared by all users"
            yield self._table("warning", detail, "let user_id lead it if it can")
        for detail, remedy in self._weak():
            yield self._table("warning", detail, remedy)
        for detail, remedy in self._triggers():
            yield Finding("warning", "trigger", table.name, detail, remedy)

    def _table(self, severity: Severity, detail: str, remedy: str) -> Finding:
        return Finding(severity, "table", self.table.name, detail, remedy)

    def _row_security(self) -> Iterator[tuple[str, str]]:
        if not self.table.secured:
            yield "row-level security is not enabled", _PROTECT
        elif not self.table.forced:
            yield "row-level security is not forced, so its owner is exempt", _PROTECT

    def _policies(self) -> Iterator[Finding]:
        """Judge the policies of each role; one for PUBLIC is everybody's."""
        table = self.table
        users_rows = table.name in {*LOG_TABLES, *self.read_models}
        for role, wanted, needed in (
            (Role.APPLICATION, OWN_ROWS, users_rows),
            (Role.OPERATOR, (with_role_names(POLICIES[Role.OPERATOR], self.names),), users_rows),
            (
                Role.ERASER,
                (with_role_names(POLICIES[Role.ERASER], self.names),),
                table.name == "eventstore.event",
            ),
        ):
            applying = [
                one for one in table.policies if one["permissive"] and self.names[role] in one["to"]
            ]
            good = [
                one for one in applying if _is(one, wanted) and one["command"] in COMMANDS[role]
            ]
            if needed and not good:
                # Without the others' policies they reach nothing: safe, and less than needed.
                severity: Severity = "error" if role is Role.APPLICATION else "warning"
                remedy = "run `eventstore migrate`, or see projections.protection_sql"
                yield self._table(severity, f"{_POLICY_FOR[role]} is missing", remedy)
            for policy in applying:
                if policy not in good:
                    detail = f"policy {policy['name']} is not the one for {_MEANT_FOR[role]}"
                    remedy = "drop it, or give it to another role than the store's"
                    yield self._table("error", detail, remedy)
        for policy in table.policies:
            if not policy["permissive"]:
                detail = f"policy {policy['name']} is restrictive: it may hide a user's own rows"
                if policy["to"] and table.name.startswith("eventstore."):
                    yield Finding("error", "reading", table.name, detail, "drop it")
                else:
                    yield self._table("warning", detail, "drop it, or mean it")

    def _uniques(self) -> Iterator[tuple[str, str]]:
        for index in self.table.strange_uniques:
            detail = f"unique index {index} does not begin with user_id: it tells of other users"
            yield detail, "make it begin with user_id"

    def _columns(self) -> Iterator[tuple[str, str]]:
        table = self.table
        column = table.user_id or {"type": "missing", "exact": False}
        if column["type"] not in {"text", "character varying"} or not column["exact"]:
            detail = f"user_id is {column['type']}, or of a collation in which ids look alike"
            yield detail, "make it text, with a deterministic collation"
        for name, kind in COLUMNS.get(table.name, {}).items():
            if (found := (table.columns or {}).get(name)) not in {kind, None}:
                yield f"{name} is {found}, and not {kind} as the migrations made it", "restore it"

    def _shape(self) -> Iterator[tuple[str, str]]:
        table = self.table
        yield from self._uniques()
        for key in table.strange_keys:
            detail = f"foreign key {key} does not begin with user_id on both sides"
            yield detail, "make it composite: (user_id, …) references … (user_id, …)"
        if not table.checked:
            yield "no CHECK keeps an empty user_id out", _PROTECT
        for rule in table.rules:
            yield f"rule {rule} rewrites what is asked of it", "drop it"

    def _constraints(self) -> Iterator[tuple[str, str]]:
        for name, definition in CONSTRAINTS.get(self.table.name, {}).items():
            if self.table.constraints.get(name) != definition:
                yield f"{name} is not there as the migrations made it", f"restore it: {definition}"

    def _held(self, role: Role) -> set[str]:
        return {*(self.table.rights or {}).get(self.names[role], ())}

    def _rights(self) -> Iterator[tuple[str, str]]:
        """Judge what each role may do with the whole table, and with more than one column of it."""
        table = self.table
        for role, allowed in (
            (Role.APPLICATION, _ALLOWED.get(table.name, _READ_AND_WRITE)),
            (Role.OPERATOR, _READ_AND_WRITE if table.name == _PROGRESS else {"SELECT"}),
            (Role.ERASER, {"UPDATE"} if table.name == "eventstore.event" else set[str]()),
        ):
            if excess := ", ".join(sorted(self._held(role) - allowed)):
                name = self.names[role]
                yield f"{name} may {excess}", f"revoke {excess} on {table.name} from it and public"
        if table.name in {*LOG_TABLES, *self.read_models}:
            needed = _ALLOWED.get(table.name, _READ_AND_WRITE)
            if lacks := ", ".join(sorted(needed - self._held(Role.APPLICATION))):
                name = self.names[Role.APPLICATION]
                detail = f"{name} may not {lacks}, which all work needs"
                yield detail, f"grant {lacks} on {table.name} to {name}"

    def _rights_on_columns(self) -> Iterator[tuple[str, str]]:
        """The operator's policy lets every row through: what it may read is a matter of columns."""
        table = self.table
        of_eraser = RIGHTS_OF_ERASER if table.name == "eventstore.event" else set[str]()
        for role, held, allowed in (
            (Role.OPERATOR, table.listed, LISTED_COLUMNS.get(table.name, {"user_id"})),
            (Role.ERASER, table.erasable, of_eraser),
        ):
            if excess := ", ".join(sorted({*held} - allowed)):
                name = self.names[role]
                yield f"{name} has no need of rights on {excess}", f"revoke them from {name}"

    def _weak(self) -> Iterator[tuple[str, str]]:
        """What keeps no users apart, and is not as it should be."""
        table = self.table
        if not table.logged:
            remedy = f"alter table {table.name} set logged"
            yield "is not logged: a crash of the server empties it", remedy
        if not any(one.startswith("PRIMARY KEY") for one in table.constraints.values()):
            remedy = f"alter table {table.name} add primary key (user_id, …)"
            yield "has no primary key: a row that comes twice is there twice", remedy
        for column in table.numbered:
            detail = f"{column} is numbered for all users: who gets a number learns of the others"
            yield detail, "take uuids, or numbers of the user's own"
        for key in table.acting_keys:
            detail = f"foreign key {key} deletes or updates rows by itself, which no replay knows"
            yield detail, "make it no action, and let the projector do it"
        for key in table.immediate_keys:
            detail = f"foreign key {key} is not deferrable: a rebuild that replaces rows may fail"
            yield detail, f"alter table {table.name} alter constraint {key} deferrable"
        for check in table.checks if table.name in LOG_TABLES else ():
            if check not in CONSTRAINTS[table.name]:
                detail = f"check {check} is none of the store's: it may refuse what comes or goes"
                yield detail, f"alter table {table.name} drop constraint {check}"
        if table.disabled:
            yield (
                "its foreign keys are switched off",
                f"alter table {table.name} enable trigger all",
            )

    def _moved(self) -> Iterator[Finding]:
        """An append moves some columns of the log; with all of them come locks of a whole table."""
        table, name = self.table, self.names[Role.APPLICATION]
        moved = MOVED_COLUMNS.get(table.name, {*table.movable})
        if lacks := ", ".join(sorted(moved - {*table.movable})):
            detail = f"{name} may not update {lacks}, which every append needs"
            remedy = f"grant update ({lacks}) on {table.name} to {name}"
            yield Finding("error", "rights", table.name, detail, remedy)
        if excess := ", ".join(sorted({*table.movable} - moved)):
            detail = f"{name} has no need to update {excess}"
            remedy = f"revoke update on {table.name} from it and public"
            yield Finding("warning", "rights", table.name, detail, remedy)

    def _triggers(self) -> Iterator[tuple[str, str]]:
        table = self.table
        expected = TRIGGERS.get(table.name, {})
        for name, definition in expected.items():
            there = table.triggers.get(name)
            wanted = with_role_names(definition, self.names)
            if there is None or there["definition"] != wanted:
                state = "missing" if there is None else "not as the migrations made it"
                remedy = f"restore it: {wanted}; and enable it always"
            elif there["enabled"] != "A":
                state = "disabled" if there["enabled"] == "D" else "not ALWAYS"
                remedy = f"alter table {table.name} enable always trigger {name}"
            else:
                continue
            yield f"trigger {name} is {state}: an owner's casual statement changes history", remedy
        for name in sorted(table.triggers.keys() - expected.keys()):
            detail = f"trigger {name} is none of the store's: it may change what is stored"
            yield detail, "drop it, unless you put it there"


_POLICY_FOR = {
    Role.APPLICATION: "the policy that shows and accepts a user's own rows",
    Role.OPERATOR: "the policy operator_lists, by which users are listed,",
    Role.ERASER: "the policy eraser_erases, by which content is erased,",
}
_MEANT_FOR = {
    Role.APPLICATION: "a user's own rows",
    Role.OPERATOR: "the operator is meant to see",
    Role.ERASER: "the eraser is meant to reach",
}


def _is(policy: dict[str, Any], wanted: Sequence[str]) -> bool:
    """Tell whether a policy is the wanted one; without a WITH CHECK, that of USING holds."""
    return policy["using"] in wanted and policy["check"] in {*wanted, None}
