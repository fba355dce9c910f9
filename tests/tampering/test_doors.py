"""Triggers, policies, rights and functions tampered with: the doctor names each open door."""

from __future__ import annotations

import psycopg
import pytest

from eventstore import EventStore, UnsafeDatabase

DOORS: dict[str, tuple[str, str, str]] = {
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
    "force taken away": (
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
    "a right given": (
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
_NOTHING = (
    "create or replace function eventstore.{}() returns trigger language plpgsql"
    " set search_path = pg_catalog, pg_temp as $$ begin return coalesce(new, old); end $$"
)
DOORS |= {
    "a trigger's function replaced": (_NOTHING.format("refuse_change"), "refuse_change", ""),
    "the erasing trigger's function replaced": (
        _NOTHING.format("refuse_other_than_erasure"),
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
    "keys may be doubled": (
        "drop index eventstore.event_idempotency_key",
        "eventstore.event",
        "event_idempotency_key",
    ),
    "positions may be anything": (
        "alter table eventstore.user_log drop constraint user_log_position_check",
        "eventstore.user_log",
        "user_log_position_check",
    ),
}


@pytest.mark.parametrize("change", DOORS)
def test_the_doctor_names_what_was_opened(
    store: EventStore, admin: psycopg.Connection, change: str
) -> None:
    statement, place, word = DOORS[change]
    before = store.doctor()

    admin.execute(statement)

    found = [one for one in store.doctor() if one not in before]
    assert any(place in one.location and word in one.detail for one in found), found


MIRRORS = {
    "a cast": (
        "create function public.lie(json) returns text language sql immutable return '{}'::text;"
        "create cast (json as text) with function public.lie(json)"
    ),
    "a scope that is nobody's in a snapshot": (
        "create or replace function eventstore.current_user_id() returns text language sql stable"
        " return case when current_setting('transaction_isolation') = 'read committed'"
        " then nullif(current_setting('eventstore.user_id', true), '') end"
    ),
    "a child": "create table public.extra () inherits (eventstore.message)",
    "a policy": (
        "create policy mirror on eventstore.event as restrictive for select to eventstore_app using"
        " (position <> 2 or current_setting('transaction_isolation') = 'repeatable read')"
    ),
}


@pytest.mark.parametrize("what", MIRRORS)
def test_what_shows_verify_other_rows_than_readers_is_no_clean_log(
    store: EventStore, database_url: str, admin: psycopg.Connection, what: str
) -> None:
    """Not seen: a page's twin row; what a policy shows to verify alone, by its isolation level."""
    store.user("alice").tasks.create("Buy milk")
    assert store.verify().ok

    admin.execute(MIRRORS[what].encode())

    for user in (None, "alice"):
        with pytest.raises(UnsafeDatabase):
            store.verify(user)
    with pytest.raises(UnsafeDatabase):
        EventStore.connect(database_url)
