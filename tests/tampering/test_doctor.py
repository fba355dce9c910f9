"""Changes of triggers, policies, rights and functions, each of which the doctor reports."""

from __future__ import annotations

import psycopg
import pytest

from eventstore import EventStore, UnsafeDatabase

WEAKENINGS: dict[str, tuple[str, str, str]] = {
    "a trigger disabled": (
        "alter table eventstore.event disable trigger append_only_update",
        "eventstore.event",
        "append_only_update",
    ),
    "all triggers disabled": (
        "alter table eventstore.user_log disable trigger all",
        "eventstore.user_log",
        "forward_only",
    ),
    "a trigger not for replicas": (
        "alter table eventstore.stream enable trigger forward_only",
        "eventstore.stream",
        "forward_only",
    ),
    "a trigger dropped": (
        "drop trigger erasure_only on eventstore.event",
        "eventstore.event",
        "erasure_only",
    ),
    "a policy dropped": (
        "drop policy own_rows on eventstore.task",
        "eventstore.task",
        "user's own rows is missing",
    ),
    "a policy opened": (
        "alter policy own_rows on eventstore.message using (true)",
        "eventstore.message",
        "own_rows",
    ),
    "a policy added": (
        "create policy all_rows on eventstore.event for select to public using (true)",
        "eventstore.event",
        "all_rows",
    ),
    "force removed": (
        "alter table eventstore.event no force row level security",
        "eventstore.event",
        "not forced",
    ),
    "row-level security disabled": (
        "alter table eventstore.conversation disable row level security",
        "eventstore.conversation",
        "not enabled",
    ),
    "the scope's function replaced": (
        (
            "create or replace function eventstore.current_user_id() returns text language sql stable"  # noqa: E501 - one statement
            " return 'alice'"
        ),
        "eventstore.current_user_id()",
        "not what the migrations made it",
    ),
    "a right granted": (
        "grant update on eventstore.event to eventstore_app",
        "eventstore.event",
        "UPDATE",
    ),
    "a rule": (
        "create rule quiet as on delete to eventstore.task do instead nothing",
        "eventstore.task",
        "quiet",
    ),
}
# A trigger function that permits every change.
_PERMIT_ALL = (
    "create or replace function eventstore.{}() returns trigger language plpgsql"
    " set search_path = pg_catalog, pg_temp as $$ begin return coalesce(new, old); end $$"
)
WEAKENINGS |= {
    "a trigger's function replaced": (_PERMIT_ALL.format("refuse_change"), "refuse_change", ""),
    "the erasing trigger's function replaced": (
        _PERMIT_ALL.format("refuse_other_than_erasure"),
        "refuse_other_than_erasure",
        "",
    ),
    "the appending function replaced": (
        (
            "do $$ begin execute replace(pg_get_functiondef('eventstore.append_events'::regproc),"
            " 'is at another version', 'is elsewhere'); end $$"
        ),
        "append_events",
        "",
    ),
    "the function that appends one event replaced": (
        (
            "do $$ begin execute replace(pg_get_functiondef('eventstore.append_event'::regproc),"
            " 'not closed', 'true'); end $$"
        ),
        "append_event(",
        "",
    ),
    "the function that appends one event dropped": (
        (
            "do $$ begin execute 'drop function ' || 'eventstore.append_event'::regproc::oid"
            "::regprocedure; end $$"
        ),
        "eventstore.append_event",
        "",
    ),
    "the function that keeps heads moving forward replaced": (
        _PERMIT_ALL.format("refuse_older_head"),
        "refuse_older_head",
        "",
    ),
    "the function that keeps streams closed replaced": (
        _PERMIT_ALL.format("refuse_older_stream"),
        "refuse_older_stream",
        "",
    ),
    "a trigger that never fires": (
        (
            "drop trigger append_only on eventstore.event; create trigger append_only"
            " before delete on eventstore.event for each statement when (false)"
            " execute function eventstore.refuse_change();"
            " alter table eventstore.event enable always trigger append_only"
        ),
        "eventstore.event",
        "append_only",
    ),
    "the eraser's policy dropped": (
        "drop policy eraser_erases on eventstore.event",
        "eventstore.event",
        "eraser_erases",
    ),
    "the eraser's policy opened": (
        "alter policy eraser_erases on eventstore.event using (true)",
        "eventstore.event",
        "eraser_erases",
    ),
    "the eraser reads payloads": (
        "grant select on eventstore.event to eventstore_eraser",
        "eventstore.event",
        "eventstore_eraser",
    ),
    "the operator reads payloads": (
        "grant select on eventstore.event to eventstore_operator",
        "eventstore.event",
        "eventstore_operator",
    ),
    "idempotency keys may be duplicated": (
        "drop index eventstore.event_idempotency_key",
        "eventstore.event",
        "event_idempotency_key",
    ),
    "positions may be duplicated": (
        "alter table eventstore.event drop constraint event_pkey",
        "eventstore.event",
        "event_pkey",
    ),
}


@pytest.mark.parametrize("change", WEAKENINGS)
def test_the_doctor_reports_each_weakened_protection(
    store: EventStore, admin: psycopg.Connection, change: str
) -> None:
    statement, location, word = WEAKENINGS[change]
    before = store.doctor()

    admin.execute(statement)

    found = [one for one in store.doctor() if one not in before]
    assert any(location in one.location and word in one.detail for one in found), found


DECEPTIONS = {
    "a cast": (
        "create function public.lie(json) returns text language sql immutable return '{}'::text;"
        "create cast (json as text) with function public.lie(json)"
    ),
    "a scope without a user in a snapshot": (
        "create or replace function eventstore.current_user_id() returns text language sql stable"
        " return case when current_setting('transaction_isolation') = 'read committed'"
        " then nullif(current_setting('eventstore.user_id', true), '') end"
    ),
    "an inherited table": "create table public.extra () inherits (eventstore.message)",
    "a policy": (
        "create policy mirror on eventstore.event as restrictive for select to eventstore_app using"
        " (position <> 2 or current_setting('transaction_isolation') = 'repeatable read')"
    ),
}


@pytest.mark.parametrize("what", DECEPTIONS)
def test_a_database_that_may_show_verify_other_rows_than_readers_is_refused(
    store: EventStore, database_url: str, admin: psycopg.Connection, what: str
) -> None:
    """Verify would otherwise confirm rows that no reader gets."""
    store.user("alice").tasks.create("Buy milk")
    assert store.verify().ok

    admin.execute(DECEPTIONS[what].encode())

    for user in (None, "alice"):
        with pytest.raises(UnsafeDatabase):
            store.verify(user)
    with pytest.raises(UnsafeDatabase):
        EventStore.connect(database_url)
