"""Changes that break or weaken the isolation of users, as an owner can make them by mistake."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ERRORS", "PROTECT", "ROLES", "SAFE", "TASK", "WARNINGS", "Break"]

PROTECT = (
    "alter table {0} enable row level security; alter table {0} force row level security;"
    " create policy own_rows on {0} to eventstore_app using"
    " (user_id = eventstore.current_user_id()) with check (user_id = eventstore.current_user_id());"
)
EXTRA = "create table eventstore.extra (user_id text primary key, id int);" + PROTECT.format(
    "eventstore.extra"
)
PARTS = (
    "create table eventstore.parts (user_id text primary key)"
    " partition by hash (user_id);"
    + PROTECT.format("eventstore.parts")
    + "create table eventstore.part partition of eventstore.parts"
    " for values with (modulus 1, remainder 0);"
)
TASK, EVENT, BOX = "eventstore.task", "eventstore.event", "service.box"
APP = "eventstore_app"
APPEND_ONE = (
    "eventstore.append_event(text,uuid,text,bigint,boolean,uuid,text,integer,json,json,uuid,uuid,"
    "bytea,bytea,bytea,timestamp with time zone)"
)
APPEND_MANY = (
    "eventstore.append_events(text,text,boolean,uuid[],text[],bigint[],uuid[],bigint[],text[],"
    "bytea,timestamp with time zone[])"
)


@dataclass(frozen=True)
class Break:
    """SQL that breaks the protection, and the finding: check, location and part of the detail."""

    sql: str
    check: str
    location: str
    detail: str


ERRORS = {
    "no row security": Break(
        f"alter table {TASK} disable row level security", "table", TASK, "not enabled"
    ),
    "not forced": Break(f"alter table {TASK} no force row level security", "table", TASK, "forced"),
    "no policy": Break(f"drop policy own_rows on {EVENT}", "table", EVENT, "policy that shows"),
    "a policy for every role": Break(
        f"create policy open on {TASK} using (true)", "table", TASK, "policy open is not the one"
    ),
    "a policy that reads all": Break(
        f"alter policy own_rows on {TASK} using (true)", "table", TASK, "own_rows is not the one"
    ),
    "a policy that writes all": Break(
        f"alter policy own_rows on {TASK} with check (true)",
        "table",
        TASK,
        "own_rows is not the one",
    ),
    "a policy for one command": Break(
        f"create policy seen on {EVENT} for select to eventstore_app using (length(type) > 0)",
        "table",
        EVENT,
        "policy seen is not the one",
    ),
    "a policy that accepts an empty scope": Break(
        f"alter policy own_rows on {TASK} using"
        " (user_id = eventstore.current_user_id() or eventstore.current_user_id() is null)",
        "table",
        TASK,
        "own_rows is not the one",
    ),
    "a new table": Break(
        "create table eventstore.extra (user_id text primary key)",
        "table",
        "eventstore.extra",
        "not enabled",
    ),
    "a unique index of other columns": Break(
        f"create unique index by_title on {TASK} (title)", "table", TASK, "by_title does not begin"
    ),
    "a unique index that begins with another column": Break(
        f"create unique index by_id on {TASK} (id, user_id)", "table", TASK, "by_id does not begin"
    ),
    "an index of an expression": Break(
        f"create unique index lower_user on {TASK} (lower(user_id))",
        "table",
        TASK,
        "lower_user does not",
    ),
    "a foreign key of one column": Break(
        "create table eventstore.other (id int primary key);"
        + EXTRA
        + "alter table eventstore.extra add constraint single foreign key (id)"
        " references eventstore.other (id) deferrable",
        "table",
        "eventstore.extra",
        "foreign key single",
    ),
    "a partition with grants": Break(
        PARTS + "grant select on eventstore.part to eventstore_app",
        "table",
        "eventstore.part",
        "not enabled",
    ),
    "a child with grants": Break(
        f"create table public.child () inherits ({TASK});"
        " grant select on public.child to eventstore_app",
        "table",
        "public.child",
        "not enabled",
    ),
    "a child without grants": Break(
        f"create table public.child () inherits ({TASK})", "reading", "public.child", "inherits"
    ),
    "a restrictive policy": Break(
        f"create policy less on {TASK} as restrictive using (title <> 'x')",
        "reading",
        TASK,
        "policy less is restrictive",
    ),
    "a rule": Break(
        f"create rule quiet as on insert to {EVENT} do instead nothing",
        "table",
        EVENT,
        "rule quiet",
    ),
    "a view": Break(
        f"create view eventstore.leak as select * from {TASK}", "view", "eventstore.leak", "rights"
    ),
    "a materialised view": Break(
        f"create materialized view eventstore.leak as select * from {TASK}",
        "view",
        "eventstore.leak",
        "materialised",
    ),
    "a view of a table without a projector": Break(
        EXTRA + "create view eventstore.leak as select * from eventstore.extra",
        "view",
        "eventstore.leak",
        "rights",
    ),
    "a function with its owner's rights": Break(
        "create function eventstore.leak() returns bigint language sql security definer"
        f" set search_path = '' return (select count(*) from {TASK})",
        "function",
        "eventstore.leak()",
        "SECURITY DEFINER",
    ),
    "a replaced scope function": Break(
        "create or replace function eventstore.current_user_id() returns text language sql"
        " stable return 'alice'::text",
        "function",
        "eventstore.current_user_id()",
        "whose rows",
    ),
    "a scope function with a preset user": Break(
        "alter function eventstore.current_user_id() set eventstore.user_id = 'alice'",
        "function",
        "eventstore.current_user_id()",
        "whose rows",
    ),
    "an immutable scope function": Break(
        "alter function eventstore.current_user_id() immutable",
        "function",
        "eventstore.current_user_id()",
        "whose rows",
    ),
    "a payload of another type": Break(
        f"alter table {EVENT} alter column payload type jsonb using payload::text::jsonb",
        "table",
        EVENT,
        "payload is jsonb, not json",
    ),
    "a column of the log dropped": Break(
        f"alter table {EVENT} drop column correlation_id cascade",
        "table",
        EVENT,
        "correlation_id is missing, not uuid",
    ),
    "a view of a view": Break(
        f"create view eventstore.own with (security_invoker = on) as select * from {TASK};"
        "create materialized view eventstore.leak as select * from eventstore.own",
        "view",
        "eventstore.leak",
        "materialised",
    ),
    "a custom cast of json to text": Break(
        "create function public.lie(json) returns text language sql immutable return '{}'::text;"
        "create cast (json as text) with function public.lie(json)",
        "reading",
        "(json as text)",
        "may be read as something else",
    ),
    "an operator role that writes": Break(
        f"grant update (payload), delete on {EVENT} to eventstore_operator",
        "rights",
        EVENT,
        "eventstore_operator may DELETE, UPDATE",
    ),
    "an operator role that moves heads": Break(
        "grant update (position) on eventstore.user_log to eventstore_operator",
        "rights",
        "eventstore.user_log",
        "needless rights on columns: position",
    ),
    "an operator role that reads every row": Break(
        f"create policy all_rows on {EVENT} to eventstore_operator using (true)",
        "table",
        EVENT,
        "policy all_rows is not the one",
    ),
    "UPDATE on events": Break(
        f"grant update on {EVENT} to eventstore_app", "rights", EVENT, "may UPDATE"
    ),
    "UPDATE on a column of events": Break(
        f"grant update (payload) on {EVENT} to eventstore_app", "rights", EVENT, "may UPDATE"
    ),
    "UPDATE missing on columns of a log": Break(
        "revoke update (position, hash) on eventstore.user_log from eventstore_app",
        "rights",
        "eventstore.user_log",
        "eventstore_app may not update hash, position",
    ),
    "DELETE on the log": Break(
        "grant delete on eventstore.stream to eventstore_app",
        "rights",
        "eventstore.stream",
        "DELETE",
    ),
    "DELETE for everybody": Break(
        f"grant delete on {EVENT} to public", "rights", EVENT, "eventstore_app may DELETE"
    ),
    "TRUNCATE": Break(f"grant truncate on {TASK} to eventstore_app", "rights", TASK, "TRUNCATE"),
    "a policy that allows only reading": Break(
        f"drop policy own_rows on {EVENT}; create policy own_rows on {EVENT} for select"
        " to eventstore_app using (user_id = eventstore.current_user_id())",
        "table",
        EVENT,
        "policy own_rows is not the one",
    ),
    "an operator policy for DELETE": Break(
        f"drop policy operator_lists on {TASK}; create policy operator_lists on {TASK} for delete"
        " to eventstore_operator using (current_user = 'eventstore_operator')",
        "table",
        TASK,
        "policy operator_lists is not the one",
    ),
    "a hash that may be null": Break(
        f"alter table {EVENT} alter column hash drop not null", "table", EVENT, "hash not null"
    ),
    "messages that share a position": Break(
        "alter table eventstore.message drop constraint message_conversation_position_key",
        "table",
        "eventstore.message",
        "message_conversation_position_key is missing",
    ),
    "tool calls without a key": Break(
        "alter table eventstore.tool_call drop constraint tool_call_pkey",
        "table",
        "eventstore.tool_call",
        "tool_call_pkey is missing",
    ),
    "no INSERT": Break(
        "revoke insert on eventstore.message from eventstore_app",
        "rights",
        "eventstore.message",
        "may not INSERT",
    ),
    "no USAGE on the schema": Break(
        "revoke usage on schema eventstore from eventstore_app",
        "role",
        "eventstore_app",
        "may not use the schema",
    ),
    "a role with a preset user": Break(
        "alter role eventstore_app set eventstore.user_id = 'alice'",
        "login",
        "eventstore_app",
        "starts in the scope of a user",
    ),
    "a database with a preset user": Break(
        "do $$ begin execute format('alter database %I set eventstore.user_id = alice',"
        " current_database()); end $$",
        "login",
        "every login",
        "starts in the scope of a user",
    ),
    "TRIGGER": Break(f"grant trigger on {TASK} to eventstore_app", "rights", TASK, "TRIGGER"),
}
for _name, _append in {"one event": APPEND_ONE, "many events": APPEND_MANY}.items():
    ERRORS |= {
        f"a function to append {_name} with another search path": Break(
            f"alter function {_append} set search_path = public",
            "function",
            _append,
            "not declared as in the migrations",
        ),
        f"a strict function to append {_name}": Break(
            f"alter function {_append} strict",
            "function",
            _append,
            "not declared as in the migrations",
        ),
        f"no EXECUTE on the function to append {_name}": Break(
            f"revoke execute on function {_append} from eventstore_app, public",
            "function",
            _append,
            "may not be called",
        ),
    }
ROLES = {
    "a superuser": ("alter role eventstore_app superuser", "is a superuser"),
    "a role with BYPASSRLS": ("alter role eventstore_app bypassrls", "has BYPASSRLS"),
    "a role with CREATEROLE": ("alter role eventstore_app createrole", "has CREATEROLE"),
    "a reader of all data": ("grant pg_read_all_data to eventstore_app", "pg_read_all_data"),
    "a writer of all data": ("grant pg_write_all_data to eventstore_app", "pg_write_all_data"),
    "a role that runs server programs": (
        "grant pg_execute_server_program to eventstore_app",
        "pg_execute_server_program",
    ),
    "an owner of a table": (f"alter table {TASK} owner to eventstore_app", "owns tables"),
    "a member of the owner": (
        f"create role owning; alter table {TASK} owner to owning; grant owning to eventstore_app",
        "member of owning",
    ),
    "a role with REPLICATION": ("alter role eventstore_app replication", "has REPLICATION"),
    "a monitor of other sessions": ("grant pg_monitor to eventstore_app", "pg_monitor"),
    "a role that ends other sessions": (
        "grant pg_signal_backend to eventstore_app",
        "pg_signal_backend",
    ),
    "a reader of the server's files": (
        "grant pg_read_server_files to eventstore_app",
        "pg_read_server_files",
    ),
    "an owner of the schema": (
        "alter schema eventstore owner to eventstore_app",
        "functions or a schema",
    ),
    "an owner of a function": (
        "alter function eventstore.current_user_id() owner to eventstore_app",
        "functions or a schema",
    ),
    "an owner of a projector's table": (
        "alter table service.box owner to eventstore_app",
        "owns tables",
    ),
    "an owner of a projector's schema": (
        "alter schema service owner to eventstore_app",
        "a schema of the store or a projector",
    ),
    "a member of the owner of a projector's table": (
        f"create role building; alter table {BOX} owner to building; grant building to {APP}",
        "member of building",
    ),
    "a role that creates objects in the schema": (
        "grant create on schema eventstore to eventstore_app",
        "may create objects in the schema",
    ),
    "a member of a superuser": ("grant postgres to eventstore_app", "member of postgres"),
}
WARNINGS = {
    "a table of a service without a key": Break(
        f"alter table {BOX} drop constraint box_pkey", "table", BOX, "has no primary key"
    ),
    "UPDATE on all columns of a log": Break(
        "grant update on eventstore.user_log to eventstore_app",
        "rights",
        "eventstore.user_log",
        "eventstore_app may update quota, user_id, which no append does",
    ),
    "INSERT of a quota": Break(
        "grant insert on eventstore.user_log to eventstore_app",
        "rights",
        "eventstore.user_log",
        "eventstore_app may insert quota, retried, which no append does",
    ),
    "UPDATE on another column of a stream": Break(
        "grant update (kind) on eventstore.stream to eventstore_app",
        "rights",
        "eventstore.stream",
        "eventstore_app may update kind, which no append does",
    ),
    "a table that a crash empties": Break(
        "alter table eventstore.task set unlogged", "table", TASK, "is not logged"
    ),
    "a sequence that all users share": Break(
        f"alter table {TASK} add column number int generated always as identity",
        "table",
        TASK,
        "number takes numbers from a sequence",
    ),
    "a check that is not the store's": Break(
        f"alter table {EVENT} add constraint event_not_erased check (salt is not null) not valid",
        "table",
        EVENT,
        "check event_not_erased is not one of the store's",
    ),
    "disabled foreign keys": Break(
        "alter table service.box add column chat uuid, add constraint of_chat foreign key"
        " (user_id, chat) references eventstore.conversation (user_id, id) deferrable;"
        " alter table service.box disable trigger all",
        "table",
        "service.box",
        "foreign keys are not enforced",
    ),
    "a foreign key that is not deferrable": Break(
        "alter table service.box add column chat uuid, add constraint of_chat foreign key"
        " (user_id, chat) references eventstore.conversation (user_id, id)",
        "table",
        "service.box",
        "foreign key of_chat is not deferrable",
    ),
    "a foreign key that deletes": Break(
        "alter table service.box add column chat uuid, add constraint of_chat foreign key"
        " (user_id, chat) references eventstore.conversation (user_id, id)"
        " on delete cascade deferrable",
        "table",
        "service.box",
        "foreign key of_chat deletes or updates rows by itself",
    ),
    "a trigger on a table of a service": Break(
        "create function public.spy() returns trigger language plpgsql as 'begin return new; end';"
        "create trigger spy before insert on service.box for each row execute function"
        " public.spy()",
        "trigger",
        "service.box",
        "trigger spy is not one of the store's",
    ),
    "CREATE on a schema of the search path": Break(
        "grant create on schema public to public",
        "role",
        "eventstore_app",
        "may create objects in public",
    ),
    "an index that all users share": Break(
        "create index words on eventstore.message using gin (to_tsvector('simple', content))",
        "table",
        "eventstore.message",
        "shared by all users",
    ),
    "a restrictive policy on a table of a service": Break(
        "create policy less on service.box as restrictive using (n > 0)",
        "table",
        "service.box",
        "policy less is restrictive",
    ),
    "an unknown trigger": Break(
        "create function public.spy() returns trigger language plpgsql as 'begin return new; end';"
        f"create trigger spy before insert on {EVENT} for each row execute function public.spy()",
        "trigger",
        EVENT,
        "trigger spy is not one of the store's",
    ),
    "a trigger that is disabled": Break(
        f"alter table {EVENT} disable trigger erasure_only", "trigger", EVENT, "disabled"
    ),
    "a trigger that a replica skips": Break(
        f"alter table {EVENT} enable trigger append_only", "trigger", EVENT, "not ALWAYS"
    ),
    "a trigger that is gone": Break(
        "drop trigger forward_only on eventstore.user_log",
        "trigger",
        "eventstore.user_log",
        "missing",
    ),
    "a view in another schema": Break(
        f"create view public.report as select * from {TASK}", "view", "public.report", "rights"
    ),
    "a function in another schema with its owner's rights": Break(
        "create function public.peek() returns setof eventstore.event language sql"
        " security definer as 'select * from eventstore.event'",
        "function",
        "public.peek()",
        "runs with its owner's rights",
    ),
    "a function that finds the schema by its search path": Break(
        "create function public.found() returns bigint language plpgsql security definer"
        " set search_path = eventstore as 'begin return (select count(*) from task); end'",
        "function",
        "public.found()",
        "runs with its owner's rights",
    ),
    "a function that quotes the schema": Break(
        "create function public.quoted() returns bigint language sql security definer"
        """ as 'select count(*) from "eventstore".task'""",
        "function",
        "public.quoted()",
        "runs with its owner's rights",
    ),
    "a function about a table of a service": Break(
        "create function public.boxes() returns bigint language sql security definer"
        " as 'select count(*) from service.box'",
        "function",
        "public.boxes()",
        "runs with its owner's rights",
    ),
    "a function whose body is parsed": Break(
        "create function public.count_all() returns bigint language sql"
        " security definer begin atomic select count(*) from eventstore.event; end",
        "function",
        "public.count_all()",
        "runs with its owner's rights",
    ),
    "a function without a search path": Break(
        "create function eventstore.loose() returns int language plpgsql as 'begin return 1; end'",
        "function",
        "eventstore.loose()",
        "search_path",
    ),
}

SAFE = {
    "a new table under row-level security": EXTRA,
    "a partition without rights": PARTS,
    "a function with its owner's rights about something else": (
        "create function public.clock() returns timestamptz language sql security definer"
        " as 'select now()'"
    ),
} | {
    f"a view with its reader's rights, spelled {spelling}": (
        f"create view eventstore.own with (security_invoker = {spelling}) as select * from {TASK}"
    )
    for spelling in ("1", "yes", "on", "true")
}
