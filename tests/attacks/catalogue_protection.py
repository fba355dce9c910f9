"""The attacks on the protection of the tables, and the attacks that are not on one table."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Table

from tests.attacks.support import LOG_TABLES, Attack

__all__ = ["other_attacks", "protection_attacks"]


def protection_attacks(name: str, table: Table) -> Iterator[Attack]:
    """Yield attacks on the protection of a table, which only its owner may change."""
    schema = name.partition(".")[0]
    own = [
        f"alter table {name} owner to eventstore_app",
        f"grant create on schema {schema} to eventstore_app",
    ]
    spy = (
        "create or replace function pg_temp.spy() returns trigger language plpgsql"
        f" as 'begin return null; end'; create trigger spy before insert on {name}"
        " for each row execute function pg_temp.spy()"
    )
    yield Attack("create trigger", [f"grant trigger on {name} to eventstore_app"], spy)
    for change, statement in {
        "disable row security": f"alter table {name} disable row level security",
        "stop forcing": f"alter table {name} no force row level security",
        "create policy": f"create policy mine on {name} using (true)",
        "create rule": f"create rule quiet as on insert to {name} do instead nothing",
        "drop": f"drop table {name} cascade",
        "rename": f"alter table {name} rename to gone",
        "add column": f"alter table {name} add column spy text",
        "drop key": f"alter table {name} drop constraint {table.name}_pkey",
        "grant to all": f"grant select on {name} to public",
    }.items():
        yield Attack(change, own, statement)
    if name in LOG_TABLES:
        yield Attack("disable triggers", own, f"alter table {name} disable trigger user")
        yield Attack("disarm triggers", own, f"alter table {name} enable trigger append_only")


def other_attacks() -> Iterator[Attack]:
    """Yield the attacks that are not on one table."""
    new = "00000000-0000-0000-0000-00000000000f"
    append = {
        "append_event": f"""
            'alice', '{new}', 'task', -2, false, '{new}', 'TaskCreated', 1, '{{}}', '{{}}', null,
            null, '', '', '', null
        """,
        "append_events": f"""
            'alice', 'key', false, '{{{new}}}', '{{task}}', '{{-2, 1, 0}}',
            '{{{new}, null, null}}', '{{1, 1}}', array['TaskCreated', '{{}}', '{{}}'], '', null
        """,
    }
    for function, arguments in append.items():
        yield Attack(
            f"{function} to her log",
            [f"alter function eventstore.{one} security definer" for one in append],
            f"select 'alice', eventstore.{function}({arguments})",
        )
    yield Attack(
        "replace the scope function",
        [
            "alter function eventstore.current_user_id() owner to eventstore_app",
            "grant create on schema eventstore to eventstore_app",
        ],
        "create or replace function eventstore.current_user_id() returns text language sql"
        " return 'alice'::text",
    )
    yield Attack(
        "add a function",
        ["grant create on schema eventstore to eventstore_app"],
        "create function eventstore.mine() returns int language sql return 1",
    )
    for role, column in {"eventstore_operator": "user_id", "eventstore_eraser": "user_id"}.items():
        yield Attack(
            f"enter {role}",
            [
                f"grant {role} to attacker",
                "grant select on eventstore.event to public",
                "create policy open on eventstore.event using (true)",
            ],
            f"set local role {role}; select {column} from eventstore.event",
        )
    yield Attack(
        "enter the owner",
        ["grant postgres to attacker"],
        "set local role postgres; select * from eventstore.event",
    )
    yield Attack(
        "leave the role",
        ["alter role attacker superuser"],
        "set local role none; select * from eventstore.event",
    )
