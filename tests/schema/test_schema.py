"""The migrated schema: keys begin with the user, row security is forced, rights are minimal."""

from __future__ import annotations

import psycopg

from eventstore.log.tables import metadata

TABLES = sorted(table.name for table in metadata.sorted_tables)


def test_every_table_forces_row_level_security(admin: psycopg.Connection) -> None:
    rows = admin.execute(
        """
        select relname, relrowsecurity and relforcerowsecurity from pg_class
        where relnamespace = 'eventstore'::regnamespace and relkind in ('r', 'p', 'v', 'm')
        order by relname
        """
    ).fetchall()

    assert rows == sorted([("alembic_version", False), *((name, True) for name in TABLES)])


def test_policies_show_and_accept_only_rows_of_the_user_in_scope(
    admin: psycopg.Connection,
) -> None:
    own = "(user_id = eventstore.current_user_id())"
    operator = "(CURRENT_USER = 'eventstore_operator'::name)"
    rows = admin.execute(
        """
        select tablename, roles::text, cmd, permissive, qual, with_check
        from pg_policies where schemaname = 'eventstore'
        """
    ).fetchall()

    erasable = (
        "((user_id = eventstore.current_user_id()) AND (CURRENT_USER = 'eventstore_eraser'::name))"
    )
    expected: set[tuple[str | None, ...]] = {
        ("event", "{eventstore_eraser}", "ALL", "PERMISSIVE", erasable, erasable),
        ("rebuild_progress", "{eventstore_operator}", "ALL", "PERMISSIVE", operator, operator),
        ("feed_checkpoint", "{eventstore_operator}", "ALL", "PERMISSIVE", operator, operator),
        ("feed_checkpoint", "{eventstore_app}", "ALL", "PERMISSIVE", own, own),
    }
    for name in {*TABLES} - {"rebuild_progress", "feed_checkpoint"}:
        expected.add((name, "{eventstore_app}", "ALL", "PERMISSIVE", own, own))
        changes = name == "user_log"  # the quota, by a right on its column alone
        command, check = ("ALL", operator) if changes else ("SELECT", None)
        expected.add((name, "{eventstore_operator}", command, "PERMISSIVE", operator, check))
    assert set(rows) == expected


def test_every_key_and_index_begins_with_user_id(admin: psycopg.Connection) -> None:
    rows = admin.execute(
        """
        select c.relname, i.indexrelid::regclass::text, a.attname
        from pg_index as i
        join pg_class as c on c.oid = i.indrelid
        left join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
        where c.relnamespace = 'eventstore'::regnamespace and c.relname <> 'alembic_version'
        """
    ).fetchall()

    assert {table for table, *_ in rows} == {*TABLES}
    assert [index for _, index, first in rows if first != "user_id"] == []


def test_there_is_no_foreign_key_and_no_check(admin: psycopg.Connection) -> None:
    """PostgreSQL would look for them in every append; see migrations/sql/0001_tables.sql."""
    rows = admin.execute(
        """
        select conrelid::regclass, conname from pg_constraint
        where connamespace = 'eventstore'::regnamespace and contype in ('f', 'c')
        """
    ).fetchall()

    assert rows == []


def test_the_roles_have_exactly_the_table_rights_they_need(admin: psycopg.Connection) -> None:
    rows = admin.execute(
        """
        select grantee, table_name, string_agg(privilege_type, ', ' order by privilege_type)
        from information_schema.role_table_grants
        where table_schema = 'eventstore' and grantee <> 'postgres'
        group by grantee, table_name
        """
    ).fetchall()

    read_and_write = "DELETE, INSERT, SELECT, UPDATE"
    assert set(rows) == {
        ("eventstore_app", "event", "INSERT, SELECT"),
        ("eventstore_app", "user_log", "SELECT"),  # INSERT and UPDATE on some columns only
        ("eventstore_app", "stream", "INSERT, SELECT"),
        ("eventstore_app", "task", read_and_write),
        ("eventstore_app", "conversation", read_and_write),
        ("eventstore_app", "message", read_and_write),
        ("eventstore_app", "tool_call", read_and_write),
        ("eventstore_app", "turn", read_and_write),
        ("eventstore_app", "feed_checkpoint", read_and_write),
        ("eventstore_app", "alembic_version", "SELECT"),
        ("eventstore_operator", "feed_checkpoint", "DELETE"),  # SELECT on some columns only
        ("eventstore_operator", "alembic_version", "SELECT"),
        ("eventstore_operator", "rebuild_progress", read_and_write),
    }


def test_the_roles_have_exactly_the_column_rights_they_need(
    admin: psycopg.Connection,
) -> None:
    rows = admin.execute(
        """
        select attrelid::regclass::text, attname, acl.grantee::regrole::text, acl.privilege_type
        from pg_attribute, aclexplode(attacl) as acl
        where attrelid in (select oid from pg_class
                           where relnamespace = 'eventstore'::regnamespace)
        """
    ).fetchall()

    listed_tables = ("stream", "event", "task", "conversation", "message", "tool_call", "turn")
    readable_columns = ("user_id", "position", "stream_id", "type", "salt")
    erasable_columns = ("payload", "metadata", "salt")
    assert set(rows) == {
        *(
            ("eventstore.feed_checkpoint", one, "eventstore_operator", "SELECT")
            for one in ("user_id", "feed", "position", "since", "free_at", "failures", "failed_at")
        ),
        *(
            (f"eventstore.{name}", "user_id", "eventstore_operator", "SELECT")
            for name in listed_tables
        ),
        *(
            ("eventstore.user_log", one, "eventstore_operator", "SELECT")
            for one in ("user_id", "position", "hash", "recorded_at")
        ),
        *(
            ("eventstore.tool_call", one, "eventstore_operator", "SELECT")
            for one in ("status", "claimed_at", "claim_seconds")
        ),
        *(
            ("eventstore.turn", one, "eventstore_operator", "SELECT")
            for one in ("status", "leased_at", "lease_seconds")
        ),
        *(("eventstore.event", one, "eventstore_eraser", "SELECT") for one in readable_columns),
        *(("eventstore.event", one, "eventstore_eraser", "UPDATE") for one in erasable_columns),
        *(
            ("eventstore.user_log", one, "eventstore_app", "UPDATE")
            for one in ("position", "hash", "recorded_at", "retried")
        ),
        *(
            ("eventstore.user_log", one, "eventstore_app", "INSERT")
            for one in ("user_id", "position", "hash", "recorded_at")
        ),
        ("eventstore.user_log", "quota", "eventstore_operator", "SELECT"),
        ("eventstore.user_log", "quota", "eventstore_operator", "UPDATE"),
        *(("eventstore.stream", one, "eventstore_app", "UPDATE") for one in ("version", "closed")),
    }


def test_the_roles_own_nothing_bypass_nothing_and_cannot_log_in(admin: psycopg.Connection) -> None:
    roles = admin.execute(
        """
        select rolname, rolsuper, rolbypassrls, rolcanlogin, rolcreaterole, rolcreatedb
        from pg_roles where rolname like 'eventstore%' order by rolname
        """
    ).fetchall()
    owned = admin.execute(
        "select relname from pg_class where relowner::regrole::text like 'eventstore%'"
    ).fetchall()

    names = ("eventstore_app", "eventstore_eraser", "eventstore_operator")
    assert roles == [(name, *[False] * 5) for name in names]
    assert owned == []


def test_only_the_application_role_may_call_the_append_functions(
    admin: psycopg.Connection,
) -> None:
    roles = ["public", "eventstore_app", "eventstore_operator", "eventstore_eraser"]
    allowed = admin.execute(
        """
        select proname, array(select role from unnest(%s::text[]) as role
                              where has_function_privilege(role, oid, 'execute'))
        from pg_proc
        where pronamespace = 'eventstore'::regnamespace and proname ~ '^(append|position)'
        """,
        (roles,),
    ).fetchall()

    assert dict(allowed) == {
        "append_event": ["eventstore_app"],
        "append_events": ["eventstore_app"],
        "position_at": ["eventstore_app"],
    }
