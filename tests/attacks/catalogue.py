"""
The attacks of one user on another user's rows: every kind of attack on every table.

Each attack names the statements that remove its defence. If it succeeds without the defence, a
failure with it is due to the defence and not to a mistake in the attack.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import BigInteger, Boolean, DateTime, Table, Text

from tests.attacks.catalogue_protection import other_attacks, protection_attacks
from tests.attacks.support import LOG_TABLES, TABLES, Attack, key_without_user

__all__ = ["ATTACKS", "READ_MODELS"]

READ_MODELS = [name for name in TABLES if name not in {*LOG_TABLES, "eventstore.rebuild_progress"}]

_OWN = "user_id = eventstore.current_user_id()"


def _policy(name: str, using: str, check: str) -> list[str]:
    """Return statements that replace a table's policy and grant the rights that attacks need."""
    return [
        f"drop policy if exists own_rows on {name}",
        f"create policy own_rows on {name} to eventstore_app using ({using}) with check ({check})",
        f"grant select, insert, update, delete on {name} to eventstore_app",
        f"alter table {name} disable trigger user",
    ]


def _assignment(table: Table) -> str:
    """Return an assignment that changes any row of a table."""
    values = {Text: "'stolen'", Boolean: "not {0}", BigInteger: "77", DateTime: "'2000-01-01'"}
    name, value = next(
        (column.name, value)
        for kind, value in values.items()
        for column in table.columns
        if isinstance(column.type, kind) and not column.primary_key
    )
    return f"{name} = {value.format(name)}"


def _read_attacks(name: str) -> Iterator[Attack]:
    every = _policy(name, "true", _OWN)
    off = [f"alter table {name} disable row level security", *every[2:3]]
    yield Attack("select hers", every, f"select * from {name} where user_id = 'alice'")
    yield Attack("select all", off, f"select * from {name}")
    yield Attack("select all but mine", every, f"select * from {name} where user_id <> 'bob'")
    yield Attack("count hers", every, f"select user_id, count(*) from {name} group by 1")
    yield Attack("join with hers", off, f"select a.* from {name} a join {name} b using (user_id)")
    yield Attack("copy to", off, f"copy {name} to stdout")
    yield Attack("copy a query to", every, f"copy (select * from {name}) to stdout")
    yield Attack(
        "lock hers", every, f"select * from {name} where user_id = 'alice' for update skip locked"
    )
    yield Attack(
        "function that runs before the policy",
        off,
        "create temp table loot (v text) on commit drop;"
        "create or replace function pg_temp.peek(v text) returns bool cost 0.0000001"
        " language plpgsql as 'begin insert into loot values (v); return true; end';"
        f"select 1 from {name} as t where pg_temp.peek(t::text); select * from loot",
    )
    yield Attack(
        "error that reveals a value",
        off,
        f"select 1 / (case when user_id = 'alice' then 0 else 1 end) from {name}",
        reveals="22012",
    )
    yield Attack(
        "statistics",
        off,
        f"select 'alice', s.* from pg_stats as s where schemaname || '.' || tablename = '{name}'",
    )
    yield Attack(
        "row security off",
        ["alter role eventstore_app bypassrls", *every[2:3]],
        f"set local row_security = off; select * from {name}",
    )
    yield Attack(
        "a view of the attacker",
        every,
        f"create temp view mine as select * from {name}; select * from mine; drop view mine",
    )
    yield Attack(
        "a cursor",
        every,
        f"declare hers cursor for select * from {name} where user_id = 'alice'; fetch all hers",
    )
    yield Attack(
        "as the owner, who is exempt unless row-level security is forced",
        [f"alter table {name} no force row level security"],
        f"select * from {name}",
        setup=[f"alter table {name} owner to eventstore_app"],
    )
    yield Attack(
        "a view with its owner's rights",
        [f"alter view {name}_view reset (security_invoker)"],
        f"select * from {name}_view",
        setup=[
            f"create view {name}_view with (security_invoker = on) as select * from {name}",
            f"grant select on {name}_view to eventstore_app",
            *every[2:3],
        ],
    )


def _unscoped_attacks(name: str) -> Iterator[Attack]:
    """Yield attacks in a transaction that sets no user, or a user but no role."""
    role = "select set_config('role', 'eventstore_app', true)"
    trusting = _policy(name, f"{_OWN} or eventstore.current_user_id() is null", "true")
    inherit = (
        "do $$ begin if current_setting('server_version_num')::int < 160000 then"
        " alter role attacker inherit; else"
        " execute 'grant eventstore_app to attacker with inherit true'; end if; end $$"
    )
    user = "set_config('eventstore.user_id', '{}', true)"
    for state, scope in {
        "no user": role,
        "an empty user": f"{role}, {user.format('')}",
        "a user whose savepoint was rolled back": f"{role}; savepoint s;"
        f" select {user.format('alice')}; rollback to savepoint s",
        "a user that was reset": f"{role}, {user.format('alice')}; reset eventstore.user_id",
    }.items():
        yield Attack(f"select with {state}", trusting, f"select * from {name}", scope=scope)
        yield Attack(f"insert with {state}", trusting, f"insert into {name} $FORGED", scope=scope)
        yield Attack(
            f"delete with {state}",
            [*trusting, *_referencing_policies(TABLES[name], "true")],
            f"set constraints all deferred; delete from {name}",
            scope=scope,
        )
    yield Attack(
        "select with her as the user and no role",
        [inherit, *_policy(name, _OWN, _OWN)],
        f"select * from {name}",
        scope=f"select {user.format('alice')}",
    )


def _referencing_tables(table: Table) -> list[Table]:
    return [
        one
        for one in TABLES.values()
        if any(key.referred_table is table for key in one.foreign_key_constraints)
    ]


def _referencing_policies(table: Table, using: str) -> list[str]:
    return [
        line for one in _referencing_tables(table) for line in _policy(one.fullname, using, "true")
    ]


def _write_attacks(name: str, table: Table) -> Iterator[Attack]:
    free, change = _policy(name, "true", "true"), _assignment(table)
    forge, every = _policy(name, _OWN, "true"), _policy(name, "true", _OWN)
    keys = ", ".join(one.name for one in table.primary_key)
    chat = ", conversation_id = '$CHAT'" if "conversation_id" in table.columns else ""
    own = f"insert into {name} $OWN on conflict do nothing"
    dependent, also = _referencing_tables(table), _referencing_policies(table, "true")
    first = "".join(f"delete from {one.fullname}; " for one in dependent)
    insert = f"insert into {name} $FORGED"
    yield Attack("insert as her", forge, insert)
    yield Attack("insert as her, on conflict do nothing", forge, f"{insert} on conflict do nothing")
    off = [f"alter table {name} disable row level security", *free[2:]]
    yield Attack("copy from", off, f"copy {name} from stdin")
    yield Attack(
        "insert many as her", forge, f"with many as ($FORGED) insert into {name} table many"
    )
    yield Attack(
        "move mine to her",
        _policy(name, "true", "true"),
        f"{own}; update {name} set user_id = '$OTHER'{chat} where user_id = 'bob'"
        f" and ({keys}) in (select {keys} from ($OWN) as mine)",
    )
    yield Attack(
        "update hers",
        every[:1] + free[1:],
        f"update {name} set {change} where user_id = 'alice' returning *",
    )
    yield Attack("update all", free, f"update {name} set {change}")
    yield Attack(
        "delete hers",
        [*free, *also],
        f"set constraints all deferred; delete from {name} where user_id = 'alice' returning *",
    )
    yield Attack("delete all", [*free, *also], f"{first}delete from {name}")
    yield Attack(
        "upsert on her key",
        free,
        f"insert into {name} $HERS on conflict ({keys}) do update set {change}",
    )
    yield Attack(
        "merge into hers",
        free,
        f"merge into {name} as t using (values ('alice')) as"
        f" v (name) on t.user_id = v.name when matched then update set {change}",
    )
    yield Attack(
        "truncate",
        [f"grant truncate on {name} to eventstore_app", *free[3:]]
        + [f"grant truncate on {one.fullname} to eventstore_app" for one in dependent],
        f"truncate {name} cascade",
    )
    if keys != "user_id":
        yield Attack(
            "learn of her key by a conflict",
            [*free[2:], f"create unique index on {name} ({', '.join(key_without_user(name))})"],
            f"with tried as (insert into {name} $SAME_KEY on conflict do nothing returning 1)"
            " select 'alice' where not exists (select from tried)",
        )
    if name not in READ_MODELS:
        yield Attack(
            "lock table",
            [f"grant update on {name} to eventstore_app"],
            f"lock table {name} in access exclusive mode; select 'alice'",
        )


ATTACKS: dict[str, tuple[str, Attack]] = {
    f"{name.partition('.')[2]}: {attack.name}": (name, attack)
    for name, table in TABLES.items()
    for attack in (
        *_read_attacks(name),
        *_unscoped_attacks(name),
        *_write_attacks(name, table),
        *protection_attacks(name, table),
    )
} | {attack.name: ("eventstore.event", attack) for attack in other_attacks()}
