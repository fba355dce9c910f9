-- Who may do what.
--
-- eventstore_app       every append and query runs as this role, one user at a time. It owns nothing,
--                      bypasses nothing, and may only add to the log.
-- eventstore_operator  lists users and heads for rebuild, verify and status; reads no payload.
--
-- Both are NOLOGIN: the login of the URL switches to them in every transaction. Row-level security is
-- forced on the owner too, and an unset or empty scope sees and writes nothing.

do $roles$
begin
    if not exists (select from pg_roles where rolname = 'eventstore_app') then
        create role eventstore_app nologin nosuperuser nobypassrls nocreatedb nocreaterole;
    end if;
    if not exists (select from pg_roles where rolname = 'eventstore_operator') then
        create role eventstore_operator nologin nosuperuser nobypassrls nocreatedb nocreaterole;
    end if;
exception when duplicate_object or unique_violation then
    null;  -- roles belong to the whole server: another database's migration made them just now
end
$roles$;

-- The migrating login may switch to the roles, and gains nothing by merely being a member of them:
-- what it inherits would work outside the scope that the store sets.
do $members$
declare
    v_role text;
begin
    foreach v_role in array array['eventstore_app', 'eventstore_operator'] loop
        if current_setting('server_version_num')::integer >= 160000 then
            if not pg_has_role(current_user, v_role, 'set') then
                execute format('grant %I to %I with inherit false, set true', v_role, current_user);
            end if;
        elsif not pg_has_role(current_user, v_role, 'member') then
            execute format('grant %I to %I', v_role, current_user);
        end if;
    end loop;
end
$members$;

create function eventstore.current_user_id() returns text
language sql stable parallel safe
as $$ select nullif(current_setting('eventstore.user_id', true), '') $$;

grant usage on schema eventstore to eventstore_app, eventstore_operator;

-- The application role: one user's rows.
grant select, insert, update on eventstore.user_log, eventstore.stream to eventstore_app;
grant select, insert on eventstore.event to eventstore_app;
grant select, insert, update, delete
    on eventstore.task, eventstore.conversation, eventstore.message to eventstore_app;

-- The operator role: which users there are, and where their logs end.
grant select on eventstore.user_log to eventstore_operator;
grant select (user_id) on eventstore.stream, eventstore.event, eventstore.task,
    eventstore.conversation, eventstore.message to eventstore_operator;
grant select, insert, update, delete on eventstore.rebuild_progress to eventstore_operator;
grant select on eventstore.alembic_version to eventstore_operator;  -- names no user

-- A policy "to" a role also holds for its members; the operator's looks at who is asking, so that a
-- login which inherits both roles does not read every user's rows with the rights of the other.
do $policies$
declare
    v_table text;
begin
    foreach v_table in array array[
        'user_log', 'stream', 'event', 'task', 'conversation', 'message', 'rebuild_progress']
    loop
        execute format('alter table eventstore.%I enable row level security', v_table);
        execute format('alter table eventstore.%I force row level security', v_table);
        if v_table <> 'rebuild_progress' then
            execute format(
                'create policy own_rows on eventstore.%I to eventstore_app'
                ' using (user_id = eventstore.current_user_id())'
                ' with check (user_id = eventstore.current_user_id())', v_table);
            execute format(
                'create policy operator_lists on eventstore.%I for select to eventstore_operator'
                ' using (current_user = ''eventstore_operator'')', v_table);
        end if;
    end loop;
end
$policies$;
create policy operator_works on eventstore.rebuild_progress to eventstore_operator
    using (current_user = 'eventstore_operator') with check (current_user = 'eventstore_operator');

revoke all on function eventstore.append_events(text, jsonb, jsonb, json, json, text, bytea) from public;
grant execute on function eventstore.append_events(text, jsonb, jsonb, json, json, text, bytea)
    to eventstore_app;
